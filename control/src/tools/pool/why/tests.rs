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
        // None of these was injected.
        _ => Fault::Other,
    })
}

/// The faults of a check as they can be told: a kiss is one of the limiter's.
fn faults(truth: &Truth) -> BTreeSet<Fault> {
    let told = |fault: &Fault| if *fault == Fault::Kiss { Fault::Limiter } else { *fault };
    truth.faults.iter().map(told).collect()
}

/// Judges a day and compares it with the truth: each check that took points has the causes that it had, and no other.
/// Returns the faults that were named, or what is wrong.
fn compare(seed: u64, injected: &[Fault]) -> Result<BTreeSet<Fault>, String> {
    let world = World::new(seed, injected);
    let judgement = judged(&world);
    assert_eq!(judgement.findings.len(), world.truths.len(), "seed {seed}, {injected:?}");
    let mut all = BTreeSet::new();
    for finding in &judgement.findings {
        let entry = &finding.entry;
        let is_it = |truth: &&Truth| {
            truth.monitor == entry.monitor && (truth.at_unix_s - entry.at_unix_s).abs() < f64::EPSILON
        };
        let truth = world.truths.iter().find(is_it).expect("it took points");
        let told = |what: &str| {
            let delay_s = entry.at_unix_s - truth.check_s;
            let since_s = truth.check_s - START_S;
            Err(format!(
                "seed {seed}, {injected:?}: {what}: {:?} at {since_s} s, logged after {delay_s} s, and not {finding:?}",
                truth.faults
            ))
        };
        if truth.is_half_reported {
            continue;
        }
        let causes: Vec<_> = finding.causes.iter().map(named).collect();
        if causes.contains(&None) {
            if truth.check_s > START_S + 200.0 {
                return told("it is known since the start");
            }
            continue;
        }
        if truth.check_s < START_S - 60.0 {
            return told("nothing is known of that time");
        }
        let causes: BTreeSet<_> = causes.into_iter().flatten().collect();
        let required = faults(truth);
        let allowed: BTreeSet<_> = required.union(&truth.near).copied().collect();
        let is_right = !causes.is_empty() && required.is_subset(&causes) && causes.is_subset(&allowed);
        // Of what is not reported the rest cannot be known.
        let is_unknown = truth.near.contains(&Fault::Ring) && causes == [Fault::Ring].into();
        if !is_right && !is_unknown {
            return told("another cause");
        }
        all.extend(causes);
    }
    Ok(all)
}

/// Judges many days. Returns how many of them had so many causes at least.
fn days(worlds: impl Iterator<Item = (u64, Vec<Fault>)>, causes: usize) -> u64 {
    let (mut days, mut all, mut wrong) = (0, 0, Vec::new());
    for (seed, faults) in worlds {
        all += 1;
        match compare(seed, &faults) {
            Ok(named) => days += u64::from(named.len() >= causes),
            Err(what) => wrong.push(what),
        }
    }
    wrong.sort_by_key(|what| what.split(':').nth(1).map(str::len));
    let first =
        wrong.iter().step_by(wrong.len() / 12 + 1).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    assert!(wrong.is_empty(), "{} of {all} days:\n{first}", wrong.len());
    days
}

#[test]
fn each_fault_is_named_and_no_other_over_many_seeds() {
    const SEEDS: u64 = 60;
    let worlds = Fault::ALL.into_iter().flat_map(|fault| (0..SEEDS).map(move |seed| (seed, vec![fault])));
    let days = days(worlds, 1);
    // A short fault hits no check on some days.
    assert!(days > SEEDS * 9, "a fault took points on {days} days");
}

#[test]
fn two_faults_at_once_are_both_named_over_many_seeds() {
    let pairs = Fault::ALL.into_iter().enumerate().flat_map(|(number, first)| {
        Fault::ALL.into_iter().skip(number + 1).map(move |second| vec![first, second])
    });
    let worlds = pairs.flat_map(|pair| (0..6).map(move |seed| (1_000 + seed, pair.clone())));
    let days = days(worlds, 2);
    assert!(days > 100, "{days} days had both");
}

#[test]
fn a_day_without_a_fault_has_no_cause_over_many_seeds() {
    for seed in 0..300 {
        let world = World::new(seed, &[]);
        let judgement = judged(&world);
        assert!(world.entries.len() > 100);
        assert!(judgement.findings.is_empty(), "seed {seed}: {:#?}", judgement.findings);
    }
}

#[test]
fn monitors_are_told_from_each_other_by_their_times_over_many_seeds() {
    let (mut told, mut all) = (0, 0);
    for seed in 0..60 {
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
