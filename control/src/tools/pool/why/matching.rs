//! Which source of probes is which monitor. The pool publishes no monitor's address, so it is told by the times: where
//! a monitor has logged an answer, its probes came in shortly before. This module is pure.

use std::collections::BTreeMap;

use crate::status::probes::{ProbeSource, Round};

/// A line of a monitor's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When the monitor logged it, in seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// The monitor's number.
    pub monitor: u32,
    /// What was added to the score.
    pub step: f64,
    /// Our clock minus the monitor's, if there was an answer with the time.
    pub offset_s: Option<f64>,
    /// What the monitor says went wrong.
    pub error: Option<String>,
}

/// How far apart the clocks of the log and of this server may be, and how long a round takes: limits of a monitor's
/// usual delay from the arrival of a round to its line in the log.
const DELAYS_S: std::ops::RangeInclusive<f64> = -60.0..=90.0;
/// Usual delays of a monitor differ by no more than this.
const CLUSTER_S: f64 = 12.0;
/// From the arrival of a round to its line without any skew.
const PLAIN_DELAY_S: f64 = 4.0;
/// A line may come so much later than usual without being late.
const USUALLY_LATE_S: f64 = 20.0;
/// A line may come so much later than usual.
pub(super) const MOST_LATE_S: f64 = 150.0;
/// A line comes no more than this before its usual time.
const EARLY_S: f64 = 15.0;
/// Lines by which a source is told from others.
const ENOUGH: usize = 3;

/// A monitor and its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Match {
    pub(super) monitor: u32,
    /// The index of the source.
    pub(super) source: usize,
    /// The usual time from the arrival of a round to its line, by both clocks.
    pub(super) delay_s: f64,
    /// How much later than usual lines come.
    pub(super) late_s: f64,
}

impl Match {
    /// What is assumed of a monitor of whose source nothing is known.
    pub(super) const fn unknown(monitor: u32) -> Self {
        Self { monitor, source: usize::MAX, delay_s: PLAIN_DELAY_S, late_s: USUALLY_LATE_S }
    }

    /// Returns the earliest and the latest time at which the round of a line may have arrived.
    pub(super) fn window(&self, entry: &Entry) -> (f64, f64) {
        let usual = entry.at_unix_s - self.delay_s;
        (usual - self.late_s, usual + EARLY_S)
    }
}

/// A source that may be a monitor's.
struct Candidate {
    source: usize,
    monitor: u32,
    together: usize,
    delay_s: f64,
    is_sure: bool,
}

/// Finds the sources of monitors. A monitor whose lines fit no source, or fit several alike, has none.
pub(super) fn match_monitors(entries: &[Entry], sources: &[&ProbeSource]) -> Vec<Match> {
    let monitors = by_monitor(entries);
    let mut candidates = Vec::new();
    for (monitor, lines) in &monitors {
        for (source, rounds) in sources.iter().enumerate() {
            candidates.extend(candidate(*monitor, source, lines, rounds));
        }
    }
    candidates.sort_by(|a, b| {
        let distance = |one: &Candidate| (one.delay_s - PLAIN_DELAY_S).abs();
        b.together.cmp(&a.together).then(distance(a).total_cmp(&distance(b)))
    });
    let mut matches: Vec<Match> = Vec::new();
    for sure in [true, false] {
        for (number, one) in candidates.iter().enumerate().filter(|(_, one)| one.is_sure == sure) {
            let is_free = |other: &Candidate| {
                !matches.iter().any(|found| found.monitor == other.monitor || found.source == other.source)
            };
            // Few lines prove little if another source or monitor would do as well.
            let has_rival = candidates.iter().enumerate().any(|(index, other)| {
                index != number
                    && is_free(other)
                    && (other.monitor == one.monitor || other.source == one.source)
            });
            if is_free(one) && (sure || !has_rival) {
                let late_s = lateness(one, &monitors[&one.monitor], &sources[one.source].rounds);
                let Candidate { monitor, source, delay_s, .. } = *one;
                matches.push(Match { monitor, source, delay_s, late_s });
            }
        }
    }
    matches
}

