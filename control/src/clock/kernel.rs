//! The kernel's clocks, behind a trait: tests bring clocks of their own, since nobody steps a machine's.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Code, Error, Result};
use crate::sys::{Adjtimex, adjtimex};

/// `CLOCK_REALTIME` read between two readings of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Before.
    pub monotonic_before_ns: u64,
    /// Since the Unix epoch.
    pub realtime_ns: i128,
    /// After.
    pub monotonic_after_ns: u64,
}

/// What the daemon reads of the kernel.
pub trait KernelClock {
    /// Both clocks, as close together as can be had.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn sample(&self) -> Result<Sample>;

    /// The state of the discipline.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn discipline(&self) -> Result<Adjtimex>;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

/// Readings of which the one with the least time around it is taken: an interrupt or a stolen virtual CPU
/// spoils single ones.
const ATTEMPTS: usize = 8;

impl KernelClock for Machine {
    fn sample(&self) -> Result<Sample> {
        let mut best: Option<Sample> = None;
        for _ in 0..ATTEMPTS {
            let sample = Sample {
                monotonic_before_ns: monotonic_ns()?,
                realtime_ns: realtime_ns()?,
                monotonic_after_ns: monotonic_ns()?,
            };
            if best.is_none_or(|best| sample.width_ns() < best.width_ns()) {
                best = Some(sample);
            }
        }
        best.ok_or_else(|| Error::new(Code::Software, "no reading of the clock"))
    }

    fn discipline(&self) -> Result<Adjtimex> {
        adjtimex().map_err(Error::because(Code::Os, "adjtimex"))
    }
}

impl Sample {
    /// The time between the outer readings.
    #[must_use]
    pub const fn width_ns(&self) -> u64 {
        self.monotonic_after_ns.saturating_sub(self.monotonic_before_ns)
    }
}

/// `CLOCK_MONOTONIC`, the clock that the eBPF program reads.
///
/// # Errors
///
/// The kernel's.
pub fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(Error::because(Code::Os, "CLOCK_MONOTONIC"))?;
    u64::try_from(Duration::from(time).as_nanos()).map_err(Error::because(Code::Os, "CLOCK_MONOTONIC"))
}

/// `CLOCK_REALTIME`, in nanoseconds since the Unix epoch.
///
/// # Errors
///
/// The kernel's.
pub fn realtime_ns() -> Result<i128> {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).map_err(Error::because(Code::Os, "CLOCK_REALTIME"))?;
    Ok(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

/// The precision of a clock as NTP has it: the time that a reading takes, log2 seconds, rounded up.
///
/// # Errors
///
/// The kernel's.
pub fn precision() -> Result<i8> {
    let mut least_ns = u64::MAX;
    for _ in 0..256 {
        let before = monotonic_ns()?;
        least_ns = least_ns.min(monotonic_ns()?.saturating_sub(before).max(1));
    }
    Ok(log2_seconds(least_ns))
}

/// The least `p` for which 2^p seconds are at least `ns`.
fn log2_seconds(ns: u64) -> i8 {
    (-30..=0).find(|power: &i8| 1_000_000_000_u64 >> power.unsigned_abs() >= ns).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_rounded_up_to_a_power_of_two() {
        assert_eq!(log2_seconds(1), -29);
        assert_eq!(log2_seconds(29), -25);
        assert_eq!(log2_seconds(30), -24);
        assert_eq!(log2_seconds(59), -24);
        assert_eq!(log2_seconds(1_000_000_000), 0);
    }

    #[test]
    fn the_machine_s_clocks_can_be_read() {
        let sample = Machine.sample().unwrap();
        assert!(sample.monotonic_before_ns <= sample.monotonic_after_ns);
        assert!(sample.realtime_ns > 1_700_000_000_000_000_000);
        Machine.discipline().unwrap();
        assert!((-30..=-10).contains(&precision().unwrap()));
    }
}
