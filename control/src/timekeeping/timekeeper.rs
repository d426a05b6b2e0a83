//! The keeper of the time that is served.
//!
//! A [`Timekeeper`] asks its sources, lets the discipline make a line through `CLOCK_MONOTONIC` of their measurements,
//! and builds the state to publish from it. What is served is always the line itself, which is right at once, whatever
//! the kernel's clock still has to catch up with. Steering the kernel's clock is a separate matter, for the machine's
//! other programs. With `source = "system"` the clock is somebody else's work, and is mirrored instead.
//!
//! The daemon's loop waits for [`Timekeeper::event`] and has it handled. At every tick it calls [`Timekeeper::look`],
//! [`Timekeeper::steer`] and [`Timekeeper::state`], in this order; nothing but `steer` changes the kernel's clock
//! while the configuration stays the same.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use responder::ClockState;
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use tracing::warn;

use super::drift::DriftFile;
use super::kernel_steering::{Steering, refuse_rivals};
use super::line_state;
use super::rate_watch::RateWatch;
use super::sources::ntp::NtpSource;
use super::sources::system::SystemSource;
use super::sources::{Correction, Mirrored, Source};
use super::system_clock::{Observation, Unsynchronised};
use crate::config::{ClockConfig, ClockSource, Config};
use crate::discipline::{self, Discipline, Drift, Line, LocalTime, ns_to_s};
use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources::{Peers, System};
use crate::sys::kernel_clock::{KernelClock, monotonic_ns, precision};

/// The clock that counts suspends got ahead by this much: there was one, in ns.
const SUSPEND_NS: u64 = 100_000_000;
/// How often the drift file is written.
const DRIFT_INTERVAL: Duration = Duration::from_hours(1);
/// The loop sleeps this long at least: it must not spin.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// What a timekeeper has to know of the host it runs on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its addresses, which are never asked for the time.
    pub own: OwnAddresses,
    /// Where another time daemon of this host may be asked.
    pub local_daemons: Vec<SocketAddr>,
    /// Where the drift file is kept.
    pub state_directory: PathBuf,
}

/// Something for [`Timekeeper::handle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(What);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Sources are due, or a leap second.
    Due,
    /// The source in this place has heard something.
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
    drift: Option<DriftFile>,
    drift_stored: Instant,
    precision: i8,
    sequence: u32,
    /// What was named last as the reference.
    reference_id: u32,
    /// Of the clock that is mirrored, as of the last state.
    correction: Option<Correction>,
}

impl<K: KernelClock + Clone> Timekeeper<K> {
    /// Begins with the configured sources. None of the upstreams has been asked yet; a local daemon has.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read or, if that is wanted, not be steered; the list of leap seconds is wrong.
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
        let disciplined = config.clock.source == ClockSource::Upstream;
        let drift = disciplined.then(|| DriftFile::new(host.state_directory.join("drift")));
        let seed = u64::from_ne_bytes(seed);
        let mut timekeeper = Self::new(kernel, precision()?, &config.clock, vec![source], drift, seed)?;
        timekeeper.configure_sources(config, &host.own);
        Ok(timekeeper)
    }

    /// Puts another configuration in force: all of it or nothing.
    ///
    /// # Errors
    ///
    /// As [`Timekeeper::begin`].
    pub fn configure(&mut self, config: &Config, host: &Host) -> Result<()> {
        if config.clock.source != self.config.source {
            let next = Self::without_waiting(self.kernel.clone(), config, host)?;
            return std::mem::replace(self, next).end();
        }
        if steers(&config.clock) && !self.config.steer {
            refuse_rivals()?;
        }
        self.read_clocks()?;
        let settings = discipline_settings(&config.clock)?;
        match (&mut self.steering, steers(&config.clock)) {
            (Some(steering), true) => steering.configure(config.clock.steering()),
            (None, true) => self.steering = Some(Steering::begin(&self.kernel, config.clock.steering())?),
            (Some(steering), false) => {
                steering.end(&self.kernel)?;
                self.steering = None;
            }
            (None, false) => {}
        }
        self.discipline.configure(settings);
        self.config = config.clock.clone();
        self.configure_sources(config, &host.own);
        Ok(())
    }
}

