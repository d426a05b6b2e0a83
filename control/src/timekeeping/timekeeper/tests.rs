//! The timekeeper on a made-up machine, with sources that know true time.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;

use super::*;
use crate::discipline::{Leap, SourceConfig, s_to_ns};
use crate::timekeeping::fake::Machine;

const FAST: f64 = 30e-6;

/// Upstreams that know true time.
struct Upstreams {
    machine: Machine,
    /// What they announce; none while they are cut off.
    leap: Rc<Cell<Option<Leap>>>,
    asked: Vec<usize>,
}

impl Source for Upstreams {
    fn ask(&mut self, due: &[usize]) {
        self.asked.extend(due);
    }

    fn poll_arrived(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        if self.asked.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn take_in(&mut self, discipline: &mut Discipline, _now: LocalTime) {
        for index in self.asked.drain(..) {
            if let Some(leap) = self.leap.get() {
                discipline.sample(index, &self.machine.measure(leap));
            }
        }
    }

    fn reference_id(&self, _index: usize) -> Option<u32> {
        Some(1)
    }
}

/// Four upstreams, and the timekeeper that asks them.
struct Daemon {
    machine: Machine,
    timekeeper: Timekeeper<Machine>,
    /// What the upstreams announce; none while they are cut off.
    upstreams: Rc<Cell<Option<Leap>>>,
    /// When UTC gets a second behind the machine's truth, which has no leap seconds.
    leap_ns: Option<i128>,
}

impl Daemon {
    fn start(machine: &Machine, config: &ClockConfig) -> Self {
        let upstreams = Rc::new(Cell::new(Some(Leap::None)));
        let source = Upstreams { machine: machine.clone(), leap: Rc::clone(&upstreams), asked: Vec::new() };
        let mut timekeeper =
            Timekeeper::new(machine.clone(), -24, config, vec![Box::new(source)], None, 1).unwrap();
        for _ in 0..4 {
            timekeeper.discipline.add(SourceConfig::default(), timekeeper.now);
        }
        Self { machine: machine.clone(), timekeeper, upstreams, leap_ns: None }
    }

