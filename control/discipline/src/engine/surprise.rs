//! Samples that contradict the estimate: whether the clock, the path or the server has changed.
//!
//! A single such sample is evidence of nothing. It is left out of the estimate, the bound is widened until
//! it covers the sample, and all sources are asked again at once. Then:
//!
//! - If most sources are off by the same amount in the same direction, the local clock has jumped. The
//!   estimate moves with it, and no sample from before the jump is used any more. What is known about the
//!   paths is kept.
//! - If the others continue as before, this source's path has changed, whose bias is reopened, or its server,
//!   whose claim then no longer overlaps with the majority's.
//! - If the next sample is as expected, it was nothing.
//!
//! With a sole source there is no choice but to believe its second such sample. A server that is wrong for
//! some minutes looks like a clock that jumped, so the bound covers both times until the new one has lasted
//! for some polls.

use super::Discipline;
use super::bound::BOUND_SIGMAS;
use crate::aging::UNKNOWN_SIGMAS;
use crate::observation::{Gaussian, Observation};
use crate::path::RouteState;
use crate::source::{Outlier, Recent};
use crate::time::LocalTime;

/// Squared standard deviations beyond which a sample contradicts the estimate.
const SURPRISE: f64 = BOUND_SIGMAS * BOUND_SIGMAS;
/// A jump may come with a change of frequency of this size, one standard deviation, in s/s.
const JUMP_FREQUENCY: f64 = 20e-6;
/// Largest change of the frequency that a jump causes, in s/s, unless another jump follows.
const JUMP_CHANGE: f64 = 100e-6;
/// Time in seconds within which another jump must follow for that.
const AGAIN_S: f64 = 600.0;
/// Number of requests that a suspected jump may cause at each source.
const REQUESTS: u8 = 4;
/// Number of polls for which a sole source's new time must last before the old one is given up.
const DOUBT_POLLS: f64 = 8.0;
/// Number of consecutive contradicting samples that are believed, whatever they say.
const BELIEVED_AFTER: u32 = 8;

/// A time that the bound covers in addition to the new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    pub(super) by_s: f64,
    pub(super) until: LocalTime,
}

impl Discipline {
    /// Checks whether a sample contradicts the estimate, and decides what follows from it.
    pub(super) fn check_for_surprise(&mut self, index: usize, recent: &Recent, route: RouteState) {
        let Some(ensemble) = &self.ensemble else {
            return;
        };
        let source = &self.sources[index];
        if !source.admitted {
            return;
        }
        let observation = source.observation(index, recent, self.origin_ns);
        let innovation = ensemble.innovation(&observation);
        let claim = source.claim_of(recent, index, recent.at, self.origin_ns, self.aging(index, recent.at));
        let offset = ensemble.offset(recent.at);
        let impossible = (claim.offset_s - offset.mean).abs() > claim.distance_s + BOUND_SIGMAS * offset.sd();
        if route == RouteState::Held && !impossible {
            // The cause is a long queue or a longer path: the sample says nothing yet.
            return;
        }
        let far_s = (claim.offset_s - offset.mean).abs() + claim.distance_s;
        let expected = innovation.mean * innovation.mean <= SURPRISE * innovation.variance;
        if expected && !impossible {
            let source = &mut self.sources[index];
            source.outlier = None;
            source.confirmed = Some((recent.at, BOUND_SIGMAS * innovation.sd()));
            self.settle(recent.at);
            return;
        }
        self.note_outlier(index, recent.at, innovation, far_s, impossible);
        self.ask_all(index, recent.at);
        self.settle(recent.at);
    }

    fn note_outlier(
        &mut self,
        index: usize,
        at: LocalTime,
        innovation: Gaussian,
        far_s: f64,
        impossible: bool,
    ) {
        let before = self.sources[index].outlier;
        let mut outlier = Outlier {
            since: at,
            by_s: innovation.mean,
            tolerance_s: BOUND_SIGMAS * innovation.sd(),
            far_s,
            impossible,
            alike: 1,
            in_a_row: 1,
        };
        if let Some(before) = before {
            outlier.in_a_row = before.in_a_row + 1;
            if outlier.agrees_with(&before) {
                outlier.since = before.since;
                outlier.alike = before.alike + 1;
            }
        }
        self.sources[index].outlier = Some(outlier);
    }

