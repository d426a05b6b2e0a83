//! Who asks, how much, how often, and what becomes of it: estimates out of samples, beside the exact counters.

mod distinct;
mod heavy;
mod profile;
mod view;

use std::time::Duration;

use responder::layout::Count;
use responder::sample::{Chances, EVICTED, OF_REQUESTS, OF_SOURCES, Sample};
use responder::verdict::{Action, Family, Outcome, VERSIONS, Verdict};

use distinct::Distinct;
use heavy::{FADE_S, Heavy};
pub(crate) use view::show_source;

/// Samples of requests that are wanted in a round; the chance follows.
const WANTED: usize = 128;
/// Samples of sources in a round above which fewer sources are taken.
const MOST_OF_SOURCES: usize = 256;
/// The chance of a request starts at one in 2^6, for a flood may be on already.
const FIRST_RARITY: u32 = 6;
const GREATEST_RARITY: u32 = 32;
/// Classes of the time between two requests: below a second, below 2, 4 and so on, and the rest.
const INTERVALS: usize = 13;

/// What is known of the traffic.
#[derive(Debug)]
pub(crate) struct Traffic {
    distinct: Distinct,
    heavy: Heavy,
    /// One request in 2^rarity is sampled.
    rarity: u32,
    /// Requests by the time since the same source's last one, fading.
    intervals: [f64; INTERVALS],
    /// Requests by version, and answered and refused ones, fading.
    versions: [f64; VERSIONS],
    answered: f64,
    refused: f64,
    /// What was refused because the access lists deny its source, fading.
    denied: f64,
    evictions: f64,
    /// What the counters said in the last round.
    before: Option<Box<[u64]>>,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self {
            distinct: Distinct::default(),
            heavy: Heavy::default(),
            rarity: FIRST_RARITY,
            intervals: [0.0; INTERVALS],
            versions: [0.0; VERSIONS],
            answered: 0.0,
            refused: 0.0,
            denied: 0.0,
            evictions: 0.0,
            before: None,
        }
    }

    /// How requests are to be chosen from now on.
    pub(crate) fn chances(&self) -> Chances {
        Chances { request: u64::MAX >> self.rarity, source: self.distinct.threshold() }
    }

    /// Takes in what came in a round: the samples, and the counters of all that were counted, whose changes the
    /// samples of requests stand for.
    pub(crate) fn take(&mut self, samples: &[Sample], counters: &[Count], passed: Duration, now_ns: u64) {
        self.fade(passed.as_secs_f64());
        let requests = self.count(counters);
        let of_requests = samples.iter().filter(|sample| sample.kind & OF_REQUESTS != 0).count();
        let of_sources = samples.iter().filter(|sample| sample.kind & OF_SOURCES != 0).count();
        #[expect(clippy::cast_precision_loss, reason = "samples of a round")]
        let weight = requests / of_requests.max(1) as f64;
        for sample in samples {
            let key = (sample.family, sample.source);
            if sample.kind & OF_REQUESTS != 0 {
                let verdict = Verdict::ALL.get(usize::from(sample.verdict));
                let dropped = verdict.is_some_and(|verdict| verdict.action() == Action::Drop);
                self.heavy.add(key, weight, dropped);
            }
            if sample.kind & (OF_REQUESTS | OF_SOURCES) != 0 {
                let complete = self.rarity == 0 || sample.kind & OF_SOURCES != 0;
                self.heavy.profile(key, sample, complete);
            }
            if sample.kind & OF_SOURCES != 0 {
                if sample.kind & EVICTED != 0 {
                    self.evictions += self.distinct.weight();
                }
                if let Some(interval) = self.distinct.add(sample.hash, sample.family, sample.at_ns) {
                    self.intervals[class_of(interval)] += 1.0;
                }
            }
        }
        self.distinct.expire(now_ns);
        if of_sources > MOST_OF_SOURCES {
            self.distinct.deepen(now_ns);
        }
        if of_requests > WANTED * 3 / 2 {
            self.rarity = (self.rarity + 1).min(GREATEST_RARITY);
        } else if of_requests < WANTED / 2 {
            self.rarity = self.rarity.saturating_sub(1);
        }
    }

    /// Sources of a family within the last hour, about.
    pub(crate) fn clients(&self, family: Family) -> f64 {
        self.distinct.estimate(family)
    }

    /// Sources that the limiter forgot before their buckets were full, about.
    pub(crate) fn evictions(&self) -> f64 {
        self.evictions
    }

    fn fade(&mut self, seconds: f64) {
        let factor = (-seconds / FADE_S).exp();
        self.heavy.fade(seconds);
        self.answered *= factor;
        self.refused *= factor;
        self.denied *= factor;
        self.versions.iter_mut().for_each(|version| *version *= factor);
        // There are few of them, so they are looked at over a longer time.
        let slow = (-seconds / (30.0 * FADE_S)).exp();
        self.intervals.iter_mut().for_each(|interval| *interval *= slow);
    }

    /// Adds what the counters went up by since the last round. Gives the requests among it that can be sampled.
    fn count(&mut self, counters: &[Count]) -> f64 {
        let now: Box<[u64]> = counters.iter().map(|count| count.packets).collect();
        let Some(before) = self.before.replace(now) else {
            return 0.0;
        };
        let mut requests = 0.0;
        for outcome in Outcome::all() {
            let (index, Outcome { verdict, version, .. }) = (outcome.counter(), outcome);
            let (now, before) = (counters.get(index).map_or(0, |count| count.packets), before[index]);
            // An interface that went took its counters along.
            #[expect(clippy::cast_precision_loss, reason = "of a round")]
            let came = now.saturating_sub(before) as f64;
            if matches!(verdict, Verdict::DropDenied | Verdict::KissDeny) {
                self.denied += came;
            }
            match verdict.action() {
                Action::Transmit => self.answered += came,
                Action::Drop => self.refused += came,
                Action::Pass => continue,
            }
            self.versions[usize::from(version)] += came;
            if verdict.action() == Action::Transmit
                || matches!(verdict, Verdict::DropLimited | Verdict::DropBudget | Verdict::DropDenied)
            {
                requests += came;
            }
        }
        requests
    }
}

fn class_of(interval: Duration) -> usize {
    let seconds = interval.as_secs();
    let class = usize::try_from(seconds.checked_ilog2().map_or(0, |log| log + 1)).unwrap_or(0);
    class.min(INTERVALS - 1)
}

#[cfg(test)]
mod tests {
    use responder::verdict::COUNTERS;

    use super::*;

    #[test]
    fn denied_sources_show_while_they_go_on_and_fade_when_they_end() {
        let (mut traffic, mut counters) = (Traffic::new(), vec![Count::default(); COUNTERS]);
        let denied = Outcome { verdict: Verdict::DropDenied, family: Family::Ipv4, version: 4 };
        let rate = |traffic: &Traffic| traffic.top(1, [32, 64], true).denied_per_s;
        for round in 0..200_u64 {
            traffic.take(&[], &counters, Duration::from_millis(250), round * 250_000_000);
            counters[denied.counter()].packets += 25;
        }
        assert!((90.0..101.0).contains(&rate(&traffic)), "{}", rate(&traffic));
        for round in 200..800_u64 {
            traffic.take(&[], &counters, Duration::from_millis(250), round * 250_000_000);
        }
        assert!(rate(&traffic) < 0.05, "{}", rate(&traffic));
    }
}
