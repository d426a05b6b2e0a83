//! Turns the discipline's line into the state that is published.

use responder::clock::{DispersionRate, Rate};
use responder::message::LEAP_UNSYNCHRONISED;
use responder::{ClockState, NtpShort, NtpTimestamp};

use crate::config::ClockConfig;
use crate::discipline::{ClockLine, Leap, LocalTime, ns_to_s, s_to_ns};
use crate::sys::kernel_clock::CrossTimestamp;

/// Returns a state that claims nothing.
pub(super) const fn unknown(now: LocalTime, sequence: u32, precision: i8) -> ClockState {
    ClockState {
        sequence,
        monotonic_base_ns: now.as_ns().cast_unsigned(),
        ntp_base: NtpTimestamp(0),
        rate: Rate::NOMINAL,
        horizon_ns: now.as_ns().cast_unsigned(),
        reference_time: NtpTimestamp(0),
        root_delay: NtpShort(0),
        root_dispersion: NtpShort::from_nanos(16_000_000_000),
        dispersion_rate: DispersionRate(0),
        reference_id: 0,
        leap: LEAP_UNSYNCHRONISED,
        stratum: 0,
        precision,
    }
}

/// Returns the kernel's time without any claim about its quality.
pub(super) fn of_kernel(sample: &CrossTimestamp, unknown: ClockState) -> ClockState {
    ClockState {
        monotonic_base_ns: sample.monotonic_after_ns,
        ntp_base: timestamp(sample.realtime_ns),
        ..unknown
    }
}

/// Returns the state that publishes a line.
pub(super) fn of_line(
    line: &ClockLine,
    now: LocalTime,
    config: &ClockConfig,
    reference_id: u32,
    unknown: ClockState,
) -> ClockState {
    let until_silence_s =
        ns_to_s(i64::try_from(config.horizon_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX));
    let horizon = line.horizon(limit_s(config)).min(now.plus_seconds(until_silence_s));
    // Whatever becomes of the daemon, no answer claims the old second after a leap second.
    let leap = leap_window(line).filter(|(_, end)| *end > now).map_or(horizon, |(start, _)| start);
    let horizon = horizon.min(leap).max(now);
    let grown_s = line.bound_s(now) - line.bound_s(line.at);
    ClockState {
        ntp_base: timestamp(line.utc_ns(now).into()),
        rate: rate(line.frequency),
        horizon_ns: horizon.as_ns().cast_unsigned(),
        reference_time: timestamp(line.utc_ns(line.updated.min(now)).into()),
        root_delay: short(line.root_delay_s),
        root_dispersion: short(line.root_dispersion_s + grown_s),
        dispersion_rate: DispersionRate::from_ppb(s_to_ns(line.dispersion_rate).max(0).cast_unsigned() + 1),
        reference_id,
        leap: match line.leap {
            Leap::None => 0,
            Leap::Insert => 1,
            Leap::Delete => 2,
        },
        stratum: line.stratum,
        ..unknown
    }
}

/// Returns the moments between which nobody can say whether the leap second of a line has come, given the line's error
/// bound.
pub(super) fn leap_window(line: &ClockLine) -> Option<(LocalTime, LocalTime)> {
    let at = line.leap_at?;
    let bound_s = line.bound_s(at);
    Some((at.plus_seconds(-bound_s), at.plus_seconds(bound_s)))
}

/// A state whose clock may run faster by `change` (s/s) from some moment after its base on, or may go on as it does.
#[must_use]
pub fn allowing_for(state: ClockState, change: f64) -> ClockState {
    // In seconds of the clock after the change, of which one that runs slower has fewer, and in the line's own measure.
    let missed = change.abs().max((1.0 / (1.0 + change.clamp(-0.5, 0.5)) - 1.0).abs());
    let missed = missed * frequency_ratio(state.rate);
    let more = DispersionRate::from_ppb(s_to_ns(missed).cast_unsigned() + 1);
    let sum = u64::from(state.dispersion_rate.0).saturating_add(u64::from(more.0));
    ClockState {
        sequence: state.sequence.wrapping_add(1),
        dispersion_rate: DispersionRate(u32::try_from(sum).unwrap_or(u32::MAX)),
        ..state
    }
}

