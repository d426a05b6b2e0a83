//! The daemon's hand on the kernel's clock: what [`crate::discipline::steer()`] decides is done here, and the
//! kernel is told how good its clock is, so that other programs know.
//!
//! An offset is slewed by a rate that stays until the next correction, a second later. If the daemon is killed in the
//! middle, the slew goes on: so a note of it is kept for the next daemon ([`super::slew_file`]), and while a slew is
//! faster than the kernel's own error bound grows, the kernel is told that its clock is not synchronised.
//!
//! A change of the rate is planned first and made afterwards: what is served runs on the same clock, and between the two
//! the daemon publishes that its error may grow by the change.

use libc::{STA_DEL, STA_INS, STA_UNSYNC};
use tracing::{error, info, warn};

use super::rate_watch::{correction, for_adjtimex};
use super::slew_file::{LeftBehind, Slew, SlewFile};
use crate::discipline::{Action, ClockLine, Leap, LocalTime, Panic, SteerConfig, ns_to_s, s_to_ns, steer};
use crate::error::{Code, Error, Result};
use crate::status::kernel_clock::{KernelClockStatus, Treatment};
use crate::sys::ClockChange;
use crate::sys::capabilities::Capability;
use crate::sys::credentials::Credentials;
use crate::sys::kernel_clock::KernelClock;
use crate::sys::port_owner::Holder;

/// Between two corrections, in s.
const INTERVAL_S: f64 = 1.0;
/// A rate this near to the wanted one stays, in s/s.
const NEAR: f64 = 1e-10;
/// The kernel takes a leap second at the end of the day on which it is told of one: not before noon.
const LEAP_FROM_S: i64 = 43_200;
const S_PER_DAY: i64 = 86_400;
/// The kernel's own limit, in us.
const MOST_ERROR_US: f64 = 16e6;

/// A slew faster than this cannot be covered by what the kernel's own error bound grows by, in s/s.
const GROWTH: f64 = 500e-6;
/// A slew slower than this is left for the next daemon to find, in s/s: it does no harm.
const NOTED: f64 = 1e-6;

/// Steers the kernel's clock.
#[derive(Clone, Debug)]
pub struct Steering {
    config: SteerConfig,
    /// Updates of the estimate so far, and the moment of the last one.
    updates: u32,
    updated: Option<LocalTime>,
    last: Option<LocalTime>,
    planned: Option<Plan>,
    /// The rate without a slew: what stays when the daemon ends.
    settled: f64,
    /// What adjtimex said after the last change.
    left: Option<(i64, i64)>,
    /// The rate of the present slew, in s/s.
    slew: f64,
    /// A slew that takes a while has been logged.
    slewing: bool,
    /// Steps so far.
    steps: u64,
    /// The note of a slew, and whether there is one.
    note: Option<SlewFile>,
    noted: bool,
    /// It has been logged that a first step waits for more upstreams to agree.
    waiting: bool,
    stopped: Option<String>,
}

/// A change of the kernel's clock that is about to be made.
#[derive(Clone, Copy, Debug)]
struct Plan {
    change: ClockChange,
    /// The rate afterwards, with and without the slew.
    wanted: f64,
    settled: f64,
    /// The clock is this far off, beyond the panic limit: the steering ends with this change.
    panic: Option<Panic>,
}

impl Steering {
    /// Takes the kernel's clock over from whoever had it: its own loop is turned off, and it counts as not synchronised
    /// until it is. The slews to come are noted in `note`.
    ///
    /// # Errors
    ///
    /// Without the privilege, or the kernel's.
    pub(super) fn begin<K: KernelClock>(
        kernel: &K,
        config: SteerConfig,
        note: Option<SlewFile>,
    ) -> Result<Self> {
        let change = ClockChange { status: Some(STA_UNSYNC), end_slews: true, ..ClockChange::default() };
        kernel.change(&change)?;
        Ok(Self {
            config,
            updates: 0,
            updated: None,
            last: None,
            planned: None,
            settled: 0.0,
            left: None,
            slew: 0.0,
            slewing: false,
            steps: 0,
            note,
            noted: false,
            waiting: false,
            stopped: None,
        })
    }

    /// Other limits, from now on.
    pub fn configure(&mut self, config: SteerConfig) {
        self.config = config;
        self.stopped = None;
        self.left = None;
    }

    /// Takes note that the machine's clocks have lost time: as at the start, the first updates may step.
    pub(super) fn time_lost(&mut self) {
        self.updates = 0;
        self.updated = None;
        // The kernel is to be told at once.
        self.last = None;
    }

