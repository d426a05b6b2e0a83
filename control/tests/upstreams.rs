//! The daemon with upstreams of its own: real servers on another host of the lab, which share the kernel's clock
//! with it, so that the truth is known. The kernel's clock is left alone.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use control::status::Status;
use control::status::kernel_clock::Treatment;
use control::status::sources::{Peers, Tally};
use nix::sys::signal::Signal;
use protocol::reference_id;
use testlab::upstreams::{NETWORK, UPSTREAMS, Upstreams, address, give_addresses};
use testlab::{CONFIG, Lab, Server, not_run, pooltime_xdp, tool, wait_for};

/// Without knowing more than the answers, nobody can say better than half a round trip, which on a busy machine is
/// this at most.
const LARGEST_ERROR_S: f64 = 0.005;
// Of sysexits.h.
const EX_UNAVAILABLE: i32 = 69;
const EX_NOPERM: i32 = 77;

/// A configuration with these addresses as upstreams.
fn config(clock: &str, addresses: &[String]) -> String {
    let upstreams = addresses.iter().map(|address| format!("[[upstream]]\naddress = \"{address}\"\n"));
    format!(
        "interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = false\n{clock}\n{}",
        upstreams.collect::<String>()
    )
}

fn peers(server: &Server) -> Peers {
    let said = server.command(&["peers", "--json"]).expect_success();
    serde_json::from_str(&said).expect(&said)
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn upstreams_make_a_clock_and_a_reload_keeps_what_is_known_of_them() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let addresses: Vec<String> = (0..UPSTREAMS).map(address).collect();
    give_addresses(&lab, UPSTREAMS);
    let server = lab.server(&config("", &addresses), &[]);
    wait_for("closed ports to be told of", || {
        peers(&server).peers.iter().all(|peer| peer.trouble.is_some()).then_some(())
    });
    let asked = lab.pooltime("client", &["query", "10.77.0.1"]);
    assert!(asked.stdout.contains("stratum 0") && asked.stdout.contains("leap 3"), "{asked:#?}");
    let status = server.status();
    assert!(status.clock.reason.unwrap().contains("pooltime-xdp peers"));

    let mut upstreams = Upstreams::start(&lab, &chronyd);
    let status = synchronised(&server);
    let peers_then = peers(&server);
    for peer in &peers_then.peers {
        assert!((1..=4).contains(&peer.answers), "not by a burst's first four answers: {peer:#?}");
    }
    assert_served_within_its_own_bound(&lab);

    let clock = status.clock;
    let discipline = clock.discipline.expect("upstreams are disciplined by");
    assert_eq!((clock.source.as_deref(), clock.stratum), (Some("upstream"), 2));
    assert_eq!((discipline.upstreams, discipline.kernel_clock.treatment), (4, Treatment::LeftAlone));
    wait_for("a reference that is the system peer", || {
        let clock = server.status().clock;
        let peer: IpAddr = clock.discipline?.system_peer?.parse().unwrap();
        (Ipv4Addr::from(reference_id(peer)).to_string() == clock.reference).then_some(())
    });
    assert!(clock.error_bound_s < LARGEST_ERROR_S && clock.horizon_s > 19.0, "{}", clock.error_bound_s);
    assert!(discipline.kernel_clock.offset_s.unwrap().abs() < LARGEST_ERROR_S, "{discipline:#?}");

    let said = server.command(&["peers"]).expect_success();
    let lines: Vec<&str> = said.lines().skip(2).collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(lines.iter().filter(|line| line.starts_with('*')).count(), 1, "{said}");
    for (line, address) in lines.iter().zip(&addresses) {
        assert!(line[1..].starts_with(address.as_str()) && line.contains("127.127.1.1"), "{said}");
    }

    assert_ntpq_shows_the_same(&lab, &server);

    // One goes, another one comes, three stay as they were.
    let mut others = addresses.clone();
    others[1] = address(UPSTREAMS);
    lab.ip("client", &format!("address add {}/24 dev lan0", others[1]));
    upstreams.add(UPSTREAMS);
    lab.file("server.toml", &config("", &others).replace("[[upstream]]", "[[upstream]]\nburst = true"));
    server.signal(Signal::SIGHUP);
    wait_for("a refusal", || server.log().contains("configuration not reloaded").then_some(()));
    assert_eq!(names(&peers(&server)), addresses, "{}", server.log());
    lab.file("server.toml", &config("", &others));
    server.signal(Signal::SIGHUP);
    let now = wait_for("the new upstream to be followed", || {
        Some(peers(&server))
            .filter(|now| now.peers[1].name == others[1] && now.peers[1].tally == Tally::Candidate)
    });
    assert_eq!(names(&now), others);
    for (before, after) in
        peers_then.peers.iter().zip(&now.peers).filter(|(before, _)| before.name != addresses[1])
    {
        assert_eq!(before.association, after.association);
        assert!(after.answers >= before.answers && after.requests <= 8, "asked anew: {after:#?}");
    }
    assert!(server.status().clock.synchronised);

    upstreams.end();
    let dispersion_s = || server.status().clock.root_dispersion_s;
    let (start, before_s) = (Instant::now(), dispersion_s());
    wait_for("dispersion to grow", || (dispersion_s() > before_s + 20e-6).then_some(()));
    // Soon after the start the frequency of the local clock is still open by hundreds of ppm, but not by more.
    let grown_s = dispersion_s() - before_s;
    assert!(grown_s < 100e-6 + 1e-3 * start.elapsed().as_secs_f64(), "{grown_s} s in {:?}", start.elapsed());
    assert!(server.status().clock.synchronised);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_reload_changes_from_the_system_clock_to_upstreams_and_back() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let addresses: Vec<String> = (0..UPSTREAMS).map(address).collect();
    give_addresses(&lab, UPSTREAMS);
    let _upstreams = Upstreams::start(&lab, &chronyd);
    let server = lab.server(CONFIG, &[]);
    let clock = || server.status().clock;
    assert_eq!((clock().source.as_deref(), clock().stratum), (Some("system"), 4));
    for _ in 0..2 {
        lab.file("server.toml", &config("", &addresses));
        server.signal(Signal::SIGHUP);
        wait_for("the upstreams' time to be served", || {
            let clock = clock();
            let is_theirs = clock.source.as_deref() == Some("upstream") && clock.synchronised;
            (is_theirs && clock.stratum == 2).then_some(())
        });
        assert_served_within_its_own_bound(&lab);
        assert_eq!(names(&peers(&server)), addresses);

        lab.file("server.toml", CONFIG);
        server.signal(Signal::SIGHUP);
        wait_for("the system's time to be served", || {
            let clock = clock();
            (clock.source.as_deref() == Some("system") && clock.stratum == 4).then_some(())
        });
        assert!(clock().synchronised && peers(&server).peers.is_empty());
        lab.pooltime("client", &["query", "10.77.0.1"]).expect_success();
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_word_from_upstreams_the_gate_closes_at_the_error_limit() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let addresses: Vec<String> = (0..UPSTREAMS).map(address).collect();
    give_addresses(&lab, UPSTREAMS);
    let mut upstreams = Upstreams::start(&lab, &chronyd);
    thread::sleep(Duration::from_secs(1));
    // A single answer tells the time and nothing of the frequency: the bound grows by most of a millisecond a
    // second, until the next answers, which do not come.
    let config =
        config("max_error_ms = 5", &addresses).replace("[[upstream]]", "[[upstream]]\niburst = false");
    let server = lab.server(&config, &[]);
    let first = synchronised(&server).clock;
    upstreams.end();
    assert!(first.error_bound_s < 0.005 && first.horizon_s < 15.0, "{first:#?}");
    let last = wait_for("the gate to close", || {
        let clock = server.status().clock;
        assert!(!clock.synchronised || clock.error_bound_s < 0.005_1, "{clock:#?}");
        clock.reason.as_ref().is_some_and(|reason| reason.contains("not heard for too long")).then_some(clock)
    });
    assert!(!last.synchronised && last.stratum == 0, "{last:#?}");
    let asked = lab.pooltime("client", &["query", "10.77.0.1"]);
    assert!(asked.stdout.contains("stratum 0") && asked.stdout.contains("leap 3"), "{asked:#?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn refusals_forgeries_and_dead_addresses_do_no_harm_and_are_told() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    give_addresses(&lab, UPSTREAMS + 3);
    // Before the chronyd that listens on IPv6 takes port 123 of all IPv4 addresses, too.
    let fakes: Vec<Fake> = (UPSTREAMS..UPSTREAMS + 3)
        .zip([kiss(*b"DENY"), kiss(*b"RATE"), forgery])
        .map(|(number, answer)| Fake::start(&lab, &address(number), answer))
        .collect();
    let _upstreams = Upstreams::start(&lab, &chronyd);
    // The second name's first address is nobody's. (The resolver puts the one first that is most like our own.)
    let hosts = format!("{0} one.test\n{NETWORK}.3 two.test\n{1} two.test\n", address(0), address(1));
    let wrapper = with_hosts(&lab, &hosts);
    let mut all = vec!["one.test".into(), "two.test".into(), "nowhere.test".into()];
    all.extend((2..UPSTREAMS + 3).map(address));
    let mut server = lab.server(&config("", &all), &[]);
    server.stop();
    server.restart_as(&wrapper);

    wait_for("a dead address", || (peers(&server).peers[1].unanswered >= 4).then_some(()));
    assert_eq!(peers(&server).peers[1].address, Some(format!("{NETWORK}.3")));
    let named = wait_for("the dead address to be left", || {
        Some(peers(&server)).filter(|peers| peers.peers[1].answers >= 2)
    });
    assert_eq!(named.peers[0].address.as_ref(), Some(&address(0)));
    assert_eq!(named.peers[1].address.as_ref(), Some(&address(1)));
    assert!(named.peers[2].trouble.as_ref().unwrap().contains("cannot be resolved"), "{:#?}", named.peers[2]);
    let [deny, rate, forged] = &named.peers[5..] else { panic!("{named:#?}") };
    assert_eq!((deny.requests, deny.kisses.get("DENY"), deny.tally), (1, Some(&1), Tally::Reject));
    assert!(
        deny.standing.contains("forbade") && deny.trouble.as_ref().unwrap().contains("DENY"),
        "{deny:#?}"
    );
    assert_eq!((rate.requests, rate.kisses.get("RATE"), rate.poll_log2), (1, Some(&1), 7));
    assert_eq!((forged.answers, forged.reach, forged.tally), (0, 0, Tally::Reject));
    assert!(forged.rejected["origin"] > 0, "{forged:#?}");
    let status = server.status();
    assert!(status.clock.synchronised);
    let trouble = status.clock.discipline.unwrap().trouble;
    assert!(trouble.iter().any(|line| line.starts_with(&deny.name) && line.contains("DENY")), "{trouble:?}");
    assert_served_within_its_own_bound(&lab);
    let log = server.log();
    assert!(log.contains("forbids requests (DENY)") && log.contains("wants fewer requests (RATE)"), "{log}");

    let ports = fakes[2].source_ports.lock().unwrap();
    let different: std::collections::BTreeSet<_> = ports.iter().collect();
    assert!(ports.len() > 3 && different.len() == ports.len(), "a port for each request: {ports:?}");
}

/// The machine's clock is never steered by a test: the daemon is not allowed to here.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn steering_is_refused_beside_another_daemon_and_without_the_privilege() {
    let lab = Lab::up(&[]);
    let config = config("", &[address(0)]).replace("steer = false", "steer = true");
    let config = lab.file("server.toml", &config);
    let start = || {
        let bounded = ["setpriv", "--bounding-set", "-sys_time", pooltime_xdp(), "--instance", lab.name()];
        lab.exec("server", &[&bounded[..], &["run", "--config", config.to_str().unwrap()]].concat())
    };
    let rival = lab.file("ntpd", "");
    std::fs::copy(tool("sleep").expect("sleep is everywhere"), &rival).unwrap();
    let mut running = Command::new(&rival).arg("60").spawn().unwrap();
    let beside = start();
    running.kill().unwrap();
    running.wait().unwrap();
    let said = beside.expect_code(EX_UNAVAILABLE);
    assert!(
        said.contains("steers the kernel's clock already") && said.contains("clock.steer = false"),
        "{said}"
    );

    let alone = start();
    if alone.code() == Some(EX_UNAVAILABLE) && alone.stderr.contains("already") {
        return not_run("a time daemon steers this machine's clock");
    }
    let said = alone.expect_code(EX_NOPERM);
    assert!(said.contains("CAP_SYS_TIME") && said.contains("clock.steer = false"), "{said}");
    let left = lab.pooltime("server", &["status"]).expect_code(EX_UNAVAILABLE);
    assert!(left.contains("nothing is attached"), "{left}");
}

/// Waits for the daemon to say that it is synchronised.
fn synchronised(server: &Server) -> Status {
    wait_for("the daemon to be synchronised", || {
        Some(server.status()).filter(|status| status.clock.synchronised)
    })
}

/// Asks as a client on the other host, whose clock is the truth.
fn assert_served_within_its_own_bound(lab: &Lab) {
    let said = lab.pooltime("client", &["query", "--json", "10.77.0.1"]).expect_success();
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let value = |key: &str| answer["answers"][0][key].as_f64().expect(&said);
    let bound_s = value("delay_s") / 2.0 + value("root_delay_s") / 2.0 + value("root_dispersion_s");
    let error_s = value("offset_s").abs();
    assert!(error_s <= bound_s && error_s < LARGEST_ERROR_S, "{error_s} s off, bound {bound_s} s: {said}");
}

/// The real `ntpq -p`, over loopback.
fn assert_ntpq_shows_the_same(lab: &Lab, server: &Server) {
    let Some(ntpq) = tool("ntpq") else {
        return not_run("ntpq is not there");
    };
    let ntpq = ntpq.to_str().unwrap();
    // A column may change between the two.
    wait_for("ntpq to show what peers shows", || {
        let theirs = lab.exec("server", &[ntpq, "-pn", "127.0.0.1"]).expect_success();
        let ours = server.command(&["peers"]).expect_success();
        // Tally and address, reference, stratum, type; poll, reach.
        let columns = |said: &str| {
            let words = |line: &str| {
                let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
                [&words[..4], &words[5..7]].concat()
            };
            said.lines().skip(2).filter(|line| !line.is_empty()).map(words).collect::<Vec<_>>()
        };
        println!("{theirs}\n{ours}");
        (columns(&theirs) == columns(&ours)).then_some(())
    });
}

fn names(peers: &Peers) -> Vec<String> {
    peers.peers.iter().map(|peer| peer.name.clone()).collect()
}

/// The program on a host with other names in /etc/hosts.
fn with_hosts(lab: &Lab, hosts: &str) -> PathBuf {
    let hosts = lab.file("hosts", hosts);
    let bind = format!("mount --bind {} /etc/hosts", hosts.display());
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c '{bind} && exec \"$@\"' sh {} \"$@\"\n",
        pooltime_xdp()
    );
    let path = lab.file("with-hosts.sh", &script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A server that is none: what it answers is made of the request.
struct Fake {
    ends: Arc<AtomicBool>,
    source_ports: Arc<Mutex<Vec<u16>>>,
}

impl Fake {
    fn start(lab: &Lab, address: &str, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let socket = lab.inside("client", || UdpSocket::bind((address, 123)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let fake = Self { ends: Arc::default(), source_ports: Arc::default() };
        let (ends, source_ports) = (Arc::clone(&fake.ends), Arc::clone(&fake.source_ports));
        thread::spawn(move || {
            let mut request = [0; 64];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut request) {
                    source_ports.lock().unwrap().push(client.port());
                    let _lost = socket.send_to(&answer(&request[..length]), client);
                }
            }
        });
        fake
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// A kiss of death.
fn kiss(code: [u8; 4]) -> fn(&[u8]) -> Vec<u8> {
    match &code {
        b"DENY" => |request| answer_to(request, 0xe4, 0, *b"DENY"),
        _ => |request| answer_to(request, 0xe4, 0, *b"RATE"),
    }
}

/// Kisses and times from somebody who has not seen the request.
fn forgery(request: &[u8]) -> Vec<u8> {
    let mut answer = answer_to(request, 0xe4, 0, *b"DENY");
    answer[24] ^= 1;
    answer
}

fn answer_to(request: &[u8], first: u8, stratum: u8, reference: [u8; 4]) -> Vec<u8> {
    let mut answer = vec![0; 48];
    answer[..2].copy_from_slice(&[first, stratum]);
    answer[12..16].copy_from_slice(&reference);
    answer[24..32].copy_from_slice(&request[40..48]);
    answer
}
