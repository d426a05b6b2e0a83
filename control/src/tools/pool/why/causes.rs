//! Why a monitor took points: from what became of its probes here and how the server was then. This module is pure.

use serde::Serialize;

use super::matching::{self, Entry, MOST_LATE_S, Match};
use super::offsets;
use super::silence::{Check, EDGE_S, Silence, silences};
use crate::status::probes::{Course, Fate, ProbeRounds, ProbeSource, Round, Span, What};

/// The step of a check with nothing to blame.
const GOOD_STEP: f64 = 1.0;
/// Steps are published with fewer digits than this.
const STEP_DIGITS: f64 = 0.005;
/// The step of an answer of stratum 0 without a kiss code.
const UNSYNCHRONISED_STEP: f64 = -2.0;
/// The step of a kiss of death RATE.
const KISS_RATE_STEP: f64 = -3.5;
/// The step of a kiss of death DENY.
const KISS_DENY_STEP: f64 = -10.0;
/// Around the requests of a round, what may have to do with the loss of one.
const AROUND_S: (f64, f64) = (6.0, 12.0);
/// Links are looked at no more often than this.
const LEAVING_S: f64 = 1.5;

/// What took points.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Requests were lost before they reached this host.
    LostIn {
        /// How many of the three.
        lost: usize,
        /// How many arrived.
        arrived: usize,
    },
    /// Requests were answered, and the monitor saw no answer.
    LostOut {
        /// How many were answered.
        answered: usize,
        /// How many arrived.
        arrived: usize,
    },
    /// Nothing of the family arrived for a while, from any monitor.
    FamilyBlocked {
        /// Since when, in seconds since the Unix epoch.
        from_unix_s: f64,
        /// Until when.
        to_unix_s: f64,
        /// Whether probes of the other family arrived meanwhile.
        other_family_arrives: bool,
    },
    /// The limiter refused requests.
    Limited {
        /// How many.
        requests: usize,
    },
    /// The budget was spent.
    OverBudget {
        /// How many requests it refused.
        requests: usize,
    },
    /// An access list denies the monitor.
    Denied {
        /// Its source.
        source: Option<String>,
    },
    /// The socket could not send its answers.
    Unsent {
        /// How many.
        requests: usize,
    },
    /// The clock was not synchronised, so that answers said so.
    Unsynchronised {
        /// Since when, if that is known, in seconds since the Unix epoch.
        from_unix_s: Option<f64>,
        /// For how long.
        for_s: f64,
        /// Why.
        reason: Option<String>,
    },
    /// The link of an interface was down.
    LinkDown {
        /// The interface.
        interface: String,
        /// Since when, in seconds since the Unix epoch.
        from_unix_s: f64,
        /// For how long.
        for_s: f64,
    },
    /// The driver had no room for frames.
    DriverDrops {
        /// The interface.
        interface: String,
        /// How many frames it dropped.
        number: u64,
    },
    /// Reports were lost, so that a request that is not in the log may have arrived all the same.
    ReportsLost {
        /// How many, at the least.
        number: u64,
    },
    /// The time was off.
    Offset(offsets::OffsetCause),
    /// It was before the daemon knew of it, or while none ran.
    NotKnown {
        /// From when on it is known, in seconds since the Unix epoch.
        known_from_unix_s: f64,
    },
    /// Nothing here explains it.
    Unexplained,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The rounds of all families.
    pub rounds: &'a ProbeRounds,
    /// The state of the server.
    pub course: &'a Course,
    /// Label of the family whose score it is, from [`responder::Family::label`].
    pub family: &'a str,
    /// The monitors' logs.
    pub entries: &'a [Entry],
}

/// A line of a log that took points, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The line.
    pub entry: Entry,
    /// Where the monitor's probes come from, if that is known.
    pub source: Option<String>,
    /// The round that it is about, if one arrived.
    pub round: Option<Round>,
    /// Why.
    pub causes: Vec<Cause>,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The lines that took points, in the order of their times.
    pub findings: Vec<Finding>,
    /// The monitors whose probes are known, with their sources.
    pub sources: Vec<(u32, String)>,
}

/// Whether a line of a log took points.
#[must_use]
pub fn is_bad(step: f64) -> bool {
    step < GOOD_STEP - STEP_DIGITS
}