    /// Why it does not steer any more, if it does not.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Returns its state, but for the offset.
    #[must_use]
    pub(super) fn view(&self) -> KernelClockStatus {
        let treatment = if self.stopped.is_some() {
            Treatment::Stopped
        } else if self.waiting {
            Treatment::Waiting
        } else if self.slewing {
            Treatment::Slewed
        } else {
            Treatment::Steered
        };
        KernelClockStatus {
            treatment,
            offset_s: None,
            slew_ppm: self.slew * 1e6,
            steps: self.steps,
            stopped_because: self.stopped.clone(),
        }
    }

    /// How often the estimate was updated since the beginning.
    #[cfg(test)]
    pub(super) const fn updates(&self) -> u32 {
        self.updates
    }

    /// Whether the next correction is due.
    #[must_use]
    pub fn is_due(&self, now: LocalTime) -> bool {
        self.stopped.is_none() && self.last.is_none_or(|last| now.seconds_since(last) >= INTERVAL_S)
    }

    /// Plans how to correct the kernel's clock by the line, where there is one, and to tell the kernel that it is not
    /// synchronised else. It is told so, too, while its error is above `limit_s`. `tai_offset_s` is TAI-UTC, where it is
    /// known; `correction` is the present one of the oscillator. Returns by how much the rate of the clock will change, in
    /// s/s. What goes wrong ends the steering: what is served does not depend on it.
    pub fn plan<K: KernelClock>(
        &mut self,
        kernel: &K,
        line: Option<&ClockLine>,
        limit_s: f64,
        tai_offset_s: Option<i32>,
        correction: f64,
        now: LocalTime,
    ) -> f64 {
        self.last = Some(now);
        match self.try_plan(kernel, line, limit_s, correction) {
            Ok(mut plan) => {
                plan.change.tai_offset_s = tai_offset_s;
                self.planned = Some(plan);
                plan.change.rate.map_or(0.0, |_| (1.0 + plan.wanted) / (1.0 + correction) - 1.0)
            }
            Err(reason) => {
                self.stop(reason);
                0.0
            }
        }
    }

    /// Makes the planned change.
    pub fn apply<K: KernelClock>(&mut self, kernel: &K) {
        let Some(plan) = self.planned.take() else { return };
        match (self.try_apply(kernel, &plan), plan.panic) {
            (Err(error), _) => self.stop(error.to_string()),
            (Ok(()), Some(panic)) => self.stop(panic.to_string()),
            (Ok(()), None) => {}
        }
    }

    fn stop(&mut self, reason: String) {
        error!("not steering the kernel's clock any more: {reason}");
        self.planned = None;
        self.slew = 0.0;
        self.slewing = false;
        self.stopped = Some(reason);
    }

    fn try_plan<K: KernelClock>(
        &mut self,
        kernel: &K,
        line: Option<&ClockLine>,
        limit_s: f64,
        correction: f64,
    ) -> std::result::Result<Plan, String> {
        let text = |error: Error| error.to_string();
        let state = kernel.discipline().map_err(text)?;
        if self.left.is_some_and(|left| left != (state.frequency_scaled_ppm, state.tick_us)) {
            self.left = None;
            return Err(
                "another program changes the rate of the kernel's clock: one of the two has to go".into()
            );
        }
        let Some(line) = line else {
            return Ok(self.letting_go());
        };
        let sample = kernel.cross_timestamp().map_err(text)?;
        let at_ns = u64::midpoint(sample.monotonic_before_ns, sample.monotonic_after_ns);
        let at = LocalTime::from_ns(at_ns.cast_signed());
        let ahead_ns = i128::from(line.utc_ns(at)) - sample.realtime_ns;
        let offset_s = ns_to_s(i64::try_from(ahead_ns).unwrap_or(i64::MAX));
        let updates = self.updates;
        if self.updated != Some(line.updated) {
            self.updated = Some(line.updated);
            self.updates = self.updates.saturating_add(1);
        }
        let decided = steer(&self.config, updates, offset_s, line.frequency, line.of_configured_majority);
        let action = match decided {
            Ok(action) => action,
            // A slew that is under way ends first, as a planned change.
            Err(panic) => return Ok(Plan { panic: Some(panic), ..self.letting_go() }),
        };
        let (frequency, extra, step_s) = match action {
            Action::Step { by_s, frequency } => (frequency, 0.0, Some(by_s)),
            Action::Slew { frequency, extra, .. } => (frequency, extra, None),
            Action::Wait => {
                if !self.waiting {
                    self.waiting = true;
                    warn!(
                        "the kernel's clock is {offset_s:.0} s off: it is not stepped before a majority of all configured upstreams agrees"
                    );
                }
                return Ok(self.letting_go());
            }
        };
        self.waiting = false;
        let settled = (1.0 + correction) * (1.0 + frequency) - 1.0;
        let wanted = (1.0 + settled) * (1.0 + extra) - 1.0;
        let left_s = step_s.map_or(offset_s.abs(), |_| 0.0);
        if let Some(by_s) = step_s {
            warn!("stepping the kernel's clock by {by_s:.6} s");
        }
        self.log_slew(offset_s, extra);
        // A slew that goes on without its daemon would leave the bound behind, so such a clock claims nothing.
        let claims = left_s <= limit_s && extra.abs() <= GROWTH;
        let error_us = |error_s: f64| whole_us(error_s + left_s);
        Ok(Plan {
            change: ClockChange {
                rate: ((wanted - correction).abs() > NEAR).then(|| for_adjtimex(wanted)),
                step_ns: step_s.map(s_to_ns),
                status: Some(leap_status(line, at) | if claims { 0 } else { STA_UNSYNC }),
                errors_us: Some((error_us(line.bound_s(at)), error_us(line.root_dispersion_s))),
                ..ClockChange::default()
            },
            wanted,
            settled,
            panic: None,
        })
    }

