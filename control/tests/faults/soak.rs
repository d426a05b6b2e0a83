//! Faults at random, done to one and the same server: it lives through any sequence of them, and grows by nothing.
//!
//! A sequence that fails is played again without one of its faults after the other, until each of those that are left is
//! needed for the failure.

use std::fs;
use std::time::{Duration, Instant};

use testinput::random::Random;
use testlab::Lab;

use crate::fault::{Fault, PLAIN, Setup};
use crate::scene::Scene;

/// What all of the faults find that can be drawn.
const SETUP: Setup = Setup { lab: &["--router", "--queues", "2"], ..PLAIN };
/// Faults that take long, for a sequence is about their order, and those after which nothing is as it was: a daemon that
/// was replaced has its own memory.
const NOT_DRAWN: [&str; 4] =
    ["thousand-attachments", "thousand-reloads", "interface-deleted", "out-of-memory"];
/// Playing a failure again to make it smaller takes at most so long.
const SHRINKING: Duration = Duration::from_mins(20);
/// What a daemon's memory may differ by from one moment to another, in KiB.
const SLACK_KB: u64 = 8 << 10;
/// What its descriptors may differ by: connections that are being closed.
const SLACK_DESCRIPTORS: usize = 8;

/// Draws faults until the time is over, and panics with the shortest sequence that still fails.
pub(crate) fn soak(all: &[Fault], seed: u64, time: Duration, rate: u64) {
    let drawn: Vec<&Fault> = all.iter().filter(|fault| can_be_drawn(fault)).collect();
    let mut random = Random::new(seed);
    let started = Instant::now();
    let mut sequence = Vec::new();
    let next = || (started.elapsed() < time).then(|| drawn[random.index(drawn.len())]);
    let Err(failure) = play(next, rate, &mut sequence) else {
        println!(
            "{} faults by the seed {seed}, in {:?}: all promises kept",
            sequence.len(),
            started.elapsed()
        );
        return;
    };
    let (shortest, failure) = shrink(sequence, failure, rate);
    let names: Vec<_> = shortest.iter().map(|fault| fault.name).collect();
    panic!("by the seed {seed}, this sequence fails: {names:?}: {failure}");
}

fn can_be_drawn(fault: &Fault) -> bool {
    let setup = &fault.setup;
    let is_plain = setup.clock.is_empty() && !setup.names && !setup.own_mounts;
    is_plain && !NOT_DRAWN.contains(&fault.name)
}

/// Plays one fault after the other in one scene, and adds each to the sequence.
fn play<'a>(
    mut next: impl FnMut() -> Option<&'a Fault>,
    rate: u64,
    sequence: &mut Vec<&'a Fault>,
) -> Result<(), String> {
    let lab = Lab::up(SETUP.lab);
    let mut scene = Scene::begin(&lab, &SETUP);
    // By daemon: what is replaced begins anew.
    let mut first: Option<(u32, Size)> = None;
    while let Some(fault) = next() {
        sequence.push(fault);
        let outcome = match scene.live_through(fault, rate) {
            Ok(outcome) => outcome,
            Err(cannot) => {
                println!("{}: not played: {cannot}", fault.name);
                continue;
            }
        };
        let failures = outcome.broken(fault.promise);
        let (process, size) = (scene.server.pid(), Size::of(scene.server.pid()));
        println!("{}: {} asked, {size:?}", fault.name, outcome.account.sent);
        if !failures.is_empty() {
            return Err(format!("{}: {}\n{}", fault.name, failures.join("; "), scene.server.log()));
        }
        match &first {
            Some((same, before)) if *same == process => {
                if let Some(growth) = size.growth_since(before) {
                    return Err(format!("{}: {growth}", fault.name));
                }
            }
            _ => first = Some((process, size)),
        }
    }
    Ok(())
}

/// Leaves out one fault after the other, as long as the rest still fails.
fn shrink(mut sequence: Vec<&Fault>, mut failure: String, rate: u64) -> (Vec<&Fault>, String) {
    let started = Instant::now();
    let mut index = 0;
    while index < sequence.len() && sequence.len() > 1 && started.elapsed() < SHRINKING {
        let mut shorter = sequence.clone();
        shorter.remove(index);
        let mut rest = shorter.iter().copied();
        match play(|| rest.next(), rate, &mut Vec::new()) {
            Ok(()) => index += 1,
            Err(other) => (sequence, failure) = (shorter, other),
        }
    }
    (sequence, failure)
}

/// What a process takes of the machine.
#[derive(Debug)]
struct Size {
    resident_kb: u64,
    descriptors: usize,
    threads: usize,
}

impl Size {
    fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let count = |directory: &str| fs::read_dir(format!("/proc/{process}/{directory}")).unwrap().count();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            resident_kb: resident.split_whitespace().next().unwrap().parse().unwrap(),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    fn growth_since(&self, before: &Self) -> Option<String> {
        let grew = self.resident_kb > before.resident_kb + SLACK_KB
            || self.descriptors > before.descriptors + SLACK_DESCRIPTORS
            || self.threads > before.threads;
        grew.then(|| format!("the daemon has grown from {before:?} to {self:?}"))
    }
}
