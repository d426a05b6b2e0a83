//! The server beside a chronyd that serves, too: chronyd has port 123, and each answers what docs/beside-chrony.md says.

mod chronyd;
mod nts;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use control::sys::kernel_clock::{KernelClock as _, Machine};
use nix::sys::signal::Signal;
use responder::verdict::{Family, Verdict};
use testlab::upstreams::{NETWORK, Upstreams, address, give_addresses};
use testlab::wire::{PORT, Wire, is_answer, request};
use testlab::{Lab, PATIENCE, Server, Tally, not_run, wait_for};

use chronyd::{Chronyd, Client, Tools};

/// The server without what is to be taken over of chronyd's configuration.
const CONFIG: &str = "interfaces = [\"lan0\"]\n[metrics]\nlisten = []\n";
const SERVER: &str = "10.77.0.1";
/// An address of a client that chronyd denies.
const DENIED: &str = "10.77.0.66";
/// How long to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// chronyd's configuration beside its upstream.
const ALLOW: &str = "allow 10.77.0.0/24\nallow fd77::/64\n";
/// Set in `status` of adjtimex(2) while the kernel's clock counts as not synchronised.
const STA_UNSYNC: i32 = 0x40;

/// The lab's network with an upstream, and chronyd on the host `server` before any server of ours.
fn network<'lab>(lab: &'lab Lab, tools: &Tools) -> Upstreams<'lab> {
    give_addresses(lab, 4);
    lab.ip("client", &format!("address add {DENIED}/24 dev lan0"));
    Upstreams::start(lab, &tools.chronyd)
}

/// Starts ours, and waits until it serves what chronyd has told it.
fn ours(lab: &Lab) -> Server<'_> {
    let server = lab.server(CONFIG, &[]);
    wait_for("the server to be synchronised", || server.status().clock.synchronised.then_some(()));
    server
}

/// Whether a plain request from this address is answered, within the time.
fn is_answered(lab: &Lab, from: &str, patience: Duration) -> bool {
    lab.inside("client", || {
        let from: IpAddr = from.parse().unwrap();
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(&request(4, 0x5eed), (SERVER, PORT)).unwrap();
        let mut answer = [0; 256];
        socket.recv(&mut answer).is_ok_and(|length| is_answer(&answer[..length], 4, 0x5eed))
    })
}

