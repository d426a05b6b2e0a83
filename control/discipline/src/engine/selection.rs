//! Which sources are followed: from the sources' claims to their standing.

use super::Discipline;
use super::bound::{BOUND_SIGMAS, Consensus};
use crate::aging::Aging;
use crate::intersection::{Agreement, Claim, agreement, majority_hull};
use crate::observation::Gaussian;
use crate::source::{Source, Standing};
use crate::time::{LocalTime, ns_to_s};

/// Number of samples that a source needs at start-up to be believed.
const ENOUGH_EACH: usize = 2;
/// Smallest number of sources that must agree, if at least this many are configured.
const SEVERAL: usize = 3;
const AGREEING_OF_SEVERAL: usize = 2;

/// How long half of the sources may exclude the estimate before it is dropped, in s.
const SPLIT_S: f64 = 3600.0;

/// How much the mean frequencies may differ over the different times that the sources' samples span, in s/s.
const UNLIKE: f64 = 1e-6;

/// What the claims say about the estimate.
enum EstimateCheck {
    /// A majority holds it possible.
    Possible(Agreement),
    /// No majority holds it possible, and none excludes it.
    Split,
    /// A majority excludes it.
    Excluded,
    /// Its frequency is not that of any clock: it was made from samples that do not belong together.
    Astray,
}

impl Discipline {
    /// Decides again which sources are followed. Without news, the bound does not shrink: it was `bound_s` until now.
    pub(super) fn select(&mut self, now: LocalTime, bound_s: Option<f64>) {
        let agreed_s = bound_s.or_else(|| self.agreed_bound_s(now));
        if self.ensemble.is_none() {
            // Nothing is relative to the origin yet.
            self.origin_ns = self.sources.iter().find_map(Source::first_offset_ns).unwrap_or(0);
        }
        let mut claims = Vec::with_capacity(self.sources.len());
        let believed = self.believed_rate(now);
        for index in 0..self.sources.len() {
            let aging = self.aging_by(index, believed);
            let claim = self.sources[index].claim(index, now, self.origin_ns, aging);
            match self.obstacle(index, claim.as_ref()) {
                Some(standing) => self.sources[index].standing = standing,
                None => claims.extend(claim),
            }
        }
        let patient = self.ensemble.is_none() && self.patience_ends.is_some();
        let voters = if patient { self.expected() } else { claims.len() };
        let agreed = agreement(&claims, voters).filter(|agreed| agreed.votes >= self.least_votes());
        let Some(agreed) = agreed else {
            return self.hold(now, &claims, agreed_s);
        };
        let silent = self.sources.iter().filter(|source| source.standing == Standing::Waiting).count();
        let hull = majority_hull(&claims, silent);
        let aging = self.common_aging(now, &claims);
        let agreed = match self.check_estimate(now, &claims, aging) {
            None => agreed,
            Some(EstimateCheck::Possible(estimate)) => {
                self.split_since = None;
                estimate
            }
            Some(EstimateCheck::Astray) => {
                self.drop_estimate(now, aging.rate);
                agreed
            }
            // All sources are being asked again. Until then the bound covers both times.
            Some(_) if self.sources.iter().any(|source| source.admitted && source.outlier.is_some()) => {
                return self.hold(now, &claims, agreed_s);
            }
            Some(EstimateCheck::Split) if !self.has_been_split_for_long(now) => {
                if let (Some(consensus), Some(hull)) = (&mut self.consensus, hull) {
                    consensus.replace(now, hull.low_s, hull.high_s, aging);
                }
                return self.hold(now, &claims, agreed_s);
            }
            Some(_) => {
                self.drop_estimate(now, aging.rate);
                agreed
            }
        };
        // True time is within the hull if most sources are truthful, so a source that does not reach it is
        // not.
        let is_possible = |claim: &Claim| agreed.holds(claim) && hull.is_none_or(|hull| hull.holds(claim));
        let preferred =
            claims.iter().any(|claim| is_possible(claim) && self.sources[claim.source].config.prefer);
        for claim in &claims {
            let source = &mut self.sources[claim.source];
            source.standing = if !is_possible(claim) {
                Standing::Falseticker
            } else if preferred && !source.config.prefer {
                Standing::Backup
            } else {
                Standing::Selected
            };
        }
        let origin_ns = self.origin_ns;
        self.adopt(now, &agreed);
        let moved_s = ns_to_s(origin_ns.saturating_sub(self.origin_ns));
        if let Some(hull) = hull {
            let ends_s = (hull.low_s + moved_s, hull.high_s + moved_s);
            let least = bound_s.map(|bound_s| (now, bound_s));
            self.record_consensus(now, ends_s, aging, silent, agreed.votes, least);
        }
        self.settle_leap(now);
    }

    /// Follows no source; the last agreement ages.
    fn hold(&mut self, now: LocalTime, claims: &[Claim], bound_s: Option<f64>) {
        if let Some(consensus) = &mut self.consensus {
            consensus.silent = None;
            consensus.least = bound_s.map(|bound_s| (now, bound_s)).or(consensus.least);
        }
        for claim in claims {
            self.sources[claim.source].standing = Standing::NoMajority;
        }
    }

    /// Returns how an agreement is carried on: within the frequencies that a majority leaves possible.
    fn common_aging(&self, now: LocalTime, claims: &[Claim]) -> Aging {
        let frequencies: Vec<Claim> = claims
            .iter()
            .filter_map(|claim| {
                let (low, high) = self.sources[claim.source].possible_frequencies()?;
                let (mean, reach) = (f64::midpoint(low, high), (high - low) / 2.0);
                Some(Claim { offset_s: mean, distance_s: reach + UNLIKE, ..*claim })
            })
            .collect();
        let possible = majority_hull(&frequencies, claims.len() - frequencies.len());
        Aging::new(
            possible.map(|possible| (possible.low_s, possible.high_s)),
            self.any_rate(),
            self.rate(now).mean,
        )
    }

