//! The scenarios: what is done to a guest's clock, its daemon and its upstreams.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Result;
use crate::daemons::Daemon;
use crate::play::{Play, watch, watch_until};
use crate::truth::Truth;
use testlab::fake_upstream::Reply;

/// A scenario, which makes a row for each of its magnitudes and daemons.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What a magnitude is.
    pub(crate) unit: &'static str,
    pub(crate) magnitudes: &'static [f64],
    /// Those of a short run, if it is in one.
    pub(crate) short: &'static [f64],
    pub(crate) daemons: &'static [Daemon],
    /// The truth of the play.
    pub(crate) truth: fn() -> Truth,
    pub(crate) run: fn(&mut Play, f64) -> Result<()>,
}

const BOTH: &[Daemon] = &[Daemon::Steering, Daemon::Chronyd];
const OURS: &[Daemon] = &[Daemon::Steering];
const BESIDE: &[Daemon] = &[Daemon::System];
const EVERY_MODE: &[Daemon] = &[Daemon::Steering, Daemon::Watching, Daemon::System, Daemon::Chronyd];

/// Stands for a clock that begins in 1970.
const EPOCH: f64 = 1970.0;
/// For a daemon that has just been started to be synchronised.
const CONTACT: Duration = Duration::from_mins(1);
/// In which a daemon that has become synchronised gets to know its oscillator a little.
const SETTLE: Duration = Duration::from_secs(30);
/// Until a leap second: a daemon has to be synchronised before.
const BEFORE_LEAP: Duration = Duration::from_secs(55);
/// A rate beside the truth that is a slew and no oscillator's, in ppm. Looks under emulation tell 30 ppm.
const SLEW_PPM: f64 = 100.0;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "cold-start",
        unit: "s off",
        magnitudes: &[0.3, -0.3, 3600.0, -3600.0, EPOCH],
        short: &[3600.0],
        daemons: BOTH,
        truth: Truth::default,
        run: cold_start,
    },
    Scenario { name: "preset-tick", unit: "us", magnitudes: &[10_833.0, 9_167.0], run: preset_tick, ..PLAIN },
    Scenario { name: "preset-rate", unit: "ppm", magnitudes: &[400.0, -400.0], run: preset_rate, ..PLAIN },
    Scenario { name: "kill-loop", unit: "s off", magnitudes: &[0.9], short: &[0.9], run: kill_loop, ..PLAIN },
    Scenario { name: "terminate", unit: "s off", magnitudes: &[0.9], run: terminate, ..PLAIN },
    Scenario { name: "foreign-step", unit: "s", magnitudes: &[5.0, -0.4], run: foreign_step, ..PLAIN },
    Scenario {
        name: "foreign-rate",
        unit: "ppm",
        magnitudes: &[200.0],
        run: foreign_rate,
        daemons: OURS,
        ..PLAIN
    },
    Scenario { name: "leap-insert", truth: insertion, ..LEAP },
    Scenario { name: "leap-delete", truth: deletion, short: &[], ..LEAP },
    Scenario { name: "pause", unit: "s", magnitudes: &[30.0, 300.0], short: &[10.0], run: pause, ..PLAIN },
    Scenario { name: "snapshot", unit: "s", magnitudes: &[30.0], run: snapshot, ..PLAIN },
    Scenario { name: "suspend", unit: "s", magnitudes: &[30.0], run: suspend, ..PLAIN },
    Scenario { name: "cut", unit: "s", magnitudes: &[120.0], run: cut, ..PLAIN },
    Scenario { name: "falsetickers", unit: "s off", magnitudes: &[0.2], run: falsetickers, ..PLAIN },
    Scenario { name: "way-back", unit: "s off", magnitudes: &[0.02, 0.3, 0.9, 5.0], run: way_back, ..PLAIN },
    Scenario {
        name: "way-back-from-start",
        unit: "s off",
        magnitudes: &[0.02, 0.3, 0.9, 5.0],
        run: way_back_from_start,
        ..PLAIN
    },
    Scenario { name: "settled", unit: "s", magnitudes: &[480.0], run: settled, ..PLAIN },
    Scenario {
        name: "beside-slewing-chronyd",
        unit: "s off",
        magnitudes: &[0.9],
        daemons: &[Daemon::Watching],
        run: beside_slewing_chronyd,
        ..PLAIN
    },
    Scenario {
        name: "system-chronyd-client",
        run: |play, off| system(play, off, Daemon::ChronydClient),
        ..KEEPER
    },
    Scenario { name: "system-chronyd", run: |play, off| system(play, off, Daemon::Chronyd), ..KEEPER },
    Scenario { name: "system-ours-first", run: system_ours_first, ..KEEPER },
    Scenario { name: "system-ntpd", run: |play, off| system(play, off, Daemon::Ntpd), ..KEEPER },
    Scenario { name: "system-timesyncd", run: |play, off| system(play, off, Daemon::Timesyncd), ..KEEPER },
    Scenario {
        name: "long-chronyd-client",
        run: |play, time_s| long(play, time_s, Daemon::ChronydClient),
        ..LONG
    },
    Scenario { name: "long-timesyncd", run: |play, time_s| long(play, time_s, Daemon::Timesyncd), ..LONG },
];

