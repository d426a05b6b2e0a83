//! A kernel that takes its time: whoever holds its lock on the configuration of networks, the clock is published as if
//! nobody did.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use testlab::foreign::xdp;
use testlab::line_age::watching;
use testlab::{CONFIG, Lab, wait_for};

/// How long the lock is to be held.
const HELD: Duration = Duration::from_secs(3);
/// Bridges that are deleted to see how long one takes.
const FEW: u32 = 20;
const MOST: u32 = 2000;

/// Makes bridges on a host. Their deletion, all at once, holds the kernel's lock (RTNL) and waits for each of them until
/// no CPU can be using it any more.
fn make_bridges(lab: &Lab, count: u32) {
    let mut batch = String::new();
    for number in 0..count {
        writeln!(batch, "link add hold{number} group 7 type bridge").unwrap();
    }
    let batch = lab.file("bridges", &batch);
    lab.ip("client", &format!("-batch {}", batch.display()));
}

/// How long it takes to delete them.
fn delete_bridges(lab: &Lab) -> Duration {
    let start = Instant::now();
    lab.ip("client", "link delete group 7");
    start.elapsed()
}

/// As many bridges as hold the lock long enough.
fn bridges_that_hold(lab: &Lab) -> u32 {
    make_bridges(lab, FEW);
    let each = delete_bridges(lab) / FEW;
    (1..MOST).find(|count| each * *count > HELD).unwrap_or(MOST)
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_attach_that_takes_seconds_does_not_hold_up_the_clock_and_a_detach_waits_for_it() {
    let lab = Lab::up(&["--router"]);
    let server = lab.server(CONFIG, &[]);
    let count = bridges_that_hold(&lab);
    make_bridges(&lab, count);
    watching(&server, |watch| {
        let (held, attaching, asked) = watch.during("an attach while the lock is held", |server| {
            std::thread::scope(|scope| {
                let holder = scope.spawn(|| delete_bridges(&lab));
                // It has the lock by then, or will have it before the others.
                sleep(Duration::from_millis(100));
                let start = Instant::now();
                let attach = scope.spawn(|| server.command(&["attach", "lan2"]));
                let status = scope.spawn(|| server.command(&["status"]));
                sleep(Duration::from_millis(200));
                let detach = scope.spawn(|| server.command(&["detach", "lan2"]));
                // What nobody needs the lock for is done at once.
                server.command(&["deny", "192.0.2.1"]).expect_success();
                let asked = start.elapsed();
                assert_eq!(attach.join().unwrap().expect_success(), "lan2: attached in native mode\n");
                let attaching = start.elapsed();
                assert_eq!(detach.join().unwrap().expect_success(), "lan2: detached\n");
                status.join().unwrap().expect_success();
                (holder.join().unwrap(), attaching, asked)
            })
        });
        println!("{count} bridges held the lock for {held:.2?}; it took {attaching:.2?} to attach");
        assert!(attaching > HELD / 3, "it was not held long enough to show anything: {attaching:?}");
        assert!(asked < attaching, "a change of the lists waited for the lock: {asked:?}");
    });
    assert_eq!(xdp(&lab, "lan2"), None);

    // A change that is followed while the lock is held.
    make_bridges(&lab, count);
    watching(&server, |watch| {
        watch.during("an address that comes while the lock is held", |server| {
            std::thread::scope(|scope| {
                scope.spawn(|| delete_bridges(&lab));
                sleep(Duration::from_millis(100));
                lab.ip("server", "address add 10.77.0.9/24 dev lan0");
                wait_for("the address to be served", || {
                    let addresses = server.status().interfaces.swap_remove(0).addresses;
                    addresses.contains(&"10.77.0.9".to_owned()).then_some(())
                });
            });
        });
    });
}
