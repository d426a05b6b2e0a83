//! How far the published time may be wrong, and from which reference that is counted.
//!
//! There are two limits, and the published bound is the larger one.
//!
//! - *The majority.* If most sources are truthful, true time is where a majority of the claimed intervals
//!   overlap. The bound reaches to both ends of that, so a minority may lie as it likes, even slightly and
//!   within what the others hold possible. The estimate never leaves it.
//! - *The reference.* True time is within half of the reference's round trip of what the reference would
//!   measure without queues. To that are added the bias ascribed to its path, the uncertainty of the estimate
//!   (five standard deviations, over all wanders that are still possible), the mean queue, and the server's
//!   own error.
//!
//! Each claim ages from the time when it was made, by PHI of RFC 5905 and by what the source's own samples
//! leave open of the frequency. While nothing new is agreed on, the last agreement ages in the same way: the
//! bound grows until the caller's limit ends it.

use super::Discipline;
use crate::aging::{Aging, PHI};
use crate::ensemble::Ensemble;
use crate::intersection::{Claim, majority_hull};
use crate::source::{Source, Standing};
use crate::time::LocalTime;

/// Number of standard deviations of the estimate that the error bound covers.
pub(super) const BOUND_SIGMAS: f64 = 5.0;
/// With this number of samples it covers twice as many.
const FEW_SAMPLES: f64 = 2.0;

/// The source from which the bound is counted, as of its latest answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    pub(super) index: usize,
    pub(super) stratum: u8,
    /// Local time of its latest sample.
    pub(super) updated: LocalTime,
    /// Round trip to the source and on to its primary source, in s.
    pub(super) root_delay_s: f64,
    /// The remaining error bound of the source, in s.
    pub(super) dispersion_s: f64,
}

/// What a majority last agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consensus {
    /// When it was agreed on.
    pub(super) at: LocalTime,
    /// Lower end of the overlap of a majority of the claims, as true time minus local time, in s; the upper
    /// end follows.
    pub(super) low_s: f64,
    pub(super) high_s: f64,
    /// How the agreement is carried on while there is no newer one.
    pub(super) aging: Aging,
    /// Number of sources that were about to answer, while those that have answered still agree.
    pub(super) silent: Option<usize>,
    /// When the agreement ended, and the bound at that time, in s.
    pub(super) least: Option<(LocalTime, f64)>,
    /// Whether it is a majority of all configured sources.
    pub(super) of_configured: bool,
    pub(super) reference: Reference,
    /// Standard deviation of the offset, in s.
    pub(super) offset_sd_s: f64,
}

impl Consensus {
    /// Returns both ends at `now` if nothing newer is known.
    fn ends_s(&self, now: LocalTime) -> (f64, f64) {
        let age_s = now.seconds_since(self.at).max(0.0);
        let moved_s = self.aging.rate * age_s;
        let wider_s = self.aging.growth * age_s;
        (self.low_s + moved_s - wider_s, self.high_s + moved_s + wider_s)
    }

    /// Replaces the ends by those of a new agreement.
    pub(super) fn replace(&mut self, now: LocalTime, low_s: f64, high_s: f64, aging: Aging) {
        (self.at, self.low_s, self.high_s, self.aging) = (now, low_s, high_s, aging);
    }

    /// Takes in that the local clock runs faster by `rate` from `at` on.
    pub(super) fn change_frequency(&mut self, at: LocalTime, rate: f64) {
        (self.low_s, self.high_s) = self.ends_s(at);
        self.at = at;
        self.aging.rate = (1.0 + self.aging.rate) / (1.0 + rate) - 1.0;
    }

    /// Takes in that the local clock, or the name of true time, has moved.
    pub(super) fn shift(&mut self, by_s: f64, uncertain_s: f64) {
        self.low_s += by_s - uncertain_s;
        self.high_s += by_s + uncertain_s;
    }
}

impl Discipline {
    /// Returns the selected and reachable source that gives the smallest error bound.
    pub(super) fn best_reference(&self, ensemble: &Ensemble, now: LocalTime) -> Option<Reference> {
        self.sources
            .iter()
            .enumerate()
            .filter(|(_, source)| {
                source.admitted && source.standing == Standing::Selected && source.reach != 0
            })
            .filter_map(|(index, source)| {
                let latest = source.latest.as_ref()?;
                Some(Reference {
                    index,
                    stratum: latest.stratum.saturating_add(1),
                    updated: latest.at,
                    root_delay_s: source.path.floor_s() + latest.root_delay_s,
                    dispersion_s: dispersion_of(source, ensemble, index, now),
                })
            })
            .min_by(|a, b| bound_of(a).total_cmp(&bound_of(b)))
    }

