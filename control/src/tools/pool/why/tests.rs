//! The causes that are named are those that there were, over many days that differ in everything.

mod world;

use std::collections::BTreeSet;

use super::causes::{Cause, Evidence, Judgement, judge};
use super::offsets::Whose;
use world::{Fault, START_S, Truth, World};

fn judged(world: &World) -> Judgement {
    judge(&Evidence { rounds: &world.rounds, course: &world.course, family: "ipv4", entries: &world.entries })
}

/// The fault that a cause names; `None` where it says that it does not know.
fn named(cause: &Cause) -> Option<Fault> {
    Some(match cause {
        Cause::LostIn { .. } => Fault::LossIn,
        Cause::LostOut { .. } => Fault::LossOut,
        Cause::FamilyBlocked { other_family_arrives: true, .. } => Fault::Firewall,
        Cause::Limited { .. } => Fault::Limiter,
        Cause::OverBudget { .. } => Fault::Budget,
        Cause::Denied { .. } => Fault::List,
        Cause::Unsynchronised { from_unix_s: Some(_), .. } => Fault::Gate,
        Cause::LinkDown { .. } => Fault::Link,
        Cause::ReportsLost { .. } => Fault::Ring,
        Cause::Offset(offset)
            if matches!(
                offset.whose,
                Whose::Upstream { contradicted_by: Some(_), .. } | Whose::Correcting { .. }
            ) =>
        {
            Fault::Offset
        }
        Cause::NotKnown { .. } => return None,
        other => panic!("{other:?} was not injected"),
    })
}

/// The faults of a check as they can be told: a kiss is one of the limiter's.
fn faults(truth: &Truth) -> BTreeSet<Fault> {
    let told = |fault: &Fault| if *fault == Fault::Kiss { Fault::Limiter } else { *fault };
    truth.faults.iter().map(told).collect()
}

/// Judges a day and compares it with the truth: each check that took points has the causes that it had, and no other.
/// Returns the faults that were named.
fn compare(seed: u64, injected: &[Fault]) -> BTreeSet<Fault> {
    let world = World::new(seed, injected);
    let judgement = judged(&world);
    assert_eq!(judgement.findings.len(), world.truths.len(), "seed {seed}, {injected:?}");
    let mut all = BTreeSet::new();
    for finding in &judgement.findings {
        let entry = &finding.entry;
        let truth = world
            .truths
            .iter()
            .find(|truth| {
                truth.monitor == entry.monitor && (truth.at_unix_s - entry.at_unix_s).abs() < f64::EPSILON
            })
            .unwrap_or_else(|| panic!("seed {seed}, {injected:?}: {entry:?} is no bad one"));
        let told = || {
            let delay_s = entry.at_unix_s - truth.check_s;
            format!("seed {seed}, {injected:?}: {:?} after {delay_s} s, and not {finding:#?}", truth.faults)
        };
        let causes: Vec<_> = finding.causes.iter().map(named).collect();
        if causes.contains(&None) {
            assert!(truth.check_s < START_S + 200.0, "it is known since the start: {}", told());
            continue;
        }
        assert!(truth.check_s > START_S - 60.0, "nothing is known of that time: {}", told());
        let causes: BTreeSet<_> = causes.into_iter().flatten().collect();
        assert_eq!(causes, faults(truth), "{}", told());
        all.extend(causes);
    }
    all
}

#[test]
fn each_fault_is_named_and_no_other_over_many_seeds() {
    const SEEDS: u64 = 150;
    for fault in Fault::ALL {
        let mut days = 0;
        for seed in 0..SEEDS {
            let named = compare(seed, &[fault]);
            days += u64::from(!named.is_empty());
        }
        // A short one hits no check on some days.
        let least = if matches!(fault, Fault::Link | Fault::Gate) { SEEDS / 4 } else { SEEDS * 9 / 10 };
        assert!(days >= least, "{fault:?} took points on {days} days of {SEEDS}");
    }
}

#[test]
fn two_faults_at_once_are_both_named_over_many_seeds() {
    let mut both = 0;
    for (number, first) in Fault::ALL.into_iter().enumerate() {
        for second in Fault::ALL.into_iter().skip(number + 1) {
            for seed in 0..12 {
                both += usize::from(compare(1_000 + seed, &[first, second]).len() > 1);
            }
        }
    }
    assert!(both > 200, "{both} days had both");
}

#[test]
fn a_day_without_a_fault_has_no_cause_over_many_seeds() {
    for seed in 0..1_000 {
        let world = World::new(seed, &[]);
        let judgement = judged(&world);
        assert!(world.entries.len() > 100);
        assert!(judgement.findings.is_empty(), "seed {seed}: {:#?}", judgement.findings);
    }
}

#[test]
fn monitors_are_told_from_each_other_by_their_times_over_many_seeds() {
    let (mut told, mut all) = (0, 0);
    for seed in 0..200 {
        let world = World::new(seed, &[]);
        let monitors: BTreeSet<_> = world.entries.iter().map(|entry| entry.monitor).collect();
        for (monitor, source) in judged(&world).sources {
            assert_eq!(source, format!("192.0.2.{monitor}"), "seed {seed}");
            told += 1;
        }
        all += monitors.len();
    }
    assert!(told * 100 >= all * 99, "{told} of {all}");
}