/// Judges each line that took points.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Judgement {
    let sources: Vec<&ProbeSource> =
        evidence.rounds.sources.iter().filter(|source| source.family == evidence.family).collect();
    let matches = matching::match_monitors(evidence.entries, &sources);
    let mut lines = Vec::new();
    for (monitor, entries) in matching::by_monitor(evidence.entries) {
        let found = matches.iter().find(|found| found.monitor == monitor);
        let rounds = found.map_or(&[][..], |found| &sources[found.source].rounds);
        let assigned = found
            .map_or_else(|| vec![None; entries.len()], |found| matching::assign(found, &entries, rounds));
        for (entry, round) in entries.into_iter().zip(assigned) {
            lines.push((entry, found, round.map(|index| &rounds[index])));
        }
    }
    let mut judge = Judge { evidence, sources: &sources, matches: &matches, silences: Vec::new() };
    let checks: Vec<_> = lines
        .iter()
        .map(|(entry, _, round)| {
            let at_unix_s = judge.expected(entry);
            let around = (at_unix_s - EDGE_S, at_unix_s + EDGE_S);
            let is_explained = judge.link_down(around).or(judge.reports_lost(around)).is_some();
            let is_lost = is_bad(entry.step) && entry.offset_s.is_none() && round.is_none();
            Check { at_unix_s, monitor: entry.monitor, is_lost, is_explained }
        })
        .collect();
    judge.silences = silences(evidence.rounds, evidence.family, &checks);
    let mut findings = Vec::new();
    for (entry, found, round) in lines.into_iter().filter(|(entry, ..)| is_bad(entry.step)) {
        findings.push(Finding {
            entry: entry.clone(),
            source: found.map(|found| sources[found.source].source.clone()),
            round: round.cloned(),
            causes: judge.causes(entry, found, round),
        });
    }
    findings.sort_by(|a, b| a.entry.at_unix_s.total_cmp(&b.entry.at_unix_s));
    let sources = matches.iter().map(|found| (found.monitor, sources[found.source].source.clone())).collect();
    Judgement { findings, sources }
}

struct Judge<'a> {
    evidence: &'a Evidence<'a>,
    sources: &'a [&'a ProbeSource],
    matches: &'a [Match],
    silences: Vec<Silence>,
}

