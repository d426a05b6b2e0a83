//! What systemd-timesyncd says over D-Bus, and what follows from it for the error of the clock.
//!
//! timesyncd sets the kernel's error bound to zero whenever it corrects the clock, so the kernel's bound says nothing
//! but how long ago that was. What timesyncd knows stands in the properties of `org.freedesktop.timesync1` (see
//! `org.freedesktop.timesync1(5)`): the server's answer with its four timestamps. This module is pure: the text of
//! `busctl --json=short get-property` comes in, and a [`Claim`] goes out. `docs/clock.md` argues for the numbers.

use std::net::IpAddr;

use protocol::reference_id;
use protocol::time::{PHI_PPB, from_unix_ns};
use responder::NtpTimestamp;
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use serde_json::Value;

use super::{Claim, KERNEL_GROWTH_PPB, Keeper, Remaining, grown_ns};
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::CrossTimestamp;

/// The arguments of busctl that print the properties, one a line.
pub const ARGUMENTS: [&str; 11] = [
    "--json=short",
    "--auto-start=no",
    "--timeout=2",
    "get-property",
    "org.freedesktop.timesync1",
    "/org/freedesktop/timesync1",
    "org.freedesktop.timesync1.Manager",
    "NTPMessage",
    "ServerAddress",
    "PollIntervalUSec",
    "PollIntervalMinUSec",
];

/// Between two corrections, timesyncd slews what it has measured with a time constant of a quarter of its poll
/// interval. Of the largest offset that it slews (0.4 s), so much is left after an interval: 0.4 s / e^4.
const LEFT_OF_SLEW_NS: u64 = 8_000_000;
/// The timestamps are in whole microseconds, and so are the server's delay and dispersion.
const ROUNDING_NS: u64 = 10_000;
/// timesyncd accepts no server with a larger root distance by default (`RootDistanceMaxSec`), and waits no longer
/// than 10 s for an answer, of which half is the error.
const WORST_ERROR_NS: u64 = 5_000_000_000 + 10_000_000_000 / 2;
/// In one second, the kernel's error bound grows by so many us.
const KERNEL_GROWTH_US: i64 = 500;
const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_US: u64 = 1_000;

/// The properties that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The server's last answer, if there was one.
    pub message: Option<Message>,
    /// The server that is asked now.
    pub server: Option<IpAddr>,
    /// The present poll interval in us.
    pub poll_us: u64,
    /// The shortest poll interval in us.
    pub least_poll_us: u64,
}

/// `NTPMessage`. Times are in us, those of day since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The server's leap indicator.
    pub leap: u8,
    /// The server's stratum.
    pub stratum: u8,
    /// Root delay of the server.
    pub root_delay_us: u64,
    /// Root dispersion of the server.
    pub root_dispersion_us: u64,
    /// When the request was sent.
    pub origin_us: u64,
    /// When it arrived, by the server's clock.
    pub receive_us: u64,
    /// When the answer was sent, by the server's clock.
    pub transmit_us: u64,
    /// When it arrived.
    pub destination_us: u64,
    /// Whether timesyncd takes it for an outlier, by which it did not correct the clock.
    pub ignored: bool,
    /// How many answers there were so far.
    pub packets: u64,
    /// RMS difference of the last offsets.
    pub jitter_us: u64,
}

/// Reads what busctl prints.
#[must_use]
pub fn parse(text: &str) -> Option<Properties> {
    let mut values =
        text.lines().map(|line| serde_json::from_str::<Value>(line).ok()?.get_mut("data").map(Value::take));
    let (message, server) = (values.next()??, values.next()??);
    let mut whole = || values.next()??.as_u64();
    Some(Properties {
        message: Message::read(&message)?,
        server: address(&server),
        poll_us: whole()?,
        least_poll_us: whole()?,
    })
}

/// Reads a family and the bytes of an address.
fn address(value: &Value) -> Option<IpAddr> {
    let bytes = value.get(1)?.as_array()?;
    let bytes: Option<Vec<u8>> = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
    let bytes = bytes?;
    let ipv4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
}

impl Message {
    /// Reads a message of the type `(uuuuittayttttbtt)`. The inner option is `None` if there was no answer yet.
    #[expect(clippy::option_option, reason = "wrong, or not there")]
    fn read(value: &Value) -> Option<Option<Self>> {
        let [leap, _version, _mode, stratum, _precision, root_delay, root_dispersion, _reference, times @ ..] =
            value.as_array()?.as_slice()
        else {
            return None;
        };
        let [origin, receive, transmit, destination, ignored, packets, jitter] = times else {
            return None;
        };
        let message = Self {
            leap: u8::try_from(leap.as_u64()?).ok()?,
            stratum: u8::try_from(stratum.as_u64()?).ok()?,
            root_delay_us: root_delay.as_u64()?,
            root_dispersion_us: root_dispersion.as_u64()?,
            origin_us: origin.as_u64()?,
            receive_us: receive.as_u64()?,
            transmit_us: transmit.as_u64()?,
            destination_us: destination.as_u64()?,
            ignored: ignored.as_bool()?,
            packets: packets.as_u64()?,
            jitter_us: jitter.as_u64()?,
        };
        Some((message.packets > 0).then_some(message))
    }

