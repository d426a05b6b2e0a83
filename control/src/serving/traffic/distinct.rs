//! How many sources there are, out of all requests of a few of them (adaptive sampling, after Wegman and Flajolet).
//!
//! Sources are chosen by their keyed hash: one in 2^depth, for a depth at which there are some thousands. Each stands
//! for 2^depth, and the error is that of counting so many: one in the square root of them, 3 % at the least number. A
//! `HyperLogLog` would need a register write for each request in the data path, and could not forget: this counts the
//! sources of the last hour, and knows when each of them was last there.

use std::collections::HashMap;
use std::time::Duration;

use responder::verdict::Family;

/// The time that is looked back.
const WINDOW: Duration = Duration::from_hours(1);
/// More sources are thinned out.
const MOST: usize = 4096;
/// With fewer, more are taken in.
const FEWEST: usize = MOST / 4;
/// One in 2^40 of all is the least that makes sense.
const DEEPEST: u32 = 40;

/// The sources in the sample.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    depth: u32,
    /// Depths that were in force until a moment within the window.
    earlier: Vec<(u32, u64)>,
    sources: HashMap<u64, Source>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    family: u8,
    last_ns: u64,
}

impl Distinct {
    /// Hashes below this are in the sample.
    pub(super) fn threshold(&self) -> u64 {
        threshold(self.depth)
    }

    /// The sources that each of the sample stands for.
    pub(super) fn weight(&self) -> f64 {
        weight(self.depth)
    }

    /// Takes a request of a source in. Gives the time since its last one, if there was one within the window.
    pub(super) fn add(&mut self, hash: u64, family: u8, at_ns: u64) -> Option<Duration> {
        // Chosen before the sample was thinned out.
        if hash >= self.threshold() {
            return None;
        }
        let before = self.sources.insert(hash, Source { family, last_ns: at_ns });
        if self.sources.len() > MOST {
            self.deepen(at_ns);
        }
        before.map(|before| Duration::from_nanos(at_ns.saturating_sub(before.last_ns)))
    }

    /// Takes half as many sources from now on.
    pub(super) fn deepen(&mut self, now_ns: u64) {
        if self.depth < DEEPEST {
            self.earlier.push((self.depth, now_ns));
            self.depth += 1;
            let threshold = self.threshold();
            self.sources.retain(|hash, _| *hash < threshold);
        }
    }

    /// Forgets what is older than the window, and takes in more sources where few are left.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let start_ns = window_start(now_ns);
        self.sources.retain(|_, source| source.last_ns >= start_ns);
        self.earlier.retain(|(_, until_ns)| *until_ns >= start_ns);
        let settled = self.earlier.last().is_none_or(|(_, until_ns)| now_ns - until_ns > 60_000_000_000);
        if self.depth > 0 && self.sources.len() < FEWEST && settled {
            self.earlier.push((self.depth, now_ns));
            self.depth -= 1;
        }
    }

    /// The sources of a family within the window: as many as are in the sample at the greatest depth that was in
    /// force, for of the others not all were taken in.
    pub(super) fn estimate(&self, family: Family) -> f64 {
        let depth = self.earlier.iter().map(|(depth, _)| *depth).chain([self.depth]).max().unwrap_or(0);
        let threshold = threshold(depth);
        let of_family =
            |(hash, source): &(&u64, &Source)| **hash < threshold && source.family == family as u8;
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let found = self.sources.iter().filter(of_family).count() as f64;
        found * weight(depth)
    }
}

fn window_start(now_ns: u64) -> u64 {
    now_ns.saturating_sub(u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX))
}

const fn threshold(depth: u32) -> u64 {
    // The highest value stands for a source that was not looked for.
    u64::MAX >> depth
}

fn weight(depth: u32) -> f64 {
    2_f64.powi(depth.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// As good as random.
    fn hash(source: u64) -> u64 {
        let mixed = (source ^ 0x243f_6a88_85a3_08d3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xa409_3822_299f_31d1)
    }

    /// So many sources of a family that each ask twice.
    fn after(sources: u64) -> Distinct {
        let mut distinct = Distinct::default();
        for request in 0..2 * sources {
            let source = request % sources;
            if hash(source) < distinct.threshold() {
                distinct.add(hash(source), u8::from(source.is_multiple_of(4)), SECOND + request);
            }
        }
        distinct
    }

    #[test]
    fn few_sources_are_counted_exactly() {
        for sources in [0, 1, 1000, 4000_u32] {
            let distinct = after(sources.into());
            let found = Family::ALL.iter().map(|family| distinct.estimate(*family)).sum::<f64>();
            assert!((found - f64::from(sources)).abs() < 0.5, "{found} of {sources}");
        }
    }

    #[test]
    fn many_sources_are_counted_to_a_few_percent_by_family_in_bounded_memory() {
        for sources in [10_000, 100_000, 2_000_000_u32] {
            let distinct = after(sources.into());
            assert!(distinct.sources.len() <= MOST);
            let [ipv4, ipv6] = [Family::Ipv4, Family::Ipv6].map(|family| distinct.estimate(family));
            let sources = f64::from(sources);
            println!("{sources} sources: {ipv4} and {ipv6}");
            assert!((ipv4 / (sources * 0.75) - 1.0).abs() < 0.1, "{ipv4} of {sources}");
            assert!((ipv6 / (sources * 0.25) - 1.0).abs() < 0.2, "{ipv6} of {sources}");
        }
    }

    #[test]
    fn after_an_hour_a_source_is_forgotten_and_after_a_flood_the_sample_grows_again() {
        let mut distinct = after(2_000_000);
        let depth = distinct.depth;
        assert!(depth > 5);
        let mut now_ns = SECOND;
        for minute in 0..90 {
            now_ns += 60 * SECOND;
            // A thousand clients go on asking.
            for source in 0..1000 {
                if hash(source) < distinct.threshold() {
                    distinct.add(hash(source), 0, now_ns + minute);
                }
            }
            distinct.expire(now_ns + SECOND);
        }
        assert_eq!(distinct.depth, 0);
        // Exact again only when the last thinning is an hour ago.
        for _ in 0..70 {
            now_ns += 60 * SECOND;
            (0..1000).for_each(|source| {
                distinct.add(hash(source), 0, now_ns);
            });
            distinct.expire(now_ns);
        }
        assert!((distinct.estimate(Family::Ipv4) - 1000.0).abs() < 0.5);
    }

    #[test]
    fn the_time_since_the_last_request_is_told() {
        let mut distinct = Distinct::default();
        assert_eq!(distinct.add(7, 0, SECOND), None);
        assert_eq!(distinct.add(7, 0, 65 * SECOND), Some(Duration::from_secs(64)));
    }
}