    /// Asks the source once more, and the others as well, as far as politeness allows.
    fn ask_all(&mut self, surprised: usize, now: LocalTime) {
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.closed.is_some() {
                continue;
            }
            if index == surprised {
                source.schedule.ask_again(now);
            } else if source.outlier.is_none() {
                source.schedule.ask_now(now);
            }
        }
    }

    /// Decides what has changed, if that can be decided.
    fn settle(&mut self, now: LocalTime) {
        let jury: Vec<usize> = (0..self.sources.len())
            .filter(|&index| self.sources[index].admitted && self.sources[index].reach != 0)
            .collect();
        let outliers: Vec<(usize, Outlier)> =
            jury.iter().filter_map(|&index| Some((index, self.sources[index].outlier?))).collect();
        let Some(largest) = largest_group(&outliers) else {
            return;
        };
        // A sample speaks against a jump if it would have shown one of that size, and says nothing if it
        // would not.
        let since = largest.iter().map(|(_, outlier)| outlier.since).min().unwrap_or(now);
        let least_s = largest.iter().map(|(_, outlier)| outlier.by_s.abs()).fold(f64::INFINITY, f64::min);
        let (mut confirming, mut abstaining) = (0, 0);
        for &index in jury.iter().filter(|&&index| self.sources[index].outlier.is_none()) {
            match self.sources[index].confirmed {
                Some((at, shows_s)) if at >= since && shows_s < least_s => confirming += 1,
                Some((at, _)) if at >= since => abstaining += 1,
                _ => {}
            }
        }
        let alike = largest.len() > 1 || largest.iter().any(|(_, outlier)| outlier.alike > 1);
        let stubborn = jury.len() == 1 && outliers[0].1.in_a_row >= BELIEVED_AFTER;
        let majority = largest.len() * 2 > jury.len();
        // If the others cannot tell, a change that no path explains is one of the clock.
        let unopposed = largest.len() * 2 > jury.len() - abstaining
            && largest.iter().all(|(_, outlier)| outlier.impossible);
        if (alike && (majority || unopposed)) || stubborn {
            self.move_with_the_clock(&largest, jury.len() == 1, now);
        } else if confirming >= largest.len() || abstaining > 0 {
            for (index, outlier) in outliers.iter().filter(|(_, outlier)| outlier.in_a_row > 1) {
                self.blame(*index, outlier);
            }
        }
    }

    /// Attributes the contradiction to the source: its path has changed, or its server is wrong. The bias may
    /// have changed by what the source claims to be possible, and no more.
    fn blame(&mut self, index: usize, outlier: &Outlier) {
        let source = &mut self.sources[index];
        source.outlier = None;
        let Some(recent) = source.recent.last() else {
            return;
        };
        let possible_s = outlier.by_s.abs().min(recent.distance_s());
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.inflate_bias(index, possible_s * possible_s);
        }
    }

    fn move_with_the_clock(&mut self, group: &[(usize, Outlier)], sole: bool, now: LocalTime) {
        let mut weight = 0.0;
        let mut by_s = 0.0;
        for (_, outlier) in group {
            let share = 1.0 / (outlier.tolerance_s * outlier.tolerance_s).max(f64::MIN_POSITIVE);
            weight += share;
            by_s += share * outlier.by_s;
        }
        by_s /= weight;
        let least_s = group.iter().map(|(_, outlier)| outlier.tolerance_s).fold(f64::INFINITY, f64::min);
        let since = group.iter().map(|(_, outlier)| outlier.since).min().unwrap_or(now);
        let again_s = self.jumped_at.map(|at| now.seconds_since(at));
        let frequency_sd = match again_s {
            // The estimate did not fit even right after the last jump, so the frequency has changed too.
            Some(elapsed_s) if elapsed_s < AGAIN_S => {
                JUMP_FREQUENCY.max((by_s / elapsed_s.max(1.0)).abs().min(1e-3))
            }
            _ => JUMP_FREQUENCY,
        };
        // A clock whose frequency was known approximately keeps it through a jump, so that a second jump is
        // not taken for a change of frequency.
        let again = again_s.is_some_and(|elapsed_s| elapsed_s < AGAIN_S);
        self.since_jump =
            self.consensus.filter(|before| !again && before.aging.growth < JUMP_CHANGE).map(|before| {
                let sd = (before.aging.growth + JUMP_CHANGE) / UNKNOWN_SIGMAS;
                Gaussian { mean: before.aging.rate, variance: sd * sd }
            });
        self.jumped_at = Some(now);
        let Some(ensemble) = &mut self.ensemble else {
            return;
        };
        ensemble.shift(by_s);
        ensemble.inflate_clock(least_s * least_s, frequency_sd * frequency_sd);
        if let Some(consensus) = &mut self.consensus {
            consensus.shift(by_s, least_s);
        }
        let mut withheld: Vec<Observation> = Vec::new();
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.recent.retain(|recent| recent.at >= since);
            source.anchors = [None; 2];
            let in_group = group.iter().any(|(member, _)| *member == index);
            if let Some(recent) = source.recent.last().copied().filter(|_| in_group) {
                withheld.push(source.observation(index, &recent, self.origin_ns));
                source.outlier = None;
            }
            if source.closed.is_none() {
                source.schedule.ask_often(now, REQUESTS);
            }
        }
        withheld.sort_by_key(|observation| observation.at);
        // The last one is the current sample, which follows in its turn.
        withheld.pop();
        for observation in &withheld {
            ensemble.observe(observation, group.len());
        }
        if sole {
            let interval_s = self.sources[group[0].0].schedule.least_interval_s();
            self.doubt = Some(Doubt { by_s: by_s.abs(), until: now.plus_seconds(DOUBT_POLLS * interval_s) });
        }
    }

    /// Returns the smallest possible bound while it is undecided what the latest samples mean, in s.
    pub(super) fn open_question_s(&self, now: LocalTime) -> f64 {
        // The estimate's frequency may be what was wrong, so the aging of claims does not hold for the
        // estimate.
        let believed = self.rate(now).mean;
        self.sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.admitted)
            .filter_map(|(index, source)| Some((index, source.outlier?, source.recent.last()?.at)))
            .map(|(index, outlier, at)| {
                let aging = self.aging(index, now);
                let apart = aging.growth + (aging.rate - believed).abs();
                outlier.far_s + apart * now.seconds_since(at).max(0.0)
            })
            .fold(0.0, f64::max)
    }

    /// Returns what the bound must cover in addition, in s, while a sole source's new time has not lasted.
    pub(super) fn doubt_s(&self, now: LocalTime) -> f64 {
        self.doubt.filter(|doubt| now < doubt.until).map_or(0.0, |doubt| doubt.by_s)
    }
}

/// Returns the largest group of outliers that agree with one of them.
fn largest_group(outliers: &[(usize, Outlier)]) -> Option<Vec<(usize, Outlier)>> {
    outliers
        .iter()
        .map(|(_, center)| {
            outliers.iter().filter(|(_, outlier)| outlier.agrees_with(center)).copied().collect::<Vec<_>>()
        })
        .max_by_key(Vec::len)
}
