//! The network path to one source: what a sample's round trip says about its noise.
//!
//! Queues only ever add delay. A sample whose round trip exceeds the path's floor by `s` is wrong by at
//! most `s / 2`. If both directions queue alike, its error is spread evenly over that range: variance `s² /
//! 12`. So a sample that met no queue counts as much as hundreds that did, without any sample being thrown
//! away. The floor itself is only known as well as the luckiest sample so far, which is added to `s`.
//!
//! A round trip that stays above the floor is a route change. Until it has lasted long enough to be one,
//! its samples are held back: according to the rule above they would say nearly nothing.

/// Number of samples in each of the two generations from which the floor is taken.
const GENERATION: u32 = 256;
/// Number of samples over which the mean excess is averaged.
const MEAN_OVER: f64 = 64.0;
/// After this many consecutive samples above the floor, samples are held back.
const HOLD_AFTER: u32 = 4;
/// After this many, the route counts as changed.
const CHANGED_AFTER: u32 = 12;
/// Before this many samples, neither the floor nor the usual queue is known well enough for such decisions.
const SETTLED_AFTER: u32 = 32;
/// What counts as above the floor, in mean one-way excesses. A fifth of all samples on a quiet path are, and
/// the twelfth power of that is a false alarm in a hundred years.
const ABOVE: f64 = 3.0;
/// A round trip below the floor by this many floor errors is not a better view of the old route: the
/// probability is e to the minus 16th.
const BELOW: f64 = 4.0;
/// How many times itself the variance is larger for a path's first sample; the addition falls with their
/// number.
const FEW: f64 = 10.0;
/// Excess above which a sample's delay comes from something other than the usual queues, most likely in one
/// direction only, in mean one-way excesses.
const FAR_ABOVE: f64 = 6.0;
/// Standard deviation of the noise in any sample, however short its round trip, from reading the clock and
/// timestamping the packet, in s.
const READING_NOISE_S: f64 = 1e-7;
/// Smallest mean excess in s. Below it, the clocks vary and not the path.
const LEAST_EXCESS_S: f64 = 1e-7;

/// What a sample's round trip says about the route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RouteState {
    /// The path is as it was.
    Usual,
    /// The round trip has been long for some consecutive samples, which are not yet used.
    Held,
    /// The floor has moved: the route has changed.
    Changed {
        /// New floor minus old floor, in s.
        by_s: f64,
    },
}

/// What is known about a path's round trips.
#[derive(Debug, Clone)]
pub struct Path {
    floor_s: f64,
    previous_floor_s: f64,
    in_generation: u32,
    samples: u32,
    mean_excess_s: f64,
    above_in_row: u32,
    least_above_s: f64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            floor_s: f64::INFINITY,
            previous_floor_s: f64::INFINITY,
            in_generation: 0,
            samples: 0,
            mean_excess_s: 0.0,
            above_in_row: 0,
            least_above_s: f64::INFINITY,
        }
    }
}

impl Path {
    /// Takes in a round trip in s.
    pub fn observe(&mut self, delay_s: f64) -> RouteState {
        if self.samples == 0 {
            // Before there is anything to compare with, half of the round trip may be queues.
            self.mean_excess_s = delay_s / 2.0;
        }
        let floor_s = self.floor_s();
        let queue_s = self.one_way_excess_s();
        let dropped_s = floor_s - delay_s;
        if self.samples >= SETTLED_AFTER && dropped_s > BELOW * self.floor_error_s() {
            // One sample cannot show how low the new floor is, only that it is not the old one.
            self.restart_at(delay_s, 1);
            return RouteState::Changed { by_s: -(dropped_s + self.floor_error_s()) };
        }
        if self.samples >= SETTLED_AFTER && delay_s > floor_s + ABOVE * queue_s {
            self.above_in_row += 1;
            // The first ones may be bad luck on the old route.
            let settled = self.above_in_row > HOLD_AFTER;
            self.least_above_s = if settled { self.least_above_s.min(delay_s) } else { delay_s };
            if self.above_in_row >= CHANGED_AFTER {
                let by_s = self.least_above_s - floor_s;
                self.restart_at(self.least_above_s, CHANGED_AFTER);
                return RouteState::Changed { by_s };
            }
        } else {
            self.above_in_row = 0;
            self.least_above_s = f64::INFINITY;
        }
        if self.above_in_row >= HOLD_AFTER {
            return RouteState::Held;
        }
        self.count(delay_s);
        RouteState::Usual
    }

