//! From reports of probes to rounds of three, for each source. Memory is bounded whoever sends what.

use std::collections::{HashMap, VecDeque};

use responder::sample::Sample;
use responder::verdict::{Family, Verdict};

use crate::serving::traffic::show_source;
use crate::status::probes::{
    Fate, LatestRound, ProbeCount, ProbeRounds, ProbeSource, REQUESTS, Round, RoundRequest,
};

/// Rounds are kept for a day.
const KEPT_S: f64 = 86_400.0;
/// Sources that there is room for: the pool has some dozens of monitors in each family.
const SOURCES: usize = 128;
/// Rounds that there is room for. As the daemon sends them they take less than half of the longest line.
const ROUNDS: usize = 8192;
/// The longest time from one request of a round to the next: a monitor waits 3 s for an answer, and 2 s more.
const LONGEST_GAP_NS: u64 = 8_000_000_000;
/// Rounds that the status page shows.
const LATEST: usize = 12;

/// A source: the index of its family, and [`Sample::source`].
type Key = (u8, u64);

/// A round of a source, with what tells its requests apart.
#[derive(Debug)]
struct Kept {
    round: Round,
    /// When its first and its last request arrived, according to `CLOCK_MONOTONIC`.
    first_ns: u64,
    last_ns: u64,
    transmits: Vec<[u8; 8]>,
}

#[derive(Debug, Default)]
struct Source {
    /// Rounds of it before this are not known, in seconds since the Unix epoch.
    since_unix_s: f64,
    rounds: VecDeque<Kept>,
}

/// All rounds.
#[derive(Debug)]
pub(in crate::daemon) struct RoundLog {
    since_unix_s: f64,
    sources: HashMap<Key, Source>,
    number: usize,
    forgotten: u64,
    counts: [[u64; Fate::ALL.len()]; Family::ALL.len()],
}

impl RoundLog {
    /// Makes a log that begins now.
    pub(super) fn new(now_unix_s: f64) -> Self {
        Self {
            since_unix_s: now_unix_s,
            sources: HashMap::new(),
            number: 0,
            forgotten: 0,
            counts: [[0; Fate::ALL.len()]; Family::ALL.len()],
        }
    }

