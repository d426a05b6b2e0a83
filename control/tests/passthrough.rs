//! What is not for this server goes its way as if the program were not there.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::scope;
use std::time::Duration;

use control::net::xdp_mode::Mode;
use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};
use responder::verdict::{Family, Verdict};
use testlab::wire::{CLIENT_MAC, Datagram, PORT, SERVER_MAC, Wire, request};
use testlab::{CONFIG, Lab, PATIENCE, Server, Tally, not_run, tool};

/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_router_lets_requests_for_others_through_and_answers_its_own() {
    let lab = Lab::up(&["--router"]);
    let _server = lab.server(CONFIG, &[]);
    // A server of its own on the router, whose stratum tells it from the other.
    let config = lab.file("router.toml", &CONFIG.replace("= 4", "= 9"));
    let instance = format!("{}-router", lab.name());
    // The lab has a program there already, one that passes all.
    let attach = ["attach", "lan1", "lan2", "--replace", "--config", config.to_str().unwrap()];
    let router = Server::start(&lab, "router", &instance, &attach);

    let stratum_of = |address: &str| {
        let said = lab.pooltime("client2", &["query", "--json", address]).expect_success();
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        answer["answers"][0]["stratum"].as_u64().expect(&said)
    };
    assert_eq!(["10.77.0.1", "fd77::1"].map(stratum_of), [4, 4]);
    let passed = [(Verdict::PassForOthers, Family::Ipv4, 0, 1), (Verdict::PassForOthers, Family::Ipv6, 0, 1)];
    assert_eq!(Tally::of_program(&router.status()), Tally::of(passed));

    let before = Tally::of_program(&router.status());
    assert_eq!(["10.78.0.1", "fd78::1", "10.79.0.2", "fd79::2"].map(stratum_of), [9; 4]);
    let answered = [(Verdict::Answered, Family::Ipv4, 4, 2), (Verdict::Answered, Family::Ipv6, 4, 2)];
    assert_eq!(Tally::of_program(&router.status()) - before, Tally::of(answered));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn other_protocols_and_ports_work_in_both_directions() {
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::up(&[]);
        let server = lab.server(CONFIG, &["--mode", mode.label()]);
        for [here, there] in [["server", "client"], ["client", "server"]] {
            for ip in addresses(here) {
                // Port 123 is the server's over UDP only.
                for port in [0, PORT] {
                    talk_over_tcp(&lab, here, there, SocketAddr::new(ip, port));
                }
                talk_over_udp(&lab, here, there, SocketAddr::new(ip, 0));
            }
        }
        ping(&lab, "client", [CLIENT_MAC, SERVER_MAC], ["10.77.0.2", "10.77.0.1"]);
        ping(&lab, "server", [SERVER_MAC, CLIENT_MAC], ["10.77.0.1", "10.77.0.2"]);
        assert_eq!(Tally::of_program(&server.status()), Tally::default());
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_server_s_host_can_be_a_client_of_others() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let config = lab.file("client.toml", &CONFIG.replace("= 4", "= 9"));
    let instance = format!("{}-client", lab.name());
    let attach = ["attach", "lan0", "--replace", "--config", config.to_str().unwrap()];
    let _other = Server::start(&lab, "client", &instance, &attach);
    let said = lab.pooltime("server", &["query", "10.77.0.2", "fd77::2"]).expect_success();
    assert_eq!(said.matches("stratum 9").count(), 2, "{said}");
    assert_eq!(Tally::of_program(&server.status()), Tally::default());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_passes_comes_up_byte_for_byte() {
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::up(&[]);
        // A time daemon that asks its servers from port 123 waits there for their answers.
        let _daemon = lab.inside("server", || UdpSocket::bind(("::", PORT)).unwrap());
        let _server = lab.server(CONFIG, &["--mode", mode.label()]);
        let (client, server) = (Wire::tap(&lab, "client", "lan0"), Wire::tap(&lab, "server", "lan0"));
        for (source, own, foreign) in
            [("10.77.0.2", "10.77.0.1", "10.77.0.77"), ("fd77::2", "fd77::1", "fd77::77")]
        {
            let [source, own, foreign]: [IpAddr; 3] = [source, own, foreign].map(|ip| ip.parse().unwrap());
            let ntp = |first: u8, length: usize| {
                let mut message = vec![0x5a; length];
                message[..48].copy_from_slice(&request(4, 0x0102_0304_0506_0708));
                message[0] = first;
                message
            };
            let own = |payload: &[u8]| Datagram::request(source, own, payload);
            let datagrams = [
                Datagram::request(source, foreign, &ntp(0x23, 48)),
                own(&ntp(0x24, 48)), // a server's answer
                own(&ntp(0x22, 48)), // a symmetric peer that answers
                own(&ntp(0x25, 48)), // a broadcast
                own(&ntp(0x2b, 48)), // version 5
                own(&ntp(0x23, 68)), // with a MAC
                Datagram { destination: (foreign, 124).into(), ..own(&ntp(0x23, 48)) },
                Datagram {
                    source: (source, PORT).into(),
                    destination: (foreign, 40_000).into(),
                    ..own(&ntp(0x24, 48))
                },
            ];
            for datagram in datagrams {
                let frame = datagram.to_frame();
                client.send(&frame);
                let came = server.find(PATIENCE, |came| (came == frame).then_some(()));
                assert!(came.is_some(), "{mode:?}: did not come as it was sent: {datagram:#?}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn control_messages_from_the_wire_are_dropped_and_counted() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    for (source, destination, family) in
        [("10.77.0.2", "10.77.0.1", Family::Ipv4), ("fd77::2", "fd77::1", Family::Ipv6)]
    {
        // A read of variables as ntpq sends it, and the list of clients that amplified so well.
        for (message, version) in
            [(&[0x16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], 2), (&[0x17, 0, 3, 42, 0, 0, 0, 0], 2)]
        {
            let before = Tally::of_program(&server.status());
            let datagram = Datagram::request(source.parse().unwrap(), destination.parse().unwrap(), message);
            assert_eq!(wire.ask(&datagram, SILENCE), None);
            let counted = Tally::of_program(&server.status()) - before;
            assert_eq!(counted, Tally::of([(Verdict::DropControl, family, version, 1)]));
        }
    }
    assert_eq!(Tally::of_sockets(&server.status()), Tally::default());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ntpq_gets_no_answer() {
    let Some(ntpq) = tool("ntpq") else {
        return not_run("ntpq is not there");
    };
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    // It would try for longer.
    let said = lab.exec("client", &["timeout", "5", ntpq.to_str().unwrap(), "-c", "rv", "10.77.0.1"]);
    assert_eq!(said.stdout, "");
    let counted = Tally::of_program(&server.status());
    assert!(counted.packets(Verdict::DropControl) >= 1, "{counted:?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_address_of_another_interface_is_the_socket_s_to_answer() {
    let lab = Lab::up(&["--router"]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("client", "route add 10.79.0.0/24 via 10.77.0.1");
    lab.pooltime("client", &["query", "10.79.0.1"]).expect_success();
    let status = server.status();
    assert_eq!(Tally::of_program(&status), Tally::of([(Verdict::PassForOthers, Family::Ipv4, 0, 1)]));
    assert_eq!(Tally::of_sockets(&status), Tally::of([(Verdict::Answered, Family::Ipv4, 4, 1)]));
}

fn addresses(host: &str) -> [IpAddr; 2] {
    let texts = if host == "server" { ["10.77.0.1", "fd77::1"] } else { ["10.77.0.2", "fd77::2"] };
    texts.map(|text| text.parse().unwrap())
}

/// Sends more than any buffer takes to a listener, and gets it back.
fn talk_over_tcp(lab: &Lab, here: &str, there: &str, address: SocketAddr) {
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let listener = lab.inside(here, || TcpListener::bind(address).unwrap());
    let address = listener.local_addr().unwrap();
    let near = lab.inside(there, || TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    let mut got = Vec::new();
    scope(|threads| {
        threads.spawn(|| {
            std::io::copy(&mut &far, &mut &far).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
        });
        threads.spawn(|| {
            (&near).write_all(&sent).unwrap();
            near.shutdown(Shutdown::Write).unwrap();
        });
        (&near).read_to_end(&mut got).unwrap();
    });
    assert!(got == sent, "TCP from {there} to {address}: {} of {} bytes came back", got.len(), sent.len());
}

/// A datagram there and one back, between ports that are not NTP's.
fn talk_over_udp(lab: &Lab, here: &str, there: &str, address: SocketAddr) {
    let bind = |host: &str, address: SocketAddr| {
        let socket = lab.inside(host, || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let ip = addresses(there)[usize::from(address.is_ipv6())];
    let (near, far) = (bind(here, address), bind(there, SocketAddr::new(ip, 0)));
    let message = request(4, 1);
    let mut buffer = [0; 100];
    for (from, to) in [(&far, &near), (&near, &far)] {
        from.send_to(&message, to.local_addr().unwrap()).unwrap();
        let (length, sender) = to.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], sender), (&message[..], from.local_addr().unwrap()));
    }
}

/// An ICMP echo by hand: `ping` may not be there.
fn ping(lab: &Lab, host: &str, [from, to]: [[u8; 6]; 2], [source, destination]: [&str; 2]) {
    let [source, destination] =
        [source, destination].map(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let wire = Wire::tap(lab, host, "lan0");
    let echo = PacketBuilder::ethernet2(from, to).ipv4(source, destination, 64).icmpv4_echo_request(7, 1);
    let mut frame = Vec::new();
    echo.write(&mut frame, b"are you there?").unwrap();
    wire.send(&frame);
    let reply = wire.find(PATIENCE, |frame| match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Icmpv4(icmp) if matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)) => {
            Some(icmp.payload().to_vec())
        }
        _ => None,
    });
    assert_eq!(reply.as_deref(), Some(&b"are you there?"[..]), "ping from {host}");
}
