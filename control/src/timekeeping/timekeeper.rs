//! The keeper of the time that is served.
//!
//! A [`Timekeeper`] asks its sources, lets the discipline make a line through `CLOCK_MONOTONIC` of their measurements,
//! and builds the state to publish from it. What is served is always the line itself, which is right at once, whatever
//! the kernel's clock still has to catch up with. Steering the kernel's clock is a separate matter, for the machine's
//! other programs. With `source = "system"` the clock is somebody else's work, and is mirrored instead.
//!
//! The daemon's loop waits for [`Timekeeper::event`] and has it handled. At every tick it calls [`Timekeeper::look`],
//! [`Timekeeper::before_steering`], [`Timekeeper::steer`] and [`Timekeeper::state`], in this order; nothing but `steer`
//! changes the kernel's clock while the configuration stays the same.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use responder::ClockState;
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use tracing::warn;

use super::drift::DriftFile;
use super::kernel_steering::{Steering, refuse_rivals};
use super::line_state;
use super::pause_watch::Pause;
use super::rate_watch::{RateChange, RateWatch};
use super::slew_file::{LeftBehind, SlewFile};
use super::sources::ntp::NtpSource;
use super::sources::system::SystemSource;
use super::sources::{Correction, Mirrored, Source};
use super::system_clock::{Observation, Unsynchronised};
use crate::config::{ClockConfig, ClockSource, Config};
use crate::discipline::{self, ClockLine, Discipline, Drift, LeapList, LocalTime, ns_to_s};
use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::status::kernel_clock::KernelClockStatus;
use crate::status::sources::{Peers, System};
use crate::sys::kernel_clock::{KernelClock, monotonic_ns, precision};

/// If the clock that counts suspends gets ahead by this much, in ns, the machine was suspended.
const SUSPEND_NS: u64 = 100_000_000;
/// Interval at which the drift file is written.
const DRIFT_INTERVAL: Duration = Duration::from_hours(1);
/// The kernel's clock is not steered this near to a leap second, in s.
const LEAP_QUIET_S: f64 = 2.0;
/// Shortest sleep of the loop, so that it cannot spin.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// What a timekeeper must know about its host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The host's addresses, which are never asked for the time.
    pub own: OwnAddresses,
    /// Addresses at which another time daemon of this host may answer.
    pub local_daemons: Vec<SocketAddr>,
    /// The directory of the drift file.
    pub state_directory: PathBuf,
}

/// An event for [`Timekeeper::handle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(What);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Sources or a leap second are due.
    Due,
    /// The source with this index has received something.
    Arrived(usize),
}

/// Keeps the time on the clocks of a kernel.
pub struct Timekeeper<K> {
    kernel: K,
    config: ClockConfig,
    sources: Vec<Box<dyn Source>>,
    discipline: Discipline,
    watch: RateWatch,
    /// When the clocks were last read.
    now: LocalTime,
    suspended_ns: u64,
    steering: Option<Steering>,
    /// Where a slew of the kernel's clock is noted.
    note: Option<SlewFile>,
    /// A slew that was found at the start and has not been taken back yet.
    left_behind: Option<LeftBehind>,
    /// Changes of the clock's rate that [`Timekeeper::take_rate_changes`] has not returned yet.
    retuned: Vec<RateChange>,
    drift: Option<DriftFile>,
    /// When the drift file was last written, and how well the frequency was known then, in s/s.
    drift_stored: Option<(Instant, f64)>,
    /// When it cannot be said whether the leap second to come has come, as of the last state.
    leap_window: Option<(LocalTime, LocalTime)>,
    /// The known leap seconds.
    leap_list: Option<LeapList>,
    precision: i8,
    sequence: u32,
    /// The reference ID that was published last.
    reference_id: u32,
    /// Correction of a mirrored clock, as of the last state.
    correction: Option<Correction>,
}