/// A state that says the same of the time, now that its clock runs faster by `rate` (s/s) since `at_ns`.
#[must_use]
pub fn retuned(state: ClockState, at_ns: u64, change: f64) -> ClockState {
    let at_ns = at_ns.max(state.monotonic_base_ns);
    ClockState {
        sequence: state.sequence.wrapping_add(1),
        monotonic_base_ns: at_ns,
        ntp_base: state.time_at(at_ns),
        root_dispersion: state.root_dispersion_at(at_ns),
        rate: slowed(state.rate, change),
        ..state
    }
}

/// Returns the error bound in s up to which a line counts as synchronised.
pub(super) fn limit_s(config: &ClockConfig) -> f64 {
    std::time::Duration::from_millis(config.max_error_ms).as_secs_f64()
}

fn rate(frequency: f64) -> Rate {
    scaled(Rate::NOMINAL, 1.0 + frequency.clamp(-0.5, 0.5))
}

/// Seconds of the line per second of its clock.
#[expect(clippy::cast_precision_loss, reason = "exact to 1 part in 10^10")]
fn frequency_ratio(rate: Rate) -> f64 {
    rate.0 as f64 / Rate::NOMINAL.0 as f64
}

/// The rate against a clock that runs faster by `change`.
fn slowed(rate: Rate, change: f64) -> Rate {
    scaled(rate, 1.0 / (1.0 + change.clamp(-0.5, 0.5)))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a correction of a few parts in a hundred, exact to 1 part in 10^10"
)]
fn scaled(rate: Rate, factor: f64) -> Rate {
    Rate((rate.0 as f64 * factor).round() as u64)
}

/// Converts to NTP's short format, rounded up because a bound must not shrink.
fn short(seconds: f64) -> NtpShort {
    NtpShort::from_nanos(s_to_ns(seconds.max(0.0)).cast_unsigned() + 1)
}

fn timestamp(unix_ns: i128) -> NtpTimestamp {
    let second = 1_000_000_000;
    let seconds = i64::try_from(unix_ns.div_euclid(second)).unwrap_or_default();
    NtpTimestamp::from_unix(seconds, u32::try_from(unix_ns.rem_euclid(second)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE_NS: u64 = 1_000_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    fn line() -> ClockState {
        ClockState {
            ntp_base: NtpTimestamp::from_unix(1_800_000_000, 0),
            rate: rate(-20e-6),
            stratum: 2,
            leap: 0,
            root_dispersion: short(1e-3),
            dispersion_rate: DispersionRate::from_ppb(15_000),
            horizon_ns: BASE_NS + 20 * SECOND_NS,
            ..unknown(LocalTime::from_ns(1_000_000_000), 7, -24)
        }
    }

    #[test]
    fn a_line_on_a_new_rate_tells_the_same_time() {
        for change in [0.083, -0.083, 500e-6, -1e-6] {
            let at_ns = BASE_NS + 3 * SECOND_NS;
            let moved = retuned(line(), at_ns, change);
            // After as long on the old clock as on the new one, which runs faster.
            let old_ns = 5.0e9;
            let (old, new) = (at_ns + whole(old_ns), at_ns + whole(old_ns * (1.0 + change)));
            let apart = moved.time_at(new).since(line().time_at(old));
            assert!(apart.unsigned_abs() < 1 << 6, "{change}: {apart} x 2^-32 s");
            assert!(moved.root_dispersion_at(at_ns) >= line().root_dispersion_at(at_ns));
        }
    }

    #[test]
    fn a_line_that_allows_for_a_change_holds_whether_it_comes_or_not() {
        for change in [0.083, -0.083, 500e-6, -1e-6] {
            let allowing = allowing_for(line(), change);
            let true_line = retuned(line(), BASE_NS + SECOND_NS / 10, change);
            for after_ns in [SECOND_NS / 5, SECOND_NS, 20 * SECOND_NS] {
                let now_ns = BASE_NS + after_ns;
                let error = true_line.time_at(now_ns).since(allowing.time_at(now_ns)).unsigned_abs();
                let bound_ns = allowing.root_dispersion_at(now_ns).as_nanos();
                let error_ns = (u128::from(error) * 1_000_000_000) >> 32;
                assert!(error_ns <= u128::from(bound_ns), "{change}: {error_ns} ns, {bound_ns} ns");
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds in ns")]
    fn whole(ns: f64) -> u64 {
        ns.round() as u64
    }
}