impl Judge<'_> {
    fn causes(&self, entry: &Entry, found: Option<&Match>, round: Option<&Round>) -> Vec<Cause> {
        let window = match (round, found) {
            (Some(round), _) => (round.at_unix_s - AROUND_S.0, round.end_unix_s() + AROUND_S.1),
            (None, Some(found)) => found.window(entry),
            (None, None) => Match::unknown(entry.monitor).window(entry),
        };
        if let Some(offset_s) = entry.offset_s {
            let cause = offsets::cause(offset_s, entry, self.evidence.entries, self.evidence.course);
            return vec![Cause::Offset(cause)];
        }
        // A line may come late, so that its round was before anything was known.
        let first = if round.is_some() { window.0 } else { self.expected(entry) - MOST_LATE_S };
        if let Some(not_known) = self.not_known((first, window.1), found) {
            return vec![not_known];
        }
        let is_step = |step: f64| (entry.step - step).abs() < STEP_DIGITS;
        let says_unsynchronised =
            is_step(UNSYNCHRONISED_STEP) || round.is_some_and(|round| round.count(is_unsynchronised) > 0);
        if says_unsynchronised {
            let known = self.unsynchronised(window);
            let told = Cause::Unsynchronised { from_unix_s: None, for_s: 0.0, reason: None };
            let mut causes = vec![known.unwrap_or(if round.is_some() { told } else { Cause::Unexplained })];
            // A monitor that gets such an answer asks no more.
            if let Some(round) =
                round.filter(|round| !is_step(UNSYNCHRONISED_STEP) && round.requests.len() > 1)
            {
                causes.push(self.lost_out(round.count(is_unsynchronised), round));
            }
            return causes;
        }
        let refusals = round.map(|round| refusals(round, found.map(|found| self.sources[found.source])));
        match (refusals, round) {
            (Some(mut causes), Some(round)) if !causes.is_empty() => {
                // The monitor needs one answer. If two of its requests were not refused, they were lost as well.
                let answered = round.count(Fate::is_time);
                let is_down = round.missing() > 0 && self.link_down(window).is_some();
                if round.missing() >= 2 || is_down {
                    causes.push(self.lost_in(round.missing(), round.requests.len(), window));
                } else if answered >= 2 {
                    causes.push(self.lost_out(answered, round));
                }
                causes
            }
            (_, Some(round)) => {
                let (answered, missing) = (round.count(Fate::is_time), round.missing());
                vec![if missing > answered {
                    self.lost_in(missing, round.requests.len(), window)
                } else {
                    self.lost_out(answered, round)
                }]
            }
            (_, None) if is_step(KISS_RATE_STEP) => vec![Cause::Limited { requests: 1 }],
            (_, None) if is_step(KISS_DENY_STEP) => {
                vec![Cause::Denied { source: found.map(|found| self.sources[found.source].source.clone()) }]
            }
            (_, None) if found.is_some() || !self.is_stranger(window) => {
                let causes = self.link_down(window).into_iter().chain(self.silence(window));
                let causes: Vec<_> = causes.chain(self.reports_lost(window)).collect();
                if causes.is_empty() { vec![self.lost_in(3, 0, window)] } else { causes }
            }
            (_, None) => vec![Cause::Unexplained],
        }
    }

    /// Whether a source that belongs to no monitor asked at that time: it may be this one.
    fn is_stranger(&self, window: (f64, f64)) -> bool {
        let is_known = |index: usize| self.matches.iter().any(|found| found.source == index);
        let unknown = self.sources.iter().enumerate().filter(|(index, _)| !is_known(*index));
        unknown.map(|(_, source)| source).any(|source| !matching::between(&source.rounds, window).is_empty())
    }

    /// Nothing is said of what was before the daemon ran, and of what a source did before it was known.
    fn not_known(&self, window: (f64, f64), found: Option<&Match>) -> Option<Cause> {
        let since = self.evidence.rounds.since_unix_s.max(self.evidence.course.since_unix_s);
        let since = found.map_or(since, |found| since.max(self.sources[found.source].since_unix_s));
        if window.0 < since {
            return Some(Cause::NotKnown { known_from_unix_s: since });
        }
        let stopped = self.spans(window).find(|span| span.what == What::NoDaemon)?;
        Some(Cause::NotKnown { known_from_unix_s: stopped.to_unix_s })
    }

    fn spans(&self, (from, to): (f64, f64)) -> impl Iterator<Item = &Span> {
        let overlaps = move |span: &&Span| span.from_unix_s <= to && span.to_unix_s >= from;
        self.evidence.course.spans.iter().filter(overlaps)
    }

    fn unsynchronised(&self, window: (f64, f64)) -> Option<Cause> {
        self.spans(window).find_map(|span| match &span.what {
            What::Unsynchronised { reason } => Some(Cause::Unsynchronised {
                from_unix_s: Some(span.from_unix_s),
                for_s: span.to_unix_s - span.from_unix_s,
                reason: Some(reason.clone()),
            }),
            _ => None,
        })
    }

    /// Requests that are not in the log: perhaps their reports were lost, or this host lost them.
    fn lost_in(&self, lost: usize, arrived: usize, window: (f64, f64)) -> Cause {
        let reports = self.reports_lost(window);
        let drops = || {
            self.spans(window).find_map(|span| match &span.what {
                What::DriverDrops { interface, number } => {
                    Some(Cause::DriverDrops { interface: interface.clone(), number: *number })
                }
                _ => None,
            })
        };
        self.link_down(window).or(reports).or_else(drops).unwrap_or(Cause::LostIn { lost, arrived })
    }

    fn reports_lost(&self, window: (f64, f64)) -> Option<Cause> {
        self.spans(window).find_map(|span| match span.what {
            What::ReportsLost { number } => Some(Cause::ReportsLost { number }),
            _ => None,
        })
    }

    /// Answers that did not get to the monitor: they leave as soon as the requests are in.
    fn lost_out(&self, answered: usize, round: &Round) -> Cause {
        let window = (round.at_unix_s - LEAVING_S, round.end_unix_s() + LEAVING_S);
        self.link_down(window).unwrap_or(Cause::LostOut { answered, arrived: round.requests.len() })
    }

    fn link_down(&self, window: (f64, f64)) -> Option<Cause> {
        self.spans(window).find_map(|span| match &span.what {
            What::LinkDown { interface } => Some(Cause::LinkDown {
                interface: interface.clone(),
                from_unix_s: span.from_unix_s,
                for_s: span.to_unix_s - span.from_unix_s,
            }),
            _ => None,
        })
    }

    /// Whether nothing of the family arrived for so long that it is no matter of one monitor.
    fn silence(&self, (from, to): (f64, f64)) -> Option<Cause> {
        if self.reports_lost((from, to)).is_some() {
            return None;
        }
        let overlapping =
            self.silences.iter().filter(|silence| silence.from_unix_s <= to && silence.to_unix_s >= from);
        let length = |silence: &Silence| silence.to_unix_s - silence.from_unix_s;
        let longest = overlapping.max_by(|a, b| length(a).total_cmp(&length(b)))?;
        let Silence { from_unix_s, to_unix_s, other_family_arrives } = *longest;
        Some(Cause::FamilyBlocked { from_unix_s, to_unix_s, other_family_arrives })
    }

    /// When the round of a line should have arrived.
    fn expected(&self, entry: &Entry) -> f64 {
        let found = self.matches.iter().find(|found| found.monitor == entry.monitor);
        entry.at_unix_s - found.map_or(Match::unknown(entry.monitor).delay_s, |found| found.delay_s)
    }
}

