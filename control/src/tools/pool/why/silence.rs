//! Times at which nothing of a family arrived although monitors asked. This module is pure.

use std::collections::BTreeSet;

use super::causes::{Evidence, is_bad};
use super::matching::{Entry, MOST_LATE_S};
use crate::status::probes::ProbeRounds;

/// Lost checks without any arrival between them that make a silence, and not a coincidence.
const LEAST_CHECKS: usize = 3;
/// A shorter silence is none.
const LEAST_S: f64 = 600.0;
/// Checks so near to the ends of a silence may belong to it.
const EDGE_S: f64 = 20.0;

/// A time without arrivals, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) from_unix_s: f64,
    pub(super) to_unix_s: f64,
    /// Whether probes of the other family arrived meanwhile.
    pub(super) other_family_arrives: bool,
}

/// Finds the times at which several monitors asked and nothing arrived from any. `expected` says when the round of a line
/// should have arrived; `is_explained` whether something else stopped what came around that time.
pub(super) fn silences(
    evidence: &Evidence<'_>,
    expected: impl Fn(&Entry) -> f64,
    is_explained: impl Fn((f64, f64)) -> bool,
) -> Vec<Silence> {
    let (family, rounds) = (evidence.family, evidence.rounds);
    let times = arrivals(rounds, |other| other == family);
    let others = arrivals(rounds, |other| other != family);
    let lines: Vec<_> = evidence.entries.iter().map(|entry| (entry, expected(entry))).collect();
    let known: BTreeSet<_> = evidence.entries.iter().map(|entry| entry.monitor).collect();
    let begins = std::iter::once(rounds.since_unix_s).chain(times.iter().copied());
    let ends = times.iter().copied().chain(std::iter::once(rounds.until_unix_s));
    let is_silence = |(from, to): &(f64, f64)| {
        let (mut checks, mut monitors) = (0, BTreeSet::new());
        for (entry, at) in &lines {
            let is_lost = is_bad(entry.step) && entry.offset_s.is_none();
            // One that was answered arrived, whatever the reports say.
            if !is_lost && (from + MOST_LATE_S..=to - MOST_LATE_S).contains(at) {
                return false;
            }
            let is_within = is_lost && (from - EDGE_S..=to + EDGE_S).contains(at);
            if is_within && !is_explained((at - EDGE_S, at + EDGE_S)) {
                checks += 1;
                monitors.insert(entry.monitor);
            }
        }
        checks >= LEAST_CHECKS && monitors.len() >= known.len().min(2)
    };
    let gaps = begins.zip(ends).filter(|(from, to)| to - from >= LEAST_S);
    gaps.filter(is_silence)
        .map(|(from_unix_s, to_unix_s)| Silence {
            from_unix_s,
            to_unix_s,
            other_family_arrives: others.iter().any(|at| from_unix_s < *at && *at < to_unix_s),
        })
        .collect()
}

/// The times at which rounds of some families arrived, in their order.
fn arrivals(rounds: &ProbeRounds, is_it: impl Fn(&str) -> bool) -> Vec<f64> {
    let sources = rounds.sources.iter().filter(|source| is_it(&source.family));
    let mut arrivals: Vec<_> =
        sources.flat_map(|source| source.rounds.iter().map(|round| round.at_unix_s)).collect();
    arrivals.sort_by(f64::total_cmp);
    arrivals
}
