//! `source = "upstream"`: our own discipline over the upstreams, as a line through `CLOCK_MONOTONIC`.
//!
//! What is served is always the line itself, which is right at once, whatever the kernel's clock still has to catch
//! up with. Steering that is something beside it, for the machine's other programs.

use responder::clock::{DispersionRate, Rate};
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use responder::{ClockState, NtpShort, NtpTimestamp};
use tracing::warn;

use super::kernel::KernelClock;
use super::rate::RateWatch;
use super::steering::Steering;
use super::system::{Observation, Unsynchronised};
use crate::config::ClockConfig;
use crate::discipline::{Discipline, Drift, Leap, Line, LocalTime, Sample, SourceConfig, ns_to_s, s_to_ns};
use crate::error::Result;

/// The clock that counts suspends got ahead by this much: there was one, in ns.
const SUSPEND_NS: u64 = 100_000_000;

/// The discipline on the machine's clocks.
pub struct DisciplinedClock<K> {
    kernel: K,
    discipline: Discipline,
    watch: RateWatch,
    suspended_ns: u64,
    steering: Option<Steering>,
    precision: i8,
    sequence: u32,
}

impl<K: KernelClock> DisciplinedClock<K> {
    /// Begins with what an earlier run has learnt of the oscillator.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read or, if that is wanted, not be steered; the list of leap seconds is wrong.
    pub fn new(
        kernel: K,
        precision: i8,
        config: &ClockConfig,
        drift: Option<Drift>,
        seed: u64,
    ) -> Result<Self> {
        let rates = kernel.rates()?;
        let watch = RateWatch::new(rates, &kernel.discipline()?);
        let settings = crate::discipline::Config { seed, ..config.discipline()? };
        // The file tells of the bare oscillator, the discipline knows the corrected clock.
        let drift = drift.map(|drift| Drift {
            frequency: (1.0 + drift.frequency) / (1.0 + watch.correction()) - 1.0,
            ..drift
        });
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let steering = config.steer.then(|| Steering::begin(&kernel, config.steering())).transpose()?;
        Ok(Self {
            kernel,
            discipline: Discipline::new(settings, &[], now, drift),
            watch,
            suspended_ns: rates.boottime_ns.saturating_sub(rates.monotonic_ns),
            steering,
            precision,
            sequence: 0,
        })
    }

    /// Puts another configuration in force. Nothing changes unless all of it can be.
    ///
    /// # Errors
    ///
    /// As [`DisciplinedClock::new`].
    pub fn configure(&mut self, config: &ClockConfig) -> Result<()> {
        let settings = config.discipline()?;
        match (&mut self.steering, config.steer) {
            (Some(steering), true) => steering.configure(config.steering()),
            (None, true) => self.steering = Some(Steering::begin(&self.kernel, config.steering())?),
            (Some(steering), false) => {
                steering.end(&self.kernel)?;
                self.steering = None;
            }
            (None, false) => {}
        }
        self.discipline.configure(settings);
        Ok(())
    }

