//! The timekeeper on a fake machine, with sources that know true time.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;

use super::*;
use crate::config::MakeStep;
use crate::discipline::{Leap, SourceConfig, s_to_ns};
use crate::status::kernel_clock::Treatment;
use crate::timekeeping::fake::FakeMachine;
use crate::timekeeping::slew_file::Slew;

const FAST: f64 = 30e-6;

/// Upstreams that know true time.
struct Upstreams {
    machine: FakeMachine,
    /// What they announce; `None` while they are unreachable.
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
    machine: FakeMachine,
    timekeeper: Timekeeper<FakeMachine>,
    /// What the upstreams announce; `None` while they are unreachable.
    upstreams: Rc<Cell<Option<Leap>>>,
    /// When and by how much UTC leaves the machine's true time, which has no leap seconds.
    leap: Option<(i128, f64)>,
    /// What was served last.
    served: Option<Observation>,
    /// How often others had disturbed the machine by then.
    disturbances: u32,
}

impl Daemon {
    fn start(machine: &FakeMachine, config: &ClockConfig) -> Self {
        Self::start_in(machine, config, None)
    }

    /// With what an earlier one left in its directory.
    fn start_in(machine: &FakeMachine, config: &ClockConfig, directory: Option<&Path>) -> Self {
        let upstreams = Rc::new(Cell::new(Some(Leap::None)));
        let source = Upstreams { machine: machine.clone(), leap: Rc::clone(&upstreams), asked: Vec::new() };
        let mut timekeeper =
            Timekeeper::new(machine.clone(), -24, config, vec![Box::new(source)], directory, 1).unwrap();
        for _ in 0..4 {
            timekeeper.discipline.add(SourceConfig::default(), timekeeper.now);
        }
        Self { machine: machine.clone(), timekeeper, upstreams, leap: None, served: None, disturbances: 0 }
    }

    /// Runs the daemon's loop for a quarter of a second, and checks what is served against the truth.
    fn tick(&mut self) -> Observation {
        self.machine.run(0.25);
        self.timekeeper.handle(Event(What::Due)).unwrap();
        self.timekeeper.handle(Event(What::Arrived(0))).unwrap();
        let undisturbed = self.disturbances == self.machine.disturbances();
        self.timekeeper.look().unwrap();
        let change = self.timekeeper.before_steering();
        self.timekeeper.steer().unwrap();
        if undisturbed {
            self.check_death_after_steering(change);
        }
        self.disturbances = self.machine.disturbances();
        let observation = self.timekeeper.state().unwrap();
        if observation.unsynchronised.is_none() {
            self.check(&observation.state);
        }
        self.served = Some(observation);
        observation
    }

    fn kernel_clock(&self) -> KernelClockStatus {
        self.timekeeper.view(None).unwrap().system.kernel_clock.unwrap()
    }

    /// What the loop does at a tick. No event need have come before.
    fn publish(&mut self) -> Observation {
        self.timekeeper.look().unwrap();
        self.timekeeper.state().unwrap()
    }

    /// Checks an answer of now against the truth.
    fn check(&self, state: &ClockState) {
        let now_ns = self.now().as_ns().cast_unsigned();
        if !state.is_synchronised_at(now_ns) {
            return;
        }
        let shift_s = self
            .leap
            .filter(|(leap_ns, _)| self.machine.true_unix_ns() >= *leap_ns)
            .map_or(0.0, |(_, shift_s)| shift_s);
        let error_s = self.error_s(state) - shift_s;
        let bound_s = ns_to_s(state.root_dispersion_at(now_ns).as_nanos().cast_signed())
            + ns_to_s(state.root_delay.as_nanos().cast_signed()) / 2.0;
        assert!(error_s.abs() <= bound_s, "{error_s} s off: {state:?}");
    }

    /// If the daemon were killed now, the kernel's clock changed and the new line not published, what the program goes on
    /// serving to its horizon would be right within its bound.
    fn check_death_after_steering(&self, change: f64) {
        let Some(served) = self.served.filter(|served| served.unsynchronised.is_none()) else { return };
        let state =
            if change.abs() < 1e-6 { served.state } else { line_state::allowing_for(served.state, change) };
        let rate = self.machine.rate();
        for after_s in [0.0, 0.5, 5.0, 20.0] {
            let now_ns = self.now().plus_seconds(after_s * rate).as_ns().cast_unsigned();
            if !state.is_synchronised_at(now_ns) || self.leap.is_some() {
                return;
            }
            let served_ns = protocol::time::unix_ns(state.time_at(now_ns));
            let error_s = self.machine.error_s(served_ns - i128::from(s_to_ns(after_s)));
            let bound_s = ns_to_s(state.root_dispersion_at(now_ns).as_nanos().cast_signed())
                + ns_to_s(state.root_delay.as_nanos().cast_signed()) / 2.0;
            assert!(
                error_s.abs() <= bound_s,
                "{error_s} s off, {bound_s} s, {after_s} s after a death: {change} {rate} {state:?}"
            );
        }
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
        LocalTime::from_ns(self.machine.clock_readings().unwrap().monotonic_ns.cast_signed())
    }

