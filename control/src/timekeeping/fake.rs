//! A fake machine for tests: an oscillator that is off, a kernel that corrects it as it is told, and another
//! program that may do so as well. No test steers the clock of a real machine.

use std::cell::RefCell;
use std::rc::Rc;

use super::rate_watch::correction;
use crate::discipline::{Leap, LocalTime, Sample as Measurement};
use crate::error::Result;
use crate::sys::kernel_clock::{ClockReadings, CrossTimestamp, KernelClock};
use crate::sys::{Adjtimex, ClockChange};

/// True time when the machine starts: noon of a day in the middle of a month.
pub(super) const START_UNIX_NS: i128 = 1_792_065_600_000_000_000;

/// The machine, which can be shared.
#[derive(Clone)]
pub(super) struct FakeMachine(Rc<RefCell<State>>);

struct State {
    /// True time since the start, and what the clocks read, in ns. That of the oscillator is
    /// `CLOCK_MONOTONIC_RAW`.
    true_ns: f64,
    raw_ns: f64,
    monotonic_ns: f64,
    suspended_ns: f64,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`.
    difference_ns: i128,
    /// How much too fast the oscillator is, in s/s.
    fast: f64,
    /// A slew that adjtimex does not report.
    hidden: f64,
    kernel: Adjtimex,
    changes: Vec<ClockChange>,
    disturbances: u32,
}

/// The state of a kernel clock that nobody has touched.
pub(super) const UNTOUCHED: Adjtimex = Adjtimex {
    state: 0,
    status: 0,
    max_error_us: 0,
    estimated_error_us: 100,
    offset_ns: 0,
    time_constant: 2,
    frequency_scaled_ppm: 0,
    tick_us: 10_000,
    tai_offset_s: 0,
};

impl FakeMachine {
    /// Makes a machine whose clock is off by this much at the start, and whose oscillator is too fast by
    /// `fast`.
    pub(super) fn new(ahead_s: f64, fast: f64) -> Self {
        Self(Rc::new(RefCell::new(State {
            true_ns: 0.0,
            raw_ns: 1e9,
            monotonic_ns: 1e9,
            suspended_ns: 0.0,
            difference_ns: START_UNIX_NS - 1_000_000_000 + whole(ahead_s * 1e9),
            fast,
            hidden: 0.0,
            kernel: UNTOUCHED,
            changes: Vec::new(),
            disturbances: 0,
        })))
    }

    /// Lets time pass.
    pub(super) fn run(&self, seconds: f64) {
        let mut state = self.0.borrow_mut();
        let raw_ns = seconds * 1e9 * (1.0 + state.fast);
        state.true_ns += seconds * 1e9;
        state.raw_ns += raw_ns;
        state.monotonic_ns += raw_ns * (1.0 + correction(&state.kernel) + state.hidden);
    }

    /// Local seconds a true second.
    pub(super) fn rate(&self) -> f64 {
        let state = self.0.borrow();
        (1.0 + state.fast) * (1.0 + correction(&state.kernel) + state.hidden)
    }

    /// Somebody else changes the clock.
    pub(super) fn disturb(&self, change: &ClockChange) {
        self.change(change).unwrap();
        self.0.borrow_mut().disturbances += 1;
    }

    /// How often anything happened to the clock that its daemon has not done.
    pub(super) fn disturbances(&self) -> u32 {
        self.0.borrow().disturbances
    }

    /// Lets time pass while the machine is suspended.
    pub(super) fn suspend(&self, seconds: f64) {
        let mut state = self.0.borrow_mut();
        state.disturbances += 1;
        state.true_ns += seconds * 1e9;
        state.suspended_ns += seconds * 1e9;
        state.difference_ns += whole(seconds * 1e9);
    }

    /// Lets another program slew the clock in a way that adjtimex does not report.
    pub(super) fn slew_behind_the_back(&self, rate: f64) {
        let mut state = self.0.borrow_mut();
        state.hidden = rate;
        state.disturbances += 1;
    }

    pub(super) fn kernel(&self) -> Adjtimex {
        self.0.borrow().kernel
    }

    /// Returns how far `CLOCK_REALTIME` is ahead of true time, in s.
    pub(super) fn ahead_s(&self) -> f64 {
        let state = self.0.borrow();
        seconds(whole(state.monotonic_ns) + state.difference_ns - START_UNIX_NS - whole(state.true_ns))
    }

    /// Returns how far this is ahead of true time, in s.
    pub(super) fn error_s(&self, unix_ns: i128) -> f64 {
        seconds(unix_ns - self.true_unix_ns())
    }

    pub(super) fn true_unix_ns(&self) -> i128 {
        START_UNIX_NS + whole(self.0.borrow().true_ns)
    }

    pub(super) fn steps(&self) -> Vec<i64> {
        self.0.borrow().changes.iter().filter_map(|change| change.step_ns).collect()
    }

    /// Returns the measurement of an upstream that knows true time and is 100 us away.
    pub(super) fn measure(&self, leap: Leap) -> Measurement {
        let at_ns = whole(self.0.borrow().monotonic_ns);
        Measurement {
            at: LocalTime::from_ns(i64::try_from(at_ns).unwrap()),
            offset_ns: i64::try_from(self.true_unix_ns() - at_ns).unwrap(),
            delay_s: 100e-6,
            dispersion_s: 1e-7,
            root_delay_s: 0.0,
            root_dispersion_s: 1e-5,
            stratum: 1,
            leap,
        }
    }
}

impl KernelClock for FakeMachine {
    fn cross_timestamp(&self) -> Result<CrossTimestamp> {
        let state = self.0.borrow();
        let now = whole(state.monotonic_ns);
        let monotonic_ns = u64::try_from(now).unwrap();
        Ok(CrossTimestamp {
            monotonic_before_ns: monotonic_ns,
            realtime_ns: now + state.difference_ns,
            monotonic_after_ns: monotonic_ns,
        })
    }

    fn discipline(&self) -> Result<Adjtimex> {
        Ok(self.kernel())
    }

    fn clock_readings(&self) -> Result<ClockReadings> {
        let state = self.0.borrow();
        let ns = |value: f64| u64::try_from(whole(value)).unwrap();
        Ok(ClockReadings {
            monotonic_ns: ns(state.monotonic_ns),
            raw_ns: ns(state.raw_ns),
            boottime_ns: ns(state.monotonic_ns + state.suspended_ns),
        })
    }

    fn change(&self, change: &ClockChange) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.changes.push(*change);
        if let Some((frequency_scaled_ppm, tick_us)) = change.rate {
            assert!(frequency_scaled_ppm.abs() <= 500 << 16, "the kernel takes no more");
            state.kernel.frequency_scaled_ppm = frequency_scaled_ppm;
            state.kernel.tick_us = tick_us;
        }
        if let Some(step_ns) = change.step_ns {
            state.difference_ns += i128::from(step_ns);
        }
        if let Some(status) = change.status {
            state.kernel.status = status;
        }
        if let Some((max_error_us, estimated_error_us)) = change.errors_us {
            state.kernel.max_error_us = max_error_us;
            state.kernel.estimated_error_us = estimated_error_us;
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "days in ns")]
fn whole(value: f64) -> i128 {
    value.round() as i128
}

#[expect(clippy::cast_precision_loss, reason = "differences")]
fn seconds(ns: i128) -> f64 {
    ns as f64 / 1e9
}
