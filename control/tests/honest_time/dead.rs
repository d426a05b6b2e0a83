//! Upstreams that die, or lose their own time: what they said does not live on.

use testlab::oracle::Answer;

use super::*;

/// After so many requests without an answer an upstream is unreachable, and then some.
const UNREACHABLE: Duration = Duration::from_secs(8 * POLL.as_secs() + 6);

pub(super) fn plays() -> Vec<NamedPlay> {
    let mut plays: Vec<NamedPlay> = vec![
        ("the best one vanishes".into(), Box::new(the_best_one_vanishes)),
        ("the best one loses its time".into(), Box::new(the_best_one_loses_its_time)),
        ("all vanish".into(), Box::new(all_vanish)),
        ("all vanish, with a limit".into(), Box::new(all_vanish_with_a_limit)),
    ];
    for ours in ["10.77.0.1", "10.77.0.9", "fd77::1"] {
        let play = move || two_follow_each_other(ours.parse().unwrap());
        plays.push((format!("two follow each other, over {ours}"), Box::new(play)));
    }
    plays
}

/// The others drift away together, but not further than they claim.
fn the_best_one_vanishes() {
    let lab = Lab::up(&[]);
    let conducts = [
        Conduct::exact(),
        Conduct::coarse(0.0, 0.03),
        Conduct::coarse(0.0, 0.03),
        Conduct::coarse(0.0, 0.03),
    ];
    let (running, addresses) = upstreams(&lab, conducts);
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    running[0].vanish();
    for other in &running[1..] {
        other.change(|conduct| conduct.drift = 250e-6);
    }
    play.phase("gone", UNREACHABLE);
    play.phase("forgotten", Duration::from_secs(5));
    play.end(|verdict| {
        let before = verdict.during("ready");
        before.expect(before.names(running[0].reference_id()), "the best one to be followed at first");
        let forgotten = verdict.since("forgotten");
        forgotten.expect(forgotten.right() > 0, "the others to be followed");
        forgotten.expect(!forgotten.names(running[0].reference_id()), "another reference");
        forgotten.expect(forgotten.strata() == [3], "stratum 3, one more than the others'");
        let bound_s = |verdict: &Verdict| verdict.synchronised().next_back().unwrap().bound_s();
        verdict.expect(bound_s(&forgotten) > bound_s(&before), "a larger bound without the best one");
    });
}

fn the_best_one_loses_its_time() {
    let lab = Lab::up(&[]);
    let other = Conduct::coarse(0.001, 0.005);
    let (running, addresses) = upstreams(&lab, [Conduct::exact(), other.clone(), other.clone(), other]);
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    running[0].change(|conduct| {
        conduct.lose_synchronisation();
        conduct.drift = 500e-6;
    });
    play.phase("unsynchronised", 5 * POLL / 2);
    play.phase("not followed", Duration::from_secs(10));
    // It comes back with a time that is none.
    running[0].change(|conduct| *conduct = Conduct { error_s: 2.0, ..Conduct::exact() });
    play.phase("a liar", 2 * POLL);
    play.end(|verdict| {
        let (unfollowed, last) = (verdict.since("not followed"), verdict.since("a liar"));
        unfollowed.expect(unfollowed.right() > 0, "the others to be followed");
        unfollowed.expect(!unfollowed.names(running[0].reference_id()), "another reference");
        unfollowed.expect(unfollowed.strata() == [3], "stratum 3, one more than the others'");
        last.expect(last.unsynchronised() == 0, "the three others to be believed");
    });
}

fn all_vanish() {
    let lab = Lab::up(&[]);
    let (running, addresses) = upstreams(&lab, vec![Conduct::exact(); 4]);
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    vanish(&running);
    // An answer may be under way.
    sleep(Duration::from_secs(1));
    play.phase("gone", UNREACHABLE);
    play.end(|verdict| expect_growth(&verdict.since("gone")));
}

/// A single answer tells nothing of the frequency, so that the bound grows fast.
fn all_vanish_with_a_limit() {
    let lab = Lab::up(&[]);
    let (running, addresses) = upstreams(&lab, vec![Conduct::exact(); 4]);
    let play =
        Play::begin(&lab, &config("max_error_ms = 5", &format!("{SHORT_POLLS}iburst = false\n"), &addresses));
    play.wait_until_synchronised();
    sleep(Duration::from_millis(500));
    vanish(&running);
    play.phase("gone", Duration::from_secs(25));
    play.phase("the end", Duration::from_secs(2));
    for upstream in &running {
        upstream.come_back();
    }
    play.phase("back", 3 * POLL);
    play.end(|verdict| {
        let largest_s = verdict.synchronised().map(Answer::bound_s).fold(0.0, f64::max);
        verdict.expect(largest_s < 0.005_2, &format!("no bound above 5 ms, as there is {largest_s}"));
        let end = verdict.during("the end");
        end.expect(end.unsynchronised() > 0 && end.first_synchronised().is_none(), "the gate to be closed");
        let back = verdict.since("back");
        back.expect(back.right() > 0, "the gate to open again");
    });
}

/// A server that has had the same source as ours takes its time from ours when that is gone, and ours from it. Its
/// own clock drifts by less than what it claims.
fn two_follow_each_other(ours: IpAddr) {
    let lab = Lab::up(&[]);
    lab.ip("server", "address add 10.77.0.9/24 dev lan0");
    // The way to the other one is longer: ours must name the source, or the other one notices the loop and follows nobody.
    let way = Duration::from_micros(500);
    let conducts = [Conduct::exact(), Conduct { there: way, back: way, ..Conduct::exact() }];
    let (running, addresses) = upstreams(&lab, conducts);
    let [source, other] = &running[..] else { unreachable!("two") };
    let following = Following {
        server: source.socket_address(),
        interval: Duration::from_millis(500),
        notices_loops: true,
    };
    other.follow(following);
    let play = Play::begin(&lab, &config("", SHORT_POLLS, &addresses));
    sleep(BURST);
    source.vanish();
    other.change(|conduct| conduct.drift = 12e-6);
    other.follow(Following { server: (ours, 123).into(), ..following });
    // What it heard of the source may still reach ours until it has asked ours.
    sleep(Duration::from_secs(3));
    play.phase("a loop", UNREACHABLE);
    play.end(|verdict| {
        let looping = verdict.since("a loop");
        looping.expect(
            looping.names(source.reference_id()),
            "the source to be named, so that the other one follows ours",
        );
        expect_growth(&looping);
    });
}

/// Without news the bound grows, if anything.
#[track_caller]
pub(super) fn expect_growth(verdict: &Verdict) {
    if let Some((before, after)) = verdict.shrinking() {
        verdict
            .expect(false, &format!("no claim to shrink without news, as it does here:\n{before}\n{after}"));
    }
    let mut synchronised = verdict.synchronised();
    if let (Some(first), Some(last)) = (synchronised.next(), synchronised.next_back()) {
        let elapsed_s = last.at.as_secs_f64() - first.at.as_secs_f64();
        // An oscillator wanders by a part in a million at least, and a claim is rounded to 15 us.
        let least_s = elapsed_s * 1e-6 - 15e-6;
        verdict.expect(last.bound_s() - first.bound_s() >= least_s, "the bound to grow");
    }
}
