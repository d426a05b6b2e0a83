//! What the NIC path drops of the requests that it does not answer itself never gets into the kernel's UDP, and what
//! another process may wait for does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use responder::verdict::{Family, Verdict};
use testlab::wire::{Datagram, PORT, Wire, is_answer, request};
use testlab::{CONFIG, Lab, PATIENCE, Server, Tally, wait_for};

/// Frames of a flood, of each kind and over each family.
const FRAMES: u64 = 5000;
const SERVER: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// Client addresses that are on no interface.
const ELSEWHERE: [&str; 2] = ["203.0.113.7", "2001:db8:bad::7"];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A frame to the server from elsewhere.
fn frame(family: Family, message: &[u8]) -> Vec<u8> {
    let [source, server] = [ELSEWHERE, SERVER].map(|addresses| address(addresses[family as usize]));
    Datagram::request(source, server, message).to_frame()
}

/// A request with an extension field that no server knows (RFC 7822).
fn long(cookie: u64) -> Vec<u8> {
    let mut message = request(4, cookie).to_vec();
    message.extend([0xf5, 0xf5, 0, 28]);
    message.resize(48 + 28, 0);
    message
}

/// A message of 48 bytes with this mode and version.
fn message(version: u8, mode: u8) -> Vec<u8> {
    let mut message = request(version, 7).to_vec();
    message[0] = version << 3 | mode;
    message
}

/// The counters of the kernel's UDP on the server, of both families, and of the packets that came in by loopback.
fn udp_counters(lab: &Lab) -> BTreeMap<String, u64> {
    let ipv4 = lab.exec("server", &["cat", "/proc/net/snmp"]).expect_success();
    let mut lines = ipv4.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let ipv4 = names.zip(values).map(|(name, value)| (format!("Udp{name}"), value.to_owned()));
    let ipv6 = lab.exec("server", &["cat", "/proc/net/snmp6"]).expect_success();
    let ipv6 = ipv6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let ipv6 = ipv6.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let loopback = lab.sysfs("server", "cat /sys/class/net/lo/statistics/rx_packets");
    let loopback = ("loopback".to_owned(), loopback.trim().to_owned());
    let counters = ipv4.chain(ipv6.filter(|(name, _)| name.starts_with("Udp6"))).chain([loopback]);
    counters.map(|(name, value)| (name, value.parse().unwrap())).collect()
}

/// What came into the kernel's UDP since `before`, whatever became of it there, and how much of it may have come by
/// loopback: the daemon asks the host's own time daemons there.
fn came_to_udp(lab: &Lab, before: &BTreeMap<String, u64>) -> (u64, u64) {
    let now = udp_counters(lab);
    let of = |family: &str| {
        let names = ["InDatagrams", "NoPorts", "InErrors", "RcvbufErrors"];
        names
            .map(|name| now[&format!("{family}{name}")] - before[&format!("{family}{name}")])
            .iter()
            .sum::<u64>()
    };
    let by_loopback = now["loopback"] - before["loopback"];
    assert!(by_loopback < 100, "{by_loopback} packets by loopback hide too much");
    (of("Udp") + of("Udp6"), by_loopback)
}

/// Asserts that nothing came into the kernel's UDP from the link.
fn assert_nothing_came(lab: &Lab, before: &BTreeMap<String, u64>) {
    let (came, by_loopback) = came_to_udp(lab, before);
    assert!(came <= by_loopback, "{came} datagrams, {by_loopback} packets by loopback");
}

fn counted(server: &Server<'_>) -> Tally {
    Tally::of_program(&server.status())
}

