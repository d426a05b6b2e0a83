//! The time that is served, beside that of `chronyd -x`: both follow the same four upstreams, real chronyds
//! that serve this machine's clock as stratum 1, through the same relay with delay, jitter, asymmetry and loss.
//! In turn some of the upstreams lie. This machine's clock is the truth: neither daemon touches it, and both
//! begin without knowing it.
//!
//! Each second both are asked as any client would, and what they answer is compared with the clock. `chronyd -x`
//! answers by its own estimate, not by the clock that it may not touch: with all upstreams 50 ms ahead, its answers
//! are, too.
//!
//! `scripts/compare-clock` runs it for ten minutes and writes the results; what runs with the other tests is a
//! minute of it, which shows the start and a falseticker.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::struct_field_names,
    reason = "seconds and counts are small, and their unit is in the name"
)]

mod relay;
mod report;
mod run;
mod upstreams;

use std::collections::BTreeSet;
use std::time::Duration;

use testlab::{Lab, not_run, tool};

use run::{Lie, Plan};
use upstreams::Upstreams;

const AHEAD: Duration = Duration::from_millis(100);
/// How far a falseticker must not get the served time: far less than it lies, far more than the asymmetry of
/// the paths accounts for.
const MISLED_S: f64 = 0.025;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_served_time_is_as_true_as_chronyd_s_and_no_falseticker_moves_it() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let plan = match std::env::var("POOLTIME_COMPARE_MINUTES") {
        Ok(minutes) => Plan::of_minutes(minutes.parse().expect("POOLTIME_COMPARE_MINUTES is a number")),
        Err(_) => Plan { seconds: 45, lies: vec![Lie { upstream: 1, seconds: 0..45, ahead: AHEAD }] },
    };
    let outcome = run::run(&lab, &chronyd, &plan);
    let text = report::render(&plan, &outcome);
    println!("{text}");
    if let Some(directory) = std::env::var_os("POOLTIME_COMPARE_WRITE") {
        report::write(directory.as_ref(), &text, &outcome);
    }

    let [ours, chronyd] = &outcome.subjects;
    assert!(chronyd.first_synchronised_s.is_some(), "chronyd never was: the lab does not work");
    assert!(ours.first_synchronised_s.is_some(), "never synchronised\n{}", outcome.log);
    let all = ours.figures(|_| true);
    assert!(all.max_s < MISLED_S, "{all:?}\n{}", outcome.log);
    assert_eq!(all.outside, 0, "outside of the bound that the answers claim\n{}", outcome.log);
    match &outcome.ntpq {
        Some(ntpq) => assert_marks_agree(ntpq, &outcome.peers),
        None => not_run("ntpq is not there"),
    }
}

/// Whatever is in front of the upstreams, ntpq and our own table have the same there.
fn assert_marks_agree(ntpq: &str, peers: &str) {
    let marks = |table: &str| -> Vec<String> {
        let lines = table.lines().skip_while(|line| !line.starts_with("==")).skip(1);
        lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    assert_eq!(marks(ntpq), marks(peers), "{ntpq}{peers}");
    assert_eq!(marks(ntpq).len(), 4, "{ntpq}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_probe_takes_the_honest_upstreams_and_says_why_not_the_others() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let upstreams = Upstreams::up(&lab, &chronyd);
    upstreams.relays[2].lie(AHEAD);
    let candidates =
        lab.file("candidates", "10.77.0.21 # near\n10.77.0.22\n\n10.77.0.23\n2.debian.pool.ntp.org\n");
    // Nobody is at the last one.
    let arguments = ["upstream", "probe", "10.77.0.24", "10.77.0.99", "--count", "3", "--file"];
    let arguments = [&arguments[..], &[candidates.to_str().unwrap()]].concat();
    let said = lab.pooltime("server", &arguments).expect_success();

    let taken = said.split("[[upstream]]\naddress = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    // In which order depends on how busy the machine is.
    assert_eq!(taken.collect::<BTreeSet<_>>(), ["10.77.0.21", "10.77.0.22", "10.77.0.24"].into(), "{said}");
    for (candidate, why) in [
        ("10.77.0.23", "falseticker: +"),
        ("10.77.0.99", "no answer"),
        ("2.debian.pool.ntp.org", "pool names"),
    ] {
        assert!(said.contains(&format!("# {candidate}: left out: {why}")), "{why}: {said}");
    }
    assert!(said.contains("Fewer than four are suitable"), "{said}");
    let config = lab.file("probed.toml", &said);
    lab.pooltime("server", &["config", "check", config.to_str().unwrap()]).expect_success();
    for relay in &upstreams.relays {
        assert_eq!(relay.requests([10, 77, 0, 1].into()), 3);
    }
}
