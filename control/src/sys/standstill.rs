//! Clocks that go on while a virtual machine stands still: what shows that it was paused.

use std::fs;
use std::path::{Path, PathBuf};

use super::kernel_clock::{monotonic_ns, realtime_ns};
use crate::error::Result;

/// Readings of this many rounds, of which the one with the least time around it is taken.
const ATTEMPTS: usize = 4;

/// Readings of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// `CLOCK_MONOTONIC`, which stands still while the machine is paused.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`, since 1970.
    pub realtime_ns: i128,
    /// The machine's real-time clock in whole seconds since 1970, if it has one.
    pub rtc_s: Option<i64>,
    /// The processor's time-stamp counter, if it runs at a constant rate. A hypervisor that takes `CLOCK_MONOTONIC` from
    /// a clock of its own (kvm-clock, Hyper-V) may let the counter run on through a pause.
    pub counter: Option<u64>,
}

/// Reads these clocks.
#[derive(Clone, Debug)]
pub struct Clocks {
    rtc: Option<PathBuf>,
    has_counter: bool,
}

impl Clocks {
    /// Finds the clocks of this machine, or `None` where there is nothing to find: on a machine that is not virtual, or
    /// that has neither clock.
    #[must_use]
    pub fn find() -> Option<Self> {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = |name: &str| {
            let lines = processor.lines().filter(|line| line.starts_with("flags"));
            lines.flat_map(str::split_whitespace).any(|flag| flag == name)
        };
        // Arm has no such flag; there, the real-time clock of a board is compared in vain.
        let is_virtual = flags("hypervisor") || !cfg!(target_arch = "x86_64");
        let rtc = Path::new("/sys/class/rtc/rtc0/since_epoch");
        let clocks = Self {
            rtc: rtc.exists().then(|| rtc.into()),
            has_counter: cfg!(target_arch = "x86_64") && flags("constant_tsc") && flags("nonstop_tsc"),
        };
        (is_virtual && (clocks.rtc.is_some() || clocks.has_counter)).then_some(clocks)
    }

    /// Reads them. The real-time clock may take two milliseconds.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read(&self) -> Result<Readings> {
        let before = self.rtc();
        let mut best: Option<(u64, u64, Option<u64>)> = None;
        for _ in 0..ATTEMPTS {
            let before_ns = monotonic_ns()?;
            let counter = self.has_counter.then(counter);
            let after_ns = monotonic_ns()?;
            let width_ns = after_ns.saturating_sub(before_ns);
            if best.is_none_or(|(least_ns, ..)| width_ns < least_ns) {
                best = Some((width_ns, u64::midpoint(before_ns, after_ns), counter));
            }
        }
        let (_, monotonic_ns, counter) = best.unwrap_or_default();
        // Only a second that stood on both sides is the one of this moment.
        let rtc_s = before.filter(|second| self.rtc() == Some(*second));
        Ok(Readings { monotonic_ns, realtime_ns: realtime_ns()?, rtc_s, counter })
    }

    fn rtc(&self) -> Option<i64> {
        fs::read_to_string(self.rtc.as_ref()?).ok()?.trim().parse().ok()
    }
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: the instruction is in every x86-64 processor, and reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_this_machine_runs_with_its_monotonic_clock() {
        let Some(clocks) = Clocks::find().filter(|clocks| clocks.has_counter) else { return };
        let first = clocks.read().unwrap();
        while clocks.read().unwrap().monotonic_ns < first.monotonic_ns + 20_000_000 {}
        let (second, elapsed) =
            (clocks.read().unwrap(), |later: u64, earlier: u64| later.wrapping_sub(earlier));
        let ns = elapsed(second.monotonic_ns, first.monotonic_ns);
        let ticks = elapsed(second.counter.unwrap(), first.counter.unwrap());
        // Between 0.5 and 10 GHz.
        assert!((ns / 2..ns * 10).contains(&ticks), "{ticks} in {ns} ns");
    }
}