    /// The time is not known any more: what was slewed goes on no further, and the kernel is told.
    fn letting_go(&mut self) -> Plan {
        self.slewing = false;
        let rate = self.left.map(|_| for_adjtimex(self.settled));
        let change = ClockChange { rate, status: Some(STA_UNSYNC), ..ClockChange::default() };
        Plan { change, wanted: self.settled, settled: self.settled, panic: None }
    }

    fn try_apply<K: KernelClock>(&mut self, kernel: &K, plan: &Plan) -> Result<()> {
        let slews = (plan.wanted - plan.settled).abs() > NOTED;
        if slews && let Some(note) = &self.note {
            // Before the change: the note tells both rates, so that it is right if the daemon is killed between the two.
            let before = correction(&kernel.discipline()?);
            let stored = note.store(&Slew { settled: plan.settled, slewing: plan.wanted, before });
            if let Err(error) = stored {
                // The log repeats no line more than once a minute.
                warn!("a slew of the kernel's clock is not noted for the next daemon: {error}");
            }
            self.noted = true;
        }
        kernel.change(&plan.change)?;
        self.settled = plan.settled;
        self.slew = if slews { plan.wanted - plan.settled } else { 0.0 };
        self.steps += u64::from(plan.change.step_ns.is_some());
        if plan.change.errors_us.is_some() || self.left.is_some() {
            // The kernel rounds.
            let state = kernel.discipline()?;
            self.left = Some((state.frequency_scaled_ppm, state.tick_us));
        }
        if !slews {
            self.forget_slew();
        }
        Ok(())
    }

    /// Logs a slew that takes a while, and its end.
    fn log_slew(&mut self, offset_s: f64, extra: f64) {
        if !self.slewing && extra.abs() > GROWTH {
            let takes_s = (offset_s / extra).max(1.0);
            info!(
                "the kernel's clock is {:.6} s {}: slewing it at {:+.0} ppm, for about {takes_s:.0} s",
                offset_s.abs(),
                if offset_s > 0.0 { "behind" } else { "ahead" },
                extra * 1e6
            );
        } else if self.slewing && extra.abs() <= GROWTH {
            info!(
                "the slew of the kernel's clock has ended, {:.6} s from the time that is served",
                offset_s.abs()
            );
        }
        self.slewing = extra.abs() > GROWTH;
    }

    fn forget_slew(&mut self) {
        if std::mem::take(&mut self.noted)
            && let Some(note) = &self.note
        {
            note.clear();
        }
    }

    /// Returns by how much the rate of the clock changes when a slew ends with the daemon, in s/s.
    pub(super) fn change_at_end(&self, correction: f64) -> f64 {
        let slews = self.stopped.is_none() && self.left.is_some();
        if slews { (1.0 + self.settled) / (1.0 + correction) - 1.0 } else { 0.0 }
    }

    /// Lets go of the kernel's clock while the daemon goes on. Returns the slew that is under way, if there is one, for the
    /// caller to take back once what is published allows for that.
    #[must_use]
    pub(super) fn hand_back(self, correction: f64) -> Option<LeftBehind> {
        let slews = self.stopped.is_none() && self.left.is_some();
        slews.then(|| LeftBehind::of_this_daemon(correction, self.settled))
    }

    /// The daemon ends: no slew goes on without it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn end<K: KernelClock>(&mut self, kernel: &K) -> Result<()> {
        if self.stopped.is_some() || self.left.is_none() {
            return Ok(());
        }
        info!("the kernel's clock goes on at the rate it has learnt");
        kernel.change(&ClockChange { rate: Some(for_adjtimex(self.settled)), ..ClockChange::default() })?;
        self.forget_slew();
        Ok(())
    }
}