    /// Returns what the claims say about the estimate, if there is one. If a majority holds it possible,
    /// agreement is measured against it: a source that moves away is noticed before it has left the overlap,
    /// and cannot move the overlap's edge.
    fn check_estimate(&self, now: LocalTime, claims: &[Claim], aging: Aging) -> Option<EstimateCheck> {
        let ensemble = self.ensemble.as_ref()?;
        let (offset, frequency) = (ensemble.offset(now), ensemble.frequency(now));
        if (frequency.mean - aging.rate).abs() > aging.growth + BOUND_SIGMAS * frequency.sd() {
            return Some(EstimateCheck::Astray);
        }
        let slack_s = BOUND_SIGMAS * offset.sd();
        let mut estimate =
            Agreement { low_s: offset.mean - slack_s, high_s: offset.mean + slack_s, votes: 0 };
        let trusted = claims.iter().any(|claim| claim.trusted);
        let voting: Vec<&Claim> = claims.iter().filter(|claim| claim.trusted || !trusted).collect();
        estimate.votes = voting.iter().filter(|claim| estimate.holds(claim)).count();
        let against = voting.len() - estimate.votes;
        Some(if against * 2 > voting.len() {
            EstimateCheck::Excluded
        } else if estimate.votes * 2 > voting.len() && estimate.votes >= self.least_votes() {
            EstimateCheck::Possible(estimate)
        } else {
            EstimateCheck::Split
        })
    }

    /// Whether half of the sources have excluded the estimate for longer than it takes sources that drift
    /// apart to stop overlapping. The clock's own steadiness supports the estimate, but not for ever.
    fn has_been_split_for_long(&mut self, now: LocalTime) -> bool {
        now.seconds_since(*self.split_since.get_or_insert(now)) > SPLIT_S
    }

    /// Drops the estimate, because a majority agrees on a time that it excludes: it was derived from
    /// something wrong. All samples of each source but the latest may be wrong as well.
    fn drop_estimate(&mut self, now: LocalTime, rate: f64) {
        self.since_jump = None;
        self.frequency = Gaussian { mean: rate, ..self.unknown };
        self.ensemble = None;
        self.consensus = None;
        self.split_since = None;
        for source in &mut self.sources {
            let older = source.recent.len().saturating_sub(1);
            source.recent.drain(..older);
            source.admitted = false;
            source.outlier = None;
            if source.closed.is_none() {
                source.schedule.ask_often(now, 4);
            }
        }
    }

    /// Brings the estimate in line with the selection.
    fn adopt(&mut self, now: LocalTime, agreed: &Agreement) {
        if self.ensemble.is_none() {
            self.start(agreed, now);
        }
        let Some(ensemble) = &mut self.ensemble else {
            return;
        };
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.standing == Standing::Falseticker && source.outlier.is_none() {
                // What was known about its path is void when it comes back.
                source.admitted = false;
            } else if source.standing == Standing::Selected && !source.admitted {
                source.admitted = true;
                source.expected = source.prior();
                ensemble.admit(index, source.expected);
            }
        }
    }

    /// Records what a majority agrees on now.
    fn record_consensus(
        &mut self,
        now: LocalTime,
        (low_s, high_s): (f64, f64),
        aging: Aging,
        silent: usize,
        votes: usize,
        least: Option<(LocalTime, f64)>,
    ) {
        let Some(ensemble) = &self.ensemble else {
            return;
        };
        let Some(reference) = self.best_reference(ensemble, now) else {
            return;
        };
        self.consensus = Some(Consensus {
            at: now,
            low_s,
            high_s,
            aging,
            silent: Some(silent),
            least,
            of_configured: votes * 2 > self.configured(),
            reference,
            offset_sd_s: ensemble.offset(now).sd(),
        });
    }

    /// Returns what keeps a source from having a vote, if anything does.
    fn obstacle(&self, index: usize, claim: Option<&Claim>) -> Option<Standing> {
        let source = &self.sources[index];
        // Later on, one sample of a source is one of many.
        let enough = if source.schedule.burst_over() || self.ensemble.is_some() { 1 } else { ENOUGH_EACH };
        if source.closed.is_some() {
            source.closed
        } else if let Some(unfit) = source.unfit {
            Some(unfit)
        } else if source.recent.len() < enough {
            Some(if source.reach == 0 && source.schedule.burst_over() {
                Standing::Unreachable
            } else {
                Standing::Waiting
            })
        } else if source.reach == 0 {
            Some(Standing::Unreachable)
        } else if claim.is_none_or(|claim| claim.distance_s > self.config.max_distance_s) {
            Some(Standing::Distant)
        } else {
            None
        }
    }

    /// Returns the smallest number of sources that must agree.
    fn least_votes(&self) -> usize {
        if let Some(least) = self.config.min_sources {
            return least;
        }
        let trusted =
            self.sources.iter().filter(|source| source.closed.is_none() && source.config.trust).count();
        match (trusted, self.configured() >= SEVERAL) {
            // Only trusted sources have a vote, and the operator has said that one is enough.
            (1, _) | (_, false) => 1,
            _ => AGREEING_OF_SEVERAL,
        }
    }

    /// Returns the number of configured sources.
    fn configured(&self) -> usize {
        self.sources.iter().filter(|source| source.closed != Some(Standing::Retired)).count()
    }

    /// Returns the number of sources that may still have a vote.
    fn expected(&self) -> usize {
        let silenced = |source: &&Source| matches!(source.standing, Standing::Distant | Standing::Unfit);
        self.sources.iter().filter(|source| source.closed.is_none() && !silenced(source)).count()
    }
}
