//! The server never believes itself: its own addresses are no upstreams, and who takes the time from it is not
//! followed.

use std::fmt::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use control::status::sources::{Peer, Peers};
use protocol::reference_id;
use responder::clock::NtpTimestamp;
use testlab::upstreams::{address, give_addresses};
use testlab::{Lab, Server, wait_for};

// Of sysexits.h.
const EX_CONFIG: i32 = 78;
const CLOCK: &str =
    "interfaces = [\"lan0\"]\n[metrics]\nlisten = []\n[clock]\nsource = \"upstream\"\nsteer = false\n";

/// A configuration with these upstreams, which are asked every 8 s.
fn config(clock: &str, upstreams: &[String]) -> String {
    let mut text = clock.to_owned();
    for upstream in upstreams {
        writeln!(text, "[[upstream]]\naddress = \"{upstream}\"\nminpoll = 3\nmaxpoll = 3").unwrap();
    }
    text
}

fn peers(server: &Server<'_>) -> Vec<Peer> {
    let said = server.command(&["peers", "--json"]).expect_success();
    serde_json::from_str::<Peers>(&said).expect(&said).peers
}

fn trouble(peer: &Peer) -> &str {
    peer.trouble.as_deref().unwrap_or_default()
}

/// A server on the host `client` that has the machine's time and says that it has it from this reference.
struct Fake {
    ends: Arc<AtomicBool>,
}