    /// Returns the variance of the noise in an offset that was measured over this round trip, in s².
    #[must_use]
    pub fn variance_s2(&self, delay_s: f64) -> f64 {
        let queue_s = self.one_way_excess_s();
        let excess_s = (delay_s - self.floor_s()).max(0.0);
        let spread_s = excess_s + self.floor_error_s();
        let share = if excess_s > FAR_ABOVE * queue_s { 1.0 / 4.0 } else { 1.0 / 12.0 };
        // The floor and the usual queue are uncertain too while they come from few samples.
        let few = 1.0 + FEW / f64::from(self.samples.max(1));
        few * share * spread_s * spread_s + READING_NOISE_S * READING_NOISE_S
    }

    /// Returns the shortest recent round trip, in s.
    #[must_use]
    pub fn floor_s(&self) -> f64 {
        self.floor_s.min(self.previous_floor_s)
    }

    /// Returns the mean queueing delay in one direction, in s: the path's jitter.
    #[must_use]
    pub fn one_way_excess_s(&self) -> f64 {
        (self.mean_excess_s / 2.0).max(LEAST_EXCESS_S)
    }

    /// Returns the number of round trips from which the floor is taken.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.samples
    }

    /// Returns how far the floor may be below the shortest round trip so far: the smallest of n sums of two
    /// exponential delays is this far above their smallest possible sum, root mean square.
    fn floor_error_s(&self) -> f64 {
        self.one_way_excess_s() * (2.0 / f64::from(self.samples.max(1))).sqrt()
    }

    fn count(&mut self, delay_s: f64) {
        self.samples = (self.samples + 1).min(2 * GENERATION);
        self.floor_s = self.floor_s.min(delay_s);
        self.in_generation += 1;
        if self.in_generation >= GENERATION {
            self.previous_floor_s = self.floor_s;
            self.floor_s = f64::INFINITY;
            self.in_generation = 0;
            self.samples = GENERATION;
        }
        // One sample stuck behind a long queue must not change what counts as usual.
        let excess_s = (delay_s - self.floor_s()).max(0.0).min(4.0 * self.mean_excess_s);
        let share = 1.0 / (f64::from(self.samples) + 1.0).min(MEAN_OVER);
        self.mean_excess_s += share * (excess_s - self.mean_excess_s);
    }

    /// Forgets everything but this round trip, because earlier ones were not about this path.
    pub(super) fn restart(&mut self, delay_s: f64) {
        *self = Self::default();
        let _usual = self.observe(delay_s);
    }

    fn restart_at(&mut self, floor_s: f64, samples: u32) {
        self.floor_s = floor_s;
        self.previous_floor_s = f64::INFINITY;
        self.in_generation = 1;
        self.samples = samples;
        self.above_in_row = 0;
        self.least_above_s = f64::INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns round trips of 10 ms with a queue that comes and goes.
    fn usual(index: u32) -> f64 {
        0.010 + 0.000_1 * f64::from(index * 7 % 20)
    }

    fn used(count: u32) -> Path {
        let mut path = Path::default();
        for index in 0..count {
            assert_eq!(path.observe(usual(index)), RouteState::Usual);
        }
        path
    }

    fn changes(path: &mut Path, more_s: f64) -> Vec<f64> {
        (0..100)
            .filter_map(|index| match path.observe(usual(index) + more_s) {
                RouteState::Changed { by_s } => Some(by_s),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_short_round_trip_counts_for_many_long_ones() {
        let path = used(200);
        assert!(path.variance_s2(0.0101) * 20.0 < path.variance_s2(0.0115));
    }

    #[test]
    fn few_samples_are_trusted_less() {
        assert!(used(3).variance_s2(0.010) > 10.0 * used(200).variance_s2(0.010));
    }

    #[test]
    fn a_longer_route_is_seen_once_and_by_its_length() {
        let found = changes(&mut used(100), 0.010);
        assert!(matches!(found[..], [by_s] if (by_s - 0.010).abs() < 0.000_2), "{found:?}");
    }

    #[test]
    fn a_shorter_route_is_seen_at_once() {
        let found = changes(&mut used(100), -0.005);
        assert!(matches!(found[..], [by_s] if by_s < -0.004), "{found:?}");
    }

    #[test]
    fn one_long_queue_is_no_route() {
        let mut path = used(100);
        for _ in 0..CHANGED_AFTER - 1 {
            assert!(!matches!(path.observe(0.1), RouteState::Changed { .. }));
        }
        assert_eq!(path.observe(0.010), RouteState::Usual);
        assert!((path.floor_s() - 0.010).abs() < 1e-9);
    }
}
