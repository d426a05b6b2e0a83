//! The server answers for the addresses that its interfaces have at the moment, and for those it is told to.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::thread::sleep;
use std::time::{Duration, Instant};

use control::net::query::exchange;
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;
use responder::verdict::{Family, Verdict};
use testlab::wire::{Datagram, Wire, is_answer, request};
use testlab::{CONFIG, Lab, PATIENCE, Server, Tally, wait_for};

/// Within which a change of addresses is followed.
const SECOND: Duration = Duration::from_secs(1);
/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_address_added_later_is_answered_within_a_second_and_one_removed_no_longer() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for (address, length, family) in [("10.77.0.9", 24, Family::Ipv4), ("fd77::9", 64, Family::Ipv6)] {
        assert_eq!(
            in_the_nic_path(&lab, &server, address),
            Tally::of([(Verdict::PassForOthers, family, 0, 1)])
        );

        lab.ip("server", &format!("address add {address}/{length} dev lan0"));
        assert!(time_until(&server, address, true) < SECOND);
        assert_eq!(in_the_nic_path(&lab, &server, address), Tally::of([(Verdict::Answered, family, 4, 1)]));

        lab.ip("server", &format!("address delete {address}/{length} dev lan0"));
        assert!(time_until(&server, address, false) < SECOND);
        assert_eq!(
            in_the_nic_path(&lab, &server, address),
            Tally::of([(Verdict::PassForOthers, family, 0, 1)])
        );
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_ipv6_address_is_not_answered_for_before_it_is_known_to_be_ours() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    // Five probes for another owner of the address, a second apart.
    for setting in ["accept_dad=1", "dad_transmits=5"] {
        let (name, value) = setting.split_once('=').unwrap();
        let write = format!("echo {value} >/proc/sys/net/ipv6/conf/lan0/{name}");
        lab.exec("server", &["sh", "-c", &write]).expect_success();
    }
    lab.ip("server", "address add fd77::9/64 dev lan0");
    let tentative = || {
        let listed = lab.exec("server", &["ip", "-6", "-o", "address", "show", "dev", "lan0", "tentative"]);
        listed.expect_success().contains("fd77::9")
    };
    // The daemon has heard of it by now.
    sleep(SILENCE);
    let counted = in_the_nic_path(&lab, &server, "fd77::9");
    let is_listed = server.status().interfaces[0].addresses.contains(&"fd77::9".to_owned());
    assert!(tentative(), "it took too long to ask");
    assert_eq!(counted, Tally::of([(Verdict::PassForOthers, Family::Ipv6, 0, 1)]));
    assert!(!is_listed);

    wait_for("the check for duplicates to end", || (!tentative()).then_some(()));
    time_until(&server, "fd77::9", true);
    let counted = in_the_nic_path(&lab, &server, "fd77::9");
    assert_eq!(counted, Tally::of([(Verdict::Answered, Family::Ipv6, 4, 1)]));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn link_local_addresses_are_answered_for() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let reading = lab.inside("client", || {
        let scope = if_nametoindex("lan0").unwrap();
        let address = SocketAddrV6::new("fe80::ff:fe77:1".parse().unwrap(), 123, 0, scope);
        exchange(address.into(), PATIENCE).unwrap()
    });
    assert_eq!(reading.server.stratum, 4);
    assert_eq!(Tally::of_program(&server.status()), Tally::of([(Verdict::Answered, Family::Ipv6, 4, 1)]));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn addresses_of_what_stands_on_the_interface_are_answered_for_as_long_as_it_does() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    lab.ip("server", "link add br0 type bridge");
    for address in ["10.77.0.9/24", "fd77::9/64"] {
        lab.ip("server", &format!("address add {address} dev br0 nodad"));
    }
    lab.ip("server", "link set br0 up");
    let families = [("10.77.0.9", Family::Ipv4), ("fd77::9", Family::Ipv6)];
    let all_are = |verdict, version| {
        for (address, family) in families {
            // The socket answers for every address of the host, so that the client sees no difference.
            let (counted, _answer) = asked(&lab, &server, address);
            assert_eq!(counted, Tally::of([(verdict, family, version, 1)]), "{address}");
        }
    };
    // The daemon hears of changes in their order: when it knows of this one, it knows of those before.
    lab.ip("server", "address add 10.77.0.8/24 dev lan0");
    time_until(&server, "10.77.0.8", true);
    all_are(Verdict::PassForOthers, 0);
    lab.ip("server", "link set lan0 master br0");
    for (address, _) in families {
        time_until(&server, address, true);
    }
    all_are(Verdict::Answered, 4);
    lab.ip("server", "link set lan0 nomaster");
    for (address, _) in families {
        time_until(&server, address, false);
    }
    all_are(Verdict::PassForOthers, 0);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn configured_addresses_are_answered_for_and_a_reload_changes_them() {
    let lab = Lab::up(&[]);
    for address in ["10.99.0.1/32", "10.99.0.2/32", "fd99::1/128"] {
        lab.ip("server", &format!("address add {address} dev lo"));
    }
    lab.ip("client", "route add 10.99.0.0/24 via 10.77.0.1");
    lab.ip("client", "-6 route add fd99::/64 via fd77::1");
    let server = lab.server(&serving("\"10.99.0.1\", \"fd99::1\""), &[]);
    let answers = |address: &str| {
        let before = Tally::of_program(&server.status());
        let server_address = SocketAddr::new(address.parse().unwrap(), 123);
        lab.inside("client", || exchange(server_address, PATIENCE)).unwrap();
        (Tally::of_program(&server.status()) - before).packets(Verdict::Answered)
    };
    // The socket answers what the program lets pass, so that a client sees no difference.
    assert_eq!(["10.99.0.1", "fd99::1", "10.99.0.2"].map(answers), [1, 1, 0]);

    lab.file("server.toml", &serving("\"10.99.0.2\""));
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || server.log().contains("configuration reloaded").then_some(()));
    assert_eq!(["10.99.0.1", "fd99::1", "10.99.0.2"].map(answers), [0, 0, 1]);

    lab.file("server.toml", &serving("\"10.99.0.1\"").replace("local_stratum", "local_stratun"));
    server.signal(Signal::SIGHUP);
    let complaint =
        wait_for("the refusal", || server.log().split_once("not reloaded").map(|(_, rest)| rest.to_owned()));
    assert!(complaint.contains("the old one stays in force"), "{complaint}");
    assert!(
        complaint.contains("line 5") && complaint.contains("did you mean `local_stratum`?"),
        "{complaint}"
    );
    assert_eq!(["10.99.0.1", "fd99::1", "10.99.0.2"].map(answers), [0, 0, 1]);
    assert_eq!(server.status().clock.stratum, 4);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn sources_that_are_no_client_are_dropped_and_counted() {
    let lab = Lab::up(&[]);
    lab.ip("server", "address add 10.80.0.1/24 broadcast 10.80.0.99 dev lan0");
    let server = lab.server(CONFIG, &[]);
    let wire = Wire::tap(&lab, "client", "lan0");
    let ipv4 = [
        "10.77.0.255", // the network's broadcast address, which nobody configured
        "10.80.0.99",  // one that somebody did
        "255.255.255.255",
        "224.0.1.1",
        "127.0.0.1",
        "0.0.0.0",
        "10.77.0.1", // our own
    ];
    let ipv6 = ["ff02::1", "::1", "::", "fd77::1"];
    for (sources, destination, family) in
        [(&ipv4[..], "10.77.0.1", Family::Ipv4), (&ipv6[..], "fd77::1", Family::Ipv6)]
    {
        for source in sources {
            let before = Tally::of_program(&server.status());
            let datagram =
                Datagram::request(source.parse().unwrap(), destination.parse().unwrap(), &request(4, 1));
            assert_eq!(wire.ask(&datagram, SILENCE), None, "{source} got an answer");
            let counted = Tally::of_program(&server.status()) - before;
            assert_eq!(counted, Tally::of([(Verdict::DropSource, family, 0, 1)]), "{source}");
        }
    }
    assert_eq!(Tally::of_sockets(&server.status()), Tally::default());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn more_addresses_than_fit_are_told_and_those_before_stay_in_force() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let many: Vec<_> = (1..=100).map(|host| format!("address add 10.80.0.{host}/32 dev lan0")).collect();
    let batch = lab.file(
        "many",
        &many.join(
            "
",
        ),
    );
    lab.ip("server", &format!("-batch {}", batch.display()));
    wait_for("a complaint", || server.log().contains("too many to serve").then_some(()));
    let counted = in_the_nic_path(&lab, &server, "10.77.0.1");
    assert_eq!(counted, Tally::of([(Verdict::Answered, Family::Ipv4, 4, 1)]));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn of_more_addresses_than_fit_those_that_were_there_stay_those_that_leave_go_and_the_rest_is_told() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    let batch = |name: &str, hosts: std::ops::RangeInclusive<u32>| {
        let lines: Vec<_> = hosts.map(|host| format!("address add 10.80.0.{host}/32 dev lan0")).collect();
        let batch = lab.file(name, &lines.join("\n"));
        lab.ip("server", &format!("-batch {}", batch.display()));
    };
    // Those with the larger numbers come first. There is a place for each, and none is left for many of the others.
    batch("first", 61..=120);
    wait_for("the first ones", || (server.status().interfaces[0].addresses.len() > 60).then_some(()));
    batch("then", 1..=60);
    let told = wait_for("the overflow to be told", || {
        let told = server.status().addresses_without_room;
        told.first().filter(|told| told.wanted == 121).cloned()
    });
    assert_eq!((told.family.as_str(), told.number), ("ipv4", 121 + told.broadcast - 96));
    let is_answered = |server: &Server<'_>, address: &str| {
        let (counted, _socket) = asked(&lab, server, address);
        counted.packets(Verdict::Answered) == 1
    };
    for host in ["10.77.0.1", "10.80.0.61", "10.80.0.100", "10.80.0.120", "10.80.0.1"] {
        assert!(is_answered(&server, host), "{host}");
    }
    let left = told.example.to_string();
    assert!(!is_answered(&server, &left) && left == "10.80.0.60" || told.number > 1, "{told}");

    // One that leaves is not answered for any more, and its place is another's.
    lab.ip("server", "address delete 10.80.0.100/32 dev lan0");
    wait_for("the change", || (server.status().addresses_without_room[0].wanted == 120).then_some(()));
    assert!(!is_answered(&server, "10.80.0.100"));
    assert!(is_answered(&server, &left), "{left} has the place");

    // It is told wherever somebody may look.
    let told = server.status().addresses_without_room[0].to_string();
    assert!(told.contains("too many to serve in the NIC path"), "{told}");
    let health = server.command(&["health"]);
    assert!(health.status.success() && health.stdout.contains(&told), "{health:?}");
    assert!(server.command(&["status"]).expect_success().contains(&told));
    assert!(server.command(&["doctor"]).stdout.contains("requests to"));
    assert!(server.log().contains(&told), "{}", server.log());

    // A daemon that is started anew goes on with the same ones.
    server.stop();
    server.restart();
    let after = server.status().addresses_without_room;
    assert_eq!(after[0].to_string(), told);
    assert!(is_answered(&server, "10.80.0.120") && is_answered(&server, "10.80.0.61"));

    for host in 1..=60 {
        lab.ip("server", &format!("address delete 10.80.0.{host}/32 dev lan0"));
    }
    wait_for("there to be room", || server.status().addresses_without_room.is_empty().then_some(()));
    assert!(server.log().contains("there is room for all addresses"), "{}", server.log());
    assert_eq!(
        in_the_nic_path(&lab, &server, "10.80.0.1"),
        Tally::of([(Verdict::PassForOthers, Family::Ipv4, 0, 1)])
    );
}

