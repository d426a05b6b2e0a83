//! Notices that a virtual machine stood still: it was paused, migrated, or restored from a snapshot.
//!
//! `CLOCK_MONOTONIC`, by which time is served, stood still with it. Other clocks went on: the real-time clock of the
//! machine, which counts whole seconds, and perhaps the processor's time-stamp counter. [`Pauses`] is pure: readings come
//! in, pauses go out. A thread takes the readings, because the real-time clock may keep its reader waiting.

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::error::{Code, Error, Result};
use crate::sys::capabilities;
use crate::sys::standstill::{Clocks, Readings};

/// How often the clocks are compared.
const INTERVAL: Duration = Duration::from_millis(200);
/// The shortest pause that the real-time clock shows, in s. Two readings of a disciplined clock differ by less.
const LEAST_BY_RTC_S: f64 = 0.25;
/// The shortest pause that the counter shows, in s.
const LEAST_BY_COUNTER_S: f64 = 0.005;
/// No clock of a machine is off by more, against another one of it, in s/s. A slew of the kernel's clock is faster.
const DRIFT: f64 = 500e-6;
/// The rate of the counter is learnt for so long, in s. A slew changes it by a tenth at most.
const COUNTER_WINDOW_S: f64 = 1.0;
/// A slew of the kernel's clock, in s/s.
const FASTEST_SLEW: f64 = 0.12;
/// How far the real-time clock may be behind and ahead of `CLOCK_REALTIME`, in s, when the kernel has just set it. It
/// sets it at the right moment of a second, or late.
const SET_WITHIN_S: (f64, f64) = (0.5, 0.15);
/// The real-time clock shows within this time, in s, whether the kernel has set it: with its next second.
const SHOWN_WITHIN_S: f64 = 1.3;

/// A machine that stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pause {
    /// For about how long, in s.
    pub about_s: f64,
}

/// Looks for pauses.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// The latest reading.
    last: Option<Readings>,
    /// The real-time clock less `CLOCK_MONOTONIC`: all readings so far agree that it is in here, in s.
    difference_s: Option<(f64, f64)>,
    /// The difference before it grew, and when that was, by `CLOCK_MONOTONIC`. The next second of the real-time clock tells
    /// by how much, and whether the kernel has set it.
    before_growth: Option<((f64, f64), u64)>,
    /// Ticks of the counter in a nanosecond, as last measured over a whole window, and where the present one began.
    counter_rate: Option<f64>,
    window: Option<Readings>,
}

impl Pauses {
    /// Takes in readings. Returns a pause since the last ones.
    pub fn observe(&mut self, now: Readings) -> Option<Pause> {
        let last = self.last.replace(now);
        let elapsed_s = last.map_or(0.0, |last| seconds(now.monotonic_ns, last.monotonic_ns));
        let by_counter = last.and_then(|last| self.by_counter(&last, &now));
        let by_rtc = self.by_rtc(&now, elapsed_s);
        let about_s = by_rtc.or(by_counter)?;
        // Both clocks are compared anew from here.
        *self =
            Self { last: Some(now), counter_rate: self.counter_rate, window: Some(now), ..Self::default() };
        Some(Pause { about_s })
    }

    fn by_rtc(&mut self, now: &Readings, elapsed_s: f64) -> Option<f64> {
        let ahead_s = whole(now.rtc_s?) - seconds(now.monotonic_ns, 0);
        let seen = (ahead_s, ahead_s + 1.0);
        let Some((low_s, high_s)) = self.difference_s else {
            self.difference_s = Some(seen);
            return None;
        };
        let known = (low_s - elapsed_s * DRIFT, high_s + elapsed_s * DRIFT);
        let both = (known.0.max(seen.0), known.1.min(seen.1));
        let since_s = |at_ns| seconds(now.monotonic_ns, at_ns);
        self.before_growth = self.before_growth.filter(|(_, at_ns)| since_s(*at_ns) < SHOWN_WITHIN_S);
        let difference_s = if both.0 <= both.1 { both } else { seen };
        self.difference_s = Some(difference_s);
        if seen.0 > known.1 && self.before_growth.is_none() {
            self.before_growth = Some((known, now.monotonic_ns));
        }
        let (before_s, at_ns) = self.before_growth?;
        // A slew of the kernel's clock moves the difference, too, but by less.
        if difference_s.0 - before_s.1 <= LEAST_BY_RTC_S + (elapsed_s + since_s(at_ns)) * FASTEST_SLEW {
            return None;
        }
        let by_s = f64::midpoint(difference_s.0, difference_s.1) - f64::midpoint(before_s.0, before_s.1);
        // Every eleven minutes the kernel sets the real-time clock to `CLOCK_REALTIME`. After a pause it differs from it.
        let realtime_s = realtime_s(now) - seconds(now.monotonic_ns, 0);
        let (behind_s, ahead_s) = (realtime_s - difference_s.1, difference_s.0 - realtime_s);
        (behind_s > SET_WITHIN_S.0 || ahead_s > SET_WITHIN_S.1).then_some(by_s)
    }

