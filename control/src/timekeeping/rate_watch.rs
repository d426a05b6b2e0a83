//! How fast `CLOCK_MONOTONIC` runs compared with the uncorrected oscillator: notices every change, whoever
//! made it.
//!
//! The discipline knows how the oscillator runs. A program that steers the kernel's clock (another daemon,
//! or this one) changes the rate of `CLOCK_MONOTONIC`. A new frequency shows in adjtimex at once. What the
//! kernel slews by itself (its own loop, adjtime) shows only in the difference to `CLOCK_MONOTONIC_RAW`. This
//! module is pure: readings come in, and changes of the rate go out to
//! [`crate::discipline::Discipline::frequency_changed`].

use crate::discipline::{LocalTime, ns_to_s};
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::ClockReadings;

/// Largest time between the readings of both clocks, with a good margin.
const NOISE_NS: i64 = 3_000;
/// Interval in s over which slow slews are looked for. A slew below 1 ppm is left to the estimate of the
/// wander.
const EARLY_S: f64 = 4.0;
/// Shortest interval in s over which quick slews are looked for.
const LATE_S: f64 = 0.1;
/// Ticks of the kernel's clock per second, whose length is `tick_us`.
const USER_HZ: f64 = 100.0;
/// Unit of `frequency_scaled_ppm`: parts of a ppm.
const SCALED_PPM: f64 = 65_536.0;

/// From a moment on, the local clock runs faster by this much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateChange {
    /// When the rate changed.
    pub at: LocalTime,
    /// Change of the rate in s/s.
    pub rate: f64,
}

/// Watches the rate of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub struct RateWatch {
    /// Readings from some time ago, to detect a slow slew.
    early: ClockReadings,
    /// Readings from a moment ago, to detect a quick slew and to tell it from an old one.
    late: ClockReadings,
    /// The correction that adjtimex reported last.
    reported: f64,
    /// The correction that is believed to be in effect.
    correction: f64,
}

impl RateWatch {
    /// Begins with these readings.
    #[must_use]
    pub fn new(rates: ClockReadings, kernel: &Adjtimex) -> Self {
        let correction = correction(kernel);
        Self { early: rates, late: rates, reported: correction, correction }
    }

    /// Returns the factor of the oscillator's rate, minus one.
    #[must_use]
    pub const fn correction(&self) -> f64 {
        self.correction
    }

    /// Takes in new readings. Returns the changes since the last ones, in order.
    pub fn observe(&mut self, rates: ClockReadings, kernel: &Adjtimex) -> Vec<RateChange> {
        let reported = correction(kernel);
        let mut changes = Vec::new();
        for since in [self.late, self.early] {
            let raw_s = seconds(rates.raw_ns, since.raw_ns);
            let excess_ns = distance_ns(rates) - distance_ns(since);
            let unexplained_s = ns_to_s(excess_ns) - raw_s * self.correction;
            if unexplained_s.abs() > ns_to_s(NOISE_NS) && raw_s > 0.0 {
                changes.push(self.believe(since, ns_to_s(excess_ns) / raw_s));
                break;
            }
        }
        if reported.to_bits() != self.reported.to_bits() {
            self.reported = reported;
            changes.push(self.believe(rates, reported));
        }
        if !changes.is_empty() || seconds(rates.raw_ns, self.early.raw_ns) >= EARLY_S {
            self.early = rates;
            self.late = rates;
        } else if seconds(rates.raw_ns, self.late.raw_ns) >= LATE_S {
            self.late = rates;
        }
        changes
    }

    fn believe(&mut self, since: ClockReadings, correction: f64) -> RateChange {
        let rate = (1.0 + correction) / (1.0 + self.correction) - 1.0;
        self.correction = correction;
        RateChange { at: LocalTime::from_ns(since.monotonic_ns.cast_signed()), rate }
    }
}

/// Returns the correction that adjtimex reports, in s/s.
#[expect(clippy::cast_precision_loss, reason = "a few hundred parts in a million")]
pub(super) fn correction(kernel: &Adjtimex) -> f64 {
    (kernel.tick_us as f64 * USER_HZ - 1e6) / 1e6 + kernel.frequency_scaled_ppm as f64 / SCALED_PPM / 1e6
}