/// How long it takes until this address is served, or no longer is.
#[track_caller]
fn time_until(server: &Server<'_>, address: &str, wanted: bool) -> Duration {
    let start = Instant::now();
    wait_for(&format!("{address} to be served: {wanted}"), || {
        let listed = &server.status().interfaces[0].addresses;
        (listed.iter().any(|found| found == address) == wanted).then_some(())
    });
    start.elapsed()
}

/// What the program counts for a request to this address, which nobody else answers.
fn in_the_nic_path(lab: &Lab, server: &Server<'_>, address: &str) -> Tally {
    let (counted, answer) = asked(lab, server, address);
    assert_eq!(
        answer.is_some_and(|answer| is_answer(&answer.payload, 4, 77)),
        counted.packets(Verdict::Answered) > 0
    );
    counted
}

fn asked(lab: &Lab, server: &Server<'_>, address: &str) -> (Tally, Option<Datagram>) {
    let before = Tally::of_program(&server.status());
    let destination: IpAddr = address.parse().unwrap();
    let source = if destination.is_ipv4() { "10.77.0.2" } else { "fd77::2" };
    let request = Datagram::request(source.parse().unwrap(), destination, &request(4, 77));
    let answer = Wire::tap(lab, "client", "lan0").ask(&request, SILENCE);
    (Tally::of_program(&server.status()) - before, answer)
}

fn serving(addresses: &str) -> String {
    format!("serve = [{addresses}]\n{CONFIG}")
}