    /// Returns the measured offset of the clock at the destination time, in ns; positive if the clock is slow.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        let us = |later: u64, earlier: u64| i128::from(later) - i128::from(earlier);
        let twice_us = us(self.receive_us, self.origin_us) + us(self.transmit_us, self.destination_us);
        i64::try_from(twice_us * 1000 / 2).unwrap_or(i64::MAX)
    }

    fn destination_ns(&self) -> i128 {
        i128::from(self.destination_us) * i128::from(NS_PER_US)
    }

    /// Returns the round trip in ns.
    #[must_use]
    pub const fn round_trip_ns(&self) -> u64 {
        let elapsed_us = self.destination_us.saturating_sub(self.origin_us);
        elapsed_us.saturating_sub(self.transmit_us.saturating_sub(self.receive_us)).saturating_mul(NS_PER_US)
    }

    /// Returns how far the measured offset may be off, in ns: the root distance of RFC 5905.
    #[must_use]
    pub fn distance_ns(&self) -> u64 {
        (self.root_delay_ns() / 2).saturating_add(self.dispersion_ns())
    }

    const fn root_delay_ns(&self) -> u64 {
        self.root_delay_us.saturating_mul(NS_PER_US).saturating_add(self.round_trip_ns())
    }

    fn dispersion_ns(&self) -> u64 {
        let elapsed_ns = self.destination_us.saturating_sub(self.origin_us).saturating_mul(NS_PER_US);
        self.root_dispersion_us
            .saturating_add(self.jitter_us)
            .saturating_mul(NS_PER_US)
            .saturating_add(grown_ns(elapsed_ns, PHI_PPB))
            .saturating_add(ROUNDING_NS)
    }
}

impl Properties {
    /// Returns what follows from the properties for the clock. `kernel` and `now` were read with them, and `last` is
    /// what followed before.
    #[must_use]
    pub fn claim(&self, kernel: &Adjtimex, now: &CrossTimestamp, last: Option<&Claim>) -> Option<Claim> {
        match (self.message, last) {
            (Some(message), _) if !message.ignored => Some(self.of_correction(&message, kernel, now)),
            (Some(outlier), Some(last)) => Some(of_outlier(&outlier, last, kernel, now)),
            (Some(_) | None, last) => last.copied(),
        }
    }

    fn of_correction(&self, message: &Message, kernel: &Adjtimex, now: &CrossTimestamp) -> Claim {
        let stratum = message.stratum.saturating_add(1);
        Claim {
            keeper: Keeper::Timesyncd,
            synchronised: message.leap < LEAP_UNSYNCHRONISED && (2..=MAX_STRATUM).contains(&stratum),
            leap: message.leap.min(LEAP_UNSYNCHRONISED),
            stratum: Some(stratum),
            reference_id: self.server.map(reference_id),
            is_loop: false,
            reference_time: from_unix_ns(message.destination_ns()),
            root_delay_ns: message.root_delay_ns(),
            root_dispersion_ns: message.dispersion_ns(),
            growth_ppb: self.growth_ppb(message),
            since_ns: corrected_ns(kernel, now.monotonic_after_ns),
            remaining: Remaining::InKernel,
            interval_ns: Some(self.poll_us.max(self.least_poll_us).saturating_mul(NS_PER_US)),
        }
    }

    /// Returns how fast the error may grow until the next correction, in ppb: PHI, and what the last interval leaves
    /// open of the frequency. The clock has drifted by at most what was measured at its end, what the correction
    /// before had left, and what both measurements may be off. The interval was at least half the present one,
    /// unless this is the shortest, which also follows a change of the server or of the network.
    fn growth_ppb(&self, message: &Message) -> u64 {
        if message.packets < 2 || self.poll_us <= self.least_poll_us {
            return KERNEL_GROWTH_PPB;
        }
        let poll_ns = self.poll_us.saturating_mul(NS_PER_US);
        let drifted_ns = message
            .offset_ns()
            .unsigned_abs()
            .saturating_add(LEFT_OF_SLEW_NS)
            .saturating_add(message.distance_ns().saturating_mul(2))
            .saturating_add(message.jitter_us.saturating_mul(3 * NS_PER_US));
        // What the correction itself does to the frequency: the kernel takes half of the offset over an interval.
        let corrected_ns = message.offset_ns().unsigned_abs() / 4;
        let ppb =
            u128::from(drifted_ns.saturating_add(corrected_ns)) * 1_000_000_000 / u128::from(poll_ns / 2);
        u64::try_from(ppb).unwrap_or(u64::MAX).saturating_add(PHI_PPB).min(KERNEL_GROWTH_PPB)
    }
}