fn is_unsynchronised(fate: Fate) -> bool {
    fate == Fate::Unsynchronised
}

/// What refused requests of a round.
fn refusals(round: &Round, source: Option<&ProbeSource>) -> Vec<Cause> {
    let number = |fates: &[Fate]| round.count(|fate| fates.contains(&fate));
    let mut causes = Vec::new();
    if number(&[Fate::Denied, Fate::KissDeny]) > 0 {
        causes.push(Cause::Denied { source: source.map(|source| source.source.clone()) });
    }
    if let requests @ 1.. = number(&[Fate::Limited, Fate::KissRate]) {
        causes.push(Cause::Limited { requests });
    }
    if let requests @ 1.. = number(&[Fate::OverBudget]) {
        causes.push(Cause::OverBudget { requests });
    }
    if let requests @ 1.. = number(&[Fate::Unsent]) {
        causes.push(Cause::Unsent { requests });
    }
    causes
}

/// A source that was sent no time in some rounds, and why. This needs no log of a monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// The source.
    pub source: String,
    /// The times of the rounds, in seconds since the Unix epoch.
    pub at_unix_s: Vec<f64>,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
}

/// What the server itself did to rounds of which no request was answered with the time. What was lost on the way does
/// not show here.
#[must_use]
pub fn judge_here(rounds: &ProbeRounds, course: &Course, family: &str) -> Vec<Refused> {
    let mut refused: Vec<Refused> = Vec::new();
    let evidence = Evidence { rounds, course, family, entries: &[] };
    let judge = Judge { evidence: &evidence, sources: &[], matches: &[], silences: Vec::new() };
    for source in rounds.sources.iter().filter(|source| source.family == family) {
        for round in source.rounds.iter().filter(|round| round.count(Fate::is_time) == 0) {
            let window = (round.at_unix_s - AROUND_S.0, round.end_unix_s() + AROUND_S.1);
            let mut causes = refusals(round, Some(source));
            if round.count(is_unsynchronised) > 0 {
                causes.push(judge.unsynchronised(window).unwrap_or(Cause::Unsynchronised {
                    from_unix_s: None,
                    for_s: 0.0,
                    reason: None,
                }));
            }
            for cause in causes {
                let known = refused.iter_mut().find(|known| {
                    known.source == source.source
                        && std::mem::discriminant(&known.cause) == std::mem::discriminant(&cause)
                });
                match known {
                    Some(known) => known.at_unix_s.push(round.at_unix_s),
                    None => refused.push(Refused {
                        source: source.source.clone(),
                        at_unix_s: vec![round.at_unix_s],
                        cause,
                    }),
                }
            }
        }
    }
    refused
}