    /// Returns the offsets between which true time is at `now` if a majority of the sources is truthful.
    pub(super) fn agreed_ends_s(&self, now: LocalTime) -> Option<(f64, f64)> {
        let consensus = self.consensus.as_ref()?;
        let aged = consensus.ends_s(now);
        let Some(silent) = consensus.silent else {
            return Some(aged);
        };
        let claims = self.claims_of_voters(now);
        Some(majority_hull(&claims, silent).map_or(aged, |hull| (hull.low_s, hull.high_s)))
    }

    /// Returns the bound at `now`, in s.
    pub(super) fn bound_s(&self, now: LocalTime) -> Option<f64> {
        let (low_s, high_s) = self.agreed_ends_s(now)?;
        let offset_s = self.ensemble.as_ref()?.offset(now).mean.max(low_s).min(high_s);
        self.reference_with_bound(now, offset_s).map(|reference| bound_of(&reference))
    }

    /// Returns the bound at `now`, in s, while the agreement lasts.
    pub(super) fn agreed_bound_s(&self, now: LocalTime) -> Option<f64> {
        self.consensus.as_ref()?.silent?;
        self.bound_s(now)
    }

    fn claims_of_voters(&self, now: LocalTime) -> Vec<Claim> {
        let votes = |standing| {
            matches!(
                standing,
                Standing::Selected | Standing::Backup | Standing::Falseticker | Standing::NoMajority
            )
        };
        let believed = self.believed_rate(now);
        (0..self.sources.len())
            .filter(|&index| votes(self.sources[index].standing))
            .filter_map(|index| {
                self.sources[index].claim(index, now, self.origin_ns, self.aging_by(index, believed))
            })
            .collect()
    }

    /// Returns the reference at `now`, with at least the dispersion of the estimate `offset_s`.
    pub(super) fn reference_with_bound(&self, now: LocalTime, offset_s: f64) -> Option<Reference> {
        let (ensemble, consensus) = (self.ensemble.as_ref()?, self.consensus.as_ref()?);
        let mut reference = if let Some(reference) = self.best_reference(ensemble, now) {
            reference
        } else {
            let age_s = now.seconds_since(consensus.at).max(0.0);
            let less_known_s = (ensemble.offset(now).sd() - consensus.offset_sd_s).max(0.0);
            let grown_s = (consensus.aging.growth * age_s).max(BOUND_SIGMAS * less_known_s);
            let held = consensus.reference;
            Reference { dispersion_s: held.dispersion_s + grown_s, ..held }
        };
        let (low_s, high_s) = self.agreed_ends_s(now)?;
        let reach_s = (offset_s - low_s).max(high_s - offset_s);
        let open_s = self.open_question_s(now);
        let least_s = consensus.least.map_or(0.0, |(since, bound_s)| {
            bound_s + consensus.aging.growth * now.seconds_since(since).max(0.0)
        });
        let bound_s = bound_of(&reference).max(reach_s).max(open_s).max(least_s) + self.doubt_s(now);
        reference.dispersion_s = bound_s - reference.root_delay_s / 2.0;
        Some(reference)
    }
}

fn bound_of(reference: &Reference) -> f64 {
    reference.root_delay_s / 2.0 + reference.dispersion_s
}

/// Returns the error that the round trip does not account for, in s. The estimate differs from the source's
/// samples by the bias that is ascribed to the path, and the samples themselves are uncertain.
fn dispersion_of(source: &Source, ensemble: &Ensemble, index: usize, now: LocalTime) -> f64 {
    let server_s = source.latest.map_or(0.0, |latest| {
        let age_s = now.seconds_since(latest.at).max(0.0);
        latest.root_dispersion_s + latest.dispersion_s + PHI * age_s
    });
    // A deviation that is estimated from few samples may be too small itself.
    let sigmas = BOUND_SIGMAS * (1.0 + FEW_SAMPLES / f64::from(source.path.samples().max(1)));
    ensemble.bias(index).mean.abs()
        + sigmas * ensemble.apparent_offset(index, now).sd()
        + source.path.one_way_excess_s()
        + server_s
}