/// Returns what is claimed after an answer by which the clock was not corrected. The answer is a measurement all the
/// same: the clock is off by what was measured, give or take the root distance. That is taken where it is less than what
/// the last claim has grown to.
fn of_outlier(outlier: &Message, last: &Claim, kernel: &Adjtimex, now: &CrossTimestamp) -> Claim {
    let now_ns = now.monotonic_after_ns;
    // No step of timesyncd's came after it.
    let age_ns = u64::try_from(now.realtime_ns - outlier.destination_ns()).unwrap_or(0);
    let measured = Claim {
        root_delay_ns: outlier.root_delay_ns(),
        root_dispersion_ns: outlier.dispersion_ns().saturating_add(outlier.offset_ns().unsigned_abs()),
        since_ns: now_ns.saturating_sub(age_ns),
        ..*last
    };
    let bound_ns =
        |claim: &Claim| (claim.root_delay_ns / 2).saturating_add(claim.dispersion_ns(now_ns, kernel));
    if bound_ns(&measured) < bound_ns(last) { measured } else { *last }
}

/// Returns what is true of any clock that timesyncd keeps, if it cannot be asked.
#[must_use]
pub fn claim_of_silence(kernel: &Adjtimex, monotonic_ns: u64) -> Claim {
    Claim {
        keeper: Keeper::SilentTimesyncd,
        synchronised: true,
        leap: 0,
        stratum: None,
        reference_id: None,
        is_loop: false,
        reference_time: NtpTimestamp(0),
        root_delay_ns: 0,
        root_dispersion_ns: WORST_ERROR_NS,
        growth_ppb: KERNEL_GROWTH_PPB,
        since_ns: corrected_ns(kernel, monotonic_ns),
        remaining: Remaining::InKernel,
        interval_ns: None,
    }
}

