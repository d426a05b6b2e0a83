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
    let horizon = line.horizon(limit_s(config)).min(now.plus_seconds(until_silence_s)).max(now);
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

/// Returns the error bound in s up to which a line counts as synchronised.
pub(super) fn limit_s(config: &ClockConfig) -> f64 {
    std::time::Duration::from_millis(config.max_error_ms).as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a correction of a few parts in a thousand, exact to 1 part in 10^10"
)]
fn rate(frequency: f64) -> Rate {
    let nominal = Rate::NOMINAL.0;
    Rate((nominal as f64 * (1.0 + frequency.clamp(-0.5, 0.5))).round() as u64)
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
