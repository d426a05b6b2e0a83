//! Who is followed: from the sources' claims to their standing.

use super::engine::{Discipline, UNKNOWN_FREQUENCY};
use super::follow::{BIAS_SHARE, BOUND_SIGMAS};
use super::select::{Agreement, Claim, agreement};
use super::source::{Source, Standing};
use super::time::LocalTime;

/// Samples that a source needs to be believed at start-up.
const ENOUGH_EACH: usize = 2;

impl Discipline {
    /// Decides anew which sources are followed.
    pub(super) fn judge(&mut self, now: LocalTime) {
        if self.ensemble.is_none() {
            // Nothing is relative to it yet.
            self.origin_ns = self.sources.iter().find_map(Source::first_offset_ns).unwrap_or(0);
        }
        let rate = self.rate(now);
        let mut claims = Vec::with_capacity(self.sources.len());
        for index in 0..self.sources.len() {
            let claim = self.sources[index].claim(index, now, self.origin_ns, rate);
            match self.obstacle(index, claim.as_ref()) {
                Some(standing) => self.sources[index].standing = standing,
                None => claims.extend(claim),
            }
        }
        let patient = self.ensemble.is_none() && self.patience_ends.is_some();
        let voters = if patient { self.expected() } else { claims.len() };
        let agreed = agreement(&claims, voters).filter(|agreed| agreed.votes >= self.config.min_sources);
        let Some(agreed) = agreed else {
            for claim in &claims {
                self.sources[claim.source].standing = Standing::NoMajority;
            }
            return;
        };
        let agreed = self.kept_agreement(now, &claims).unwrap_or(agreed);
        let chosen: Vec<usize> =
            claims.iter().filter(|claim| agreed.holds(claim)).map(|claim| claim.source).collect();
        let preferred = chosen.iter().any(|&index| self.sources[index].config.prefer);
        for claim in &claims {
            let source = &mut self.sources[claim.source];
            source.standing = if !chosen.contains(&claim.source) {
                Standing::Falseticker
            } else if preferred && !source.config.prefer {
                Standing::Spare
            } else {
                Standing::Selected
            };
        }
        self.adopt(now, &agreed);
        self.settle_leap(now);
    }

    /// The estimate itself, as far as it is certain, where it lies within what a majority claims. Agreement is
    /// then measured against it: a source on its way out is noticed before it has left the overlap, and
    /// cannot move the overlap's edge. Where no majority holds it, the estimate is dropped, whatever it
    /// was derived from.
    fn kept_agreement(&mut self, now: LocalTime, claims: &[Claim]) -> Option<Agreement> {
        let ensemble = self.ensemble.as_ref()?;
        let offset = ensemble.offset(now);
        let slack_s = BOUND_SIGMAS * offset.sd();
        let mut kept = Agreement { low_s: offset.mean - slack_s, high_s: offset.mean + slack_s, votes: 0 };
        let trusted = claims.iter().any(|claim| claim.trusted);
        let voting: Vec<&Claim> = claims.iter().filter(|claim| claim.trusted || !trusted).collect();
        kept.votes = voting.iter().filter(|claim| kept.holds(claim)).count();
        if kept.votes * 2 > voting.len() {
            return Some(kept);
        }
        self.frequency = ensemble.frequency(now);
        self.frequency.variance += UNKNOWN_FREQUENCY * UNKNOWN_FREQUENCY;
        self.ensemble = None;
        None
    }

    /// Brings the estimate in line with the selection.
    fn adopt(&mut self, now: LocalTime, agreed: &Agreement) {
        if self.ensemble.is_none() {
            self.start(now, agreed);
        }
        let Some(ensemble) = &mut self.ensemble else {
            return;
        };
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.standing == Standing::Falseticker {
                // Whatever was known of its path is void when it comes back.
                source.admitted = false;
                source.surprises = 0;
            } else if source.standing == Standing::Selected && !source.admitted {
                source.admitted = true;
                ensemble.admit(index, BIAS_SHARE * source.path.floor_s());
            }
        }
    }

    /// What keeps a source from having a say, if anything does.
    fn obstacle(&self, index: usize, claim: Option<&Claim>) -> Option<Standing> {
        let source = &self.sources[index];
        let enough = if source.pace.burst_over() { 1 } else { ENOUGH_EACH };
        if source.closed.is_some() {
            source.closed
        } else if source.recent.len() < enough {
            Some(if source.reach == 0 && source.pace.burst_over() {
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

    /// Sources that may still speak.
    fn expected(&self) -> usize {
        self.sources.iter().filter(|source| source.closed.is_none()).count()
    }
}
