//! `source = "upstream"`: our own discipline over the upstreams, as a line through `CLOCK_MONOTONIC`.
//!
//! What is served is always the line itself, which is right at once, whatever the kernel's clock still has to catch
//! up with. Steering that is something beside it, for the machine's other programs.

use responder::clock::{DispersionRate, Rate};
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use responder::{ClockState, NtpShort, NtpTimestamp};
use tracing::warn;

use super::kernel_steering::Steering;
use super::rate_watch::RateWatch;
use super::system_clock::{Observation, Unsynchronised};
use crate::config::ClockConfig;
use crate::discipline::{Discipline, Drift, Leap, Line, LocalTime, Sample, SourceConfig, ns_to_s, s_to_ns};
use crate::error::Result;
use crate::sys::kernel_clock::KernelClock;

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
    /// What was named last as the reference.
    reference_id: u32,
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
            reference_id: 0,
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

    /// What there is to serve now. `reference_id` names an upstream by its index, while it is configured. Steers the kernel's clock, where
    /// that is wanted and due.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn observe(
        &mut self,
        config: &ClockConfig,
        reference_id: impl Fn(usize) -> Option<u32>,
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
            Some(line) => {
                // A time that is held over goes on naming the upstream it came from, even if that is configured no more.
                self.reference_id = reference_id(line.reference).unwrap_or(self.reference_id);
                state_of(line, now, config, self.reference_id, nothing)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timekeeping::fake::Machine;

    const FAST: f64 = 30e-6;

    /// Four upstreams that know true time, and the clock that is made of them.
    struct Daemon {
        machine: Machine,
        clock: DisciplinedClock<Machine>,
        config: ClockConfig,
        /// What the upstreams announce; none while they are cut off.
        upstreams: Option<Leap>,
        /// When UTC gets a second behind the machine's truth, which has no leap seconds.
        leap_ns: Option<i128>,
    }

    impl Daemon {
        fn start(machine: &Machine, config: ClockConfig) -> Self {
            let mut clock = DisciplinedClock::new(machine.clone(), -24, &config, None, 1).unwrap();
            for _ in 0..4 {
                clock.add(SourceConfig::default()).unwrap();
            }
            Self { machine: machine.clone(), clock, config, upstreams: Some(Leap::None), leap_ns: None }
        }

        /// A quarter of a second of the daemon's loop. What is served is checked against the truth.
        fn tick(&mut self) -> Observation {
            self.machine.run(0.25);
            for index in self.clock.due().unwrap() {
                if let Some(leap) = self.upstreams {
                    self.clock.sample(index, &self.machine.measure(leap)).unwrap();
                }
            }
            let observation = self.clock.observe(&self.config, |_| Some(1)).unwrap();
            if observation.unsynchronised.is_none() {
                let error_s = self.error_s(&observation.state);
                let line = self.clock.discipline().line(self.now()).unwrap();
                let leapt = self.leap_ns.is_some_and(|leap_ns| self.machine.true_unix_ns() >= leap_ns);
                let error_s = if leapt { error_s + 1.0 } else { error_s };
                assert!(error_s.abs() <= line.bound_s(self.now()), "{error_s} s off: {line:?}");
            }
            observation
        }

        fn run(&mut self, seconds: f64) -> Observation {
            let end_ns = self.machine.true_unix_ns() + i128::from(s_to_ns(seconds));
            loop {
                let observation = self.tick();
                if self.machine.true_unix_ns() >= end_ns {
                    return observation;
                }
            }
        }

        fn now(&self) -> LocalTime {
            LocalTime::from_ns(self.machine.rates().unwrap().monotonic_ns.cast_signed())
        }

        /// How far what is served is ahead of the truth.
        fn error_s(&self, state: &ClockState) -> f64 {
            let served = protocol::time::unix_ns(state.time_at(self.now().as_ns().cast_unsigned()));
            self.machine.error_s(served)
        }
    }

    fn steered() -> ClockConfig {
        ClockConfig { source: crate::config::ClockSource::Upstream, ..ClockConfig::default() }
    }

    fn private() -> ClockConfig {
        ClockConfig { steer: false, ..steered() }
    }

    #[test]
    fn a_private_line_is_right_at_once_and_leaves_the_kernel_alone() {
        let machine = Machine::new(-3600.0, FAST);
        let mut daemon = Daemon::start(&machine, private());
        assert_eq!(daemon.tick().unsynchronised, Some(Unsynchronised::NoAgreement));
        let observation = daemon.run(4.0);
        assert_eq!(observation.unsynchronised, None);
        assert_eq!((observation.state.stratum, observation.state.leap), (2, 0));
        let observation = daemon.run(600.0);
        assert!(daemon.error_s(&observation.state).abs() < 1e-6);
        assert!((machine.ahead_s() + 3600.0).abs() < 0.1 && machine.steps().is_empty());
        let drift = daemon.clock.drift(daemon.now()).unwrap();
        assert!((drift.frequency + FAST).abs() < 1e-8, "{drift:?}");
    }

    #[test]
    fn a_steered_kernel_is_brought_to_the_truth_and_told_how_good_it_is() {
        let machine = Machine::new(0.1, FAST);
        let mut daemon = Daemon::start(&machine, steered());
        daemon.tick();
        assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
        let mut before_s = machine.ahead_s();
        for _ in 0..2400 {
            daemon.tick();
            let kernel = machine.kernel();
            if kernel.status & libc::STA_UNSYNC == 0 {
                // It was told a moment ago; the kernel lets it grow by 500 parts in 10^6 of itself.
                let bound_s = ns_to_s(kernel.max_error_us * 1000) + 300e-6;
                assert!(machine.ahead_s().abs() <= bound_s, "{} s, {bound_s} s", machine.ahead_s());
                assert!((machine.ahead_s() - before_s).abs() < 0.25 * 600e-6, "no steps, and no faster slew");
            }
            before_s = machine.ahead_s();
        }
        daemon.run(60.0);
        assert!(machine.ahead_s().abs() < 2e-6, "{}", machine.ahead_s());
        // What the upstreams said ages by 15 us per second until the next poll.
        assert!(machine.kernel().max_error_us < 2000 && machine.steps().is_empty());
        daemon.clock.end().unwrap();
        assert!((correction_of(&machine) + FAST).abs() < 1e-8, "{}", correction_of(&machine));
        let drift = daemon.clock.drift(daemon.now()).unwrap();
        assert!((drift.frequency + FAST).abs() < 1e-8, "of the bare oscillator: {drift:?}");
    }

    #[test]
    fn a_slew_ends_when_the_time_is_not_known_any_more() {
        let machine = Machine::new(0.5, FAST);
        let mut daemon = Daemon::start(&machine, ClockConfig { max_error_ms: 1, ..steered() });
        daemon.run(10.0);
        assert!((correction_of(&machine) + FAST).abs() > 100e-6, "it slews");
        daemon.upstreams = None;
        machine.suspend(60.0);
        assert_eq!(daemon.run(5.0).unsynchronised, Some(Unsynchronised::NoAgreement));
        assert!((correction_of(&machine) + FAST).abs() < 1e-6, "{}", correction_of(&machine));
        assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
    }

    #[test]
    fn a_large_offset_is_stepped_at_the_start_and_never_again() {
        let machine = Machine::new(-86_400.0, 0.0);
        let mut daemon = Daemon::start(&machine, steered());
        daemon.run(600.0);
        assert_eq!(machine.steps().len(), 1);
        assert!(machine.ahead_s().abs() < 1e-5, "{}", machine.ahead_s());
        // Somebody sets the clock.
        for (offset_s, stops) in [(5, false), (5000, true)] {
            let step_ns = Some(offset_s * 1_000_000_000);
            machine.change(&crate::sys::ClockChange { step_ns, ..Default::default() }).unwrap();
            daemon.run(60.0);
            assert_eq!(machine.steps().len(), if stops { 3 } else { 2 }, "no other step than that");
            assert_eq!(daemon.clock.steering().contains("beyond the panic limit"), stops);
        }
        assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
        assert_eq!(daemon.tick().unsynchronised, None, "what is served does not depend on it");
    }

    #[test]
    fn a_rival_ends_the_steering() {
        let machine = Machine::new(0.0, 0.0);
        let mut daemon = Daemon::start(&machine, steered());
        daemon.run(60.0);
        let rate = Some((1 << 16, 10_000));
        machine.change(&crate::sys::ClockChange { rate, ..Default::default() }).unwrap();
        assert_eq!(daemon.run(600.0).unsynchronised, None);
        assert!(daemon.clock.steering().contains("another program"), "{}", daemon.clock.steering());
        assert_eq!(machine.kernel().frequency_scaled_ppm, 1 << 16, "it is the rival's now");
    }

    #[test]
    fn what_others_do_to_the_kernel_s_rate_does_not_show_in_what_is_served() {
        let machine = Machine::new(0.0, FAST);
        let mut daemon = Daemon::start(&machine, private());
        daemon.run(900.0);
        for ppm in [100, -400, 0, 50] {
            let rate = Some((ppm << 16, 10_000));
            machine.change(&crate::sys::ClockChange { rate, ..Default::default() }).unwrap();
            let observation = daemon.run(97.0);
            assert!(daemon.error_s(&observation.state).abs() < 150e-6);
        }
        for rate in [500e-6, 0.0, -500e-6, 0.0] {
            machine.slew_behind_the_back(rate);
            let observation = daemon.run(97.0);
            assert!(daemon.error_s(&observation.state).abs() < 150e-6);
        }
    }

    #[test]
    fn after_a_suspend_the_time_is_asked_for_anew() {
        let machine = Machine::new(0.0, FAST);
        let mut daemon = Daemon::start(&machine, private());
        assert_eq!(daemon.run(300.0).unsynchronised, None);
        machine.suspend(7200.0);
        daemon.upstreams = None;
        assert_eq!(daemon.run(10.0).unsynchronised, Some(Unsynchronised::NoAgreement));
        daemon.upstreams = Some(Leap::None);
        let observation = daemon.run(120.0);
        assert_eq!(observation.unsynchronised, None);
        assert!(daemon.error_s(&observation.state).abs() < 1e-3);
    }

    #[test]
    fn without_upstreams_the_bound_grows_until_the_gate_closes() {
        let machine = Machine::new(0.0, FAST);
        let mut daemon = Daemon::start(&machine, ClockConfig { max_error_ms: 5, ..private() });
        daemon.run(60.0);
        daemon.upstreams = None;
        let mut before = daemon.tick().state.root_dispersion;
        for _ in 0..100_000 {
            let Observation { state, unsynchronised, .. } = daemon.run(10.0);
            if unsynchronised.is_some() {
                assert_eq!((unsynchronised, state.leap), (Some(Unsynchronised::UpstreamError), 3));
                return;
            }
            assert!(state.root_dispersion >= before);
            let at_horizon = state.root_dispersion_at(state.horizon_ns);
            // Two units of 15 us for what was rounded up.
            assert!(at_horizon.as_nanos() <= 5_000_000 + 31_000, "{at_horizon:?} at the horizon");
            assert!(state.horizon_ns <= state.monotonic_base_ns + 20_000_000_000);
            before = state.root_dispersion;
        }
        panic!("the gate never closed");
    }

    #[test]
    fn a_leap_second_is_announced_on_its_day_and_taken_by_what_is_served() {
        let machine = Machine::new(0.0, 0.0);
        let mut daemon = Daemon::start(&machine, private());
        daemon.upstreams = Some(Leap::Insert);
        let observation = daemon.run(600.0);
        assert_eq!(observation.state.leap, 0, "weeks ahead");
        // To five minutes before the end of the month.
        let end_ns = 1_793_491_200_000_000_000_i128;
        let ahead_ns = end_ns - machine.true_unix_ns() - 300_100_000_000;
        machine.suspend(ns_to_s(i64::try_from(ahead_ns).unwrap()));
        let observation = daemon.run(200.0);
        assert_eq!((observation.unsynchronised, observation.state.leap), (None, 1));
        let utc_before_s = daemon.error_s(&observation.state);
        assert!(utc_before_s.abs() < 1e-3);
        daemon.upstreams = None;
        daemon.leap_ns = Some(end_ns);
        let observation = daemon.run(105.0);
        assert!(
            (daemon.error_s(&observation.state) + 1.0).abs() < 1e-3,
            "{}",
            daemon.error_s(&observation.state)
        );
        assert_eq!(observation.state.leap, 0);
    }

    fn correction_of(machine: &Machine) -> f64 {
        crate::timekeeping::rate_watch::correction(&machine.kernel())
    }
}