/// Sends frames at a pace that the link can take.
fn send(wire: &Wire, frames: impl IntoIterator<Item = Vec<u8>>) {
    for (number, frame) in frames.into_iter().enumerate() {
        wire.send(&frame);
        if number % 64 == 63 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Waits until the program does this with messages that no server answers.
fn wait_for_verdict(server: &Server<'_>, wire: &Wire, family: Family, verdict: Verdict) {
    wait_for(verdict.label(), || {
        let before = counted(server);
        wire.send(&frame(family, &message(4, 4)));
        let met = wait_for("a count", || {
            let met = counted(server) - before.clone();
            (met != Tally::default()).then_some(met)
        });
        (met == Tally::of([(verdict, family, 4, 1)])).then_some(())
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_flood_of_long_requests_from_denied_sources_never_gets_to_the_kernels_udp() {
    let lab = Lab::up(&[]);
    for denied in ["drop", "kod"] {
        let config = format!(
            "{CONFIG}[access]\ndenied = {denied:?}\ndeny = [\"203.0.113.0/24\", \"2001:db8:bad::/48\"]\n"
        );
        let server = lab.server(&config, &[]);
        let wire = Wire::tap(&lab, "client", "lan0");
        let before = (counted(&server), udp_counters(&lab));
        for family in FAMILIES {
            send(&wire, (0..FRAMES).map(|number| frame(family, &long(number))));
        }
        let expected = FAMILIES.map(|family| (Verdict::DropDenied, family, 4, FRAMES));
        wait_for("all of them", || {
            (counted(&server) - before.0.clone() == Tally::of(expected)).then_some(())
        });
        assert_nothing_came(&lab, &before.1);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn of_long_requests_of_a_source_over_its_rate_the_kernels_udp_gets_what_is_admitted_and_a_share() {
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}[limits]\nrate = 1\nburst = 16\nleak = 6\n"), &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    for family in FAMILIES {
        let (before, udp_before) = (counted(&server), udp_counters(&lab));
        let start = Instant::now();
        send(&wire, (0..FRAMES).map(|number| frame(family, &long(number))));
        let took_s = start.elapsed().as_secs();
        let met = wait_for("all of them", || {
            let met = counted(&server) - before.clone();
            let all = met.packets(Verdict::PassLong) + met.packets(Verdict::DropLimited);
            (all == FRAMES).then_some(met)
        });
        // The burst and the rate; of the rest one in 2^3 here, and as many of those at the socket.
        let passed = met.packets(Verdict::PassLong);
        let share = (FRAMES - 16) / 8;
        assert!((16 + share / 2..=16 + took_s + 1 + share * 2).contains(&passed), "{passed} of {FRAMES}");
        let (came, by_loopback) = came_to_udp(&lab, &udp_before);
        assert!(
            (passed..=passed + by_loopback).contains(&came),
            "{came} datagrams of {passed} that were passed"
        );
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_flood_of_what_nobody_answers_never_gets_to_the_kernels_udp() {
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}[access]\nsymmetric = false\n"), &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    for family in FAMILIES {
        wait_for_verdict(&server, &wire, family, Verdict::DropUnanswered);
    }
    let kinds = [(4, 0), (4, 1), (4, 2), (4, 4), (4, 5), (0, 3), (5, 3), (7, 3)];
    let (before, udp_before) = (counted(&server), udp_counters(&lab));
    for family in FAMILIES {
        for (version, mode) in kinds {
            send(&wire, (0..FRAMES / 8).map(|_| frame(family, &message(version, mode))));
        }
    }
    let of = |family| {
        [
            (Verdict::DropUnanswered, family, 4, FRAMES / 8 * 5),
            (Verdict::DropUnanswered, family, 0, FRAMES / 8),
            (Verdict::DropUnanswered, family, 5, FRAMES / 8),
            (Verdict::DropUnanswered, family, 7, FRAMES / 8),
        ]
    };
    let expected = Tally::of(FAMILIES.into_iter().flat_map(of));
    wait_for("all of them", || (counted(&server) - before.clone() == expected).then_some(()));
    assert_nothing_came(&lab, &udp_before);
}

fn hold(lab: &Lab, at: &str, beside: bool) -> UdpSocket {
    lab.inside("server", || {
        let at = SocketAddr::new(address(at), PORT);
        let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &beside).unwrap();
        if at.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

/// ntpd asks its servers from port 123, and they answer it in mode 4.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn who_takes_the_port_later_gets_what_this_server_does_not_answer() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    for family in FAMILIES {
        wait_for_verdict(&server, &wire, family, Verdict::DropUnanswered);
        let daemon = hold(&lab, SERVER[family as usize], true);
        wait_for_verdict(&server, &wire, family, Verdict::PassMode);
        for sent in [message(4, 4), message(5, 3)] {
            wire.send(&frame(family, &sent));
            // Those that were tried before come first.
            wait_for("what was sent", || {
                let mut buffer = [0; 100];
                let (length, from) = daemon.recv_from(&mut buffer).unwrap();
                assert_eq!(from.ip(), address(ELSEWHERE[family as usize]));
                (buffer[..length] == sent).then_some(())
            });
        }
        drop(daemon);
        wait_for_verdict(&server, &wire, family, Verdict::DropUnanswered);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn who_had_the_port_first_gets_what_this_server_does_not_answer() {
    let lab = Lab::up(&[]);
    let daemon = hold(&lab, "0.0.0.0", false);
    let server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    // Over IPv6 the port is ours alone; when that is known, so is the other.
    wait_for_verdict(&server, &wire, Family::Ipv6, Verdict::DropUnanswered);
    for sent in [message(4, 4), message(5, 3)] {
        wire.send(&frame(Family::Ipv4, &sent));
        // This server asks it for the time, too.
        wait_for("what was sent", || {
            let mut buffer = [0; 100];
            let (length, from) = daemon.recv_from(&mut buffer).unwrap();
            (from.ip() == address(ELSEWHERE[0])).then(|| assert_eq!(buffer[..length], sent))
        });
    }
}

/// Answers to a client behind this host come to its own address and port, if that is what its own were changed to.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_host_that_forwards_passes_what_this_server_does_not_answer() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    let paths = ["/proc/sys/net/ipv4/conf/lan0/forwarding", "/proc/sys/net/ipv6/conf/lan0/forwarding"];
    for (family, path) in FAMILIES.into_iter().zip(paths) {
        wait_for_verdict(&server, &wire, family, Verdict::DropUnanswered);
        lab.sysfs("server", &format!("echo 1 > {path}"));
        wait_for_verdict(&server, &wire, family, Verdict::PassMode);
        lab.sysfs("server", &format!("echo 0 > {path}"));
        wait_for_verdict(&server, &wire, family, Verdict::DropUnanswered);
    }
}

/// The program stays on the interface, and a time daemon may be started in the meantime.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_server_that_has_ended_or_was_killed_keeps_nothing_from_others() {
    let lab = Lab::up(&[]);
    for is_killed in [false, true] {
        let path = lab.file("run.toml", CONFIG);
        let mut server =
            Server::start(&lab, "server", lab.name(), &["run", "--config", path.to_str().unwrap()]);
        let wire = Wire::tap(&lab, "client", "lan0");
        wait_for_verdict(&server, &wire, Family::Ipv4, Verdict::DropUnanswered);
        if is_killed {
            server.kill_9();
        } else {
            assert!(server.stop().success());
        }
        let daemon = hold(&lab, "0.0.0.0", false);
        daemon.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let start = Instant::now();
        wait_for("a message to the other daemon", || {
            wire.send(&frame(Family::Ipv4, &message(4, 4)));
            daemon.recv(&mut [0; 100]).ok()
        });
        println!("killed: {is_killed}; after {:?}", start.elapsed());
        assert!(is_killed || start.elapsed() < Duration::from_secs(1), "it says so when it ends");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn long_requests_within_the_rate_are_all_answered() {
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}[limits]\nrate = 1\nburst = 64\n"), &[]);
    for family in FAMILIES {
        let before = server.status();
        lab.inside("client", || {
            let any = address(["0.0.0.0", "::"][family as usize]);
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((address(SERVER[family as usize]), PORT)).unwrap();
            for cookie in 0..64 {
                socket.send(&long(cookie)).unwrap();
                let mut buffer = [0; 100];
                let length = socket.recv(&mut buffer).unwrap();
                assert!(is_answer(&buffer[..length], 4, cookie));
            }
        });
        let after = server.status();
        let passed = Tally::of_program(&after) - Tally::of_program(&before);
        assert_eq!(passed, Tally::of([(Verdict::PassLong, family, 4, 64)]));
        let answered = Tally::of_sockets(&after) - Tally::of_sockets(&before);
        assert_eq!(answered, Tally::of([(Verdict::Answered, family, 4, 64)]));
    }
}