    /// Returns how far the served time is ahead of the truth.
    fn error_s(&self, state: &ClockState) -> f64 {
        let served = protocol::time::unix_ns(state.time_at(self.now().as_ns().cast_unsigned()));
        self.machine.error_s(served)
    }
}

fn steered() -> ClockConfig {
    let leap_seconds_list = Some("none".into());
    ClockConfig { source: crate::config::ClockSource::Upstream, leap_seconds_list, ..ClockConfig::default() }
}

fn private() -> ClockConfig {
    ClockConfig { steer: false, ..steered() }
}

#[test]
fn a_private_line_is_right_at_once_and_leaves_the_kernel_alone() {
    let machine = FakeMachine::new(-3600.0, FAST);
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
    let machine = FakeMachine::new(0.1, FAST);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.tick();
    assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
    let mut before_s = machine.ahead_s();
    for _ in 0..2400 {
        daemon.tick();
        let kernel = machine.kernel();
        if kernel.status & libc::STA_UNSYNC == 0 {
            // The kernel was told a moment ago; it lets its error grow by 500 ppm.
            let bound_s = ns_to_s(kernel.max_error_us * 1000) + 300e-6;
            assert!(machine.ahead_s().abs() <= bound_s, "{} s, {bound_s} s", machine.ahead_s());
            let moved_s = (machine.ahead_s() - before_s).abs();
            // The slew that ended within this quarter of a second.
            assert!(moved_s < 0.25 * 0.09, "no step: {moved_s} s");
        }
        before_s = machine.ahead_s();
    }
    daemon.run(60.0);
    assert!(machine.ahead_s().abs() < 2e-6, "{}", machine.ahead_s());
    // The upstreams' claims age by 15 us per second until the next poll.
    assert!(machine.kernel().max_error_us < 2000 && machine.steps().is_empty());
    daemon.timekeeper.end().unwrap();
    assert!((correction_of(&machine) + FAST).abs() < 1e-8, "{}", correction_of(&machine));
    let drift = daemon.timekeeper.learnt().unwrap();
    assert!((drift.frequency + FAST).abs() < 1e-8, "of the bare oscillator: {drift:?}");
}

#[test]
fn a_slew_ends_when_the_time_is_not_known_any_more() {
    let machine = FakeMachine::new(0.9, FAST);
    let mut daemon = Daemon::start(&machine, &ClockConfig { max_error_ms: 1, ..steered() });
    daemon.run(8.0);
    assert!((correction_of(&machine) + FAST).abs() > 100e-6, "it slews");
    daemon.upstreams.set(None);
    machine.suspend(60.0);
    assert_eq!(daemon.run(5.0).unsynchronised, Some(Unsynchronised::NoAgreement));
    assert!((correction_of(&machine) + FAST).abs() < 1e-6, "{}", correction_of(&machine));
    assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
}

#[test]
fn a_large_offset_is_stepped_at_the_start_and_never_again() {
    let machine = FakeMachine::new(-86_400.0, 0.0);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.run(600.0);
    assert_eq!(machine.steps().len(), 1);
    assert!(machine.ahead_s().abs() < 1e-5, "{}", machine.ahead_s());
    // Another program sets the clock.
    for (offset_s, stops) in [(5, false), (5000, true)] {
        let step_ns = Some(offset_s * 1_000_000_000);
        machine.disturb(&crate::sys::ClockChange { step_ns, ..Default::default() });
        daemon.run(60.0);
        assert_eq!(machine.steps().len(), if stops { 3 } else { 2 }, "no other step than that");
        assert_eq!(daemon.kernel_clock().to_string().contains("beyond the panic limit"), stops);
    }
    assert_eq!(machine.kernel().status, libc::STA_UNSYNC);
    assert_eq!(daemon.tick().unsynchronised, None, "what is served does not depend on it");
}

