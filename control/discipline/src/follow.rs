//! How the estimate follows the samples of the selected sources, and how far it may be wrong.

use super::engine::Discipline;
use super::ensemble::{Ensemble, Observation};
use super::path::Reading;
use super::poll::Worth;
use super::select::Agreement;
use super::source::{Recent, Source, Standing};
use super::time::LocalTime;

/// Standard deviations of the estimate that the error bound covers.
pub(super) const BOUND_SIGMAS: f64 = 5.0;
/// With so many samples it covers twice as many.
const FEW_SAMPLES: f64 = 2.0;
/// Standard deviation of a path's bias as a share of its round trip, before anything else is known. Half of
/// the round trip is the most that it can be.
pub(super) const BIAS_SHARE: f64 = 0.05;
/// Squared standard deviations beyond which a sample contradicts the estimate.
const SURPRISE: f64 = 25.0;
/// Samples that an estimate begins with, of all sources together.
const ENOUGH_TOGETHER: usize = 3;
/// Uncertainty that is good enough: this share of the reference's round trip.
const ENOUGH_SHARE: f64 = 0.005;
/// The least that is asked for, in s.
const ENOUGH_S: f64 = 5e-6;

impl Discipline {
    /// Lets the estimate follow a sample, if its source is selected. Returns what the sample was worth, where that
    /// can be told.
    pub(super) fn follow(&mut self, index: usize, recent: &Recent, reading: Reading) -> Option<Worth> {
        if self.sources[index].standing != Standing::Selected {
            return Some(Worth::NOTHING);
        }
        let selected = self.selected().count();
        let ensemble = self.ensemble.as_mut()?;
        match reading {
            Reading::Usual => {}
            Reading::Held => return None,
            // Half of the change is what the bias can have moved by.
            Reading::Changed { by_s } => ensemble.release(index, by_s * by_s / 4.0),
        }
        let observation = self.sources[index].observation(index, recent, self.origin_ns);
        if !self.plausible(&observation, selected) {
            return None;
        }
        let ensemble = self.ensemble.as_mut()?;
        let (reference, _) = best_reference(&self.sources, ensemble, recent.at)?;
        let before = ensemble.apparent_offset(reference, recent.at);
        ensemble.observe(&observation, selected);
        let after = ensemble.apparent_offset(reference, recent.at);
        let interval_s = self.sources[index].pace.interval_s();
        let uncertain_s = |seconds| ensemble.apparent_offset(reference, recent.at.plus_seconds(seconds)).sd();
        Some(Worth {
            after_one_s: uncertain_s(interval_s),
            after_two_s: uncertain_s(2.0 * interval_s),
            enough_s: ENOUGH_S.max(ENOUGH_SHARE * self.sources[reference].path.floor_s()),
            gain: 1.0 - after.variance / before.variance,
        })
    }

    /// Looks at a sample that may contradict the estimate. A single one is left out, since nothing tells what
    /// it is evidence of. If most sources contradict, or the only one does so twice in a row, it was the clock; if
    /// one of several does so twice in a row, it was its path. What changed is freed in the estimate, and the
    /// sample may teach it. Returns whether to use the sample.
    fn plausible(&mut self, observation: &Observation, selected: usize) -> bool {
        let Some(ensemble) = &mut self.ensemble else {
            return false;
        };
        let innovation = ensemble.innovation(observation);
        let squared = innovation.mean * innovation.mean;
        let source = &mut self.sources[observation.source];
        if squared <= SURPRISE * innovation.variance {
            source.surprises = 0;
            return true;
        }
        source.surprises += 1;
        let again = source.surprises > 1;
        let interval_s = source.pace.interval_s();
        let surprised = self.sources.iter().filter(|source| source.surprises > 0).count();
        if surprised * 2 > selected && (again || surprised > 1) {
            ensemble.loosen(squared, squared / (interval_s * interval_s));
            for source in &mut self.sources {
                source.surprises = 0;
                let keep_from = source.recent.len().saturating_sub(1);
                source.recent.drain(..keep_from);
            }
            return true;
        }
        if again && selected > 1 {
            ensemble.release(observation.source, squared);
        }
        again
    }

    /// Begins an estimate from all samples of the selected sources that fit what was agreed on.
    pub(super) fn start(&mut self, now: LocalTime, agreed: &Agreement) {
        let selected: Vec<usize> = self.selected().collect();
        let rate = self.rate(now);
        let mut recents: Vec<(usize, Recent)> = Vec::new();
        for &index in &selected {
            let source = &self.sources[index];
            let fits =
                |recent: &&Recent| agreed.holds(&source.claim_of(recent, index, now, self.origin_ns, rate));
            recents.extend(source.recent.iter().filter(fits).map(|recent| (index, *recent)));
        }
        if recents.len() < ENOUGH_TOGETHER {
            return;
        }
        // Once more, from a source that is believed.
        self.origin_ns = recents[0].1.offset_ns;
        let mut observations: Vec<Observation> = recents
            .iter()
            .map(|(index, recent)| self.sources[*index].observation(*index, recent, self.origin_ns))
            .collect();
        observations.sort_by_key(|observation| observation.at);
        let bias_sd_s = |index: usize| BIAS_SHARE * self.sources[index].path.floor_s();
        let Some((first, rest)) = observations.split_first() else {
            return;
        };
        let mut ensemble = Ensemble::new(self.sources.len(), first, bias_sd_s(first.source), self.frequency);
        if let Some(wander) = self.expected_wander {
            ensemble.expect_wander(wander);
        }
        for &index in selected.iter().filter(|&&index| index != first.source) {
            ensemble.admit(index, bias_sd_s(index));
        }
        for observation in rest {
            ensemble.observe(observation, selected.len());
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.admitted = selected.contains(&index);
        }
        self.ensemble = Some(ensemble);
        self.estimates = self.estimates.wrapping_add(1);
    }
}

/// The source that bounds the error most tightly, and the dispersion counted from it.
pub(super) fn best_reference(
    sources: &[Source],
    ensemble: &Ensemble,
    now: LocalTime,
) -> Option<(usize, f64)> {
    let bound_s = |index: usize, dispersion_s: f64| {
        let root_delay_s = sources[index].latest.map_or(0.0, |latest| latest.root_delay_s);
        f64::midpoint(sources[index].path.floor_s(), root_delay_s) + dispersion_s
    };
    (0..sources.len())
        .filter(|&index| sources[index].admitted)
        .map(|index| (index, dispersion_of(&sources[index], ensemble, index, now)))
        .min_by(|a, b| bound_s(a.0, a.1).total_cmp(&bound_s(b.0, b.1)))
}

/// The error that the round trip does not account for, in s. True time is within half a round trip of what
/// the source would read without queues; the estimate is off that by the bias it ascribes to the path, and
/// that reading itself is uncertain.
pub(super) fn dispersion_of(source: &Source, ensemble: &Ensemble, index: usize, now: LocalTime) -> f64 {
    let server_s = source.latest.map_or(0.0, |latest| latest.root_dispersion_s + latest.dispersion_s);
    // A deviation estimated from few samples may be too small itself.
    let sigmas = BOUND_SIGMAS * (1.0 + FEW_SAMPLES / f64::from(source.path.samples().max(1)));
    ensemble.bias(index).mean.abs()
        + sigmas * ensemble.apparent_offset(index, now).sd()
        + source.path.one_way_excess_s()
        + server_s
}