impl<K: KernelClock + Clone> Timekeeper<K> {
    /// Begins with the configured sources. None of the upstreams has been asked yet; a local daemon has.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read, or cannot be steered although that is configured, or the list of leap
    /// seconds is wrong.
    pub async fn begin(kernel: K, config: &Config, host: &Host) -> Result<Self> {
        match config.clock.source {
            ClockSource::System => {
                let mut source = SystemSource::new(precision()?, &host.local_daemons);
                source.hear_local_daemon().await;
                Self::with(kernel, config, host, Box::new(source))
            }
            ClockSource::Upstream => Self::without_waiting(kernel, config, host),
        }
    }

    fn without_waiting(kernel: K, config: &Config, host: &Host) -> Result<Self> {
        let source: Box<dyn Source> = match config.clock.source {
            ClockSource::System => Box::new(SystemSource::new(precision()?, &host.local_daemons)),
            ClockSource::Upstream => {
                if config.clock.steer {
                    refuse_rivals()?;
                }
                Box::new(NtpSource::new(host.own.clone()))
            }
        };
        Self::with(kernel, config, host, source)
    }

    fn with(kernel: K, config: &Config, host: &Host, source: Box<dyn Source>) -> Result<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(Error::because(Code::Os, "no random numbers"))?;
        let seed = u64::from_ne_bytes(seed);
        let directory = Some(host.state_directory.as_path());
        let mut timekeeper = Self::new(kernel, precision()?, &config.clock, vec![source], directory, seed)?;
        timekeeper.configure_sources(config, &host.own);
        Ok(timekeeper)
    }

    /// Whether the kernel's clock is changed, or a slew of it has still to be taken back.
    #[must_use]
    pub const fn changes_clock(&self) -> bool {
        self.steering.is_some() || self.left_behind.is_some()
    }

    /// Puts another configuration in force as a whole, or not at all.
    ///
    /// # Errors
    ///
    /// See [`Timekeeper::begin`].
    pub fn configure(&mut self, config: &Config, host: &Host) -> Result<()> {
        if config.clock.source != self.config.source {
            let mut next = Self::without_waiting(self.kernel.clone(), config, host)?;
            self.store_drift();
            next.left_behind = self.hand_back().or(next.left_behind);
            *self = next;
            return Ok(());
        }
        if steers(&config.clock) && !self.config.steer {
            refuse_rivals()?;
        }
        self.read_clocks()?;
        let settings = discipline_settings(&config.clock)?;
        match (&mut self.steering, steers(&config.clock)) {
            (Some(steering), true) => steering.configure(config.clock.steering()),
            (None, true) => {
                let steering = Steering::begin(&self.kernel, config.clock.steering(), self.note.clone())?;
                self.steering = Some(steering);
            }
            // Its slew is taken back at the next tick, as a change that what is published allows for.
            (Some(_), false) => self.left_behind = self.hand_back().or(self.left_behind.take()),
            (None, false) => {}
        }
        self.leap_list.clone_from(&settings.leap_list);
        self.discipline.configure(settings);
        self.config = config.clock.clone();
        self.configure_sources(config, &host.own);
        Ok(())
    }
}

impl<K: KernelClock> Timekeeper<K> {
    /// Begins with these sources and with what an earlier run has learnt about the oscillator.
    fn new(
        kernel: K,
        precision: i8,
        config: &ClockConfig,
        sources: Vec<Box<dyn Source>>,
        directory: Option<&Path>,
        seed: u64,
    ) -> Result<Self> {
        let settings = discipline::Config { seed, ..discipline_settings(config)? };
        let leap_list = settings.leap_list.clone();
        let drift = directory
            .filter(|_| config.source == ClockSource::Upstream)
            .map(|directory| DriftFile::new(directory.join("drift")));
        let learnt = drift.as_ref().and_then(DriftFile::load);
        let note = directory.map(|directory| SlewFile::new(directory.join("slew")));
        let steering =
            steers(config).then(|| Steering::begin(&kernel, config.steering(), note.clone())).transpose()?;
        let expected = learnt.map(|drift| drift.frequency);
        let left_behind = LeftBehind::find(&kernel, note.as_ref(), expected, steering.is_some())?;
        let rates = kernel.clock_readings()?;
        let watch = RateWatch::new(rates, &kernel.discipline()?);
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let mut discipline = Discipline::new(settings, &[], now, learnt);
        // What is known beforehand is known of the bare oscillator, whatever correction is in force now.
        discipline.frequency_changed(now, watch.correction());
        Ok(Self {
            kernel,
            config: config.clone(),
            sources,
            discipline,
            watch,
            now,
            suspended_ns: rates.boottime_ns.saturating_sub(rates.monotonic_ns),
            steering,
            note,
            left_behind,
            retuned: Vec::new(),
            drift,
            drift_stored: None,
            leap_window: None,
            leap_list,
            precision,
            sequence: 0,
            reference_id: 0,
            correction: None,
        })
    }