#[test]
fn the_way_back_takes_seconds_where_no_step_is_allowed() {
    for (ahead_s, within_s) in [(0.02, 10.0), (-0.3, 15.0), (0.9, 25.0), (-5.0, 75.0)] {
        let makestep = MakeStep { updates: 0, ..MakeStep::default() };
        let machine = FakeMachine::new(ahead_s, FAST);
        let mut daemon = Daemon::start(&machine, &ClockConfig { makestep, ..steered() });
        daemon.run(within_s);
        assert!(machine.ahead_s().abs() < 1e-3, "{ahead_s}: still {} s", machine.ahead_s());
        assert!(machine.steps().is_empty());
        daemon.run(5.0);
        assert_eq!(machine.kernel().status & libc::STA_UNSYNC, 0);
    }
}

#[test]
fn a_step_is_allowed_by_updates_of_the_estimate_and_not_by_time() {
    let machine = FakeMachine::new(0.0, FAST);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.run(4.0);
    assert_eq!(machine.kernel().status & libc::STA_UNSYNC, 0, "it is set");
    daemon.upstreams.set(None);
    daemon.run(30.0);
    assert!(daemon.timekeeper.steering.as_ref().unwrap().updates() < 12, "thirty corrections, and no answer");
}

#[test]
fn a_slew_that_somebody_left_behind_is_not_taken_for_the_clock_s_rate() {
    for (frequency_scaled_ppm, tick_us) in [(0, 9167), (0, 10_833), (400 << 16, 10_400), (-500 << 16, 9_000)]
    {
        for config in [steered(), private()] {
            let machine = FakeMachine::new(0.3, FAST);
            let rate = Some((frequency_scaled_ppm, tick_us));
            machine.disturb(&crate::sys::ClockChange { rate, ..Default::default() });
            let mut daemon = Daemon::start(&machine, &config);
            let observation = daemon.run(60.0);
            assert_eq!(observation.unsynchronised, None);
            assert!(daemon.error_s(&observation.state).abs() < 1e-4);
            let owns = config.steer;
            assert_eq!((correction_of(&machine) + FAST).abs() < 5e-6, owns, "{}", correction_of(&machine));
        }
    }
}