impl<K: KernelClock> Timekeeper<K> {
    /// Begins with these sources and what an earlier run has learnt of the oscillator.
    fn new(
        kernel: K,
        precision: i8,
        config: &ClockConfig,
        sources: Vec<Box<dyn Source>>,
        drift: Option<DriftFile>,
        seed: u64,
    ) -> Result<Self> {
        let rates = kernel.rates()?;
        let watch = RateWatch::new(rates, &kernel.discipline()?);
        let settings = discipline::Config { seed, ..discipline_settings(config)? };
        // The file tells of the bare oscillator, the discipline knows the corrected clock.
        let learnt = drift.as_ref().and_then(DriftFile::load).map(|drift| Drift {
            frequency: (1.0 + drift.frequency) / (1.0 + watch.correction()) - 1.0,
            ..drift
        });
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let steering = steers(config).then(|| Steering::begin(&kernel, config.steering())).transpose()?;
        Ok(Self {
            kernel,
            config: config.clone(),
            sources,
            discipline: Discipline::new(settings, &[], now, learnt),
            watch,
            now,
            suspended_ns: rates.boottime_ns.saturating_sub(rates.monotonic_ns),
            steering,
            drift,
            drift_stored: Instant::now(),
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

    /// Takes note of other addresses of this host. A source that turns out to be this host is dropped at once, and
    /// comes back when the address is gone.
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

    /// Waits for something to handle. Nothing is lost if the wait is given up.
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
        let discipline = self.discipline.next_wakeup().map(|at| {
            let now = monotonic_ns().unwrap_or_default().cast_signed();
            Duration::from_nanos(u64::try_from(at.as_ns().saturating_sub(now)).unwrap_or(0))
        });
        let sources = self.sources.iter().filter_map(|source| source.next_wakeup()).min();
        let sources = sources.map(|at| at.saturating_duration_since(Instant::now()));
        discipline.into_iter().chain(sources).min().unwrap_or(Duration::MAX).max(LEAST_SLEEP)
    }

    /// Does what an event asks for.
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
        if self.drift_stored.elapsed() >= DRIFT_INTERVAL {
            self.store_drift();
        }
        Ok(())
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

    /// Steers the kernel's clock as of the last look, where that is wanted and due, and takes in what this changed.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn steer(&mut self) -> Result<()> {
        let (now, limit_s) = (self.now, line_state::limit_s(&self.config));
        let Some(steering) = self.steering.as_mut().filter(|steering| steering.is_due(now)) else {
            return Ok(());
        };
        let line = self.discipline.line(now).filter(|line| line.bound_s(now) <= limit_s);
        steering.correct(&self.kernel, line.as_ref(), self.watch.correction(), now);
        self.read_clocks()?;
        Ok(())
    }

    /// What there is to serve as of the last look.
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
            let state = line_state::of_kernel(&self.kernel.sample()?, unknown);
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
        let too_wide = line.bound_s(now) > line_state::limit_s(&self.config);
        if too_wide {
            state.leap = LEAP_UNSYNCHRONISED;
        }
        let unsynchronised = too_wide.then_some(Unsynchronised::UpstreamError);
        Ok(Observation { state, unsynchronised, stepped_ns: None })
    }

    /// Reads the clocks that tell what was done to `CLOCK_MONOTONIC`. Gives the local time.
    fn read_clocks(&mut self) -> Result<LocalTime> {
        let (rates, kernel) = (self.kernel.rates()?, self.kernel.discipline()?);
        for retuned in self.watch.observe(rates, &kernel) {
            self.discipline.retuned(retuned.at, retuned.rate);
        }
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let suspended_ns = rates.boottime_ns.saturating_sub(rates.monotonic_ns);
        if suspended_ns > self.suspended_ns.saturating_add(SUSPEND_NS) {
            if self.is_disciplined() {
                warn!("the machine was suspended: the time is asked for anew");
            }
            self.discipline.jumped(now);
        }
        self.suspended_ns = suspended_ns;
        self.now = now;
        Ok(now)
    }

