//! Faults of the upstreams, and of the names by which they are found.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use testlab::fake_upstream::{Conduct, Reply};

use crate::fault::Promise::{Honest, Unharmed};
use crate::fault::{Fault, PLAIN, Setup};
use crate::name_server::Says;
use crate::scene::{Scene, Stage};

/// Long enough that each upstream is asked twice: polls are 8 s apart.
const TWO_POLLS: Duration = Duration::from_secs(18);
const NAMES: Setup = Setup { names: true, ..PLAIN };
/// With a limit that the error bound reaches within seconds once it has no news.
const NARROW: Setup = Setup { clock: "max_error_ms = 1", ..PLAIN };

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, promise, setup, play| Fault { name, what, promise, setup, play };
    vec![
        fault("upstreams-cut", "all are silent for 18 s", Unharmed, PLAIN, |scene| cut(&mut scene.stage())),
        fault(
            "upstreams-cut-to-the-limit",
            "all are silent until the error bound is above its limit",
            Honest,
            NARROW,
            |scene| cut_to_the_limit(&mut scene.stage()),
        ),
        fault("upstreams-lie", "one is 0.3 s wrong for 18 s", Unharmed, PLAIN, |scene| {
            one_lies(&mut scene.stage())
        }),
        fault(
            "upstreams-lie-beyond-the-limit",
            "one is 100 s wrong for 18 s, more than the largest error bound",
            Honest,
            PLAIN,
            |scene| one_lies_much(&mut scene.stage()),
        ),
        fault(
            "upstreams-lie-together",
            "two of four are wrong by the same 0.3 s for 18 s",
            Honest,
            PLAIN,
            |scene| two_lie(&mut scene.stage()),
        ),
        fault("upstreams-flap", "each comes and goes, twice a second for 18 s", Unharmed, PLAIN, |scene| {
            flap(&mut scene.stage())
        }),
        fault("upstreams-deny", "all send DENY for 18 s", Unharmed, PLAIN, |scene| deny(&mut scene.stage())),
        fault("upstreams-rate", "all send RATE for 18 s", Unharmed, PLAIN, |scene| rate(&mut scene.stage())),
        fault("upstreams-unsynchronised", "all lose their time for 18 s", Unharmed, PLAIN, |scene| {
            unsynchronised(&mut scene.stage())
        }),
        fault(
            "upstreams-slow",
            "all answer 0.4 s late, in one direction, for 18 s",
            Unharmed,
            PLAIN,
            |scene| slow(&mut scene.stage()),
        ),
        fault("names-dead", "the name server is silent for 18 s", Unharmed, NAMES, names_dead),
        fault(
            "names-dead-at-start",
            "the name server is silent while the daemon is restarted",
            Unharmed,
            NAMES,
            names_dead_at_start,
        ),
        fault(
            "names-unknown",
            "the name server knows no names while the daemon is restarted",
            Unharmed,
            NAMES,
            names_unknown,
        ),
        fault(
            "names-lie",
            "the name server gives our own address and others, and the upstreams are silent",
            Unharmed,
            NAMES,
            names_lie,
        ),
    ]
}

/// All change their conduct, and after a time they are exact again.
fn for_two_polls(stage: &Stage<'_>, change: impl Fn(&mut Conduct)) -> Result<(), String> {
    stage.all_upstreams(change);
    sleep(TWO_POLLS);
    stage.all_upstreams(|conduct| *conduct = Conduct::exact());
    Ok(())
}

pub(crate) fn cut(stage: &mut Stage<'_>) -> Result<(), String> {
    for_two_polls(stage, |conduct| conduct.reply = Reply::Silence)
}

pub(crate) fn cut_to_the_limit(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.all_upstreams(|conduct| conduct.root_dispersion_s = 0.000_8);
    sleep(TWO_POLLS);
    for_two_polls(stage, |conduct| conduct.reply = Reply::Silence)
}

pub(crate) fn one_lies(stage: &mut Stage<'_>) -> Result<(), String> {
    one_is_wrong_by(stage, 0.3)
}