    fn configure_sources(&mut self, config: &Config, own: &OwnAddresses) {
        for source in &mut self.sources {
            source.configure(config, &mut self.discipline, self.now);
            source.set_own_addresses(own, &mut self.discipline, self.now);
        }
    }

    /// Takes in a change of this host's addresses. A source that turns out to be this host is dropped at
    /// once, and comes back when the address is gone.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn set_own_addresses(&mut self, own: &OwnAddresses) -> Result<()> {
        let now = self.read_clocks()?;
        for source in &mut self.sources {
            source.set_own_addresses(own, &mut self.discipline, now);
        }
        Ok(())
    }

    /// Waits for an event. Nothing is lost if the wait is cancelled.
    pub async fn event(&mut self) -> Event {
        let mut due = pin!(tokio::time::sleep(self.until_due()));
        poll_fn(|context| {
            for (place, source) in self.sources.iter_mut().enumerate() {
                if source.poll_arrived(context).is_ready() {
                    return Poll::Ready(Event(What::Arrived(place)));
                }
            }
            due.as_mut().poll(context).map(|()| Event(What::Due))
        })
        .await
    }

    fn until_due(&self) -> Duration {
        let leap_ends = self.leap_window.map(|(_, end)| end);
        let discipline = self.discipline.next_wakeup().into_iter().chain(leap_ends).min().map(|at| {
            let now = monotonic_ns().unwrap_or_default().cast_signed();
            Duration::from_nanos(u64::try_from(at.as_ns().saturating_sub(now)).unwrap_or(0))
        });
        let sources = self.sources.iter().filter_map(|source| source.next_wakeup()).min();
        let sources = sources.map(|at| at.saturating_duration_since(Instant::now()));
        discipline.into_iter().chain(sources).min().unwrap_or(Duration::MAX).max(LEAST_SLEEP)
    }

    /// Handles an event.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn handle(&mut self, event: Event) -> Result<()> {
        let now = self.read_clocks()?;
        match event.0 {
            What::Due => {
                let due = self.discipline.due(now);
                for source in &mut self.sources {
                    source.ask(&due);
                }
            }
            What::Arrived(place) => {
                if let Some(source) = self.sources.get_mut(place) {
                    source.take_in(&mut self.discipline, now);
                }
            }
        }
        if self.drift_is_due() {
            self.store_drift();
        }
        Ok(())
    }

    /// The drift file is written as soon as there is something to keep, when it has become twice as exact, and from time
    /// to time.
    fn drift_is_due(&self) -> bool {
        let Some((stored, skew)) = self.drift_stored else {
            return self.drift.is_some() && self.discipline.drift(self.now).is_some();
        };
        stored.elapsed() >= DRIFT_INTERVAL
            || self.discipline.drift(self.now).is_some_and(|drift| drift.skew < skew / 2.0)
    }

    /// Looks at the clocks. What was done to them goes into the discipline.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn look(&mut self) -> Result<()> {
        self.read_clocks()?;
        self.sources.iter_mut().try_for_each(|source| source.look(&self.kernel))
    }

    /// Plans how to steer the kernel's clock as of the last look, where that is wanted and due. What is served runs on
    /// the same clock. Returns by how much its rate is about to change, in s/s: what is published must allow for that
    /// before [`Timekeeper::steer`] makes the change, and stays true then if the daemon is killed in between.
    pub fn before_steering(&mut self) -> f64 {
        if let Some(left_behind) = &self.left_behind {
            return left_behind.change();
        }
        let (now, limit_s) = (self.now, line_state::limit_s(&self.config));
        let Some(steering) = self.steering.as_mut().filter(|steering| steering.is_due(now)) else {
            return 0.0;
        };
        let line = self.discipline.line(now).filter(|line| line.bound_s(now) <= limit_s);
        // The kernel takes the leap second by itself, some milliseconds before or after the line.
        if line.is_some_and(|line| line.leap_at.is_some_and(|at| at.seconds_since(now).abs() < LEAP_QUIET_S))
        {
            return 0.0;
        }
        let tai_offset_s = line.zip(self.leap_list.as_ref()).and_then(|(line, list)| {
            let tai_utc_s = list.tai_utc_s(line.utc_ns(now).div_euclid(1_000_000_000))?;
            i32::try_from(tai_utc_s).ok()
        });
        let correction = self.watch.correction();
        steering.plan(&self.kernel, line.as_ref(), limit_s, tai_offset_s, correction, now)
    }

    /// Whether a leap second comes within its window of the last state, or in a second.
    #[cfg(test)]
    fn leap_is_near(&self) -> bool {
        self.leap_window.is_some_and(|(start, end)| start.seconds_since(self.now) < 0.01 || self.now < end)
    }

    /// Whether a leap second has ended just now, so that the clock should be published at once.
    #[must_use]
    pub fn leap_has_ended(&self) -> bool {
        self.leap_window.is_some_and(|(_, end)| self.now >= end)
    }

    /// Makes the change that [`Timekeeper::before_steering`] has planned, and takes in what this changed.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn steer(&mut self) -> Result<()> {
        if let Some(left_behind) = self.left_behind.take() {
            if let Err(error) = left_behind.unwind(&self.kernel, self.note.as_ref()) {
                warn!("a slew of the kernel's clock that was left behind goes on: {error}");
            }
        } else if let Some(steering) = &mut self.steering {
            steering.apply(&self.kernel);
        }
        self.read_clocks().map(drop)
    }

    /// Takes note that the machine stood still: its clocks have lost that time, and nothing that was known of them is true
    /// any more. The sources are asked anew at once; until they have spoken, no time is served as good.
    pub fn paused(&mut self, pause: Pause) {
        warn!(
            "the machine stood still for about {:.1} s: the time is asked for anew, and is not served as good until then",
            pause.about_s
        );
        self.time_lost(self.now);
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.discipline.time_lost(now);
        for source in &mut self.sources {
            source.time_lost();
        }
        if let Some(steering) = &mut self.steering {
            steering.time_lost();
        }
    }

    /// Stops steering. Returns the slew that is to be taken back.
    fn hand_back(&mut self) -> Option<LeftBehind> {
        let correction = self.watch.correction();
        self.steering.take().and_then(|steering| steering.hand_back(correction))
    }

    /// Returns by how much the clock's rate changes when [`Timekeeper::end`] lets go of it, in s/s.
    #[must_use]
    pub fn change_at_end(&self) -> f64 {
        self.steering.as_ref().map_or(0.0, |steering| steering.change_at_end(self.watch.correction()))
    }

    /// Takes the changes of the clock's rate since the last call, whoever made them.
    pub fn take_rate_changes(&mut self) -> Vec<RateChange> {
        std::mem::take(&mut self.retuned)
    }

    /// Returns what should be served as of the last look.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn state(&mut self) -> Result<Observation> {
        let mirrored = self.sources.iter_mut().find_map(|source| source.mirror(&self.config));
        if let Some(Mirrored { observation, correction }) = mirrored {
            self.correction = Some(correction);
            return Ok(observation);
        }
        let now = self.now;
        self.sequence = self.sequence.wrapping_add(1);
        let unknown = line_state::unknown(now, self.sequence, self.precision);
        let Some(line) = self.discipline.line(now).filter(|line| line.stratum <= MAX_STRATUM) else {
            // While nothing is known, answers carry the kernel's time and say that it is not synchronised.
            let state = line_state::of_kernel(&self.kernel.cross_timestamp()?, unknown);
            return Ok(Observation {
                state,
                unsynchronised: Some(Unsynchronised::NoAgreement),
                stepped_ns: None,
            });
        };
        // While a time is held over, it goes on naming the source it came from, even if that is configured no more.
        let named = self.sources.iter().find_map(|source| source.reference_id(line.reference));
        self.reference_id = named.unwrap_or(self.reference_id);
        let mut state = line_state::of_line(&line, now, &self.config, self.reference_id, unknown);
        let window = line_state::leap_window(&line).filter(|(_, end)| now < *end);
        self.leap_window = window;
        if window.is_some_and(|(start, _)| now >= start) {
            state.leap = LEAP_UNSYNCHRONISED;
            return Ok(Observation {
                state,
                unsynchronised: Some(Unsynchronised::LeapSecond),
                stepped_ns: None,
            });
        }
        let too_wide = line.bound_s(now) > line_state::limit_s(&self.config);
        if too_wide {
            state.leap = LEAP_UNSYNCHRONISED;
        }
        let unsynchronised = too_wide.then_some(Unsynchronised::UpstreamError);
        Ok(Observation { state, unsynchronised, stepped_ns: None })
    }

    /// Reads the clocks that show what was done to `CLOCK_MONOTONIC`. Returns the local time.
    fn read_clocks(&mut self) -> Result<LocalTime> {
        let (rates, kernel) = (self.kernel.clock_readings()?, self.kernel.discipline()?);
        for retuned in self.watch.observe(rates, &kernel) {
            self.discipline.frequency_changed(retuned.at, retuned.rate);
            self.retuned.push(retuned);
        }
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let suspended_ns = rates.boottime_ns.saturating_sub(rates.monotonic_ns);
        if suspended_ns > self.suspended_ns.saturating_add(SUSPEND_NS) {
            if self.is_disciplined() {
                warn!("the machine was suspended: the time is asked for anew");
            }
            self.time_lost(now);
        }
        self.suspended_ns = suspended_ns;
        self.discipline.advance(now);
        self.now = now;
        Ok(now)
    }

    /// Whether the time comes from our own discipline and not from a clock that another daemon keeps.
    fn is_disciplined(&self) -> bool {
        self.config.source == ClockSource::Upstream
    }

    /// Returns the correction of a clock that another daemon keeps.
    #[must_use]
    pub const fn correction(&self) -> Option<Correction> {
        self.correction
    }

    /// Returns the source in the configuration: `system` or `upstream`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        self.config.source.label()
    }

    /// Returns the state of the sources, and of the clock as it was last published.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn view(&self, state: Option<&ClockState>) -> Result<Peers> {
        let now_ns = monotonic_ns()?;
        let now = LocalTime::from_ns(now_ns.cast_signed());
        let line = self.discipline.line(now);
        let reference = line.as_ref().map(|line| line.reference);
        let mut system = state.map_or_else(System::default, |state| System::of(state, now_ns));
        system.source = self.label().into();
        system.kernel_clock = self.is_disciplined().then(|| self.kernel_clock(line.as_ref()));
        let mut peers = Vec::new();
        for (index, mut peer) in self.sources.iter().flat_map(|source| source.view(now)) {
            let is_reference = index.is_some() && index == reference;
            match index {
                Some(index) => peer.describe(&self.discipline.report(index, now), is_reference),
                None => peer.standing = "it is not asked".into(),
            }
            if is_reference {
                system.system_peer = Some(peer.association);
                system.poll_log2 = Some(peer.poll_log2);
                system.offset_s = peer.offset_s;
            }
            peers.push(peer);
        }
        if let Some(line) = &line {
            self.describe(&mut system, line, now);
        }
        Ok(Peers { system, peers })
    }

    /// Returns how long the error bound stays within its limit if no upstream answers any more, in s, from how fast it
    /// grows now. `None` while there is no line of the upstreams.
    #[must_use]
    pub fn holdover_s(&self) -> Option<f64> {
        let line = self.discipline.line(self.now).filter(|_| self.is_disciplined())?;
        let room_s = (line_state::limit_s(&self.config) - line.bound_s(self.now)).max(0.0);
        Some(room_s / line.dispersion_rate).filter(|holdover_s| holdover_s.is_finite())
    }

    fn describe(&self, system: &mut System, line: &ClockLine, now: LocalTime) {
        const PPM: f64 = 1e6;
        system.frequency_ppm = Some(self.of_oscillator(line.frequency) * PPM);
        system.skew_ppm = Some(line.skew * PPM);
        if let Some((offset_sd_s, wander)) = self.discipline.uncertainty(now) {
            system.jitter_s = Some(offset_sd_s);
            system.wander_ppm = Some(wander * PPM);
        }
    }

    /// Returns how far the line is ahead of `CLOCK_REALTIME`, in s.
    fn kernel_offset_s(&self, line: &ClockLine) -> Option<f64> {
        let sample = self.kernel.cross_timestamp().ok()?;
        let at_ns = u64::midpoint(sample.monotonic_before_ns, sample.monotonic_after_ns);
        let utc_ns = i128::from(line.utc_ns(LocalTime::from_ns(at_ns.cast_signed())));
        Some(ns_to_s(i64::try_from(utc_ns - sample.realtime_ns).ok()?))
    }

    /// Describes what happens to the kernel's clock.
    fn kernel_clock(&self, line: Option<&ClockLine>) -> KernelClockStatus {
        KernelClockStatus {
            offset_s: line.and_then(|line| self.kernel_offset_s(line)),
            ..self.steering.as_ref().map_or_else(KernelClockStatus::default, Steering::view)
        }
    }

    /// Converts a frequency of the corrected clock to one of the uncorrected oscillator: true seconds per
    /// second, minus one.
    fn of_oscillator(&self, frequency: f64) -> f64 {
        (1.0 + frequency) * (1.0 + self.watch.correction()) - 1.0
    }

    /// Returns what the next run should know about the oscillator.
    fn learnt(&self) -> Option<Drift> {
        let drift = self.discipline.drift(self.now)?;
        Some(Drift { frequency: self.of_oscillator(drift.frequency), ..drift })
    }

    fn store_drift(&mut self) {
        if self.read_clocks().is_err() {
            return;
        }
        let skew = self.discipline.drift(self.now).map_or(f64::INFINITY, |drift| drift.skew);
        self.drift_stored = Some((Instant::now(), skew));
        if let (Some(file), Some(learnt)) = (&self.drift, self.learnt())
            && let Err(error) = file.store(&learnt)
        {
            warn!("{error}");
        }
    }

    /// Stores what was learnt, and releases the kernel's clock.
    ///
    /// # Errors
    ///
    /// The kernel or the file system refuses.
    pub fn end(&mut self) -> Result<()> {
        self.store_drift();
        self.steering.as_mut().map_or(Ok(()), |steering| steering.end(&self.kernel))
    }
}

/// Whether to steer the kernel's clock. One that another daemon keeps is never steered.
fn steers(config: &ClockConfig) -> bool {
    config.source == ClockSource::Upstream && config.steer
}

/// Returns the settings of the discipline. If it has no sources, it needs no list of leap seconds.
fn discipline_settings(config: &ClockConfig) -> Result<discipline::Config> {
    match config.source {
        ClockSource::System => Ok(discipline::Config::default()),
        ClockSource::Upstream => Ok(config.discipline()?),
    }
}

#[cfg(test)]
mod tests;
