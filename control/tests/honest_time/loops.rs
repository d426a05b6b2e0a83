//! A server that hears itself, by its own addresses or through another server, hears nothing new.

use super::dead::expect_growth;
use super::*;

/// The server's addresses. The third one is a second address of its network; the lab's server has to be given it.
const OWN: [&str; 5] = ["10.77.0.1", "fd77::1", SECOND, "127.0.0.1", "::1"];
const SECOND: &str = "10.77.0.9";
const LOOP: Duration = Duration::from_secs(30);

pub(super) fn plays() -> Vec<NamedPlay> {
    let mut plays: Vec<NamedPlay> = vec![
        ("own addresses beside real ones".into(), Box::new(beside_real_ones)),
        ("own addresses alone".into(), Box::new(alone)),
        ("an address that becomes the server's own".into(), Box::new(an_address_becomes_ours)),
    ];
    for own in OWN {
        plays.push((format!("{own} beside a real one"), Box::new(move || beside_a_real_one(own))));
    }
    for ours in [OWN[0], OWN[1], SECOND] {
        let play = move || through_another_server(ours.parse().unwrap());
        plays.push((format!("through another server, which asks {ours}"), Box::new(play)));
    }
    plays
}

fn own() -> Vec<IpAddr> {
    OWN.iter().map(|own| own.parse().unwrap()).collect()
}

fn lab() -> Lab {
    let lab = Lab::up(&[]);
    lab.ip("server", &format!("address add {SECOND}/24 dev lan0"));
    lab
}

/// A daemon that does not even start with such a configuration does what is asked for.
fn is_refused(lab: &Lab, config: &str) -> bool {
    let file = lab.file("to-be-checked.toml", config);
    let checked = lab.pooltime("server", &["config", "check", file.to_str().unwrap()]);
    checked.code() != Some(0) && OWN.iter().any(|own| checked.stderr.contains(own))
}

#[track_caller]
fn expect_no_own_reference(verdict: &Verdict) {
    for own in own() {
        verdict
            .expect(!verdict.names(reference_id(own)), &format!("no answer to name {own}, the server's own"));
    }
}

fn beside_real_ones() {
    let lab = lab();
    let (running, real) = upstreams(&lab, vec![Conduct::exact(); 2]);
    let config = config("", SHORT_POLLS, &[own(), real].concat());
    if is_refused(&lab, &config) {
        return;
    }
    let play = Play::begin(&lab, &config);
    play.wait_until_synchronised();
    sleep(POLL);
    vanish(&running);
    sleep(Duration::from_secs(1));
    play.phase("the real ones are gone", LOOP);
    play.end(|verdict| {
        let before = verdict.during("ready");
        before.expect(before.right() > 0, "the real ones to be followed");
        expect_no_own_reference(verdict);
        expect_growth(&verdict.since("the real ones are gone"));
    });
}

/// With a single vote for the truth.
fn beside_a_real_one(own: &str) {
    let lab = lab();
    let (running, real) = upstreams(&lab, [Conduct::exact()]);
    let config = config("min_sources = 1", SHORT_POLLS, &[vec![own.parse().unwrap()], real].concat());
    if is_refused(&lab, &config) {
        return;
    }
    let play = Play::begin(&lab, &config);
    play.wait_until_synchronised();
    sleep(POLL);
    running[0].vanish();
    sleep(Duration::from_secs(1));
    play.phase("the real one is gone", LOOP);
    play.end(|verdict| {
        expect_no_own_reference(verdict);
        expect_growth(&verdict.since("the real one is gone"));
    });
}

fn alone() {
    let lab = lab();
    let config = config("min_sources = 1", SHORT_POLLS, &own());
    if is_refused(&lab, &config) {
        return;
    }
    let play = Play::begin(&lab, &config);
    sleep(LOOP);
    play.end(|verdict| verdict.expect(verdict.first_synchronised().is_none(), "no synchronised answer"));
}

/// Nobody has the address at first.
fn an_address_becomes_ours() {
    let lab = Lab::up(&[]);
    let (running, real) = upstreams(&lab, vec![Conduct::exact(); 2]);
    let addresses = [real, vec![SECOND.parse().unwrap()]].concat();
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    lab.ip("server", &format!("address add {SECOND}/24 dev lan0"));
    sleep(POLL);
    vanish(&running);
    sleep(Duration::from_secs(1));
    play.phase("the real ones are gone", LOOP);
    play.end(|verdict| {
        expect_no_own_reference(verdict);
        expect_growth(&verdict.since("the real ones are gone"));
    });
}

/// An upstream that has no other source than our server, and a clock that drifts by less than it claims.
fn through_another_server(ours: IpAddr) {
    let lab = lab();
    let scripts =
        vec![Conduct::exact(), Conduct::exact(), Conduct { leap: 3, stratum: 16, ..Conduct::exact() }];
    let (running, addresses) = upstreams(&lab, scripts);
    running[2].change(|conduct| conduct.drift = 12e-6);
    let interval = Duration::from_secs(2);
    running[2].follow(Following { server: (ours, 123).into(), interval, notices_loops: true });
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST + POLL);
    vanish(&running[..2]);
    sleep(Duration::from_secs(1));
    play.phase("a loop", LOOP);
    play.end(|verdict| {
        let before = verdict.during("ready");
        before.expect(before.right() > 0, "the real ones to be followed");
        verdict.expect(!verdict.names(running[2].reference_id()), "no answer to name one that follows us");
        expect_growth(&verdict.since("a loop"));
    });
}