/// Returns when the clock was corrected, by `CLOCK_MONOTONIC`: the kernel's error bound was set to zero then, and has
/// grown every second since. No step of the clock disturbs that.
fn corrected_ns(kernel: &Adjtimex, monotonic_ns: u64) -> u64 {
    let seconds = u64::try_from(kernel.max_error_us / KERNEL_GROWTH_US).unwrap_or(0);
    monotonic_ns.saturating_sub(seconds.saturating_add(1).saturating_mul(NS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timekeeping::fake::UNTOUCHED;

    const TEXT: &str = concat!(
        r#"{"type":"(uuuuittayttttbtt)","data":[0,4,4,2,-25,12000,3000,[192,0,2,9],1795710492000000,"#,
        r#"1795710492011000,1795710492011050,1795710492020050,false,7,900]}"#,
        "\n",
        r#"{"type":"(iay)","data":[2,[192,0,2,1]]}"#,
        "\n",
        r#"{"type":"t","data":2048000000}"#,
        "\n",
        r#"{"type":"t","data":32000000}"#,
        "\n"
    );
    const PPB_PER_PPM: u64 = 1000;

    /// A reading of the clocks so many seconds after the start. The answer came 60 s after it.
    fn at(seconds: u64) -> CrossTimestamp {
        let monotonic_ns = seconds * NS_PER_S;
        CrossTimestamp {
            monotonic_before_ns: monotonic_ns,
            realtime_ns: 1_795_710_432_020_050_000 + i128::from(monotonic_ns),
            monotonic_after_ns: monotonic_ns,
        }
    }

    fn properties() -> Properties {
        parse(TEXT).unwrap()
    }

    #[test]
    fn the_properties_are_read_from_what_busctl_prints() {
        let properties = properties();
        let message = properties.message.unwrap();
        assert_eq!(properties.server, Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!((properties.poll_us, properties.least_poll_us), (2_048_000_000, 32_000_000));
        assert_eq!((message.round_trip_ns(), message.offset_ns()), (20_000_000, 1_000_000));
        let v6 = TEXT.replace("[2,[192,0,2,1]]", "[10,[32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,1]]");
        assert_eq!(parse(&v6).unwrap().server, "2001:db8::1".parse().ok());
        let none = TEXT.replace("[2,[192,0,2,1]]", "[0,[]]").replace(",7,900]", ",0,900]");
        let none = parse(&none).unwrap();
        assert_eq!((none.server, none.message), (None, None));
    }

    #[test]
    fn what_busctl_would_not_print_is_refused() {
        for text in [
            "",
            "\n\n\n\n",
            "Failed to get property",
            "{}\n{}\n{}\n{}",
            &TEXT[..TEXT.len() - 5],
            &TEXT.replace('(', "")[9..],
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&TEXT.replace("false", "0")), None);
        assert_eq!(parse(&TEXT.replace("[0,4,4,2,", "[0,4,4,256,")), None);
        assert_eq!(parse(&TEXT.replace("12000", "-1")), None);
    }

    #[test]
    fn the_claim_is_that_of_an_ntp_client_and_ages_from_the_correction_on() {
        let kernel = Adjtimex { max_error_us: 500 * 60, offset_ns: -700_000, ..UNTOUCHED };
        let claim = properties().claim(&kernel, &at(100), None).unwrap();
        assert_eq!((claim.stratum, claim.reference_id), (Some(3), Some(0xc000_0201)));
        assert_eq!(claim.root_delay_ns, 32_000_000, "the server's and the round trip");
        assert_eq!(claim.root_dispersion_ns, 3_000_000 + 900_000 + 300 + ROUNDING_NS);
        assert_eq!(claim.since_ns, 39 * NS_PER_S);
        let grown = grown_ns(61 * NS_PER_S, claim.growth_ppb);
        let dispersion = claim.dispersion_ns(100 * NS_PER_S, &kernel);
        // Of an offset that a second has been taken off already.
        let remaining = 700_000 + 700_000 / 15;
        assert_eq!(dispersion, claim.root_dispersion_ns + grown + remaining);
    }

    #[test]
    fn the_error_grows_as_fast_as_the_last_interval_allows() {
        let claim = |change: fn(&mut Properties, &mut Message)| {
            let mut properties = properties();
            let mut message = properties.message.unwrap();
            change(&mut properties, &mut message);
            Properties { message: Some(message), ..properties }.claim(&UNTOUCHED, &at(1), None)
        };
        let growth = |change| claim(change).unwrap().growth_ppb;
        let usual = growth(|_, _| {});
        assert!((15 * PPB_PER_PPM..100 * PPB_PER_PPM).contains(&usual), "{usual}");
        assert!(growth(|_, message| message.transmit_us += 60_000) > usual, "a larger offset");
        assert_eq!(growth(|_, message| message.packets = 1), KERNEL_GROWTH_PPB);
        assert_eq!(growth(|properties, _| properties.poll_us = 32_000_000), KERNEL_GROWTH_PPB);
        assert_eq!(growth(|properties, _| properties.poll_us = 0), KERNEL_GROWTH_PPB);
        assert_eq!(growth(|_, message| message.root_delay_us = u64::MAX), KERNEL_GROWTH_PPB);
        assert_eq!(claim(|_, message| message.ignored = true), None);
        assert!(!claim(|_, message| message.stratum = 15).unwrap().synchronised);
    }

    #[test]
    fn an_outlier_bounds_the_error_where_the_last_claim_has_grown_wider() {
        let good = properties();
        let last = good.claim(&UNTOUCHED, &at(61), None).unwrap();
        let heard = |offset_us: u64| {
            let message = good.message.unwrap();
            let message =
                Message { ignored: true, receive_us: message.receive_us + 2 * offset_us, ..message };
            Properties { message: Some(message), ..good }.claim(&UNTOUCHED, &at(61), Some(&last)).unwrap()
        };
        assert_eq!(heard(100_000), last, "no better than what is known");
        let aged = Claim { since_ns: 0, growth_ppb: KERNEL_GROWTH_PPB, ..last };
        let message = Message { ignored: true, ..good.message.unwrap() };
        let outlier = Properties { message: Some(message), ..good };
        let claim = outlier.claim(&UNTOUCHED, &at(61), Some(&aged)).unwrap();
        assert_eq!((claim.since_ns, claim.growth_ppb), (60 * NS_PER_S, KERNEL_GROWTH_PPB));
        assert_eq!(claim.root_dispersion_ns, last.root_dispersion_ns + 1_000_000, "the offset counts");
    }

    #[test]
    fn of_a_silent_one_only_the_worst_is_known() {
        let kernel = Adjtimex { max_error_us: 0, ..UNTOUCHED };
        let claim = claim_of_silence(&kernel, 10 * NS_PER_S);
        assert!(claim.synchronised && claim.dispersion_ns(10 * NS_PER_S, &kernel) >= WORST_ERROR_NS);
    }
}
