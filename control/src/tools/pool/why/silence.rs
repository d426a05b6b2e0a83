//! Times at which nothing of a family arrived although monitors asked. This module is pure.

use std::collections::BTreeSet;

use super::matching::MOST_LATE_S;
use crate::status::probes::ProbeRounds;

/// Lost checks without any arrival between them that make a silence, and not a coincidence.
const LEAST_CHECKS: usize = 3;
/// A shorter silence is none.
const LEAST_S: f64 = 600.0;
/// Checks so near to the ends of a silence may belong to it.
pub(super) const EDGE_S: f64 = 20.0;

/// A time without arrivals, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    pub(super) from_unix_s: f64,
    pub(super) to_unix_s: f64,
    /// Whether probes of the other family arrived meanwhile.
    pub(super) other_family_arrives: bool,
}

/// A line of a log as far as it tells of silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// When its round should have arrived.
    pub(super) at_unix_s: f64,
    pub(super) monitor: u32,
    /// Whether the monitor saw no answer and nothing of its round is known here.
    pub(super) is_lost: bool,
    /// Whether something else is known that stopped what came around that time, or its reports.
    pub(super) is_explained: bool,
}

/// Finds the times at which several monitors asked and nothing arrived from any of the family.
pub(super) fn silences(rounds: &ProbeRounds, family: &str, checks: &[Check]) -> Vec<Silence> {
    let times = arrivals(rounds, |other| other == family);
    let others = arrivals(rounds, |other| other != family);
    let known: BTreeSet<_> = checks.iter().map(|check| check.monitor).collect();
    let begins = std::iter::once(rounds.since_unix_s).chain(times.iter().copied());
    let ends = times.iter().copied().chain(std::iter::once(rounds.until_unix_s));
    let is_silence = |(from, to): &(f64, f64)| {
        let within = |check: &&Check| (from - EDGE_S..=to + EDGE_S).contains(&check.at_unix_s);
        let lost: Vec<_> =
            checks.iter().filter(|check| check.is_lost && !check.is_explained).filter(within).collect();
        let monitors: BTreeSet<_> = lost.iter().map(|check| check.monitor).collect();
        // One that was answered arrived, whatever the reports say.
        let inner = from + MOST_LATE_S..=to - MOST_LATE_S;
        let is_contradicted = checks.iter().any(|check| !check.is_lost && inner.contains(&check.at_unix_s));
        lost.len() >= LEAST_CHECKS && monitors.len() >= known.len().min(2) && !is_contradicted
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