impl Fake {
    fn start(lab: &Lab, address: &str, stratum: u8, reference: &str) -> Self {
        let reference = reference_id(reference.parse::<IpAddr>().unwrap());
        let socket = lab.inside("client", || UdpSocket::bind((address, 123)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let fake = Self { ends: Arc::default() };
        let ends = Arc::clone(&fake.ends);
        thread::spawn(move || {
            let mut request = [0; 64];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((48, client)) = socket.recv_from(&mut request) {
                    let _lost = socket.send_to(&answer(&request, stratum, reference), client);
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

fn answer(request: &[u8], stratum: u8, reference: u32) -> [u8; 48] {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = NtpTimestamp::from_unix(now.as_secs().cast_signed(), now.subsec_nanos()).0.to_be_bytes();
    let mut answer = [0; 48];
    answer[..4].copy_from_slice(&[0x24, stratum, 3, (-20_i8).cast_unsigned()]);
    answer[12..16].copy_from_slice(&reference.to_be_bytes());
    for place in [16, 32, 40] {
        answer[place..place + 8].copy_from_slice(&now);
    }
    answer[24..32].copy_from_slice(&request[40..48]);
    answer
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn own_addresses_are_refused_everywhere_and_an_upstream_that_becomes_one_is_dropped_at_once() {
    let lab = Lab::up(&[]);
    give_addresses(&lab, 3);
    let _fakes = [0, 1, 2].map(|number| Fake::start(&lab, &address(number), 1, "192.0.2.1"));
    let own = ["10.77.0.1".into(), "fd77::1".into()];
    let others = [0, 1, 2].map(address);
    let text = config(CLOCK, &[&own[..], &others].concat());
    let file = lab.file("checked.toml", &text);
    let file = file.to_str().unwrap();

    let said = lab.pooltime("server", &["config", "check", file]).expect_code(EX_CONFIG);
    assert!(
        said.contains("line 8: upstream 1: `10.77.0.1` is an address of this host itself")
            && said.contains("name another server"),
        "{said}"
    );
    // On another host it is right.
    lab.pooltime("client", &["config", "check", file]).expect_code(EX_CONFIG);
    let elsewhere = lab.file("elsewhere.toml", &config(CLOCK, &own));
    lab.pooltime("client", &["config", "check", elsewhere.to_str().unwrap()]).expect_success();

    let probe =
        ["upstream", "probe", "--count", "1", "10.77.0.1", "::ffff:10.77.0.1", "fd77::1", "localhost"];
    let said = lab.pooltime("server", &[&probe[..], &[&others[0]]].concat()).expect_success();
    assert_eq!(said.matches("[[upstream]]").count(), 1, "{said}");
    assert!(said.contains(&format!("address = \"{}\"", others[0])), "{said}");
    assert!(said.contains("# fd77::1: left out: it is an address of this host itself"), "{said}");
    assert!(said.contains("# localhost: left out: it is a loopback address"), "{said}");

    let chrony =
        lab.file("chrony.conf", &format!("server fd77::1\nserver 127.0.0.1\nserver {}\n", others[0]));
    let imported = lab.pooltime("server", &["import", "--format", "chrony", chrony.to_str().unwrap()]);
    assert!(imported.stderr.contains(":1: server fd77::1: refused: "), "{imported:#?}");
    assert!(imported.stderr.contains(":2: server 127.0.0.1: refused: "), "{imported:#?}");
    let imported = lab.file("imported.toml", &imported.expect_success());
    lab.pooltime("server", &["config", "check", imported.to_str().unwrap()]).expect_success();

    let server = lab.server(&text, &[]);
    wait_for("the others to be followed", || server.status().clock.synchronised.then_some(()));
    for peer in &peers(&server)[..2] {
        assert_eq!((peer.requests, peer.address.as_ref()), (0, None), "{peer:#?}");
        assert!(trouble(peer).contains("is an address of this host itself: it is not asked"), "{peer:#?}");
    }
    let said = server.command(&["peers"]).expect_success();
    assert!(said.contains("\nfd77::1: fd77::1 is an address of this host itself"), "{said}");
    let doctor = lab.pooltime("server", &["doctor", "--json", "--config", file]);
    assert!(doctor.stdout.contains("\"upstream-own\"") && doctor.stdout.contains("editor "), "{doctor:#?}");

    // The address of an upstream moves here and away again.
    let moving = &others[2];
    lab.ip("server", &format!("address add {moving}/32 dev lo"));
    let dropped = wait_for("the upstream to be dropped", || {
        peers(&server).into_iter().nth(4).filter(|peer| peer.address.is_none())
    });
    assert!(trouble(&dropped).starts_with(&format!("{moving} is an address of this host")), "{dropped:#?}");
    assert!(server.log().contains(trouble(&dropped)), "{}", server.log());
    assert!(server.status().clock.synchronised, "two others are left");
    lab.ip("server", &format!("address del {moving}/32 dev lo"));
    let back = wait_for("the upstream to come back", || {
        peers(&server).into_iter().nth(4).filter(|peer| peer.answers > dropped.answers)
    });
    assert_eq!((back.trouble, back.association), (None, dropped.association));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn who_takes_the_time_from_any_address_of_this_host_is_a_loop() {
    let lab = Lab::up(&[]);
    // Each is asked from an address of lan0, whatever it names.
    give_addresses(&lab, 7);
    lab.ip("server", "address add 10.99.0.1/32 dev lo");
    lab.ip("server", "address add fd99::1/128 dev lo");
    let references: [(u8, &str, bool); 7] = [
        (2, "10.77.0.1", true),
        (2, "10.99.0.1", true),
        (3, "fd77::1", true),
        (3, "fd99::1", true),
        (3, "2001:db8::53", true),
        (1, "10.77.0.1", false),
        (2, "192.0.2.1", false),
    ];
    let addresses: Vec<String> = (0..7).map(address).collect();
    let _fakes: Vec<Fake> = references
        .iter()
        .zip(&addresses)
        .map(|((stratum, reference, _), address)| Fake::start(&lab, address, *stratum, reference))
        .collect();
    let server = lab.server(&format!("serve = [\"2001:db8::53\"]\n{}", config(CLOCK, &addresses)), &[]);
    let told = wait_for("all of them to answer", || {
        let rejects = |peer: &Peer| peer.rejected.get("loop").is_some_and(|count| *count > 0);
        Some(peers(&server)).filter(|peers| peers.iter().all(|peer| peer.answers > 0 || rejects(peer)))
    });
    for (peer, (_, reference, is_loop)) in told.iter().zip(&references) {
        assert_eq!(
            (peer.answers == 0, peer.rejected.contains_key("loop")),
            (*is_loop, *is_loop),
            "{peer:#?}"
        );
        assert_eq!(trouble(peer).contains("synchronised to this host"), *is_loop, "{reference}: {peer:#?}");
    }
    let said = lab.pooltime("server", &["query", &addresses[3]]).expect_success();
    assert!(said.contains("which is this host: a loop"), "{said}");
    let said = lab.pooltime("server", &["upstream", "probe", "--count", "1", &addresses[2], &addresses[6]]);
    let said = said.expect_success();
    assert!(
        said.contains(&format!("# {}: left out: the server is synchronised to this host", addresses[2])),
        "{said}"
    );

    // The set follows the interfaces.
    lab.ip("server", "address add 192.0.2.1/32 dev lo");
    wait_for("the last one to be a loop", || {
        peers(&server)[6].rejected.get("loop").is_some_and(|count| *count > 0).then_some(())
    });
}