#[test]
fn a_daemon_that_is_killed_in_every_slew_never_adds_one_to_the_next() {
    for ahead_s in [0.9_f64, -0.9, 0.05] {
        let directory =
            std::env::temp_dir().join(format!("pooltime-killed-{ahead_s}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let machine = FakeMachine::new(ahead_s, FAST);
        let mut least_s = ahead_s.abs();
        for _ in 0..6 {
            let mut daemon = Daemon::start_in(&machine, &steered(), Some(&directory));
            daemon.run(5.0);
            assert!(correction_of(&machine).abs() < 0.0834, "{}", correction_of(&machine));
            // Killed: nothing is taken back, and the kernel goes on until the next start.
            drop(daemon);
            machine.run(0.1);
        }
        let mut daemon = Daemon::start_in(&machine, &steered(), Some(&directory));
        daemon.run(30.0);
        least_s = least_s.min(machine.ahead_s().abs());
        assert!(least_s < 1e-3, "{least_s}");
        assert!((correction_of(&machine) + FAST).abs() < 5e-6, "{}", correction_of(&machine));
        daemon.timekeeper.end().unwrap();
        assert!(!directory.join("slew").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_daemon_that_is_killed_between_its_note_and_the_change_leaves_no_slew_either() {
    let directory = std::env::temp_dir().join(format!("pooltime-between-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    // Too slow a slew to be told from what an oscillator may need.
    let rate = Some((270 << 16, 10_000));
    let machine = FakeMachine::new(0.0, FAST);
    machine.disturb(&crate::sys::ClockChange { rate, ..Default::default() });
    let slew = Slew { settled: -FAST, slewing: 100e-6, before: 270e-6 };
    SlewFile::new(directory.join("slew")).store(&slew).unwrap();
    let mut daemon = Daemon::start_in(&machine, &steered(), Some(&directory));
    daemon.tick();
    assert!((correction_of(&machine) + FAST).abs() < 1e-9, "{}", correction_of(&machine));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_daemon_that_ends_in_a_slew_leaves_a_line_that_is_true_of_the_settled_clock() {
    for ahead_s in [0.9, -0.9] {
        let machine = FakeMachine::new(ahead_s, FAST);
        let mut daemon = Daemon::start(&machine, &steered());
        let served = daemon.run(6.0);
        assert_eq!(served.unsynchronised, None);
        assert!((correction_of(&machine) + FAST).abs() > 0.01, "it slews");
        let allowing = line_state::allowing_for(served.state, daemon.timekeeper.change_at_end());
        daemon.timekeeper.end().unwrap();
        assert!((correction_of(&machine) + FAST).abs() < 5e-6, "{}", correction_of(&machine));
        daemon.timekeeper.look().unwrap();
        let last = daemon.timekeeper.state().unwrap().state;
        for _ in 0..200 {
            daemon.check(&allowing);
            daemon.check(&last);
            machine.run(0.1);
        }
    }
}

#[test]
fn a_daemon_that_is_told_to_steer_no_more_takes_its_slew_back_and_serves_true_time_throughout() {
    for ahead_s in [0.9, -0.9] {
        let machine = FakeMachine::new(ahead_s, FAST);
        let mut daemon = Daemon::start(&machine, &steered());
        daemon.run(6.0);
        assert!((correction_of(&machine) + FAST).abs() > 0.01, "it slews");
        let slewed = daemon.kernel_clock();
        assert_eq!(slewed.treatment, Treatment::Slewed);
        assert!((83_300.0..83_334.0).contains(&slewed.slew_ppm.abs()), "{slewed:?}");
        // Each tick checks what the program serves if the daemon dies at it.
        let config = Config { clock: private(), ..Config::default() };
        daemon.timekeeper.configure(&config, &Host::default()).unwrap();
        daemon.tick();
        assert!((correction_of(&machine) + FAST).abs() < 5e-6, "{}", correction_of(&machine));
        assert_eq!(daemon.run(60.0).unsynchronised, None);
        assert!((correction_of(&machine) + FAST).abs() < 5e-6, "{}", correction_of(&machine));
        assert_eq!(daemon.kernel_clock().treatment, Treatment::LeftAlone);
    }
}

#[test]
fn a_rival_ends_the_steering() {
    let machine = FakeMachine::new(0.0, 0.0);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.run(60.0);
    let rate = Some((1 << 16, 10_000));
    machine.disturb(&crate::sys::ClockChange { rate, ..Default::default() });
    assert_eq!(daemon.run(600.0).unsynchronised, None);
    let stopped = daemon.kernel_clock();
    assert!(stopped.warning().unwrap().contains("another program"), "{stopped}");
    assert_eq!(machine.kernel().frequency_scaled_ppm, 1 << 16, "it is the rival's now");
}

#[test]
fn what_others_do_to_the_kernel_s_rate_does_not_show_in_what_is_served() {
    let machine = FakeMachine::new(0.0, FAST);
    let mut daemon = Daemon::start(&machine, &private());
    daemon.run(900.0);
    for ppm in [100, -400, 0, 50] {
        let rate = Some((ppm << 16, 10_000));
        machine.disturb(&crate::sys::ClockChange { rate, ..Default::default() });
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
    let machine = FakeMachine::new(0.0, FAST);
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
    let machine = FakeMachine::new(0.0, FAST);
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
        // Two units of 15 us allow for rounding up.
        assert!(at_horizon.as_nanos() <= 5_000_000 + 31_000, "{at_horizon:?} at the horizon");
        assert!(state.horizon_ns <= state.monotonic_base_ns + 20_000_000_000);
        before = state.root_dispersion;
    }
    panic!("the gate never closed");
}

#[test]
fn a_leap_second_is_announced_on_its_day_and_taken_at_its_instant() {
    for (leap, shift_s) in [(Leap::Insert, -1.0), (Leap::Delete, 1.0)] {
        let machine = FakeMachine::new(0.0, 0.0);
        let mut daemon = Daemon::start(&machine, &private());
        daemon.upstreams.set(Some(leap));
        let observation = daemon.run(600.0);
        assert_eq!(observation.state.leap, 0, "weeks ahead");
        // To five minutes before the end of the month.
        let end_ns = 1_793_491_200_000_000_000_i128;
        let leap_ns = if leap == Leap::Delete { end_ns - 1_000_000_000 } else { end_ns };
        let ahead_ns = end_ns - machine.true_unix_ns() - 300_100_000_000;
        machine.suspend(ns_to_s(i64::try_from(ahead_ns).unwrap()));
        let observation = daemon.run(200.0);
        let announced = if leap == Leap::Insert { 1 } else { 2 };
        assert_eq!((observation.unsynchronised, observation.state.leap), (None, announced));
        assert!(daemon.error_s(&observation.state).abs() < 1e-3);
        daemon.upstreams.set(None);
        daemon.leap = Some((leap_ns, shift_s));
        // Millisecond by millisecond, every answer that claims to be synchronised is right, and so would be those of a
        // program whose daemon has died.
        daemon.run(ns_to_s(i64::try_from(leap_ns - machine.true_unix_ns()).unwrap()) - 0.5);
        let mut served = daemon.tick();
        let mut unsure = 0;
        for millisecond in 0..600 {
            machine.run(0.001);
            if daemon.timekeeper.leap_is_near() || millisecond % 250 == 0 {
                served = daemon.publish();
            }
            unsure += i32::from(served.unsynchronised.is_some());
            daemon.check(&served.state);
        }
        assert!((1..20).contains(&unsure), "{unsure} ms without a claim");
        let observation = daemon.run(5.0);
        assert_eq!((observation.unsynchronised, observation.state.leap), (None, 0));
        assert!((daemon.error_s(&observation.state) - shift_s).abs() < 1e-3);
    }
}

/// A reload changes where the time comes from. The upstreams of the new configuration cannot be asked here.
#[tokio::test]
async fn a_reload_from_upstreams_to_the_system_clock_lets_go_of_the_kernel_and_one_back_begins_anew() {
    let directory = std::env::temp_dir().join(format!("pooltime-reload-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let host = Host { state_directory: directory.clone(), ..Host::default() };
    let machine = FakeMachine::new(0.1, FAST);
    let mut daemon = Daemon::start(&machine, &steered());
    daemon.timekeeper.drift = Some(DriftFile::new(directory.join("drift")));
    daemon.run(600.0);
    assert!((correction_of(&machine) + FAST).abs() < 1e-6, "it was steered");

    let system = Config::parse("[clock]\nstratum = 5").unwrap();
    let keeper = &mut daemon.timekeeper;
    keeper.configure(&system, &host).unwrap();
    assert_eq!(keeper.label(), "system");
    let mut kept = None;
    for _ in 0..40 {
        machine.run(0.25);
        keeper.look().unwrap();
        keeper.before_steering();
        keeper.steer().unwrap();
        // At the first tick it is let go.
        let kept = *kept.get_or_insert_with(|| machine.kernel());
        assert!((correction_of(&machine) + FAST).abs() < 1e-6, "the clock goes on at the rate that is right");
        assert_eq!(machine.kernel(), kept, "it is somebody else's now");
        let observation = keeper.state().unwrap();
        assert_eq!((observation.unsynchronised, observation.state.stratum), (None, 5));
    }
    assert_eq!(keeper.view(None).unwrap().system.kernel_clock, None);

    let upstream = "[clock]\nsource = \"upstream\"\nsteer = false\n[[upstream]]\naddress = \"192.0.2.9\"\n";
    keeper.configure(&Config::parse(upstream).unwrap(), &host).unwrap();
    assert_eq!(keeper.label(), "upstream");
    machine.run(0.25);
    keeper.look().unwrap();
    let observation = keeper.state().unwrap();
    assert_eq!(observation.unsynchronised, Some(Unsynchronised::NoAgreement), "nobody has been heard");
    let peers = keeper.view(None).unwrap();
    assert_eq!(peers.peers[0].name, "192.0.2.9");
    assert_eq!(peers.system.kernel_clock.unwrap().treatment, Treatment::LeftAlone);
    assert_eq!(keeper.correction(), None);

    // What the first one had learnt of the oscillator is known to the last one.
    let learnt = keeper.drift.as_ref().and_then(DriftFile::load).unwrap();
    assert!((learnt.frequency + FAST).abs() < 1e-7, "{learnt:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_reload_to_a_source_that_cannot_begin_leaves_the_one_that_is() {
    let machine = FakeMachine::new(0.0, FAST);
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

#[test]
fn a_daemon_that_dies_before_a_leap_second_serves_no_second_too_many() {
    for (leap, shift_s) in [(Leap::Insert, -1.0), (Leap::Delete, 1.0)] {
        let machine = FakeMachine::new(0.0, 0.0);
        let mut daemon = Daemon::start(&machine, &private());
        daemon.upstreams.set(Some(leap));
        daemon.run(600.0);
        let end_ns = 1_793_491_200_000_000_000_i128;
        let leap_ns = if leap == Leap::Delete { end_ns - 1_000_000_000 } else { end_ns };
        let ahead_ns = end_ns - machine.true_unix_ns() - 300_100_000_000;
        machine.suspend(ns_to_s(i64::try_from(ahead_ns).unwrap()));
        daemon.run(200.0);
        let to_leap_s = ns_to_s(i64::try_from(leap_ns - machine.true_unix_ns()).unwrap());
        daemon.leap = Some((leap_ns, shift_s));
        let last = daemon.run(to_leap_s - 5.0);
        assert_eq!(last.unsynchronised, None);
        for _ in 0..25_000 {
            machine.run(0.001);
            daemon.check(&last.state);
        }
    }
}

fn correction_of(machine: &FakeMachine) -> f64 {
    crate::timekeeping::rate_watch::correction(&machine.kernel())
}