    fn by_counter(&mut self, last: &Readings, now: &Readings) -> Option<f64> {
        let ticks =
            |later: &Readings, earlier: &Readings| Some(count(later.counter?.wrapping_sub(earlier.counter?)));
        let window = *self.window.get_or_insert(*last);
        let elapsed_s = seconds(now.monotonic_ns, last.monotonic_ns);
        let found = self.counter_rate.and_then(|rate| {
            let missing_s = ticks(now, last)? / rate / 1e9 - elapsed_s;
            let slewed_s = elapsed_s * FASTEST_SLEW;
            // A counter that was set back is another machine's now.
            let is_another = missing_s < -LEAST_BY_COUNTER_S - slewed_s || missing_s > 1e7;
            (missing_s > LEAST_BY_COUNTER_S + slewed_s || is_another).then_some(missing_s.clamp(0.0, 1e7))
        });
        let window_s = seconds(now.monotonic_ns, window.monotonic_ns);
        if found.is_none() && window_s >= COUNTER_WINDOW_S {
            self.counter_rate = ticks(now, &window).map(|ticks| ticks / window_s / 1e9);
            self.window = Some(*now);
        }
        found
    }
}

/// Starts a thread that compares the clocks of a virtual machine and reports its pauses, for as long as the receiver
/// exists. On other machines nothing is ever reported.
///
/// # Errors
///
/// The kernel cannot create the thread.
pub fn watch() -> Result<mpsc::Receiver<Pause>> {
    let (sender, receiver) = mpsc::channel(1);
    let Some(clocks) = Clocks::find() else {
        // The sender lives on, so that the receiver waits for ever.
        std::mem::forget(sender);
        return Ok(receiver);
    };
    info!("a virtual machine: pauses are looked for");
    // The thread is never joined: it ends with the process, and a panic in it ends the process (see Cargo.toml).
    std::thread::Builder::new()
        .name("pause-watch".into())
        .stack_size(64 * 1024)
        .spawn(move || {
            capabilities::keep(&[]);
            let mut pauses = Pauses::default();
            while !sender.is_closed() {
                match clocks.read() {
                    Ok(readings) => {
                        if let Some(pause) = pauses.observe(readings) {
                            // If the channel is full, a report is already waiting.
                            let _full = sender.try_send(pause);
                        }
                    }
                    Err(error) => warn!("pauses of the machine cannot be looked for: {error}"),
                }
                std::thread::sleep(INTERVAL);
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread that looks for pauses"))?;
    Ok(receiver)
}

#[expect(clippy::cast_precision_loss, reason = "exact to a microsecond for centuries")]
fn seconds(later_ns: u64, earlier_ns: u64) -> f64 {
    later_ns.saturating_sub(earlier_ns) as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
fn whole(seconds: i64) -> f64 {
    seconds as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact to a microsecond")]
fn realtime_s(readings: &Readings) -> f64 {
    readings.realtime_ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "differences")]
fn count(ticks: u64) -> f64 {
    ticks as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A virtual machine: true time, and clocks that are off.
    struct Virtual {
        true_s: f64,
        monotonic_s: f64,
        /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
        difference_s: f64,
        /// The real-time clock less true time.
        rtc_off_s: f64,
        rtc_drift: f64,
        /// The rate of the kernel's clock, less one.
        slew: f64,
        counter: bool,
        has_rtc: bool,
        random: u64,
    }

    impl Virtual {
        fn new(seed: u64, has_rtc: bool, counter: bool) -> Self {
            let mut machine = Self {
                true_s: 1.8e9,
                monotonic_s: 1000.0,
                difference_s: 1.8e9 - 1000.0,
                rtc_off_s: 0.0,
                rtc_drift: 0.0,
                slew: 0.0,
                counter,
                has_rtc,
                random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            };
            machine.true_s += machine.random();
            machine.rtc_off_s = machine.random() * 0.2;
            machine.rtc_drift = (machine.random() - 0.5) * 200e-6;
            machine
        }

        fn random(&mut self) -> f64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            count(self.random >> 11) / count(1 << 53)
        }

        fn run(&mut self, seconds: f64) {
            self.true_s += seconds;
            self.monotonic_s += seconds * (1.0 + self.slew);
            self.rtc_off_s += seconds * self.rtc_drift;
        }

        fn pause(&mut self, seconds: f64) {
            self.true_s += seconds;
        }

        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test's clocks")]
        fn read(&self) -> Readings {
            let rtc_s = (self.true_s + self.rtc_off_s).floor() as i64;
            Readings {
                monotonic_ns: (self.monotonic_s * 1e9) as u64,
                realtime_ns: ((self.monotonic_s + self.difference_s) * 1e9) as i128,
                rtc_s: self.has_rtc.then_some(rtc_s),
                counter: self.counter.then_some(((self.true_s - 1.7e9) * 2.1e9) as u64),
            }
        }

        /// Runs for as long and looks now and then. Returns how long after the start a pause was found, and it.
        fn watch(&mut self, pauses: &mut Pauses, seconds: f64) -> Option<(f64, Pause)> {
            let start_s = self.true_s;
            while self.true_s < start_s + seconds {
                if let Some(pause) = pauses.observe(self.read()) {
                    return Some((self.true_s - start_s, pause));
                }
                let late_s = self.random() * 0.02;
                self.run(0.2 + late_s);
            }
            None
        }
    }

    #[test]
    fn a_pause_is_found_within_a_second_of_its_end() {
        for seed in 0..600 {
            let (has_rtc, counter) = [(true, false), (false, true), (true, true)][seed % 3];
            let mut machine = Virtual::new(u64::try_from(seed).unwrap(), has_rtc, counter);
            let mut watcher = Pauses::default();
            assert_eq!(machine.watch(&mut watcher, 10.0), None, "{seed}");
            // Down to 40 ms where the counter shows it, else to 0.9 s: the shorter ones with the next second.
            let least_s: f64 = if counter { 0.04 } else { 0.9 };
            let pause_s = least_s * 10.0_f64.powf(machine.random() * 5.0);
            machine.pause(pause_s);
            let (after_s, found) =
                machine.watch(&mut watcher, 1.6).unwrap_or_else(|| panic!("{seed}: {pause_s} s"));
            let most_s = if counter || pause_s > 1.7 { 1.0 } else { 1.3 };
            assert!(after_s <= most_s, "{seed}: {after_s} s after a pause of {pause_s} s");
            assert!(
                (found.about_s - pause_s).abs() <= 1.0 + pause_s * 1e-3,
                "{seed}: {found:?}, {pause_s} s"
            );
            // Once, and the next one again.
            machine.difference_s += pause_s;
            assert_eq!(machine.watch(&mut watcher, 60.0), None, "{seed}, {pause_s} s");
            machine.pause(30.0);
            assert!(machine.watch(&mut watcher, 1.0).is_some(), "{seed}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_a_pause() {
        for seed in 0..12 {
            let mut machine = Virtual::new(seed, true, seed % 2 == 0);
            let mut pauses = Pauses::default();
            for hour in 0..12 {
                assert_eq!(machine.watch(&mut pauses, 1_000.0), None, "{seed}, hour {hour}");
                // The kernel sets the real-time clock, the keeper of the kernel's clock slews and steps it.
                machine.rtc_off_s = machine.monotonic_s + machine.difference_s - machine.true_s;
                assert_eq!(machine.watch(&mut pauses, 100.0), None, "{seed}, hour {hour}: the clock was set");
                machine.slew = if hour % 2 == 0 { 500e-6 } else { -500e-6 };
                assert_eq!(machine.watch(&mut pauses, 100.0), None, "{seed}, hour {hour}: a slew");
                machine.slew = [0.083, -0.083][hour % 2];
                assert_eq!(machine.watch(&mut pauses, 5.0), None, "{seed}, hour {hour}: a fast slew");
                machine.slew = 0.0;
                machine.difference_s += 10.0 * (machine.random() - 0.5);
                assert_eq!(machine.watch(&mut pauses, 300.0), None, "{seed}, hour {hour}: a step");
            }
        }
    }

    #[test]
    fn the_first_setting_of_a_clock_that_was_off_is_no_pause() {
        for off_s in [-3600.0, -5.0, -0.7, 0.7, 5.0, 3600.0] {
            let mut machine = Virtual::new(3, true, false);
            machine.rtc_off_s = off_s;
            let mut pauses = Pauses::default();
            assert_eq!(machine.watch(&mut pauses, 20.0), None);
            machine.rtc_off_s = machine.monotonic_s + machine.difference_s - machine.true_s;
            assert_eq!(machine.watch(&mut pauses, 20.0), None, "{off_s}");
        }
    }

    #[test]
    fn a_counter_that_is_another_machine_s_is_a_pause() {
        let mut machine = Virtual::new(5, false, true);
        let mut pauses = Pauses::default();
        assert_eq!(machine.watch(&mut pauses, 10.0), None);
        let restored = Readings { counter: Some(12_345), ..machine.read() };
        assert!(pauses.observe(restored).is_some());
    }
}