/// Returns the adjtimex values for a correction in s/s: the frequency, and the tick for what exceeds its
/// range.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "clamped first")]
pub(super) fn for_adjtimex(correction: f64) -> (i64, i64) {
    /// Correction in ppm for each microsecond of a tick.
    const TICK_PPM: f64 = 100.0;
    /// Largest correction of the frequency alone, in ppm.
    const MOST_PPM: f64 = 500.0;
    let ppm = (correction * 1e6).clamp(-99_000.0, 99_000.0);
    let ticks = if ppm.abs() > MOST_PPM { (ppm / TICK_PPM).round() } else { 0.0 };
    let frequency = (ppm - ticks * TICK_PPM) * SCALED_PPM;
    (frequency.round() as i64, 1_000_000 / USER_HZ as i64 + ticks as i64)
}

fn distance_ns(rates: ClockReadings) -> i64 {
    rates.monotonic_ns.wrapping_sub(rates.raw_ns).cast_signed()
}

fn seconds(later_ns: u64, earlier_ns: u64) -> f64 {
    ns_to_s(later_ns.wrapping_sub(earlier_ns).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timekeeping::fake::UNTOUCHED;

    const SECOND_NS: u64 = 1_000_000_000;

    fn rates(monotonic_ns: u64, raw_ns: u64) -> ClockReadings {
        ClockReadings { monotonic_ns, raw_ns, boottime_ns: monotonic_ns }
    }

    fn tuned(correction: f64) -> Adjtimex {
        let (frequency_scaled_ppm, tick_us) = for_adjtimex(correction);
        Adjtimex { frequency_scaled_ppm, tick_us, ..UNTOUCHED }
    }

    #[test]
    fn what_adjtimex_is_told_is_what_it_tells() {
        for wanted in [0.0, 1e-6, -123.456e-6, 499e-6, -501e-6, 0.0123, -0.08] {
            let (frequency, tick) = for_adjtimex(wanted);
            assert!(frequency.abs() <= 500 * 65_536 && (9_000..=11_000).contains(&tick), "{wanted}");
            assert!((correction(&tuned(wanted)) - wanted).abs() < 1e-11, "{wanted}");
        }
    }

    #[test]
    fn a_clock_that_nobody_touches_is_left_alone() {
        let kernel = tuned(10e-6);
        let mut watch = RateWatch::new(rates(0, 0), &kernel);
        for second in 1..1000 {
            let noise_ns = [0, 900, 100, 1500][usize::try_from(second % 4).unwrap()];
            let seen = rates(second * (SECOND_NS + 10_000) + noise_ns, second * SECOND_NS);
            assert_eq!(watch.observe(seen, &kernel), []);
        }
    }

    #[test]
    fn a_new_frequency_counts_from_the_moment_it_is_seen() {
        let mut watch = RateWatch::new(rates(0, 0), &tuned(0.0));
        let changes = watch.observe(rates(SECOND_NS, SECOND_NS), &tuned(50e-6));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].at.as_ns(), 1_000_000_000);
        assert!((changes[0].rate - 50e-6).abs() < 1e-10, "{changes:?}");
        assert!((watch.correction() - 50e-6).abs() < 1e-10);
    }

    #[test]
    fn one_that_changed_a_while_ago_is_accounted_for_since_the_last_look() {
        let mut watch = RateWatch::new(rates(0, 0), &tuned(0.0));
        // Half of that second ran at 100 ppm.
        let changes = watch.observe(rates(SECOND_NS + 50_000, SECOND_NS), &tuned(100e-6));
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].at.as_ns(), 0);
        assert!((changes[0].rate - 50e-6).abs() < 1e-9);
        assert!((changes[1].rate - 50e-6).abs() < 1e-8, "{changes:?}");
    }

    #[test]
    fn a_slew_that_adjtimex_does_not_tell_of_is_seen_to_begin_and_to_end() {
        let mut watch = RateWatch::new(rates(0, 0), &UNTOUCHED);
        let began = watch.observe(rates(SECOND_NS + 500_000, SECOND_NS), &UNTOUCHED);
        assert_eq!((began.len(), began[0].at.as_ns()), (1, 0));
        assert!((began[0].rate - 500e-6).abs() < 1e-9);
        assert_eq!(watch.observe(rates(2 * SECOND_NS + 1_000_000, 2 * SECOND_NS), &UNTOUCHED), []);
        let ended = watch.observe(rates(3 * SECOND_NS + 1_000_000, 3 * SECOND_NS), &UNTOUCHED);
        assert_eq!(ended.len(), 1);
        let total: f64 = [&began, &ended].iter().map(|changes| (1.0 + changes[0].rate).ln()).sum();
        assert!(ended[0].rate < 0.0 && total.abs() < 300e-6, "back again, over two seconds: {ended:?}");
    }
}
