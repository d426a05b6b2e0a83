//! Answers go on whatever becomes of the daemon: under load, none is lost when it is killed, restarted or
//! replaced by another build.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use control::net::xdp_mode::Mode;
use control::serving::xdp::program_name;
use responder::verdict::Verdict;
use testlab::drops::{Drops, link};
use testlab::load::{Account, load};
use testlab::rebuild::{REBUILT, rebuild};
use testlab::{CONFIG, Lab, Server, Tally, not_run};

/// Requests in the worst second: below this the test says nothing.
const LEAST_RATE: u64 = 100_000;
/// Tried one after the other, where the machine cannot keep up with the first.
const RATES: [u64; 2] = [112_000, 104_000];
const DURATION: Duration = Duration::from_secs(12);
const HORIZON: Duration = Duration::from_secs(3);
/// Before it dies the daemon published at most this long ago, even on a busy machine: twice its interval.
const PUBLICATION: Duration = Duration::from_millis(500);
/// What a busy machine may take to notice.
const SLACK: Duration = Duration::from_millis(250);

/// When things happened to the daemon, and which program was attached then.
struct Events {
    killed: Instant,
    restarting: Instant,
    restarted: Instant,
    stopped: Instant,
    upgraded: Instant,
    programs: [u32; 4],
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn no_answer_is_lost_when_the_daemon_is_killed_restarted_or_upgraded() {
    if thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        return not_run("one CPU cannot send, serve and receive at once");
    }
    let mut reached = 0;
    for rate in RATES {
        match attempt(rate) {
            Ok(()) => return,
            Err(shortfall) => {
                println!("at {rate} requests/s: {}", shortfall.what);
                assert!(
                    shortfall.lost == 0 || rate != RATES[1],
                    "the harness itself lost {} answers at its lowest rate; this machine is too busy to tell \
                     whether the server loses any: {}",
                    shortfall.lost,
                    shortfall.what
                );
                reached = reached.max(shortfall.rate);
            }
        }
    }
    not_run(&format!(
        "this machine sent {reached} requests in its worst second, and {LEAST_RATE} is the least"
    ));
}

/// Why an attempt says nothing about the server.
struct Shortfall {
    what: String,
    rate: u64,
    lost: u64,
}

fn attempt(rate: u64) -> Result<(), Shortfall> {
    let lab = Lab::up(&[]);
    let mut server = lab.server(
        // A single host that asks this often would be limited.
        &format!(
            "{CONFIG}horizon_ms = {}\n[access]\nunlimited = [\"10.77.0.0/24\", \"fd77::/64\"]\n",
            HORIZON.as_millis()
        ),
        &["--mode", "native"],
    );
    assert_eq!(server.status().interfaces[0].mode, Some(Mode::Native));
    let rebuilt = rebuild(&lab);
    let (before, drops_before) = (Tally::of_program(&server.status()), Drops::of(&lab));
    let (account, events) = load(&lab, rate, || live_through(&lab, &mut server, &rebuilt));
    let drops = Drops::of(&lab).since(&drops_before);
    let counted = Tally::of_program(&server.status()) - before;
    let answers = counted.packets(Verdict::Answered) + counted.packets(Verdict::Unsynchronised);
    let (average, worst) = account.rates();
    println!(
        "{} requests, {average}/s (worst second {worst}): {} answered, {} lost, {} duplicates, {} strange; the \
         program answered {answers}; dropped on the way: {drops:?}",
        account.sent,
        account.answered,
        account.lost(),
        account.duplicates,
        account.strange
    );
    let shortfall = |what: String| Err(Shortfall { what, rate: worst, lost: account.lost() });
    if account.lost() > 0 && drops.total() >= account.lost() {
        return shortfall(format!("{} answers were lost by the harness itself: {drops:?}", account.lost()));
    }
    assert_eq!(
        account.lost(),
        0,
        "of {} requests, between {:?} after the first one; events: {}; the program answered {answers}; dropped on \
         the way: {drops:?}",
        account.sent,
        account.lost_between(),
        events.tell(),
    );
    assert_eq!((account.duplicates, account.strange), (0, 0));
    assert_eq!(answers, account.sent, "{counted:?}");
    check_programs(&events);
    check_horizon(&account, &events);
    if average < LEAST_RATE {
        return shortfall(format!(
            "only {average} requests/s could be sent, so its 0 lost answers prove nothing"
        ));
    }
    Ok(())
}

