//! Who asks most, out of a sample of requests: counts that fade, of a bounded number of sources.

use std::collections::HashMap;

use responder::sample::Sample;

use super::profile::Profile;

/// What is longer ago than this counts less than 37 %.
pub(super) const FADE_S: f64 = 10.0;
/// Sources that are counted; beyond twice as many the smaller ones are forgotten.
const KEPT: usize = 1024;

/// A source of a family, as the limiter goes by it.
pub(super) type Key = (u8, u64);

/// What there is of a source, fading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Samples.
    pub(super) samples: f64,
    /// Requests that they stand for.
    pub(super) requests: f64,
    /// Of those that were dropped.
    pub(super) dropped: f64,
    /// What its requests look like.
    pub(super) profile: Profile,
}

/// The sources.
#[derive(Debug, Default)]
pub(super) struct Heavy(HashMap<Key, Counts>);

impl Heavy {
    /// Takes in a sample that stands for so many requests.
    pub(super) fn add(&mut self, key: Key, requests: f64, dropped: bool) {
        let counts = self.0.entry(key).or_default();
        counts.samples += 1.0;
        counts.requests += requests;
        if dropped {
            counts.dropped += requests;
        }
        if self.0.len() > 2 * KEPT {
            self.forget_small_ones();
        }
    }

    /// Takes in what a sample of a source looks like, if the source is counted. `complete` says whether all requests of
    /// the source are sampled.
    pub(super) fn profile(&mut self, key: Key, sample: &Sample, complete: bool) {
        if let Some(counts) = self.0.get_mut(&key) {
            counts.profile.take(sample, complete);
        }
    }

    /// Lets the counts fade by a time, and forgets what has faded away.
    pub(super) fn fade(&mut self, seconds: f64) {
        let factor = (-seconds / FADE_S).exp();
        self.0.retain(|_, counts| {
            counts.samples *= factor;
            counts.requests *= factor;
            counts.dropped *= factor;
            counts.samples > 0.01
        });
    }

    /// What there is of a source; zero if nothing of it was sampled.
    pub(super) fn of(&self, key: Key) -> Counts {
        self.0.get(&key).copied().unwrap_or_default()
    }

    /// The largest ones by a figure that is not zero.
    pub(super) fn largest(&self, most: usize, figure: impl Fn(&Counts) -> f64) -> Vec<(Key, Counts)> {
        let mut all: Vec<_> = self
            .0
            .iter()
            .map(|(key, counts)| (*key, *counts))
            .filter(|(_, counts)| figure(counts) > 0.0)
            .collect();
        all.sort_by(|a, b| figure(&b.1).total_cmp(&figure(&a.1)).then(a.0.cmp(&b.0)));
        all.truncate(most);
        all
    }

    fn forget_small_ones(&mut self) {
        let mut sizes: Vec<_> = self.0.values().map(|counts| counts.requests).collect();
        let (_, median, _) = sizes.select_nth_unstable_by(KEPT, f64::total_cmp);
        let median = *median;
        // Of a flood of single requests all are the same, and nothing is lost with them.
        self.0.retain(|_, counts| counts.requests > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_sources_are_found_among_a_flood_in_bounded_memory() {
        let mut heavy = Heavy::default();
        for number in 0..200_000_u64 {
            heavy.add((0, 1000 + number), 64.0, false);
            if number % 10 == 0 {
                heavy.add((0, 7), 64.0, true);
            }
            if number % 30 == 0 {
                heavy.add((1, 8), 64.0, false);
            }
        }
        assert!(heavy.0.len() <= 2 * KEPT);
        let by_requests: Vec<_> =
            heavy.largest(2, |counts| counts.requests).iter().map(|(key, _)| *key).collect();
        assert_eq!(by_requests, [(0, 7), (1, 8)]);
        let by_drops = heavy.largest(10, |counts| counts.dropped);
        assert_eq!(by_drops.len(), 1);
        assert!((by_drops[0].1.dropped - 64.0 * 20_000.0).abs() < 1.0, "{by_drops:?}");
    }

    #[test]
    fn a_constant_rate_comes_to_rest_at_its_value_and_what_is_gone_fades() {
        let mut heavy = Heavy::default();
        for _ in 0..400 {
            heavy.fade(0.25);
            heavy.add((0, 1), 100.0, false);
        }
        let rate = |heavy: &Heavy| {
            heavy.largest(1, |counts| counts.requests).first().map(|(_, counts)| counts.requests / FADE_S)
        };
        assert!((rate(&heavy).unwrap() - 400.0).abs() < 10.0, "{:?}", rate(&heavy));
        heavy.fade(100.0);
        assert_eq!(rate(&heavy), None);
    }
}