    /// Whether the time is of our own making, and not that of a clock which somebody else keeps.
    fn is_disciplined(&self) -> bool {
        self.config.source == ClockSource::Upstream
    }

    /// What the keeper of the clock does to it, where that is somebody else.
    #[must_use]
    pub const fn correction(&self) -> Option<Correction> {
        self.correction
    }

    /// `system` or `upstream`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        self.config.source.label()
    }

    /// What there is to see of the sources, and of the clock as it was last published.
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
        system.steering = self.is_disciplined().then(|| self.steering());
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

    fn describe(&self, system: &mut System, line: &Line, now: LocalTime) {
        const PPM: f64 = 1e6;
        system.frequency_ppm = Some(self.of_oscillator(line.frequency) * PPM);
        system.skew_ppm = Some(line.skew * PPM);
        system.kernel_offset_s = self.kernel_offset_s(line);
        if let Some((offset_sd_s, wander)) = self.discipline.uncertainty(now) {
            system.jitter_s = Some(offset_sd_s);
            system.wander_ppm = Some(wander * PPM);
        }
    }

    /// What the line is ahead of `CLOCK_REALTIME`, in s.
    fn kernel_offset_s(&self, line: &Line) -> Option<f64> {
        let sample = self.kernel.sample().ok()?;
        let at_ns = u64::midpoint(sample.monotonic_before_ns, sample.monotonic_after_ns);
        let utc_ns = i128::from(line.utc_ns(LocalTime::from_ns(at_ns.cast_signed())));
        Some(ns_to_s(i64::try_from(utc_ns - sample.realtime_ns).ok()?))
    }

    /// What happens to the kernel's clock, for people.
    fn steering(&self) -> String {
        match &self.steering {
            None => "left alone".into(),
            Some(steering) => {
                steering.stopped().map_or_else(|| "steered".into(), |why| format!("left alone: {why}"))
            }
        }
    }

    /// True seconds in a second of the bare oscillator, less one, for a frequency of the corrected clock.
    fn of_oscillator(&self, frequency: f64) -> f64 {
        (1.0 + frequency) * (1.0 + self.watch.correction()) - 1.0
    }

    /// What to keep of the oscillator for the next run.
    fn learnt(&self) -> Option<Drift> {
        let drift = self.discipline.drift(self.now)?;
        Some(Drift { frequency: self.of_oscillator(drift.frequency), ..drift })
    }

    fn store_drift(&mut self) {
        self.drift_stored = Instant::now();
        if self.read_clocks().is_err() {
            return;
        }
        if let (Some(file), Some(learnt)) = (&self.drift, self.learnt())
            && let Err(error) = file.store(&learnt)
        {
            warn!("{error}");
        }
    }

    /// Keeps what was learnt, and lets go of the kernel's clock.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn end(&mut self) -> Result<()> {
        self.store_drift();
        self.steering.as_ref().map_or(Ok(()), |steering| steering.end(&self.kernel))
    }
}

/// Whether the kernel's clock is to be steered: never one that somebody else keeps.
fn steers(config: &ClockConfig) -> bool {
    config.source == ClockSource::Upstream && config.steer
}

/// The settings of the discipline. Without sources that it disciplines it has none, and no list of leap seconds.
fn discipline_settings(config: &ClockConfig) -> Result<discipline::Config> {
    match config.source {
        ClockSource::System => Ok(discipline::Config::default()),
        ClockSource::Upstream => Ok(config.discipline()?),
    }
}

#[cfg(test)]
mod tests;