/// The lines of each monitor, in the order of their times.
pub(super) fn by_monitor(entries: &[Entry]) -> BTreeMap<u32, Vec<&Entry>> {
    let mut monitors: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in entries {
        monitors.entry(entry.monitor).or_default().push(entry);
    }
    for lines in monitors.values_mut() {
        lines.sort_by(|a, b| a.at_unix_s.total_cmp(&b.at_unix_s));
    }
    monitors
}

/// The lines of a monitor that have an answer, if there are enough of them, or else all. What the source sent before it
/// was known is not missed.
fn telling<'a>(lines: &[&'a Entry], source: &ProbeSource) -> Vec<&'a Entry> {
    let known: Vec<_> = lines.iter().copied().filter(|entry| entry.at_unix_s > source.since_unix_s).collect();
    let answered: Vec<_> = known.iter().copied().filter(|entry| entry.offset_s.is_some()).collect();
    if answered.len() >= ENOUGH { answered } else { known }
}

fn candidate(monitor: u32, source: usize, lines: &[&Entry], rounds: &ProbeSource) -> Option<Candidate> {
    let telling = telling(lines, rounds);
    let mut times_s: Vec<f64> = Vec::new();
    for entry in &telling {
        let range = (entry.at_unix_s - DELAYS_S.end(), entry.at_unix_s - DELAYS_S.start());
        times_s.extend(between(&rounds.rounds, range).iter().map(|round| entry.at_unix_s - round.at_unix_s));
    }
    times_s.sort_by(f64::total_cmp);
    // The largest group of times_s that are alike.
    let group = |first: usize| {
        let end = times_s.partition_point(|delay| *delay <= times_s[first] + CLUSTER_S);
        &times_s[first..end]
    };
    let largest = (0..times_s.len()).map(group).max_by_key(|group| group.len())?;
    let (together, delay_s) = (largest.len(), largest[largest.len() / 2]);
    let is_sure = together >= ENOUGH;
    (2 * together > telling.len()).then_some(Candidate { source, monitor, together, delay_s, is_sure })
}

/// How much later than usual the lines of a monitor come, by those that have an answer.
fn lateness(one: &Candidate, lines: &[&Entry], rounds: &[Round]) -> f64 {
    let late = |entry: &Entry| {
        let usual = entry.at_unix_s - one.delay_s;
        let arrived = between(rounds, (usual - MOST_LATE_S, usual + EARLY_S)).last()?;
        Some(usual - arrived.at_unix_s + USUALLY_LATE_S)
    };
    let answered = lines.iter().copied().filter(|entry| entry.offset_s.is_some());
    answered.filter_map(late).fold(USUALLY_LATE_S, f64::max).min(MOST_LATE_S)
}

/// The rounds that arrived from one moment to another.
pub(super) fn between(rounds: &[Round], (from, to): (f64, f64)) -> &[Round] {
    let first = rounds.partition_point(|round| round.at_unix_s < from);
    let end = rounds.partition_point(|round| round.at_unix_s <= to);
    rounds.get(first..end.max(first)).unwrap_or_default()
}

/// Gives each line of a monitor the round that it is about, as an index; `None` where none arrived. Lines with an
/// answer come first, for they certainly had a round. One that is left over belongs to a line that came late: every check is
/// logged.
pub(super) fn assign(found: &Match, entries: &[&Entry], rounds: &[Round]) -> Vec<Option<usize>> {
    let mut taken = vec![false; rounds.len()];
    let mut assigned = vec![None; entries.len()];
    for answered in [true, false] {
        for (number, entry) in entries.iter().enumerate() {
            if entry.offset_s.is_some() != answered {
                continue;
            }
            let usual = entry.at_unix_s - found.delay_s;
            let (from, to) = (usual - MOST_LATE_S, usual + EARLY_S);
            let first = rounds.partition_point(|round| round.at_unix_s < from);
            let end = rounds.partition_point(|round| round.at_unix_s <= to);
            let nearest = (first..end).filter(|index| !taken[*index]).min_by(|a, b| {
                let distance = |index: &usize| (rounds[*index].at_unix_s - usual).abs();
                distance(a).total_cmp(&distance(b))
            });
            if let Some(index) = nearest {
                taken[index] = true;
            }
            assigned[number] = nearest;
        }
    }
    assigned
}
