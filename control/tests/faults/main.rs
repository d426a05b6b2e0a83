//! What a machine, a network, upstreams and operators do to a server, one fault at a time, under a load of which every
//! answer is judged.
//!
//! `scripts/faults` plays all of them and writes the table in RELIABILITY.md. Here the most telling ones are played.
//!
//! - `POOLTIME_FAULTS`: the names of those to play, or "all"
//! - `POOLTIME_FAULTS_RATE`: requests per second
//! - `POOLTIME_FAULTS_RESULTS`: a directory for a line of the table for each
//! - `POOLTIME_FAULTS_SOAK`: seconds for which faults are drawn at random and done to one and the same server
//! - `POOLTIME_FAULTS_SEED`: by which they are drawn
//! - `POOLTIME_FAULTS_OTHERS`: the other servers that are played, "chronyd ntpd"
//! - `POOLTIME_FAULTS_BENCH`: a release build of `pooltime-bench`, which sends half a million requests per second

#![expect(
    clippy::unnecessary_wraps,
    reason = "all plays have one type, and some need to say that they cannot be played"
)]

mod at_high_rate;
mod cgroup;
mod fault;
mod files;
mod kernel;
mod link;
mod local;
mod name_server;
mod others;
mod process;
mod scene;
mod soak;
mod table;
mod upstreams;

use fault::Fault;
use testlab::not_run;

/// Requests per second, over both families.
const RATE: u64 = 20_000;
/// Seconds of the soak where nobody asks for more.
const SOAK_S: u64 = 40;
/// What is played where nobody asks for others: a minute and a half.
const TELLING: [&str; 8] = [
    "killed",
    "hangs",
    "upstreams-lie",
    "upstreams-cut",
    "interface-down",
    "pins-removed",
    "writer-stopped",
    "config-broken",
];

fn all() -> Vec<Fault> {
    [
        process::faults(),
        files::faults(),
        upstreams::faults(),
        link::faults(),
        kernel::faults(),
        local::faults(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn chosen() -> Vec<Fault> {
    let words = std::env::var("POOLTIME_FAULTS").unwrap_or_default();
    let words: Vec<_> = words.split_whitespace().collect();
    let names = if words.is_empty() { TELLING.to_vec() } else { words };
    let mut known = all();
    if names == ["all"] {
        return known;
    }
    for name in &names {
        assert!(known.iter().any(|fault| fault.name == *name), "there is no fault `{name}`");
    }
    known.retain(|fault| names.contains(&fault.name));
    known
}

#[test]
fn every_fault_has_a_name_of_its_own() {
    let faults = all();
    let names: std::collections::BTreeSet<_> = faults.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), faults.len());
    assert!(names.len() >= 45, "{}", names.len());
    assert!(TELLING.iter().all(|name| names.contains(name)));
    // By which the script orders the table: what it does not find would be in no table.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/faults");
    let listed = testlab::Output::of(std::process::Command::new(script).arg("--list")).expect_success();
    assert_eq!(listed.lines().collect::<std::collections::BTreeSet<_>>(), names);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_promised_for_each_fault_is_kept() {
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        return not_run("one CPU cannot send, serve and receive at once");
    }
    let rate = number("POOLTIME_FAULTS_RATE", RATE);
    let (mut broken, mut cannot) = (Vec::new(), Vec::new());
    for fault in chosen() {
        let (name, promise) = (fault.name, fault.promise);
        // A panic in one is no reason not to play the others.
        let played = std::panic::catch_unwind(|| scene::live_through(&fault, rate));
        match played {
            Ok(Ok(outcome)) => {
                let failures = outcome.broken(promise);
                table::tell(&fault, &outcome, &failures);
                if !failures.is_empty() {
                    broken.push(format!("{name}: {}", failures.join("; ")));
                }
            }
            Ok(Err(why)) => {
                table::tell_why_not(&fault, &why);
                cannot.push(format!("{name}: {why}"));
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
                table::tell_panic(&fault);
                broken.push(format!("{name}: panicked: {text}"));
            }
        }
    }
    assert!(broken.is_empty(), "{} promises were not kept:\n{}", broken.len(), broken.join("\n"));
    if !cannot.is_empty() {
        not_run(&cannot.join("; "));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_server_lives_through_any_sequence_of_faults_and_does_not_grow() {
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        return not_run("one CPU cannot send, serve and receive at once");
    }
    let seed = number("POOLTIME_FAULTS_SEED", 1);
    let time = std::time::Duration::from_secs(number("POOLTIME_FAULTS_SOAK", SOAK_S));
    soak::soak(&all(), seed, time, number("POOLTIME_FAULTS_RATE", RATE));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn other_servers_live_through_the_same() {
    let Ok(servers) = std::env::var("POOLTIME_FAULTS_OTHERS") else {
        return not_run("other servers are played by: scripts/faults --others");
    };
    others::compare(&servers, number("POOLTIME_FAULTS_RATE", RATE));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn half_a_million_requests_per_second_are_answered_throughout() {
    let Some(bench) = std::env::var_os("POOLTIME_FAULTS_BENCH") else {
        return not_run("it needs a release build of pooltime-bench: scripts/faults --fast");
    };
    match at_high_rate::live_through(bench.as_ref()) {
        Ok(said) => println!("{said}"),
        Err(why) => not_run(&why),
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}
