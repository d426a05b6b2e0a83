//! The traffic quota of the running daemon: what is answered is counted, near the end of the quota answers are shed,
//! and both go on over restarts.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use control::status::quota::Quota;
use nix::sys::signal::Signal;
use responder::verdict::{Action, Verdict};
use testlab::wire::{PORT, request};
use testlab::{CONFIG, Lab, Server, Tally, wait_for};

/// Requests of one client are not limited by its rate.
const LIMITS: &str = "[limits]\nrate = 10000\nburst = 1000000\n";
/// Bytes of a request or an answer over IPv4, and over IPv6.
const FRAMES: [(&str, u64); 2] = [("10.77.0.1", 90), ("fd77::1", 110)];

fn config(quota: &str) -> String {
    format!("{CONFIG}{LIMITS}quota = \"{quota}\"\npool_netspeed = \"50 Mbit\"\n")
}

/// Sends so many requests within some seconds, and returns how many were answered.
fn load(lab: &Lab, server: &str, requests: u32, seconds: u32) -> u64 {
    lab.inside("client", || {
        let server: IpAddr = server.parse().unwrap();
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect((server, PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (start, interval) = (Instant::now(), Duration::from_secs(seconds.into()) / requests);
        let (mut answered, mut buffer) = (0, [0; 100]);
        let mut take = |answered: &mut u64| {
            while socket.recv(&mut buffer).is_ok_and(|length| length == 48) {
                *answered += 1;
            }
        };
        for number in 0..requests {
            while start.elapsed() < interval * number {
                std::thread::sleep(Duration::from_micros(200));
            }
            socket.send(&request(4, number.into())).unwrap();
            take(&mut answered);
        }
        std::thread::sleep(Duration::from_millis(200));
        take(&mut answered);
        answered
    })
}

fn quota(server: &Server<'_>) -> Quota {
    server.status().quota.expect("there is one")
}

/// Bytes of the answers that the program has counted since it was attached.
fn sent_by_program(server: &Server<'_>) -> u64 {
    let is_answer = |label: &str| {
        Verdict::ALL.iter().any(|verdict| verdict.label() == label && verdict.action() == Action::Transmit)
    };
    let status = server.status();
    let counters = status.interfaces.iter().flat_map(|interface| &interface.counters);
    counters.filter(|counter| is_answer(&counter.verdict)).map(|counter| counter.bytes).sum()
}

/// Waits until the account says that so much was sent.
fn wait_for_sent(server: &Server<'_>, bytes: u64) {
    let mut last = 0;
    wait_for(&format!("{bytes} bytes to be counted"), || {
        last = quota(server).sent_bytes;
        assert!(last <= bytes, "{last} of {bytes} bytes: something was counted twice");
        (last == bytes).then_some(())
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_answered_is_counted_once_over_restarts_crashes_and_a_new_attach() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(&config("4 TB"), &[]);
    let mut sent = 0;
    for (address, bytes) in FRAMES {
        assert_eq!(load(&lab, address, 200, 1), 200);
        sent += 200 * bytes;
    }
    wait_for_sent(&server, sent);
    let seen = quota(&server);
    assert_eq!((seen.quota_bytes, seen.counts.as_str()), (4_000_000_000_000, "out"));
    assert_eq!((seen.received_bytes, seen.used_bytes, seen.refused_bytes), (sent, sent, 0));
    assert_eq!((seen.cap_bytes_per_s, seen.netspeed_bits_per_s), (None, Some(50_000_000)));
    assert!(seen.period_start_unix_s.is_some() && seen.period_end_unix_s > seen.period_start_unix_s);

    // A daemon that stops: the program goes on answering and counting.
    assert!(server.stop().success());
    assert_eq!(load(&lab, "10.77.0.1", 100, 1), 100);
    sent += 100 * 90;
    server.restart();
    wait_for_sent(&server, sent);

    // One that is killed: nothing of the program is lost, and nothing is counted twice.
    assert_eq!(load(&lab, "10.77.0.1", 100, 1), 100);
    server.kill_9();
    assert_eq!(load(&lab, "10.77.0.1", 100, 1), 100);
    sent += 200 * 90;
    server.restart();
    wait_for_sent(&server, sent);

    // The program is taken off without a daemon, and with it go its counters.
    assert!(server.stop().success());
    assert_eq!(load(&lab, "10.77.0.1", 100, 1), 100);
    sent += 100 * 90;
    server.command(&["detach"]).expect_success();
    server.restart();
    wait_for_sent(&server, sent);
    assert_eq!(sent_by_program(&server), 0, "the counters began at zero");
    assert_eq!(load(&lab, "10.77.0.1", 100, 1), 100);
    sent += 100 * 90;
    wait_for_sent(&server, sent);

    // The file is torn: the one before it is read, and the program's counters have the rest.
    assert!(server.stop().success());
    let file = server.paths().state_directory().join("quota");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    server.restart();
    wait_for_sent(&server, sent);
    assert!(server.log().contains("quota.corrupt now, and the one before is read"), "{}", server.log());
    let text = server.command(&["status"]).expect_success();
    assert!(text.contains("quota       ") && text.contains("of 4.00 TB used (0.0 %, out) until "), "{text}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn near_the_end_of_the_quota_answers_are_shed_and_go_on_to_be_after_a_restart() {
    const QUOTA: u64 = 2_000_000;
    let lab = Lab::up(&[]);
    let mut server = lab.server(&config("2 MB"), &[]);
    let before = Tally::of_program(&server.status());
    // Two months' worth within 20 s.
    let answered = load(&lab, "10.77.0.1", 40_000, 20);
    let counted = Tally::of_program(&server.status()) - before;
    let seen = quota(&server);
    println!("{answered} of 40000 answered: {counted:?}, {seen:?}");
    assert_eq!(counted.packets(Verdict::Answered), answered);
    assert_eq!(counted.packets(Verdict::DropBudget), 40_000 - answered, "{counted:?}");
    // A quarter of the quota at most goes before the cap is met, and a look of the daemon comes to 45 kB.
    assert!((1..QUOTA * 4 / 10).contains(&(answered * 90)), "{answered}");
    wait_for_sent(&server, answered * 90);
    let cap = seen.cap_bytes_per_s.expect("there is a cap");
    assert!(cap < 90.0 * 1000.0, "{cap}");
    let text = server.command(&["status"]).expect_success();
    assert!(text.contains("SHEDDING so that it lasts: at most "), "{text}");
    let health = server.command(&["health"]).expect_success();
    assert!(health.contains("the traffic quota of 2.00 MB would not last"), "{health}");
    assert!(server.log().contains("answers are capped from now on"), "{}", server.log());

    assert!(server.stop().success());
    // Without a daemon the last cap stays in force.
    let without_daemon = load(&lab, "10.77.0.1", 2000, 2);
    assert!(without_daemon < 200, "{without_daemon}");
    server.restart();
    let again = load(&lab, "10.77.0.1", 2000, 2);
    assert!(again < 200, "{again}");
    let sent = (answered + without_daemon + again) * 90;
    wait_for_sent(&server, sent);
    assert_eq!(sent_by_program(&server), sent);

    // With a larger quota there is no cap any more.
    lab.file("server.toml", &config("4 TB"));
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || (quota(&server).quota_bytes == 4_000_000_000_000).then_some(()));
    wait_for("the cap to be lifted", || quota(&server).cap_bytes_per_s.is_none().then_some(()));
    // The new cost is in force after a look of the daemon.
    wait_for("all to be answered", || (load(&lab, "10.77.0.1", 100, 1) == 100).then_some(()));
}