    /// Takes in a probe. `synchronised` says whether answers were when it arrived, at `at_unix_s`.
    pub(super) fn add(&mut self, probe: &Sample, synchronised: bool, at_unix_s: f64) {
        let verdict = Verdict::ALL.get(usize::from(probe.verdict));
        let Some(fate) = verdict.and_then(|verdict| Fate::of(*verdict, synchronised)) else { return };
        let family = usize::from(probe.family);
        if family >= Family::ALL.len() {
            return;
        }
        let key = (probe.family, probe.source);
        if !self.sources.contains_key(&key) {
            self.make_room_for_source();
        }
        let since_unix_s = if self.forgotten == 0 { self.since_unix_s } else { at_unix_s };
        let source =
            self.sources.entry(key).or_insert_with(|| Source { since_unix_s, rounds: VecDeque::new() });
        let is_near = |kept: &&mut Kept| probe.at_ns.saturating_sub(kept.last_ns) < LONGEST_GAP_NS;
        let last = source.rounds.back_mut().filter(is_near);
        // A network may deliver a packet twice.
        if last.as_ref().is_some_and(|kept| kept.transmits.contains(&probe.transmit)) {
            return;
        }
        let open = last.filter(|kept| kept.round.requests.len() < REQUESTS);
        self.counts[family][fate as usize] += 1;
        if let Some(kept) = open {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "some seconds")]
            let after_s = (probe.at_ns.saturating_sub(kept.first_ns) as f64 / 1e9) as f32;
            kept.round.requests.push(RoundRequest { after_s, fate });
            kept.last_ns = kept.last_ns.max(probe.at_ns);
            kept.transmits.push(probe.transmit);
            return;
        }
        source.rounds.push_back(Kept {
            round: Round { at_unix_s, requests: vec![RoundRequest { after_s: 0.0, fate }] },
            first_ns: probe.at_ns,
            last_ns: probe.at_ns,
            transmits: vec![probe.transmit],
        });
        self.number += 1;
        if self.number > ROUNDS {
            self.drop_round();
        }
    }

    /// Forgets what is older than a day.
    pub(super) fn expire(&mut self, now_unix_s: f64) {
        let oldest = now_unix_s - KEPT_S;
        self.since_unix_s = self.since_unix_s.max(oldest);
        let number = &mut self.number;
        self.sources.retain(|_, source| {
            source.since_unix_s = source.since_unix_s.max(oldest);
            while source.rounds.front().is_some_and(|kept| kept.round.at_unix_s < oldest) {
                source.rounds.pop_front();
                *number -= 1;
            }
            !source.rounds.is_empty()
        });
    }

    /// Forgets the source of which least is known and that was silent longest, if there is no room for another one: a
    /// flood of forged addresses does not make monitors unknown that were there before.
    fn make_room_for_source(&mut self) {
        if self.sources.len() < SOURCES {
            return;
        }
        let worth =
            |source: &Source| (source.rounds.len(), source.rounds.back().map_or(0, |kept| kept.last_ns));
        let least = self.sources.iter().min_by_key(|(_, source)| worth(source)).map(|(key, _)| *key);
        if let Some(source) = least.and_then(|key| self.sources.remove(&key)) {
            self.number -= source.rounds.len();
            self.forgotten += 1;
        }
    }

    /// Forgets the oldest round of the source that has most.
    fn drop_round(&mut self) {
        let most = self.sources.values_mut().max_by_key(|source| source.rounds.len());
        let Some(source) = most else { return };
        if let Some(kept) = source.rounds.pop_front() {
            source.since_unix_s = source.since_unix_s.max(kept.round.end_unix_s());
            self.number -= 1;
        }
    }

    /// Returns all rounds. Sources are prefixes of these lengths.
    pub(in crate::daemon) fn view(&self, now_unix_s: f64, prefixes: [u8; 2]) -> ProbeRounds {
        let mut sources: Vec<_> = self
            .sources
            .iter()
            .map(|(key, source)| ProbeSource {
                source: show_source(*key, prefixes),
                family: family_label(key.0).into(),
                since_unix_s: source.since_unix_s,
                rounds: source.rounds.iter().map(|kept| kept.round.clone()).collect(),
            })
            .collect();
        sources.sort_by(|a, b| (&a.family, &a.source).cmp(&(&b.family, &b.source)));
        ProbeRounds {
            since_unix_s: self.since_unix_s,
            until_unix_s: now_unix_s,
            sources,
            forgotten: self.forgotten,
        }
    }

    /// Returns the number of probes by family and fate.
    pub(in crate::daemon) fn counts(&self) -> Vec<ProbeCount> {
        let mut counts = Vec::new();
        for family in Family::ALL {
            counts.extend(Fate::ALL.iter().map(|fate| ProbeCount {
                family: family.label().into(),
                outcome: fate.label().into(),
                requests: self.counts[*family as usize][*fate as usize],
            }));
        }
        counts
    }

    /// Returns the latest rounds, latest first.
    pub(in crate::daemon) fn latest(&self, prefixes: [u8; 2], show_sources: bool) -> Vec<LatestRound> {
        let mut latest: Vec<_> = self
            .sources
            .iter()
            .flat_map(|(key, source)| source.rounds.iter().rev().take(LATEST).map(move |kept| (*key, kept)))
            .collect();
        latest.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.first_ns));
        let show = |(key, kept): &(Key, &Kept)| LatestRound {
            source: show_sources.then(|| show_source(*key, prefixes)),
            family: family_label(key.0).into(),
            at_unix_s: kept.round.at_unix_s,
            outcomes: kept.round.requests.iter().map(|request| request.fate.label().into()).collect(),
        };
        latest.iter().take(LATEST).map(show).collect()
    }
}

fn family_label(index: u8) -> &'static str {
    Family::ALL.get(usize::from(index)).map_or("", |family| family.label())
}

#[cfg(test)]
mod tests {
    use testinput::random::Random;

    use super::*;
    use crate::status::probes::Fate::{Answered, Limited, Unsynchronised};

    const START_UNIX_S: f64 = 1_790_000_000.0;
    const PREFIXES: [u8; 2] = [32, 64];

