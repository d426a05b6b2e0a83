//! Converts between NTP's formats and nanoseconds.

use responder::clock::{NtpShort, NtpTimestamp, UNIX_EPOCH_S};

/// Assumed drift of an undisciplined clock (PHI of RFC 5905), in ppb.
pub const PHI_PPB: u64 = 15_000;
/// The same drift in s/s.
pub const PHI: f64 = 15e-6;

const NS_PER_S: i128 = 1_000_000_000;
/// NTP timestamps repeat after this many seconds, 136 years.
const ERA_S: i128 = 1 << 32;
/// [`unix_ns`] returns moments from here on, whatever our own clock shows: the beginning of 2020.
const FIRST_MOMENT_UNIX_S: i128 = 1_577_836_800;

/// Returns the timestamp of a moment in nanoseconds since 1970. Eras wrap as the format defines.
#[must_use]
pub fn from_unix_ns(unix_ns: i128) -> NtpTimestamp {
    // Whole eras are removed, which changes nothing, so that the number fits.
    let seconds = unix_ns.div_euclid(NS_PER_S).rem_euclid(ERA_S);
    let nanos = unix_ns.rem_euclid(NS_PER_S);
    NtpTimestamp::from_unix(
        i64::try_from(seconds).unwrap_or_default(),
        u32::try_from(nanos).unwrap_or_default(),
    )
}

/// Converts a timestamp of a moment from 2020 on to nanoseconds since 1970.
#[must_use]
pub fn unix_ns(time: NtpTimestamp) -> i128 {
    unix_ns_near(time, (FIRST_MOMENT_UNIX_S + ERA_S / 2) * NS_PER_S)
}

/// Converts a timestamp to nanoseconds since 1970: the moment nearest to another one, within 68 years of it.
#[must_use]
pub fn unix_ns_near(time: NtpTimestamp, near_unix_ns: i128) -> i128 {
    let (seconds, fraction) = (i128::from(time.0 >> 32), i128::from(time.0 & 0xffff_ffff));
    let unix_s = seconds - i128::from(UNIX_EPOCH_S);
    let near_s = near_unix_ns.div_euclid(NS_PER_S);
    let first_s = near_s - ERA_S / 2;
    (first_s + (unix_s - first_s).rem_euclid(ERA_S)) * NS_PER_S + ((fraction * NS_PER_S) >> 32)
}

/// Converts an interval to seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "at most 18 hours, in units of 15 us")]
pub fn short_s(interval: NtpShort) -> f64 {
    interval.as_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_era_after_2036_is_understood() {
        let first = i64::try_from(FIRST_MOMENT_UNIX_S).unwrap();
        let moment = |seconds| unix_ns(NtpTimestamp::from_unix(seconds, 0)) / NS_PER_S;
        assert_eq!(moment(first), FIRST_MOMENT_UNIX_S);
        assert_eq!(moment(first - 1), FIRST_MOMENT_UNIX_S - 1 + ERA_S);
        assert_eq!(moment(2_085_978_496), 2_085_978_496);
        assert_eq!(unix_ns(NtpTimestamp::from_unix(5_000_000_000, 250_000_000)), 5_000_000_000_250_000_000);
    }

    proptest! {
        #[test]
        fn a_timestamp_is_the_moment_that_it_was_made_of(moment_ns: i64, apart_s in -(1_i128 << 31) + 1..(1 << 31) - 1) {
            let moment_ns = i128::from(moment_ns);
            let near_ns = moment_ns + apart_s * NS_PER_S;
            // Half a unit of 2^-32 s may round to the next lower nanosecond.
            let error_ns = unix_ns_near(from_unix_ns(moment_ns), near_ns) - moment_ns;
            prop_assert!((-1..=0).contains(&error_ns), "{error_ns}");
        }

        #[test]
        fn whatever_the_bits_the_moment_is_in_its_range(time: u64, near_ns: i64) {
            let time = NtpTimestamp(time);
            let near_ns = i128::from(near_ns);
            prop_assert!((unix_ns_near(time, near_ns) - near_ns).abs() <= (ERA_S / 2 + 1) * NS_PER_S);
            prop_assert!(unix_ns(time) >= FIRST_MOMENT_UNIX_S * NS_PER_S);
            prop_assert!(unix_ns(time) < (FIRST_MOMENT_UNIX_S + ERA_S) * NS_PER_S);
        }
    }
}