/// Refuses where another program steers the kernel's clock already: two of them would fight.
///
/// # Errors
///
/// Names it, and the ways out.
pub fn refuse_rivals() -> Result<()> {
    match rival() {
        None => Ok(()),
        Some(rival) => {
            Err(Error::new(Code::Unavailable, format_args!("{rival} steers the kernel's clock already"))
                .remedy(
                    "stop it, or leave the clock to it: `clock.steer = false` serves by the upstreams alone, \
                     `clock.source = \"system\"` serves its clock",
                ))
        }
    }
}

/// A program that steers the kernel's clock.
///
/// A process is one by its name and by what it is allowed, because everybody may run a process under any name. To steer,
/// it needs `CAP_SYS_TIME` in the initial user namespace: the kernel asks for no other, and daemons that give root up
/// keep this one. There is only one such clock, so that one in another pid or mount namespace, as of a container, counts
/// if it has the capability, and none counts without it. A set-user-ID program has it whatever name a user has linked it
/// by, but not that user's real ID.
///
/// What steers unseen, for example because it has another name, is noticed by what it does: see [`Steering::plan`].
pub(crate) fn rival() -> Option<Holder> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_string_lossy().parse().ok()?;
        let read = |file| std::fs::read(process.path().join(file)).unwrap_or_default();
        let is_rival = is_rival(&read("comm"), &read("cmdline"))
            && Credentials::of(&process.path()).is_some_and(|credentials| may_steer(&credentials));
        is_rival.then(|| Holder::of(&process.path(), pid))
    })
}

fn may_steer(credentials: &Credentials) -> bool {
    credentials.has(Capability::CAP_SYS_TIME)
        && credentials.is_in_initial_user_namespace()
        && credentials.is_its_own_user()
}

/// Whether a process of this name and command line steers the kernel's clock, if it may.
fn is_rival(name: &[u8], command_line: &[u8]) -> bool {
    /// As /proc/PID/comm has them, cut off after 15 bytes.
    const NAMES: [&[u8]; 6] =
        [b"chronyd", b"ntpd", b"ntp-daemon", b"systemd-timesyn", b"phc2sys", b"openntpd"];
    let mut arguments = command_line.split(|byte| *byte == 0).skip(1);
    // chronyd's `-x` leaves the clock alone.
    NAMES.contains(&name.trim_ascii())
        && !(name.starts_with(b"chronyd") && arguments.any(|word| word == b"-x"))
}

fn leap_status(line: &ClockLine, now: LocalTime) -> i32 {
    let second_of_day = line.utc_ns(now).div_euclid(1_000_000_000).rem_euclid(S_PER_DAY);
    match line.leap {
        Leap::Insert if second_of_day >= LEAP_FROM_S => STA_INS,
        Leap::Delete if second_of_day >= LEAP_FROM_S => STA_DEL,
        _ => 0,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "clamped")]
fn whole_us(seconds: f64) -> i64 {
    (seconds * 1e6).ceil().clamp(0.0, MOST_ERROR_US) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_that_steer_are_rivals_and_those_that_do_not_are_none() {
        assert!(is_rival(b"chronyd\n", b"/usr/sbin/chronyd\0-F\x001\0"));
        assert!(is_rival(b"systemd-timesyn\n", b"/lib/systemd/systemd-timesyncd\0"));
        assert!(is_rival(b"ntpd\n", b""));
        assert!(!is_rival(b"chronyd\n", b"chronyd\0-x\0-d\0"));
        assert!(!is_rival(b"pooltime-xdp\n", b"pooltime-xdp\0run\0"));
        assert!(!is_rival(b"ntpd-exporter\n", b""));
    }

    #[test]
    fn the_kernel_hears_of_a_leap_second_on_its_day_only() {
        let noon_s = 1_798_632_000; // 2026-12-30 12:00
        let line = |leap| ClockLine {
            leap_at: None,
            at: LocalTime::from_ns(0),
            offset_ns: noon_s * 1_000_000_000,
            frequency: 0.0,
            skew: 0.0,
            reference: 0,
            updated: LocalTime::from_ns(0),
            stratum: 2,
            leap,
            root_delay_s: 0.0,
            root_dispersion_s: 0.0,
            dispersion_rate: 1e-8,
            of_configured_majority: true,
        };
        let status =
            |leap, after_s: f64| leap_status(&line(leap), LocalTime::from_ns(0).plus_seconds(after_s));
        assert_eq!(status(Leap::Insert, -1.0), 0);
        assert_eq!(status(Leap::Insert, 1.0), STA_INS);
        assert_eq!(status(Leap::Delete, 40_000.0), STA_DEL);
        assert_eq!(status(Leap::None, 40_000.0), 0);
    }
}