    /// A probe of a source, so many milliseconds after the start.
    fn probe(source: u64, at_ms: u64, verdict: Verdict) -> Sample {
        Sample {
            source,
            at_ns: at_ms * 1_000_000,
            transmit: (at_ms << 20 | source).to_be_bytes(),
            verdict: verdict as u8,
            ..Sample::default()
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a test")]
    fn unix_s(at_ms: u64) -> f64 {
        START_UNIX_S + at_ms as f64 / 1e3
    }

    fn add(log: &mut RoundLog, source: u64, at_ms: u64, verdict: Verdict) {
        log.add(&probe(source, at_ms, verdict), true, unix_s(at_ms));
    }

    fn rounds_of(log: &RoundLog, number: usize) -> Vec<Vec<Fate>> {
        let view = log.view(START_UNIX_S, PREFIXES);
        let fates = |round: &Round| round.requests.iter().map(|request| request.fate).collect();
        view.sources[number].rounds.iter().map(fates).collect()
    }

    #[test]
    fn three_requests_are_a_round_however_many_of_them_arrive_and_a_packet_that_comes_twice_is_one() {
        let mut log = RoundLog::new(START_UNIX_S);
        for (at_ms, verdict) in [
            (0, Verdict::Answered),
            (2_030, Verdict::DropLimited),
            (4_060, Verdict::Answered),
            // The next round, of which one does not arrive.
            (600_000, Verdict::Answered),
            (605_000, Verdict::Unsynchronised),
            (1_200_000, Verdict::Answered),
            // Passed to the socket, which reports it again.
            (1_202_000, Verdict::PassClock),
            (1_202_000, Verdict::Answered),
        ] {
            add(&mut log, 7, at_ms, verdict);
            add(&mut log, 7, at_ms, verdict);
        }
        assert_eq!(
            rounds_of(&log, 0),
            [vec![Answered, Limited, Answered], vec![Answered, Unsynchronised], vec![Answered, Answered]]
        );
        let first = &log.view(START_UNIX_S, PREFIXES).sources[0].rounds[0];
        assert!(
            (first.at_unix_s - START_UNIX_S).abs() < 1e-6 && (first.requests[2].after_s - 4.06).abs() < 1e-3
        );
        let counted: u64 = log.counts().iter().map(|count| count.requests).sum();
        assert_eq!(counted, 7);
    }

    #[test]
    fn rounds_of_many_monitors_are_told_apart_over_many_seeds() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut probes, mut rounds) = (Vec::new(), Vec::new());
            for monitor in 0..random.between(1, 40) as u64 {
                let mut at_ms = random.below(600_000);
                let mut of_monitor = Vec::new();
                for _ in 0..random.between(1, 30) {
                    let arriving = random.between(1, 3);
                    let gap_ms = 2_000 + random.below(3_500);
                    for request in 0..arriving as u64 {
                        let verdict = random.pick(&[Verdict::Answered, Verdict::DropLimited]);
                        probes.push(probe(monitor, at_ms + request * gap_ms, verdict));
                    }
                    of_monitor.push(arriving);
                    at_ms += 120_000 + random.below(900_000);
                }
                rounds.push(of_monitor);
            }
            probes.sort_by_key(|probe| probe.at_ns);
            let mut log = RoundLog::new(START_UNIX_S);
            for probe in &probes {
                log.add(probe, true, unix_s(probe.at_ns / 1_000_000));
            }
            for (monitor, expected) in rounds.iter().enumerate() {
                let kept = &log.sources[&(0, monitor as u64)].rounds;
                let arrived: Vec<_> = kept.iter().map(|kept| kept.round.requests.len()).collect();
                assert_eq!(&arrived, expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn an_answer_while_the_clock_is_not_good_is_one_that_says_so() {
        let mut log = RoundLog::new(START_UNIX_S);
        log.add(&probe(1, 0, Verdict::Answered), false, START_UNIX_S);
        assert_eq!(rounds_of(&log, 0), [[Unsynchronised]]);
    }

    #[test]
    fn a_flood_of_forged_probes_is_bounded_and_leaves_known_monitors_known() {
        let mut log = RoundLog::new(START_UNIX_S);
        for round in 0..20 {
            for monitor in 0..30 {
                add(&mut log, monitor, round * 600_000 + monitor * 1_000, Verdict::Answered);
            }
        }
        let mut random = Random::new(1);
        for number in 0..100_000_u64 {
            add(&mut log, 1_000 + random.below(1 << 31), 12_000_000 + number, Verdict::Answered);
        }
        assert!(log.sources.len() <= SOURCES && log.number <= ROUNDS);
        for monitor in 0..30 {
            assert_eq!(log.sources[&(0, monitor)].rounds.len(), 20);
        }
        assert!(log.forgotten > 99_000);
        // One that repeats itself takes the room of nobody.
        for number in 0..40_000_u64 {
            add(&mut log, 99, 20_000_000 + number * 10_000, Verdict::Answered);
        }
        assert!(log.number <= ROUNDS);
        assert_eq!(log.sources[&(0, 3)].rounds.len(), 20);
        let view = log.view(START_UNIX_S, PREFIXES);
        assert!(serde_json::to_string(&view).unwrap().len() < 1 << 19);
        let flooding = &log.sources[&(0, 99)];
        assert!(flooding.since_unix_s > START_UNIX_S, "it says what it does not know");
    }

    #[test]
    fn what_is_older_than_a_day_is_forgotten() {
        let mut log = RoundLog::new(START_UNIX_S);
        add(&mut log, 1, 0, Verdict::Answered);
        add(&mut log, 1, 600_000, Verdict::Answered);
        add(&mut log, 2, 0, Verdict::Answered);
        log.expire(START_UNIX_S + KEPT_S + 1.0);
        let view = log.view(START_UNIX_S + KEPT_S + 1.0, PREFIXES);
        assert!((view.since_unix_s - START_UNIX_S - 1.0).abs() < 1e-6);
        assert_eq!((view.sources.len(), view.sources[0].rounds.len(), log.number), (1, 1, 1));
    }

    #[test]
    fn the_latest_rounds_have_addresses_only_where_these_may_be_shown() {
        let mut log = RoundLog::new(START_UNIX_S);
        for round in 0..40 {
            add(&mut log, round % 5, round * 60_000, Verdict::Answered);
        }
        let hidden = log.latest(PREFIXES, false);
        assert!(hidden.len() == LATEST && hidden.iter().all(|round| round.source.is_none()));
        let shown = log.latest(PREFIXES, true);
        assert!(shown.iter().all(|round| round.source.is_some()));
        assert!((shown[0].at_unix_s - unix_s(39 * 60_000)).abs() < 1e-6, "{shown:?}");
    }
}