const PLAIN: Scenario = Scenario {
    name: "",
    unit: "",
    magnitudes: &[],
    short: &[],
    daemons: BOTH,
    truth: Truth::default,
    run: cold_start,
};
const LEAP: Scenario = Scenario {
    unit: "s before which it is killed",
    magnitudes: &[0.0, 5.0],
    short: &[5.0],
    daemons: EVERY_MODE,
    run: leap,
    ..PLAIN
};
const LONG: Scenario = Scenario { unit: "s", magnitudes: &[3600.0], daemons: BESIDE, ..PLAIN };
const KEEPER: Scenario = Scenario { unit: "s off", magnitudes: &[0.3], daemons: BESIDE, ..PLAIN };

impl Scenario {
    /// A magnitude as the table has it.
    pub(crate) fn magnitude(&self, value: f64) -> String {
        if self.name == "cold-start" && value == EPOCH {
            "1970".into()
        } else {
            format!("{value} {}", self.unit)
        }
    }
}

fn insertion() -> Truth {
    Truth::with_leap(-1.0, BEFORE_LEAP)
}

fn deletion() -> Truth {
    Truth::with_leap(1.0, BEFORE_LEAP)
}

/// Starts the daemon in a guest whose clock is off.
fn cold_start(play: &mut Play, off_s: f64) -> Result<()> {
    let off_s = if off_s == EPOCH {
        let day = Duration::from_hours(24);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        -since.saturating_sub(day).as_secs_f64()
    } else {
        off_s
    };
    play.put_clock(off_s)?;
    play.now_is_zero();
    start_and_synchronise(play)?;
    watch(SETTLE);
    Ok(())
}

/// A predecessor that slewed by the tick was killed.
fn preset_tick(play: &mut Play, tick_us: f64) -> Result<()> {
    preset(play, &format!("vm_clock guest rate 0 {tick_us:.0}"))
}

/// A predecessor that slewed by the frequency was killed.
fn preset_rate(play: &mut Play, ppm: f64) -> Result<()> {
    preset(play, &format!("vm_clock guest rate {ppm} 10000"))
}

fn preset(play: &mut Play, command: &str) -> Result<()> {
    play.guest(command)?;
    play.now_is_zero();
    start_and_synchronise(play)?;
    watch(Duration::from_mins(1));
    Ok(())
}

/// The daemon is killed and started again five times while it slews.
fn kill_loop(play: &mut Play, off_s: f64) -> Result<()> {
    const KILLS: u32 = 5;
    play.put_clock(off_s)?;
    play.now_is_zero();
    start_and_synchronise(play)?;
    for _kill in 0..KILLS {
        let time_s = play.random.between(1.5, 4.0);
        watch(Duration::from_secs_f64(time_s));
        play.kill_9()?;
        play.start_again()?;
    }
    expect_synchronised(play);
    watch(Duration::from_secs(10));
    // Whoever slews has an end in sight; what five daemons left behind has none.
    play.wait_until_near(Duration::from_secs(30));
    Ok(())
}

/// The daemon is stopped, as by a service manager, while it slews.
fn terminate(play: &mut Play, off_s: f64) -> Result<()> {
    play.put_clock(off_s)?;
    play.now_is_zero();
    start_and_synchronise(play)?;
    let time_s = play.random.between(2.0, 5.0);
    watch(Duration::from_secs_f64(time_s));
    play.terminate()?;
    expect_rate(play)
}