    /// A quarter of a second of the daemon's loop. What is served is checked against the truth.
    fn tick(&mut self) -> Observation {
        self.machine.run(0.25);
        self.timekeeper.handle(Event(What::Due)).unwrap();
        self.timekeeper.handle(Event(What::Arrived(0))).unwrap();
        self.timekeeper.look().unwrap();
        self.timekeeper.steer().unwrap();
        let observation = self.timekeeper.state().unwrap();
        if observation.unsynchronised.is_none() {
            let error_s = self.error_s(&observation.state);
            let line = self.timekeeper.discipline.line(self.now()).unwrap();
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
    let mut daemon = Daemon::start(&machine, &private());
    assert_eq!(daemon.tick().unsynchronised, Some(Unsynchronised::NoAgreement));
    let observation = daemon.run(4.0);
    assert_eq!(observation.unsynchronised, None);
    assert_eq!((observation.state.stratum, observation.state.leap), (2, 0));
    let observation = daemon.run(600.0);
    assert!(daemon.error_s(&observation.state).abs() < 1e-6);
    assert!((machine.ahead_s() + 3600.0).abs() < 0.1 && machine.steps().is_empty());
    let drift = daemon.timekeeper.learnt().unwrap();
    assert!((drift.frequency + FAST).abs() < 1e-8, "{drift:?}");
}

#[test]
fn a_steered_kernel_is_brought_to_the_truth_and_told_how_good_it_is() {
    let machine = Machine::new(0.1, FAST);
    let mut daemon = Daemon::start(&machine, &steered());
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
    daemon.timekeeper.end().unwrap();
    assert!((correction_of(&machine) + FAST).abs() < 1e-8, "{}", correction_of(&machine));
    let drift = daemon.timekeeper.learnt().unwrap();
    assert!((drift.frequency + FAST).abs() < 1e-8, "of the bare oscillator: {drift:?}");
}

#[test]
fn a_slew_ends_when_the_time_is_not_known_any_more() {
    let machine = Machine::new(0.5, FAST);
    let mut daemon = Daemon::start(&machine, &ClockConfig { max_error_ms: 1, ..steered() });
    daemon.run(10.0);
    assert!((correction_of(&machine) + FAST).abs() > 100e-6, "it slews");
    daemon.upstreams.set(None);
    machine.suspend(60.0);
    assert_eq!(daemon.run(5.0).unsynchronised, Some(Unsynchronised::NoAgreement));
    assert!((correction_of(&machine) + FAST).abs() < 1e-6, "{}", correction_of(&machine));
    assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
}

#[test]
fn a_large_offset_is_stepped_at_the_start_and_never_again() {
    let machine = Machine::new(-86_400.0, 0.0);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.run(600.0);
    assert_eq!(machine.steps().len(), 1);
    assert!(machine.ahead_s().abs() < 1e-5, "{}", machine.ahead_s());
    // Somebody sets the clock.
    for (offset_s, stops) in [(5, false), (5000, true)] {
        let step_ns = Some(offset_s * 1_000_000_000);
        machine.change(&crate::sys::ClockChange { step_ns, ..Default::default() }).unwrap();
        daemon.run(60.0);
        assert_eq!(machine.steps().len(), if stops { 3 } else { 2 }, "no other step than that");
        assert_eq!(daemon.timekeeper.steering().contains("beyond the panic limit"), stops);
    }
    assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
    assert_eq!(daemon.tick().unsynchronised, None, "what is served does not depend on it");
}

#[test]
fn a_rival_ends_the_steering() {
    let machine = Machine::new(0.0, 0.0);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.run(60.0);
    let rate = Some((1 << 16, 10_000));
    machine.change(&crate::sys::ClockChange { rate, ..Default::default() }).unwrap();
    assert_eq!(daemon.run(600.0).unsynchronised, None);
    assert!(daemon.timekeeper.steering().contains("another program"), "{}", daemon.timekeeper.steering());
    assert_eq!(machine.kernel().frequency_scaled_ppm, 1 << 16, "it is the rival's now");
}

#[test]
fn what_others_do_to_the_kernel_s_rate_does_not_show_in_what_is_served() {
    let machine = Machine::new(0.0, FAST);
    let mut daemon = Daemon::start(&machine, &private());
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
    let mut daemon = Daemon::start(&machine, &private());
    assert_eq!(daemon.run(300.0).unsynchronised, None);
    machine.suspend(7200.0);
    daemon.upstreams.set(None);
    assert_eq!(daemon.run(10.0).unsynchronised, Some(Unsynchronised::NoAgreement));
    daemon.upstreams.set(Some(Leap::None));
    let observation = daemon.run(120.0);
    assert_eq!(observation.unsynchronised, None);
    assert!(daemon.error_s(&observation.state).abs() < 1e-3);
}

#[test]
fn without_upstreams_the_bound_grows_until_the_gate_closes() {
    let machine = Machine::new(0.0, FAST);
    let mut daemon = Daemon::start(&machine, &ClockConfig { max_error_ms: 5, ..private() });
    daemon.run(60.0);
    daemon.upstreams.set(None);
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
    let mut daemon = Daemon::start(&machine, &private());
    daemon.upstreams.set(Some(Leap::Insert));
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
    daemon.upstreams.set(None);
    daemon.leap_ns = Some(end_ns);
    let observation = daemon.run(105.0);
    assert!(
        (daemon.error_s(&observation.state) + 1.0).abs() < 1e-3,
        "{}",
        daemon.error_s(&observation.state)
    );
    assert_eq!(observation.state.leap, 0);
}

/// A reload changes where the time comes from. The upstreams of the new configuration cannot be asked here.
#[tokio::test]
async fn a_reload_from_upstreams_to_the_system_clock_lets_go_of_the_kernel_and_one_back_begins_anew() {
    let directory = std::env::temp_dir().join(format!("pooltime-reload-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let host = Host { state_directory: directory.clone(), ..Host::default() };
    let machine = Machine::new(0.1, FAST);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.timekeeper.drift = Some(DriftFile::new(directory.join("drift")));
    daemon.run(600.0);
    assert!((correction_of(&machine) + FAST).abs() < 1e-6, "it was steered");

    let system = Config::parse("[clock]\nstratum = 5").unwrap();
    let keeper = &mut daemon.timekeeper;
    keeper.configure(&system, &host).unwrap();
    assert_eq!(keeper.label(), "system");
    let kept = machine.kernel();
    assert!((correction_of(&machine) + FAST).abs() < 1e-6, "the clock goes on at the rate that is right");
    for _ in 0..40 {
        machine.run(0.25);
        keeper.look().unwrap();
        keeper.steer().unwrap();
        let observation = keeper.state().unwrap();
        assert_eq!((observation.unsynchronised, observation.state.stratum), (None, 5));
    }
    assert_eq!(machine.kernel(), kept, "it is somebody else's now");
    assert_eq!(keeper.view(None).unwrap().system.steering, None);

    let upstream = "[clock]\nsource = \"upstream\"\nsteer = false\n[[upstream]]\naddress = \"192.0.2.9\"\n";
    keeper.configure(&Config::parse(upstream).unwrap(), &host).unwrap();
    assert_eq!(keeper.label(), "upstream");
    machine.run(0.25);
    keeper.look().unwrap();
    let observation = keeper.state().unwrap();
    assert_eq!(observation.unsynchronised, Some(Unsynchronised::NoAgreement), "nobody has been heard");
    let peers = keeper.view(None).unwrap();
    assert_eq!(peers.peers[0].name, "192.0.2.9");
    assert_eq!(peers.system.steering.as_deref(), Some("left alone"));
    assert_eq!(keeper.correction(), None);

    // What the first one had learnt of the oscillator is known to the last one.
    let learnt = keeper.drift.as_ref().and_then(DriftFile::load).unwrap();
    assert!((learnt.frequency + FAST).abs() < 1e-7, "{learnt:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_reload_to_a_source_that_cannot_begin_leaves_the_one_that_is() {
    let machine = Machine::new(0.0, FAST);
    let mut daemon = Daemon::start(&machine, &private());
    daemon.run(60.0);
    let mut wrong = Config::default();
    wrong.clock.leap_seconds_list = Some("/nowhere/leap-seconds.list".into());
    wrong.clock.source = ClockSource::Upstream;
    assert!(daemon.timekeeper.configure(&wrong, &Host::default()).is_err());
    assert_eq!(daemon.run(60.0).unsynchronised, None, "what is known of the time is kept");

    // And from the other source, which keeps on mirroring.
    let mut keeper = Timekeeper::begin(machine.clone(), &Config::default(), &Host::default()).await.unwrap();
    assert!(keeper.configure(&wrong, &Host::default()).is_err());
    assert_eq!(keeper.label(), "system");
    keeper.look().unwrap();
    assert_eq!(keeper.state().unwrap().unsynchronised, None);
}

fn correction_of(machine: &Machine) -> f64 {
    crate::timekeeping::rate_watch::correction(&machine.kernel())
}