/// What it says may be a jump of the local clock until the others have been asked again.
pub(crate) fn one_lies_much(stage: &mut Stage<'_>) -> Result<(), String> {
    one_is_wrong_by(stage, 100.0)
}

fn one_is_wrong_by(stage: &Stage<'_>, error_s: f64) -> Result<(), String> {
    stage.upstreams[0].change(|conduct| conduct.error_s = error_s);
    sleep(TWO_POLLS);
    stage.upstreams[0].change(|conduct| conduct.error_s = 0.0);
    Ok(())
}

pub(crate) fn two_lie(stage: &mut Stage<'_>) -> Result<(), String> {
    for upstream in &stage.upstreams[..2] {
        upstream.change(|conduct| conduct.error_s = 0.3);
    }
    sleep(TWO_POLLS);
    stage.all_upstreams(|conduct| *conduct = Conduct::exact());
    Ok(())
}

pub(crate) fn flap(stage: &mut Stage<'_>) -> Result<(), String> {
    for number in 0..72_usize {
        stage.upstreams[number % 4].vanish();
        stage.upstreams[(number + 1 + number / 7) % 4].come_back();
        sleep(TWO_POLLS / 72);
    }
    stage.all_upstreams(|conduct| *conduct = Conduct::exact());
    Ok(())
}

pub(crate) fn deny(stage: &mut Stage<'_>) -> Result<(), String> {
    for_two_polls(stage, |conduct| conduct.reply = Reply::Kiss(*b"DENY"))
}

pub(crate) fn rate(stage: &mut Stage<'_>) -> Result<(), String> {
    for_two_polls(stage, |conduct| conduct.reply = Reply::Kiss(*b"RATE"))
}

pub(crate) fn unsynchronised(stage: &mut Stage<'_>) -> Result<(), String> {
    for_two_polls(stage, Conduct::lose_synchronisation)
}

pub(crate) fn slow(stage: &mut Stage<'_>) -> Result<(), String> {
    for_two_polls(stage, |conduct| conduct.back = Duration::from_millis(400))
}

fn names_dead(scene: &mut Scene<'_>) -> Result<(), String> {
    say_for(scene, Says::Nothing, TWO_POLLS);
    Ok(())
}

fn names_dead_at_start(scene: &mut Scene<'_>) -> Result<(), String> {
    restart_while(scene, Says::Nothing);
    Ok(())
}

fn names_unknown(scene: &mut Scene<'_>) -> Result<(), String> {
    restart_while(scene, Says::NoSuchName);
    Ok(())
}

fn names_lie(scene: &mut Scene<'_>) -> Result<(), String> {
    let names = scene.names.as_ref().expect("names");
    for lie in ["10.77.0.1", "127.0.0.1", "192.0.2.1", "255.255.255.255"] {
        names.lie(|_| lie.parse::<IpAddr>().unwrap());
        for upstream in &scene.upstreams {
            upstream.vanish();
        }
        sleep(TWO_POLLS / 4);
    }
    say_for(scene, truth(scene), Duration::ZERO);
    scene.stage().all_upstreams(|conduct| *conduct = Conduct::exact());
    Ok(())
}

fn truth(scene: &Scene<'_>) -> Says {
    Says::Addresses(scene.upstreams.iter().map(testlab::fake_upstream::FakeUpstream::address).collect())
}

/// The name server says this for a time, and then the truth.
fn say_for(scene: &Scene<'_>, says: Says, time: Duration) {
    let names = scene.names.as_ref().expect("names");
    names.say(says);
    sleep(time);
    names.say(truth(scene));
}

/// A restart in the middle of ten seconds, half of the horizon, in which the name server says this.
fn restart_while(scene: &mut Scene<'_>, says: Says) {
    scene.names.as_ref().expect("names").say(says);
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    scene.server.restart();
    sleep(Duration::from_secs(5));
    scene.names.as_ref().expect("names").say(truth(scene));
}