/// All that may happen to a daemon, with time between for the answers to show it.
fn live_through(lab: &Lab, server: &mut Server<'_>, rebuilt: &Path) -> Events {
    let started = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let first = program_id(lab);

    let killed = Instant::now();
    server.kill_9();
    thread::sleep(HORIZON + Duration::from_secs(1));
    let left_behind = program_id(lab);

    let restarting = Instant::now();
    server.restart();
    let restarted = Instant::now();
    thread::sleep(Duration::from_secs(2));
    let second = program_id(lab);

    let stopped = Instant::now();
    assert!(server.stop().success(), "{}", server.log());
    server.restart_as(rebuilt);
    let upgraded = Instant::now();
    thread::sleep(DURATION.saturating_sub(started.elapsed()).max(Duration::from_secs(1)));
    let third = program_id(lab);
    Events { killed, restarting, restarted, stopped, upgraded, programs: [first, left_behind, second, third] }
}

impl Events {
    fn tell(&self) -> String {
        let after = |event: Instant| event.duration_since(self.killed);
        format!(
            "killed, restarting {:?} later, restarted {:?}, stopped {:?}, upgraded {:?}",
            after(self.restarting),
            after(self.restarted),
            after(self.stopped),
            after(self.upgraded)
        )
    }
}

/// The programs took turns: through the pinned link, for it never was off the interface.
fn check_programs(events: &Events) {
    let [first, left_behind, second, third] = events.programs;
    println!("programs {first}, {second} after the restart, {third} after the upgrade; {}", events.tell());
    assert_eq!(left_behind, first, "a killed daemon's program stays");
    assert_ne!(second, first, "a restart loads the program anew");
    assert_ne!(third, second, "an upgrade brings its own program");
    assert_eq!(program_name(third).as_deref(), Some(REBUILT));
}

/// Answers are synchronised but for the time from the horizon of the killed daemon to the restart.
fn check_horizon(account: &Account, events: &Events) {
    let changes = account.changes();
    let kinds: Vec<_> = changes.iter().map(|(synchronised, _)| *synchronised).collect();
    let stopped_for = events.upgraded.duration_since(events.stopped);
    if stopped_for + PUBLICATION > HORIZON && kinds.len() == 5 {
        println!("the upgrade took {stopped_for:?}, longer than the horizon, and answers said so");
    } else {
        assert_eq!(kinds, [true, false, true], "{changes:?}; {}", events.tell());
    }
    let (turned, recovered) = (changes[1].1, changes[2].1);
    let after_death = turned.duration_since(events.killed);
    println!(
        "answers turned to leap 3, stratum 0 {after_death:?} after the death, and back {:?} after the start",
        recovered.duration_since(events.restarting)
    );
    assert!(
        (HORIZON.saturating_sub(PUBLICATION)..=HORIZON + SLACK).contains(&after_death),
        "the horizon of {HORIZON:?} came {after_death:?} after the death"
    );
    assert!(recovered > events.restarting && recovered < events.restarted + SLACK, "{}", events.tell());
}

/// Of the program on the server's interface, which must be there at every moment.
fn program_id(lab: &Lab) -> u32 {
    let link = &link(lab, "server");
    let id = link["xdp"]["prog"]["id"].as_u64().unwrap_or_else(|| panic!("no program: {link}"));
    u32::try_from(id).unwrap()
}
