//! Requests are answered in the NIC path only if they are for a station that the host is: its MAC addresses, in its
//! VLANs. What is for others is passed on to the kernel, and the daemon follows what stands on the interfaces.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use responder::verdict::{Family, Verdict};
use testlab::wire::{CLIENT_MAC, Datagram, SERVER_MAC, Wire, is_answer, request};
use testlab::{CONFIG, Lab, Server, Tally, not_run, slowness, wait_for};

/// Within which a change of what stands on an interface is followed.
const SECOND: Duration = Duration::from_secs(1);
/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const VIRTUAL_ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0x77, 0, 9];
const UNTAGGED: &[(u16, u16)] = &[];

/// What became of a request: the program's verdict, and whether the client got an answer of whichever path.
fn ask(lab: &Lab, server: &Server<'_>, to: [u8; 6], tags: &[(u16, u16)], address: &str) -> (Verdict, bool) {
    let destination: IpAddr = address.parse().unwrap();
    let source = if destination.is_ipv4() { "10.77.0.2" } else { "fd77::2" };
    let family = if destination.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let plain = Datagram::request(source.parse().unwrap(), destination, &request(4, 77));
    let request = Datagram { to, tags: tags.into(), ..plain };
    let before = Tally::of_program(&server.status());
    let wire = Wire::tap(lab, "client", "lan0");
    wire.send(&request.to_frame());
    // The kernel may answer from another MAC address than the one that was asked.
    let answer = wire.find(SILENCE * slowness(), |frame| {
        let is_right =
            |answer: &Datagram| answer.source == request.destination && is_answer(&answer.payload, 4, 77);
        Datagram::parse(frame).filter(is_right)
    });
    let counted = Tally::of_program(&server.status()) - before;
    let verdict = [Verdict::Answered, Verdict::PassStation, Verdict::PassForOthers]
        .into_iter()
        .find(|verdict| counted.packets(*verdict) == 1)
        .unwrap_or_else(|| panic!("{counted:?}"));
    let version = if verdict == Verdict::Answered { 4 } else { 0 };
    assert_eq!(counted, Tally::of([(verdict, family, version, 1)]));
    if verdict == Verdict::Answered {
        assert!(answer.as_ref().is_some_and(|answer| request.is_answered_by(answer)), "{answer:?}");
    }
    (verdict, answer.is_some())
}

/// Waits until the server receives at this station, or no longer does.
#[track_caller]
fn until(server: &Server<'_>, station: &str, wanted: bool) {
    let start = Instant::now();
    wait_for(&format!("{station} to be received at: {wanted}"), || {
        let listed = &server.status().interfaces[0].stations;
        (listed.iter().any(|found| found == station) == wanted).then_some(())
    });
    assert!(start.elapsed() < SECOND * slowness(), "it took {:?}", start.elapsed());
}

