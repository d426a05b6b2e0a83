//! The kernel's clocks behind a trait, so that tests can use clocks of their own: no test steps those of a
//! machine.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Code, Error, Result};
use crate::sys::{Adjtimex, ClockChange, adjtimex, change_clock};

/// A reading of `CLOCK_REALTIME` between two readings of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossTimestamp {
    /// `CLOCK_MONOTONIC` before the reading.
    pub monotonic_before_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since the Unix epoch.
    pub realtime_ns: i128,
    /// `CLOCK_MONOTONIC` after the reading.
    pub monotonic_after_ns: u64,
}

/// Clocks read at one moment, which show how the rate of `CLOCK_MONOTONIC` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReadings {
    /// `CLOCK_MONOTONIC`, which the served time is derived from.
    pub monotonic_ns: u64,
    /// `CLOCK_MONOTONIC_RAW`: the same oscillator without any correction.
    pub raw_ns: u64,
    /// `CLOCK_BOOTTIME`: like `CLOCK_MONOTONIC`, but it also counts while the machine is suspended.
    pub boottime_ns: u64,
}

/// What the daemon reads from the kernel, and how it steers the kernel's clock.
pub trait KernelClock {
    /// Reads both clocks as close together as possible.
    ///
    /// # Errors
    ///
    /// The kernel does not return the time.
    fn cross_timestamp(&self) -> Result<CrossTimestamp>;

    /// Reads the state of the kernel's clock discipline.
    ///
    /// # Errors
    ///
    /// The kernel does not return it.
    fn discipline(&self) -> Result<Adjtimex>;

    /// Reads `CLOCK_MONOTONIC` and its relatives as close together as possible.
    ///
    /// # Errors
    ///
    /// The kernel does not return the time.
    fn clock_readings(&self) -> Result<ClockReadings>;

    /// Changes rate, time or state of the clock.
    ///
    /// # Errors
    ///
    /// The kernel refuses; without the privilege, the error says how to do without.
    fn change(&self, change: &ClockChange) -> Result<()>;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

/// Number of readings, of which the narrowest is used: an interrupt or a stolen virtual CPU can spoil single
/// ones.
const ATTEMPTS: usize = 8;

impl Machine {
    /// Makes a single reading, which an interrupt may have widened.
    pub(crate) fn reading() -> Result<CrossTimestamp> {
        Ok(CrossTimestamp {
            monotonic_before_ns: monotonic_ns()?,
            realtime_ns: realtime_ns()?,
            monotonic_after_ns: monotonic_ns()?,
        })
    }
}

impl KernelClock for Machine {
    fn cross_timestamp(&self) -> Result<CrossTimestamp> {
        let mut best: Option<CrossTimestamp> = None;
        for _ in 0..ATTEMPTS {
            let sample = Self::reading()?;
            if best.is_none_or(|best| sample.width_ns() < best.width_ns()) {
                best = Some(sample);
            }
        }
        best.ok_or_else(|| Error::new(Code::Software, "the clock could not be read"))
    }

    fn discipline(&self) -> Result<Adjtimex> {
        adjtimex().map_err(Error::because(Code::Os, "adjtimex"))
    }

    fn clock_readings(&self) -> Result<ClockReadings> {
        let mut best: Option<(u64, ClockReadings)> = None;
        for _ in 0..ATTEMPTS {
            let before_ns = monotonic_ns()?;
            let raw_ns = read_ns(ClockId::CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW")?;
            let after_ns = monotonic_ns()?;
            let width_ns = after_ns.saturating_sub(before_ns);
            if best.is_none_or(|(least_ns, _)| width_ns < least_ns) {
                let boottime_ns = read_ns(ClockId::CLOCK_BOOTTIME, "CLOCK_BOOTTIME")?;
                let monotonic_ns = u64::midpoint(before_ns, after_ns);
                best = Some((width_ns, ClockReadings { monotonic_ns, raw_ns, boottime_ns }));
            }
        }
        best.map(|(_, rates)| rates).ok_or_else(|| Error::new(Code::Software, "the clock could not be read"))
    }

    fn change(&self, change: &ClockChange) -> Result<()> {
        change_clock(change).map_err(|error| {
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let failed = Error::because(Code::Os, "the kernel's clock cannot be steered")(error);
            if denied {
                Error { code: Code::NoPermission, ..failed }.remedy(
                    "steering needs CAP_SYS_TIME, which a daemon gives up when it does not steer: restart it to have it \
                     steer; `clock.steer = false` serves the right time without it",
                )
            } else {
                failed
            }
        })
    }
}

impl CrossTimestamp {
    /// Returns the time between the outer readings.
    #[must_use]
    pub const fn width_ns(&self) -> u64 {
        self.monotonic_after_ns.saturating_sub(self.monotonic_before_ns)
    }
}

/// Reads `CLOCK_MONOTONIC`, the clock that the eBPF program reads.
///
/// # Errors
///
/// The kernel does not return the time.
pub fn monotonic_ns() -> Result<u64> {
    read_ns(ClockId::CLOCK_MONOTONIC, "CLOCK_MONOTONIC")
}

fn read_ns(clock: ClockId, name: &str) -> Result<u64> {
    let time = clock_gettime(clock).map_err(Error::because(Code::Os, name))?;
    u64::try_from(Duration::from(time).as_nanos()).map_err(Error::because(Code::Os, name))
}

/// Reads `CLOCK_REALTIME`, in nanoseconds since the Unix epoch.
///
/// # Errors
///
/// The kernel does not return the time.
pub fn realtime_ns() -> Result<i128> {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).map_err(Error::because(Code::Os, "CLOCK_REALTIME"))?;
    Ok(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

/// Returns the precision of a clock as NTP defines it: the time that a reading takes, in log2 seconds,
/// rounded up.
///
/// # Errors
///
/// The kernel does not return the time.
pub fn precision() -> Result<i8> {
    let mut least_ns = u64::MAX;
    for _ in 0..256 {
        let before = monotonic_ns()?;
        least_ns = least_ns.min(monotonic_ns()?.saturating_sub(before).max(1));
    }
    Ok(log2_seconds(least_ns))
}

/// Returns the smallest `p` for which 2^p seconds are at least `ns`.
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
        let sample = Machine.cross_timestamp().unwrap();
        assert!(sample.monotonic_before_ns <= sample.monotonic_after_ns);
        assert!(sample.realtime_ns > 1_700_000_000_000_000_000);
        Machine.discipline().unwrap();
        let rates = Machine.clock_readings().unwrap();
        assert!(rates.boottime_ns >= rates.monotonic_ns && rates.raw_ns > 0);
        assert!((-30..=-10).contains(&precision().unwrap()));
    }
}
