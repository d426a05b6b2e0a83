//! What the program passes up is answered by the sockets, with the same answers and from the address that was
//! asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use responder::verdict::{Family, Verdict};
use testlab::wire::{Datagram, PORT, Wire, is_answer, request};
use testlab::{CONFIG, Lab, Output, PATIENCE, Tally, not_run, tool, wait_for};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const COOKIE: u64 = 0x1122_3344_5566_7788;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_request_with_an_extension_field_is_answered_from_the_address_it_was_sent_to() {
    let lab = Lab::up(&[]);
    for address in ["10.77.0.7/24", "fd77::7/64"] {
        lab.ip("server", &format!("address add {address} dev lan0"));
    }
    let server = lab.server(CONFIG, &[]);
    for (address, family) in [
        ("10.77.0.1", Family::Ipv4),
        ("10.77.0.7", Family::Ipv4),
        ("fd77::1", Family::Ipv6),
        ("fd77::7", Family::Ipv6),
        ("fe80::ff:fe77:1", Family::Ipv6),
    ] {
        let before = server.status();
        assert!(is_answered(&lab, "client", address, &with_extension_field(28)), "{address}");
        let after = server.status();
        let passed = Tally::of_program(&after) - Tally::of_program(&before);
        assert_eq!(passed, Tally::of([(Verdict::PassLong, family, 4, 1)]), "{address}");
        let answered = Tally::of_sockets(&after) - Tally::of_sockets(&before);
        assert_eq!(answered, Tally::of([(Verdict::Answered, family, 4, 1)]), "{address}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_request_in_fragments_is_answered() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    // Small enough for 48 bytes to need two packets; IPv6 has no such small ones, so there the request is large.
    lab.ip("client", "route add 10.77.0.1/32 dev lan0 mtu lock 68");
    lab.ip("client", "-6 route add fd77::1/128 dev lan0 mtu 1280");
    for (address, family, request) in [
        ("10.77.0.1", Family::Ipv4, request(4, COOKIE).to_vec()),
        ("fd77::1", Family::Ipv6, with_extension_field(1352)),
    ] {
        let before = server.status();
        assert!(is_answered(&lab, "client", address, &request), "{address}");
        let after = server.status();
        // An IPv6 fragment header hides what it belongs to; an IPv4 one does not.
        let passed = Tally::of_program(&after) - Tally::of_program(&before);
        let expected = match family {
            Family::Ipv4 => Tally::of([(Verdict::PassFragment, family, 0, 1)]),
            Family::Ipv6 => Tally::default(),
        };
        assert_eq!(passed, expected);
        let answered = Tally::of_sockets(&after) - Tally::of_sockets(&before);
        assert_eq!(answered, Tally::of([(Verdict::Answered, family, 4, 1)]), "{address}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_host_s_own_requests_are_answered_over_loopback() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for (address, family) in [
        ("127.0.0.1", Family::Ipv4),
        ("10.77.0.1", Family::Ipv4),
        ("::1", Family::Ipv6),
        ("fd77::1", Family::Ipv6),
    ] {
        let before = Tally::of_sockets(&server.status());
        assert!(is_answered(&lab, "server", address, &request(3, COOKIE)), "{address}");
        let answered = Tally::of_sockets(&server.status()) - before;
        assert_eq!(answered, Tally::of([(Verdict::Answered, family, 3, 1)]), "{address}");
    }
    assert_eq!(Tally::of_program(&server.status()), Tally::default());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn both_paths_answer_by_the_same_clock() {
    let lab = Lab::up(&[]);
    let _server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    let [source, destination]: [IpAddr; 2] = ["10.77.0.2", "10.77.0.1"].map(|ip| ip.parse().unwrap());
    let answers = [request(4, COOKIE).to_vec(), with_extension_field(28)].map(|payload| {
        let answer = wire.ask(&Datagram::request(source, destination, &payload), PATIENCE);
        answer.expect("an answer").payload
    });
    let seconds = |answer: &[u8], at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
    let [program, socket] = &answers;
    // First byte, stratum, poll, precision, root delay; reference id; origin.
    for range in [0..8, 12..16, 24..32] {
        assert_eq!(program[range.clone()], socket[range], "{program:x?} {socket:x?}");
    }
    for answer in &answers {
        let [receive, transmit] =
            [32, 40].map(|at| u64::from_be_bytes(answer[at..at + 8].try_into().unwrap()));
        assert!(receive < transmit, "{answer:x?}");
    }
    // One after the other, with nothing but the test in between.
    assert!(seconds(socket, 40) - seconds(program, 40) <= 10, "{program:x?} {socket:x?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_no_request_gets_no_answer_from_the_sockets_either() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for (first, length, verdict) in [
        (0x24, 48, Verdict::PassMode),
        (0x2b, 48, Verdict::PassVersion),
        (0x23, 47, Verdict::DropLength),
        (0x23, 50, Verdict::DropLength),
    ] {
        let mut message = vec![0; length];
        message[0] = first;
        let before = Tally::of_sockets(&server.status());
        // Over loopback, for there the program does not drop any of it.
        let answer = ask(&lab, "server", "127.0.0.1", &message, Duration::from_millis(200));
        assert_eq!(answer, None, "{first:#x}");
        let counted = Tally::of_sockets(&server.status()) - before;
        assert_eq!(counted, Tally::of([(verdict, Family::Ipv4, first >> 3 & 7, 1)]), "{first:#x}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ntpq_is_answered_over_loopback() {
    let Some(ntpq) = tool("ntpq") else {
        return not_run("ntpq is not there");
    };
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let before = Tally::of_sockets(&server.status());
    for loopback in ["127.0.0.1", "::1"] {
        let says = |arguments: &[&str]| {
            let command = [&[ntpq.to_str().unwrap(), "-n"], arguments, &[loopback]].concat();
            let Output { stdout, stderr, .. } = lab.exec("server", &command);
            stdout + &stderr
        };
        let variables = says(&["-c", "rv"]);
        for part in ["associd=0 status=0500 leap_none, sync_local", "stratum=4", "refid=127.127.1.1"] {
            assert!(variables.contains(part), "{part}: {variables}");
        }
        assert!(says(&["-c", "rv 0 stratum,leap"]).ends_with("stratum=4, leap=00\n"));
        assert!(says(&["-p"]).ends_with("No association IDs returned\n"));
        assert!(says(&["-c", "as"]).ends_with("No association IDs returned\n"));
        assert!(says(&["-c", "rv 0 qqq"]).contains("UNKNOWNVAR"));
        assert!(says(&["-c", "mrulist"]).contains("BADOP"));
    }
    assert_eq!(Tally::of_sockets(&server.status()), before, "no client's requests");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn control_messages_are_answered_over_loopback_alone() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let read_status = [0x16, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(ask(&lab, "server", "127.0.0.1", &read_status, PATIENCE).is_some());
    let silence = Duration::from_millis(200);
    for (address, family) in [("10.77.0.1", Family::Ipv4), ("fd77::1", Family::Ipv6)] {
        let before = server.status();
        for host in ["client", "server"] {
            assert_eq!(ask(&lab, host, address, &read_status, silence), None, "{host}, {address}");
        }
        let after = server.status();
        let dropped = Tally::of([(Verdict::DropControl, family, 2, 1)]);
        assert_eq!(Tally::of_program(&after) - Tally::of_program(&before), dropped);
        assert_eq!(Tally::of_sockets(&after) - Tally::of_sockets(&before), dropped);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_port_that_another_program_holds_is_told_with_its_name_and_is_not_fatal() {
    let lab = Lab::up(&[]);
    // This very process, and over IPv4 alone.
    let holder = lab.inside("server", || UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    holder.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = lab.server(CONFIG, &[]);

    let status = server.status();
    let failure = |family: Family| {
        let path = status.userspace_path.iter().find(|path| path.family == family.label()).unwrap();
        path.failure.clone()
    };
    let failed = failure(Family::Ipv4).unwrap();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let named = format!("held by {} (process {})", name.trim(), std::process::id());
    assert!(failed.contains(&named) && failed.contains("longer than 48 bytes"), "{failed}");
    assert_eq!(failure(Family::Ipv6), None);
    assert!(server.command(&["status"]).expect_success().contains(&failed));
    wait_for("a warning", || server.log().contains(&named).then_some(()));

    // In the NIC path as ever; the rest is the other's to answer.
    assert!(is_answered(&lab, "client", "10.77.0.1", &request(4, COOKIE)));
    assert!(is_answered(&lab, "client", "fd77::1", &with_extension_field(28)));
    let long = with_extension_field(28);
    assert_eq!(ask(&lab, "client", "10.77.0.1", &long, Duration::from_millis(200)), None);
    let came = wait_for("the other program's request", || take(&holder).filter(|(from, _)| *from == CLIENT));
    assert_eq!(came.1, long);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_port_whose_holder_ends_is_taken_over_and_one_that_is_restarted_keeps_it() {
    let lab = Lab::up(&[]);
    let hold = || lab.inside("server", || UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    let holder = hold();
    let server = lab.server(CONFIG, &[]);
    let failure = || {
        let paths = server.status().userspace_path;
        paths.into_iter().find(|path| path.family == Family::Ipv4.label()).unwrap().failure
    };
    let long = with_extension_field(28);
    // Time daemons are restarted within a moment.
    let end = std::time::Instant::now() + Duration::from_secs(12);
    let mut holder = Some(holder);
    while std::time::Instant::now() < end {
        drop(holder.take());
        holder = Some(hold());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(failure().is_some_and(|failure| failure.contains("held by")), "{:?}", failure());

    drop(holder);
    wait_for("the port", || failure().is_none().then_some(()));
    assert!(is_answered(&lab, "client", "10.77.0.1", &long));
    assert!(is_answered(&lab, "server", "127.0.0.1", &request(4, COOKIE)));
    assert!(server.log().contains("port 123 (ipv4): its holder has ended"), "{}", server.log());
    // It answers there, and does not take its own answer for another daemon's.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!server.log().contains("answers NTP requests over loopback"), "{}", server.log());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_time_daemon_that_holds_the_port_is_asked_even_if_it_speaks_one_family_only() {
    let lab = Lab::up(&[]);
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let daemon = lab.inside("server", || UdpSocket::bind((loopback, PORT)).unwrap());
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        let _server = lab.server(CONFIG, &[]);
        let (from, message) = take(&daemon).expect("a request");
        assert_eq!((from, message.len(), message[0]), (loopback, 48, 0x23));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_time_daemon_that_is_started_later_gets_the_port_and_is_asked() {
    for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let lab = Lab::up(&[]);
        let _server = lab.server(CONFIG, &[]);
        let address = loopback.to_string();
        assert!(is_answered(&lab, "server", &address, &request(4, COOKIE)));
        // As ntpd and chronyd bind it.
        let daemon = lab.inside("server", || bind_beside(loopback));
        daemon.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let (from, message) = take(&daemon).expect("a request");
        assert_eq!((from, message.len(), message[0]), (loopback, 48, 0x23));
        drop(daemon);
        assert!(is_answered(&lab, "server", &address, &request(4, COOKIE)), "it is ours again");
    }
}

fn bind_beside(address: IpAddr) -> UdpSocket {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, PORT))).unwrap();
    socket.into()
}

/// What came to a socket, and from whom.
fn take(socket: &UdpSocket) -> Option<(IpAddr, Vec<u8>)> {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((from.ip(), buffer[..length].to_vec()))
}

/// A request, and a field of so many bytes that no server knows (RFC 7822).
fn with_extension_field(length: u16) -> Vec<u8> {
    let mut message = request(4, COOKIE).to_vec();
    message.extend(0xf5f5_u16.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.resize(48 + usize::from(length), 0);
    message
}

/// Whether an answer came back, and from the address asked: a connected socket takes it from no other.
fn is_answered(lab: &Lab, host: &str, address: &str, request: &[u8]) -> bool {
    let version = request[0] >> 3 & 7;
    ask(lab, host, address, request, PATIENCE).is_some_and(|answer| is_answer(&answer, version, COOKIE))
}

fn ask(lab: &Lab, host: &str, address: &str, request: &[u8], patience: Duration) -> Option<Vec<u8>> {
    lab.inside(host, || {
        let server = match address.parse().unwrap() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, PORT, 0, if_nametoindex("lan0").unwrap()).into()
            }
            ip => SocketAddr::new(ip, PORT),
        };
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(server).unwrap();
        socket.send(request).unwrap();
        let mut buffer = [0; 2000];
        socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
    })
}