const ANSWERED: (Verdict, bool) = (Verdict::Answered, true);
const PASSED: (Verdict, bool) = (Verdict::PassStation, false);

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn frames_to_other_stations_are_left_alone_even_in_promiscuous_mode() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for promiscuous in ["off", "on"] {
        lab.ip("server", &format!("link set lan0 promisc {promiscuous}"));
        for address in ["10.77.0.1", "fd77::1"] {
            assert_eq!(ask(&lab, &server, SERVER_MAC, UNTAGGED, address), ANSWERED);
            for other in [NEIGHBOUR, CLIENT_MAC, VIRTUAL_ROUTER] {
                assert_eq!(ask(&lab, &server, other, UNTAGGED, address), PASSED, "{other:?}");
            }
            // The kernel may take these, so that the socket answers; from its own address.
            for group in [[0xff; 6], [1, 0, 0x5e, 0, 1, 1], [0x33, 0x33, 0, 0, 1, 1]] {
                assert_eq!(ask(&lab, &server, group, UNTAGGED, address).0, Verdict::PassStation, "{group:?}");
            }
        }
    }
    assert_eq!(server.status().interfaces[0].stations, ["02:00:00:77:00:01"]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn another_address_of_the_interface_is_followed() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("server", "link set lan0 address 02:00:00:77:00:09");
    until(&server, "02:00:00:77:00:09", true);
    assert_eq!(ask(&lab, &server, NEIGHBOUR, UNTAGGED, "10.77.0.1"), ANSWERED);
    assert_eq!(ask(&lab, &server, SERVER_MAC, UNTAGGED, "10.77.0.1"), PASSED);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn tags_of_vlans_that_the_host_is_not_in_are_left_alone_and_priorities_are_no_vlan() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for address in ["10.77.0.1", "fd77::1"] {
        for tags in
            [&[(0x8100, 7)][..], &[(0x88a8, 7)], &[(0x88a8, 7), (0x8100, 8)], &[(0x8100, 0), (0x8100, 8)]]
        {
            assert_eq!(ask(&lab, &server, SERVER_MAC, tags, address), PASSED, "{tags:?}");
        }
        for tags in [&[(0x8100, 0)][..], &[(0x88a8, 0), (0x8100, 0)]] {
            assert_eq!(ask(&lab, &server, SERVER_MAC, tags, address), ANSWERED, "{tags:?}");
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_vlan_is_answered_in_as_long_as_there_is_a_device_for_it() {
    let lab = Lab::up(&[]);
    if !lab
        .exec("server", &["ip", "link", "add", "link", "lan0", "name", "lan0.7", "type", "vlan", "id", "7"])
        .status
        .success()
    {
        return not_run("this kernel has no VLAN devices");
    }
    let server = lab.server(CONFIG, &[]);
    let asked = |tags: &[(u16, u16)]| ask(&lab, &server, SERVER_MAC, tags, "10.77.0.1");
    assert_eq!(asked(&[(0x8100, 7)]), PASSED, "the device is down");
    lab.ip("server", "link set lan0.7 up");
    until(&server, "02:00:00:77:00:01 VLAN 7", true);
    assert_eq!(asked(&[(0x8100, 7)]), ANSWERED);
    assert_eq!(asked(&[(0x8100, 8)]), PASSED);
    assert_eq!(asked(&[(0x88a8, 7)]), PASSED);
    lab.ip("server", "link add link lan0.7 name inner type vlan id 9");
    lab.ip("server", "link set inner up");
    until(&server, "02:00:00:77:00:01 VLAN 7 VLAN 9", true);
    assert_eq!(asked(&[(0x8100, 7), (0x8100, 9)]), ANSWERED);
    assert_eq!(asked(&[(0x8100, 9), (0x8100, 7)]), PASSED);
    lab.ip("server", "link delete lan0.7");
    until(&server, "02:00:00:77:00:01 VLAN 7", false);
    assert_eq!(
        [asked(&[(0x8100, 7)]), asked(&[(0x8100, 7), (0x8100, 9)]), asked(UNTAGGED)],
        [PASSED, PASSED, ANSWERED]
    );
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_address_of_a_virtual_router_is_answered_while_its_macvlan_is_up_here() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    // As keepalived does it with `use_vmac`.
    lab.ip("server", "link add link lan0 name vrrp.10 address 00:00:5e:00:01:0a type macvlan mode private");
    lab.ip("server", "address add 10.77.0.10/32 dev vrrp.10");
    let asked = |to| ask(&lab, &server, to, UNTAGGED, "10.77.0.10");
    wait_for("the address", || {
        server.status().interfaces[0].addresses.contains(&"10.77.0.10".to_owned()).then_some(())
    });
    assert_eq!(asked(VIRTUAL_ROUTER), PASSED, "the device is down");
    lab.ip("server", "link set vrrp.10 up");
    until(&server, "00:00:5e:00:01:0a", true);
    assert_eq!([asked(VIRTUAL_ROUTER), asked(SERVER_MAC), asked(NEIGHBOUR)], [ANSWERED, ANSWERED, PASSED]);
    // What goes to another network namespace is another host.
    lab.ip("server", &format!("link set vrrp.10 netns {}-client", lab.name()));
    until(&server, "00:00:5e:00:01:0a", false);
    assert_eq!(ask(&lab, &server, VIRTUAL_ROUTER, UNTAGGED, "10.77.0.1").0, Verdict::PassStation);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_goes_to_whoever_has_opened_a_macvtap_is_left_to_it() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("server", "link add link lan0 name tap0 address 02:00:00:77:00:09 type macvtap mode bridge");
    lab.ip("server", "link set tap0 up");
    lab.ip("server", "address add 10.77.0.8/32 dev lan0");
    wait_for("the address", || {
        server.status().interfaces[0].addresses.contains(&"10.77.0.8".to_owned()).then_some(())
    });
    assert_eq!(ask(&lab, &server, NEIGHBOUR, UNTAGGED, "10.77.0.1").0, Verdict::PassStation);
    assert_eq!(ask(&lab, &server, SERVER_MAC, UNTAGGED, "10.77.0.8"), ANSWERED);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_bridge_is_answered_for_by_its_open_ports() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("server", "link add br0 address 02:00:00:77:00:09 type bridge");
    lab.ip("server", "link set br0 up");
    lab.ip("server", "address add 10.77.0.9/24 dev br0");
    let asked = |to| ask(&lab, &server, to, UNTAGGED, "10.77.0.1");
    assert_eq!(asked(NEIGHBOUR), PASSED);
    lab.ip("server", "link set lan0 master br0");
    until(&server, "02:00:00:77:00:09", true);
    assert_eq!([asked(NEIGHBOUR), asked(SERVER_MAC), asked(CLIENT_MAC)], [ANSWERED, ANSWERED, PASSED]);
    lab.ip("server", "link set lan0 nomaster");
    until(&server, "02:00:00:77:00:09", false);
    assert_eq!([asked(NEIGHBOUR), asked(SERVER_MAC)], [PASSED, ANSWERED]);

    // The spanning tree blocks a new port for two such delays.
    lab.ip("server", "link set br0 type bridge stp_state 1 forward_delay 400");
    lab.ip("server", "link set lan0 master br0");
    let idle = wait_for("the port to be blocked", || server.status().interfaces[0].idle.clone());
    assert_eq!(idle, "the spanning tree of br0 blocks lan0");
    assert_eq!([asked(NEIGHBOUR), asked(SERVER_MAC)], [PASSED, PASSED]);
    assert!(server.command(&["health"]).status.success(), "that is as it should be");
    wait_for("the port to be open", || server.status().interfaces[0].idle.is_none().then_some(()));
    assert_eq!([asked(NEIGHBOUR), asked(SERVER_MAC)], [ANSWERED, ANSWERED]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_comes_by_a_bridge_that_filters_vlans_is_left_to_the_socket_and_that_is_told() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("server", "link add br0 address 02:00:00:77:00:09 type bridge");
    lab.ip("server", "link set br0 up");
    lab.ip("server", "link set lan0 master br0");
    lab.ip("server", "address add 10.77.0.9/24 dev br0");
    // What the sockets send has to go by the bridge: a port alone resolves nobody's address.
    lab.ip("server", "route delete 10.77.0.0/24 dev lan0");
    let asked = |to| ask(&lab, &server, to, UNTAGGED, "10.77.0.1");
    until(&server, "02:00:00:77:00:09", true);
    let filter = ["ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"];
    if !lab.exec("server", &filter).status.success() {
        return not_run("the bridges of this kernel do not filter VLANs");
    }
    until(&server, "02:00:00:77:00:09", false);
    // The socket answers where the bridge lets the request through.
    assert_eq!(asked(NEIGHBOUR), (Verdict::PassStation, true));
    let status = server.status();
    let reason = status.interfaces[0].left_to_sockets.as_ref().unwrap();
    assert!(reason.contains("br0 filters VLANs"), "{reason}");
    let health = server.command(&["health"]);
    assert!(health.stdout.contains("br0 filters VLANs"), "{health:?}");
    assert!(server.log().contains("br0 filters VLANs"), "{}", server.log());

    lab.ip("server", "link set lan0 nomaster");
    until(&server, "02:00:00:77:00:01", true);
    assert_eq!([asked(NEIGHBOUR), asked(SERVER_MAC)], [PASSED, ANSWERED]);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_backup_port_of_a_bond_answers_nothing_until_it_is_the_active_one() {
    let lab = Lab::up(&["--router"]);
    let bond = ["ip", "link", "add", "bond0", "type", "bond", "mode", "active-backup", "miimon", "50"];
    if !lab.exec("server", &bond).status.success() {
        return not_run("this kernel has no bonds");
    }
    for port in ["lan2", "lan0"] {
        lab.ip("server", &format!("link set {port} down"));
        lab.ip("server", &format!("link set {port} master bond0"));
    }
    lab.ip("server", "link set bond0 address 02:00:00:77:00:01 up");
    lab.ip("server", "address add 10.77.0.9/24 dev bond0");
    lab.ip("server", "link set bond0 type bond active_slave lan2");
    let server = lab.server(CONFIG, &[]);
    let asked = || ask(&lab, &server, SERVER_MAC, UNTAGGED, "10.77.0.9");
    until(&server, "02:00:00:77:00:01", false);
    assert_eq!(asked(), PASSED);
    assert_eq!(server.status().interfaces[0].idle.as_deref(), Some("lan0 is a backup port of bond0"));
    assert!(server.command(&["health"]).status.success(), "that is as it should be");
    lab.ip("server", "link set bond0 type bond active_slave lan0");
    until(&server, "02:00:00:77:00:01", true);
    assert_eq!(asked(), ANSWERED);
    lab.ip("server", "link set bond0 type bond active_slave lan2");
    until(&server, "02:00:00:77:00:01", false);
    assert_eq!(asked(), PASSED);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn more_stations_than_there_is_room_for_are_told_and_the_first_are_answered() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let devices: Vec<_> = (0..100)
        .flat_map(|number| {
            let name = format!("mac{number}");
            let address = format!("02:00:00:77:01:{number:02x}");
            // Without addresses, of which there would be too many, too.
            [
                format!("link add link lan0 name {name} address {address} type macvlan"),
                format!("link set {name} addrgenmode none"),
                format!("link set {name} up"),
            ]
        })
        .collect();
    let batch = lab.file("many", &devices.join("\n"));
    lab.ip("server", &format!("-batch {}", batch.display()));
    let reason =
        wait_for("the overflow to be told", || server.status().interfaces[0].left_to_sockets.clone());
    assert!(reason.contains("MAC addresses and VLANs, and the NIC path answers for 96"), "{reason}");
    assert!(server.command(&["health"]).stdout.contains(&reason));
    let asked = |last| ask(&lab, &server, [2, 0, 0, 0x77, 1, last], UNTAGGED, "10.77.0.1");
    // Each station is answered for, whether by the program or by the socket.
    assert_eq!([asked(0), asked(99)].map(|(_, answered)| answered), [true, true]);
    assert_eq!(ask(&lab, &server, SERVER_MAC, UNTAGGED, "10.77.0.1"), ANSWERED);
    for number in 50..100 {
        lab.ip("server", &format!("link delete mac{number}"));
    }
    wait_for("there to be room", || server.status().interfaces[0].left_to_sockets.is_none().then_some(()));
    assert_eq!([asked(0), asked(49)], [ANSWERED, ANSWERED]);
    assert_eq!(asked(50), PASSED);
}