fn answered(packets: u64) -> Tally {
    Tally::of([(Verdict::Answered, Family::Ipv4, 4, packets)])
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn plain_requests_are_answered_in_the_nic_path_and_keyed_ones_by_chronyd_with_its_key() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let chronyd = Chronyd::start(&lab, &tools, &format!("{ALLOW}{}", chronyd::keyfile(&lab)));
    let server = ours(&lab);
    let status = server.status();
    let holder = status.userspace_path.iter().find_map(|path| path.failure.as_ref()).unwrap();
    assert!(holder.contains("chronyd"), "{holder}");

    let (before, known) = (Tally::of_program(&status), chronyd.statistics());
    for _ in 0..5 {
        assert!(is_answered(&lab, "10.77.0.2", PATIENCE));
    }
    assert_eq!(Tally::of_program(&server.status()) - before, answered(5));
    assert_eq!(chronyd.statistics(), known, "chronyd counts nothing of this");

    let wire = Wire::tap(&lab, "client", "lan0");
    let before = Tally::of_program(&server.status());
    // It takes only answers with a MAC of this key for answers.
    let said = Client::of(&lab, &tools).ask(&format!("server {SERVER} key 1 iburst maxsamples 1"));
    assert!(said.is_synchronised, "{said:?}");
    let passed = Tally::of_program(&server.status()) - before;
    let keyed = passed.packets(Verdict::PassLong);
    assert!(keyed >= 1 && passed.packets(Verdict::Answered) == 0, "{passed:?}");
    let now = chronyd.statistics();
    assert_eq!(now.received - known.received, keyed);
    assert_eq!(now.authenticated - known.authenticated, keyed);
    let answers = wire.answers();
    // 48 bytes, the number of the key, and a digest of 32 bytes.
    assert!(answers.iter().any(|answer| answer.payload.len() == 84), "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.payload[48..52] == 1_u32.to_be_bytes()), "{answers:#?}");

    // Who asks for interleaved answers takes plain ones.
    let before = Tally::of_program(&server.status());
    let said = Client::of(&lab, &tools).ask(&format!("server {SERVER} xleave iburst maxsamples 1"));
    assert!(said.is_synchronised, "{said:?}");
    let counted = Tally::of_program(&server.status()) - before;
    assert!(
        counted.packets(Verdict::Answered) >= 1 && counted.packets(Verdict::PassLong) == 0,
        "{counted:?}"
    );

    // A key that chronyd does not have is no way around it.
    let stranger = Client::of(&lab, &tools).with_key("2 SHA256 HEX:00112233445566778899aabbccddeeff");
    assert!(!stranger.ask(&format!("server {SERVER} key 2 iburst maxsamples 1")).is_synchronised);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_chronyd_that_serves_nobody_leaves_the_port_and_keys_are_of_no_use() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let _chronyd = Chronyd::start(&lab, &tools, &chronyd::keyfile(&lab));
    let server = ours(&lab);
    let status = server.status();
    assert!(status.userspace_path.iter().all(|path| path.failure.is_none()), "{:#?}", status.userspace_path);
    assert!(is_answered(&lab, "10.77.0.2", PATIENCE));
    let before = Tally::of_sockets(&server.status());
    let said = Client::of(&lab, &tools).ask(&format!("server {SERVER} key 1 iburst maxsamples 1"));
    assert!(!said.is_synchronised, "there is no MAC in the answers: {said:?}");
    assert!((Tally::of_sockets(&server.status()) - before).packets(Verdict::Answered) >= 1);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_chronyd_denies_is_answered_until_its_rules_are_taken_over() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let rules = format!("{ALLOW}deny {DENIED}\nratelimit interval -2 burst 16\n{}", chronyd::keyfile(&lab));
    let chronyd = Chronyd::start(&lab, &tools, &rules);
    assert!(is_answered(&lab, "10.77.0.2", PATIENCE) && !is_answered(&lab, DENIED, SILENCE));
    let server = ours(&lab);
    assert!(is_answered(&lab, DENIED, PATIENCE), "the rules are chronyd's own");
    // For what it answers itself they hold.
    let keyed = format!("server {SERVER} key 1 iburst maxsamples 1");
    let client = || Client::of(&lab, &tools);
    assert!(client().ask(&keyed).is_synchronised);
    assert!(!client().with(&format!("bindacqaddress {DENIED}\n")).ask(&keyed).is_synchronised);

    let imported = server.command(&["import", "--beside", "--interface", "lan0", &chronyd.config()]);
    assert!(imported.stderr.lines().count() == 1, "nothing is left out: {imported:#?}");
    let imported = imported.expect_success();
    for part in ["source = \"system\"", "\"10.77.0.66/32\"", "\"0.0.0.0/0\"", "burst = 16"] {
        assert!(imported.contains(part), "{part}: {imported}");
    }
    lab.file("server.toml", &format!("{imported}\n[metrics]\nlisten = []\n"));
    server.signal(Signal::SIGHUP);
    wait_for("the rules to be in force", || {
        server.command(&["access", "list"]).stdout.contains("10.77.0.66").then_some(())
    });
    let before = Tally::of_program(&server.status());
    assert!(!is_answered(&lab, DENIED, SILENCE) && is_answered(&lab, "10.77.0.2", PATIENCE));
    let counted = Tally::of_program(&server.status()) - before;
    let denied =
        Tally::of([(Verdict::DropDenied, Family::Ipv4, 4, 1), (Verdict::Answered, Family::Ipv4, 4, 1)]);
    assert_eq!(counted, denied);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn peers_of_chronyd_reach_it_only_if_their_mode_is_left_to_it() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let chronyd = Chronyd::start(&lab, &tools, &format!("{ALLOW}peer {NETWORK}.50 minpoll 0 maxpoll 0\n"));
    lab.ip("client", &format!("address add {NETWORK}.50/24 dev lan0"));
    let _peer = chronyd::peer(&lab, &tools, &format!("{NETWORK}.50"), SERVER);
    wait_for("the peer to be heard", || (chronyd.reach(&format!("{NETWORK}.50")) != 0).then_some(()));

    let server = ours(&lab);
    wait_for("the peer to be heard no more", || (chronyd.reach(&format!("{NETWORK}.50")) == 0).then_some(()));
    let imported = server.command(&["import", "--beside", "--interface", "lan0", &chronyd.config()]);
    assert!(imported.stdout.contains("symmetric = false"), "{imported:#?}");
    lab.file("server.toml", &format!("{}\n[metrics]\nlisten = []\n", imported.expect_success()));
    server.signal(Signal::SIGHUP);
    wait_for("the peer to be heard again", || (chronyd.reach(&format!("{NETWORK}.50")) != 0).then_some(()));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_rtcsync_chronyds_own_word_counts_and_nothing_is_left_when_it_ends() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    // A chronyd that leaves the clock alone tells the kernel nothing, as one without `rtcsync`.
    if Machine.discipline().unwrap().status & STA_UNSYNC == 0 {
        return not_run("this machine's clock is synchronised, by the kernel's word");
    }
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let mut chronyd = Chronyd::start(&lab, &tools, ALLOW);
    let server = ours(&lab);
    let clock = server.status().clock;
    assert_eq!((clock.stratum, clock.reference), (2, address(0)));
    let found = server.command(&["doctor"]).stdout;
    assert!(
        found.contains("chronyd says that the clock is synchronised") && found.contains("rtcsync"),
        "{found}"
    );
    chronyd.end();
    let clock = wait_for("the server to be unsynchronised", || {
        Some(server.status().clock).filter(|clock| !clock.synchronised)
    });
    assert!(
        clock.reason.as_ref().is_some_and(|reason| reason.starts_with("the kernel's clock")),
        "{clock:#?}"
    );
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn when_the_program_is_off_the_interface_chronyd_answers_everything_again() {
    let Some(tools) = Tools::find() else { return not_run("chronyd or chronyc is not there") };
    let lab = Lab::up(&[]);
    let _upstreams = network(&lab, &tools);
    let chronyd = Chronyd::start(&lab, &tools, ALLOW);
    let mut server = ours(&lab);
    let known = chronyd.statistics();
    assert!(is_answered(&lab, "10.77.0.2", PATIENCE));
    assert!(server.stop().success());
    assert!(is_answered(&lab, "10.77.0.2", PATIENCE), "the program is there without its daemon");
    assert_eq!(chronyd.statistics(), known);
    server.command(&["detach"]).expect_success();
    assert!(is_answered(&lab, "10.77.0.2", PATIENCE));
    assert_eq!(chronyd.statistics().received, known.received + 1);
}