/// The daemon has ended, so nobody slews any more.
fn expect_rate(play: &mut Play) -> Result<()> {
    if play.daemon == Daemon::Steering {
        let rate_ppm = play.measure_rate_ppm(Duration::from_secs(30))?;
        play.note(format!("the kernel's clock then runs at {rate_ppm:+.0} ppm"));
        if rate_ppm.abs() > SLEW_PPM {
            play.fault("a slew is left");
        }
    }
    Ok(())
}

/// Somebody sets the clock.
fn foreign_step(play: &mut Play, by_s: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.now_is_zero();
    play.guest(&format!("vm_clock guest step {by_s}"))?;
    watch(Duration::from_mins(1));
    Ok(())
}

/// Somebody changes the clock's rate.
fn foreign_rate(play: &mut Play, ppm: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.now_is_zero();
    play.guest(&format!("vm_clock guest rate {ppm} 10000"))?;
    watch(Duration::from_secs(90));
    Ok(())
}

/// A leap second, with the daemon alive or killed so long before.
fn leap(play: &mut Play, killed_before_s: f64) -> Result<()> {
    const AFTER: Duration = Duration::from_secs(25);
    let at = play.truth.leap().expect("the play has one").at;
    if play.daemon == Daemon::System {
        play.start_beside(Daemon::ChronydClient)?;
    }
    start_and_synchronise(play)?;
    watch_until(at.checked_sub(Duration::from_secs_f64(killed_before_s)).unwrap_or(at));
    if killed_before_s > 0.0 {
        play.kill_9()?;
        watch_until(at);
    }
    play.set_zero(at);
    watch_until(at + AFTER);
    // Without a daemon nothing can be synchronised then.
    if killed_before_s == 0.0 {
        let tai_offset_s = play.kernel_now()?.tai_offset_s;
        play.note(format!("the kernel's TAI - UTC is then {tai_offset_s} s"));
    }
    Ok(())
}

/// The hypervisor stops the machine for a while.
fn pause(play: &mut Play, time_s: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    let began = Instant::now();
    play.machine.qmp()?.pause()?;
    watch(Duration::from_secs_f64(time_s));
    play.machine.qmp()?.resume()?;
    after_a_gap(play, began, Instant::now());
    Ok(())
}

/// The hypervisor takes the machine back to a state that it saved.
fn snapshot(play: &mut Play, time_s: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    let saving = Instant::now();
    play.machine.save()?;
    // Saving takes some of the guest's time, too: it is a pause in itself.
    play.forgive(saving, Instant::now() + Duration::from_secs(1));
    watch(Duration::from_secs_f64(time_s));
    let began = Instant::now();
    play.machine.restore()?;
    after_a_gap(play, began, Instant::now());
    Ok(())
}

/// The machine is suspended to memory and woken.
fn suspend(play: &mut Play, time_s: f64) -> Result<()> {
    const DOWN: Duration = Duration::from_mins(1);
    if !play.guest("cat /sys/power/mem_sleep 2>/dev/null || true")?.contains("deep") {
        play.note("not run: the machine knows no deep suspend");
        return Ok(());
    }
    start_and_synchronise(play)?;
    watch(SETTLE);
    let began = Instant::now();
    play.machine.guest.send("echo mem >/sys/power/state")?;
    if let Err(error) = play.machine.qmp()?.wait_for_event("SUSPEND", DOWN) {
        let said = play.machine.guest.finish()?.text;
        return Err(format!("{error}: {said}{}", play.guest("dmesg | tail -n 15")?).into());
    }
    watch(Duration::from_secs_f64(time_s));
    let resumed = Instant::now();
    play.machine.wake()?;
    play.machine.guest.finish()?;
    after_a_gap(play, began, resumed);
    Ok(())
}

/// A second after its resume the guest can know.
fn after_a_gap(play: &mut Play, began: Instant, resumed: Instant) {
    play.set_zero(resumed);
    play.forgive(began, resumed + Duration::from_secs(1));
    watch(Duration::from_secs(1));
    if !play.wait_until_synchronised(Duration::from_secs(90)) {
        play.fault("not synchronised again");
    }
    watch(Duration::from_secs(45));
}

/// All upstreams are silent for a while.
fn cut(play: &mut Play, time_s: f64) -> Result<()> {
    play.poll = Some(3);
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.now_is_zero();
    play.upstreams.iter().for_each(testlab::fake_upstream::FakeUpstream::vanish);
    watch(Duration::from_secs_f64(time_s));
    play.upstreams.iter().for_each(testlab::fake_upstream::FakeUpstream::come_back);
    watch(SETTLE);
    expect_synchronised(play);
    Ok(())
}