    /// Looks at the clocks: what was done to them goes into the discipline. Gives the local time.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn look(&mut self) -> Result<LocalTime> {
        let (rates, kernel) = (self.kernel.rates()?, self.kernel.discipline()?);
        for retuned in self.watch.observe(rates, &kernel) {
            self.discipline.retuned(retuned.at, retuned.rate);
        }
        let now = LocalTime::from_ns(rates.monotonic_ns.cast_signed());
        let suspended_ns = rates.boottime_ns.saturating_sub(rates.monotonic_ns);
        if suspended_ns > self.suspended_ns.saturating_add(SUSPEND_NS) {
            warn!("the machine was suspended: the time is asked for anew");
            self.discipline.jumped(now);
        }
        self.suspended_ns = suspended_ns;
        Ok(now)
    }

    /// Adds an upstream; gives its index.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn add(&mut self, source: SourceConfig) -> Result<usize> {
        let now = self.look()?;
        Ok(self.discipline.add(source, now))
    }

    /// The upstreams to ask now. Each counts as asked.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn due(&mut self) -> Result<Vec<usize>> {
        let now = self.look()?;
        Ok(self.discipline.due(now))
    }

    /// Takes in a measurement.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn sample(&mut self, index: usize, sample: &Sample) -> Result<()> {
        self.look()?;
        self.discipline.sample(index, sample);
        Ok(())
    }

    /// The discipline, to be told what needs no clock.
    pub const fn discipline_mut(&mut self) -> &mut Discipline {
        &mut self.discipline
    }

    /// The discipline, for what it knows.
    #[must_use]
    pub const fn discipline(&self) -> &Discipline {
        &self.discipline
    }

    /// What there is to serve now. `reference_id` names an upstream by its index. Steers the kernel's clock, where
    /// that is wanted and due.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn observe(
        &mut self,
        config: &ClockConfig,
        reference_id: impl Fn(usize) -> u32,
    ) -> Result<Observation> {
        let mut now = self.look()?;
        let limit_s = limit_s(config);
        if self.steering.as_ref().is_some_and(|steering| steering.is_due(now)) {
            let line = self.discipline.line(now).filter(|line| line.bound_s(now) <= limit_s);
            if let Some(steering) = &mut self.steering {
                steering.correct(&self.kernel, line.as_ref(), self.watch.correction(), now);
            }
            now = self.look()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let line = self.discipline.line(now).filter(|line| line.stratum <= MAX_STRATUM);
        let unsynchronised = match &line {
            Some(line) if line.bound_s(now) > limit_s => Some(Unsynchronised::UpstreamError),
            Some(_) => None,
            None => Some(Unsynchronised::NoAgreement),
        };
        let nothing = ClockState {
            sequence: self.sequence,
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
            precision: self.precision,
        };
        let mut state = match &line {
            Some(line) => state_of(line, now, config, reference_id(line.reference), nothing),
            None => self.by_the_kernel(nothing)?,
        };
        if unsynchronised.is_some() {
            state.leap = LEAP_UNSYNCHRONISED;
        }
        Ok(Observation { state, unsynchronised, stepped_ns: None })
    }

    /// What the line is ahead of `CLOCK_REALTIME`, in s.
    #[must_use]
    pub fn kernel_offset_s(&self, line: &Line) -> Option<f64> {
        let sample = self.kernel.sample().ok()?;
        let at_ns = u64::midpoint(sample.monotonic_before_ns, sample.monotonic_after_ns);
        let utc_ns = i128::from(line.utc_ns(LocalTime::from_ns(at_ns.cast_signed())));
        Some(ns_to_s(i64::try_from(utc_ns - sample.realtime_ns).ok()?))
    }

    /// What is made of the kernel's clock, for people.
    #[must_use]
    pub fn steering(&self) -> String {
        match &self.steering {
            None => "left alone".into(),
            Some(steering) => {
                steering.stopped().map_or_else(|| "steered".into(), |why| format!("left alone: {why}"))
            }
        }
    }

    /// True seconds a second of the bare oscillator, less one, for a frequency of the corrected clock.
    #[must_use]
    pub fn of_oscillator(&self, frequency: f64) -> f64 {
        (1.0 + frequency) * (1.0 + self.watch.correction()) - 1.0
    }

    /// What to keep of the oscillator for the next run.
    #[must_use]
    pub fn drift(&self, now: LocalTime) -> Option<Drift> {
        let drift = self.discipline.drift(now)?;
        Some(Drift { frequency: self.of_oscillator(drift.frequency), ..drift })
    }

    /// The daemon ends.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn end(&self) -> Result<()> {
        self.steering.as_ref().map_or(Ok(()), |steering| steering.end(&self.kernel))
    }

    /// While nothing is known, answers carry the kernel's time and say that it is nobody's.
    fn by_the_kernel(&self, nothing: ClockState) -> Result<ClockState> {
        let sample = self.kernel.sample()?;
        Ok(ClockState {
            monotonic_base_ns: sample.monotonic_after_ns,
            ntp_base: timestamp(sample.realtime_ns),
            ..nothing
        })
    }
}

/// A line as it is published.
fn state_of(
    line: &Line,
    now: LocalTime,
    config: &ClockConfig,
    reference_id: u32,
    nothing: ClockState,
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
        ..nothing
    }
}

fn limit_s(config: &ClockConfig) -> f64 {
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

/// Rounded up, for a bound must not shrink.
fn short(seconds: f64) -> NtpShort {
    NtpShort::from_nanos(s_to_ns(seconds.max(0.0)).cast_unsigned() + 1)
}

fn timestamp(unix_ns: i128) -> NtpTimestamp {
    let second = 1_000_000_000;
    let seconds = i64::try_from(unix_ns.div_euclid(second)).unwrap_or_default();
    NtpTimestamp::from_unix(seconds, u32::try_from(unix_ns.rem_euclid(second)).unwrap_or_default())
}
