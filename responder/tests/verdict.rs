//! Counters and names of verdicts.

use std::collections::HashSet;

use responder::verdict::{Action, COUNTERS, Family, Outcome, VERSIONS, Verdict};

fn all_outcomes() -> impl Iterator<Item = Outcome> {
    Verdict::ALL.iter().flat_map(|verdict| {
        Family::ALL.iter().flat_map(|family| {
            (0..VERSIONS).map(|version| Outcome {
                verdict: *verdict,
                family: *family,
                version: u8::try_from(version).expect("three bits"),
            })
        })
    })
}

#[test]
fn every_outcome_has_a_counter_of_its_own() {
    let counters: HashSet<usize> = all_outcomes().map(Outcome::counter).collect();
    assert_eq!(counters.len(), Verdict::ALL.len() * Family::ALL.len() * VERSIONS);
    assert!(counters.iter().all(|counter| *counter < COUNTERS));
}

#[test]
fn no_version_leads_out_of_the_counters_of_its_verdict() {
    for verdict in Verdict::ALL {
        for version in 0..=255 {
            let outcome = Outcome { verdict: *verdict, family: Family::Ipv6, version };
            assert_eq!(outcome.counter(), Outcome { version: version % 8, ..outcome }.counter());
        }
    }
}

#[test]
fn names_are_unique_and_fit_for_a_metric() {
    let labels: HashSet<&str> = Verdict::ALL.iter().map(|verdict| verdict.label()).collect();
    assert_eq!(labels.len(), Verdict::ALL.len());
    let is_fit = |label: &&str| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(labels.iter().all(is_fit));
    assert_ne!(Family::Ipv4.label(), Family::Ipv6.label());
}

#[test]
fn a_verdicts_name_says_what_happens_to_the_frame() {
    for verdict in Verdict::ALL {
        let action = match verdict.label().split('_').next() {
            Some("answered" | "kiss") => Action::Transmit,
            Some("pass" | "not") => Action::Pass,
            Some("drop") => Action::Drop,
            other => panic!("{verdict:?} has a name that begins with {other:?}"),
        };
        assert_eq!(verdict.action(), action, "{verdict:?}");
    }
}