/// One upstream lies, then a second one differently: two against two that do not agree with each other.
fn falsetickers(play: &mut Play, off_s: f64) -> Result<()> {
    play.poll = Some(3);
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.now_is_zero();
    play.upstreams[0].change(|conduct| conduct.error_s += off_s);
    watch(Duration::from_secs(40));
    play.upstreams[1].change(|conduct| conduct.error_s -= 1.7 * off_s);
    watch(Duration::from_secs(40));
    // Of three that answer, one tells the truth.
    play.upstreams[2].change(|conduct| conduct.reply = Reply::Silence);
    watch(Duration::from_secs(40));
    Ok(())
}

/// Somebody sets the clock of a settled guest: how long is the way back?
fn way_back(play: &mut Play, off_s: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.wait_until_near(Duration::from_mins(1));
    play.now_is_zero();
    // Once: the daemon is at work on it from then on.
    play.guest(&format!("vm_clock guest step {off_s}"))?;
    wait_for_the_way_back(play);
    Ok(())
}

/// The clock is off when the daemon is started.
fn way_back_from_start(play: &mut Play, off_s: f64) -> Result<()> {
    play.put_clock(off_s)?;
    play.now_is_zero();
    start_and_synchronise(play)?;
    wait_for_the_way_back(play);
    Ok(())
}

fn wait_for_the_way_back(play: &mut Play) {
    const LIMIT: Duration = Duration::from_secs(400);
    if !play.wait_until_near(LIMIT) {
        play.fault(format!("the kernel's clock is not back after {} s", LIMIT.as_secs()));
    }
}

/// Nothing happens.
fn settled(play: &mut Play, time_s: f64) -> Result<()> {
    start_and_synchronise(play)?;
    watch(SETTLE);
    play.now_is_zero();
    watch(Duration::from_secs_f64(time_s));
    Ok(())
}

/// Ours leaves the kernel's clock to a chronyd, which is in its first slew when ours starts.
fn beside_slewing_chronyd(play: &mut Play, off_s: f64) -> Result<()> {
    const LATER: Duration = Duration::from_secs(12);
    play.put_clock(off_s)?;
    play.start_beside(Daemon::ChronydClient)?;
    watch(LATER);
    play.now_is_zero();
    start_and_synchronise(play)?;
    watch(Duration::from_secs(90));
    Ok(())
}

/// Ours serves the clock that another daemon keeps, which was started before.
fn system(play: &mut Play, off_s: f64, keeper: Daemon) -> Result<()> {
    beside(play, off_s, keeper, Duration::from_mins(2))
}

/// The same for a long time, so that the keeper comes to its long poll intervals.
fn long(play: &mut Play, time_s: f64, keeper: Daemon) -> Result<()> {
    const OFF_S: f64 = 0.3;
    beside(play, OFF_S, keeper, Duration::from_secs_f64(time_s))
}

fn beside(play: &mut Play, off_s: f64, keeper: Daemon, time: Duration) -> Result<()> {
    play.put_clock(off_s)?;
    play.now_is_zero();
    play.start_beside(keeper)?;
    watch(Duration::from_secs(2));
    play.start()?;
    watch_the_system(play, keeper, time);
    Ok(())
}

/// The same with chronyd, which is started after ours.
fn system_ours_first(play: &mut Play, off_s: f64) -> Result<()> {
    play.put_clock(off_s)?;
    play.now_is_zero();
    play.start()?;
    watch(Duration::from_secs(2));
    play.start_beside(Daemon::Chronyd)?;
    watch_the_system(play, Daemon::Chronyd, Duration::from_mins(2));
    Ok(())
}

fn watch_the_system(play: &mut Play, keeper: Daemon, time: Duration) {
    // ntpd takes minutes after a step.
    let patience = Duration::from_mins(if keeper == Daemon::Ntpd { 10 } else { 2 });
    if !play.wait_until_synchronised(patience) {
        play.fault(format!("not synchronised within {} s", patience.as_secs()));
    }
    watch(time);
    play.compare_identities(keeper);
}

/// Starts the daemon and waits until it is synchronised.
fn start_and_synchronise(play: &mut Play) -> Result<()> {
    play.start()?;
    expect_synchronised(play);
    Ok(())
}

fn expect_synchronised(play: &mut Play) {
    if !play.wait_until_synchronised(CONTACT) {
        play.fault(format!("not synchronised within {} s", CONTACT.as_secs()));
    }
}
