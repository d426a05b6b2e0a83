//! How the estimate follows the samples of the selected sources.

use super::Discipline;
use crate::ensemble::Ensemble;
use crate::intersection::Agreement;
use crate::observation::{Gaussian, Observation};
use crate::path::RouteState;
use crate::poll::SampleValue;
use crate::source::{Recent, Standing};
use crate::time::LocalTime;

/// Number of samples with which an estimate begins, of all sources together.
const ENOUGH_TOGETHER: usize = 3;
/// Uncertainty that is good enough, as a share of the reference's round trip.
const ENOUGH_SHARE: f64 = 0.005;
/// Smallest uncertainty that is asked for, in s.
const ENOUGH_S: f64 = 5e-6;
/// Growth of the prior variance of a bias at which the bias is reopened, as a ratio.
const WIDENED: f64 = 1.5;
/// Uncertainty of a frequency that was learnt through queues which are gone, one standard deviation, in s/s.
const RELEARNT_FREQUENCY: f64 = 20e-6;

impl Discipline {
    /// Updates the estimate with a sample of a selected source. Returns the sample's value, if that can be
    /// told.
    pub(super) fn follow(&mut self, index: usize, recent: &Recent, route: RouteState) -> Option<SampleValue> {
        if self.sources[index].standing != Standing::Selected {
            return Some(SampleValue::NOTHING);
        }
        if route == RouteState::Held || self.sources[index].outlier.is_some() {
            return None;
        }
        let selected = self.selected().count();
        let observation = self.sources[index].observation(index, recent, self.origin_ns);
        let ensemble = self.ensemble.as_mut()?;
        let reference = self
            .sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.standing == Standing::Selected)
            .min_by(|a, b| a.1.path.floor_s().total_cmp(&b.1.path.floor_s()))
            .map(|(reference, _)| reference)?;
        let before = ensemble.apparent_offset(reference, recent.at);
        ensemble.observe(&observation, selected);
        let after = ensemble.apparent_offset(reference, recent.at);
        let interval_s = self.sources[index].schedule.interval_s();
        let uncertain_s = |seconds| ensemble.apparent_offset(reference, recent.at.plus_seconds(seconds)).sd();
        Some(SampleValue {
            after_one_s: uncertain_s(interval_s),
            after_two_s: uncertain_s(2.0 * interval_s),
            enough_s: ENOUGH_S.max(ENOUGH_SHARE * self.sources[reference].path.floor_s()),
            gain: 1.0 - after.variance / before.variance,
        })
    }

    /// Adjusts the possible bias of a source to its latest sample: after a route change, if a server claims
    /// less than before, or if a path turns out to be far shorter than it had looked.
    pub(super) fn reconsider_bias(
        &mut self,
        index: usize,
        recent: &Recent,
        route: RouteState,
        floor_before_s: f64,
    ) {
        let source = &mut self.sources[index];
        if !source.admitted {
            return;
        }
        let Some(ensemble) = &mut self.ensemble else {
            return;
        };
        if let RouteState::Changed { by_s } = route {
            // The bias can have moved by half of the change.
            ensemble.inflate_bias(index, by_s * by_s / 4.0);
        }
        let prior = source.prior();
        if prior.bias_s2 > WIDENED * source.expected.bias_s2 {
            ensemble.reopen(index, prior.bias_s2 - source.expected.bias_s2, prior.noise_s2);
            source.expected = prior;
        }
        let floor_s = source.path.floor_s();
        if floor_s >= floor_before_s / 2.0 {
            return;
        }
        // Everything that was learnt over the long path may be wrong by half of it.
        source.path.restart(recent.delay_s);
        source.expected = source.prior();
        let known_better = self.sources.iter().enumerate().any(|(other, source)| {
            other != index && source.admitted && source.path.floor_s() < floor_before_s / 2.0
        });
        if known_better {
            ensemble.admit(index, self.sources[index].expected);
        } else {
            self.begin_anew_with(index, recent);
        }
    }

    /// Begins a new estimate with a sample that is worth more than all before it.
    fn begin_anew_with(&mut self, index: usize, recent: &Recent) {
        let mut frequency = self.rate(recent.at);
        frequency.variance += RELEARNT_FREQUENCY * RELEARNT_FREQUENCY;
        let observation = self.sources[index].observation(index, recent, self.origin_ns);
        self.begin(&[observation], frequency);
    }

    /// Begins an estimate with all samples of the selected sources that agree with the majority.
    pub(super) fn start(&mut self, agreed: &Agreement, now: LocalTime) {
        let mut recents: Vec<(usize, Recent)> = Vec::new();
        for index in self.selected() {
            let (source, aging) = (&self.sources[index], self.aging(index, now));
            let fits =
                |recent: &&Recent| agreed.holds(&source.claim_of(recent, index, now, self.origin_ns, aging));
            recents.extend(source.recent.iter().filter(fits).map(|recent| (index, *recent)));
        }
        // An estimate that is dropped is replaced at once.
        let enough = if self.estimates == 0 { ENOUGH_TOGETHER } else { 1 };
        if recents.len() < enough {
            return;
        }
        // The origin is set again, now from a source that is believed.
        self.origin_ns = recents[0].1.offset_ns;
        let mut observations: Vec<Observation> = recents
            .iter()
            .map(|(index, recent)| self.sources[*index].observation(*index, recent, self.origin_ns))
            .collect();
        observations.sort_by_key(|observation| observation.at);
        self.begin(&observations, self.frequency);
    }

    /// Begins an estimate with these observations, of which there is at least one.
    fn begin(&mut self, observations: &[Observation], frequency: Gaussian) {
        let Some((first, rest)) = observations.split_first() else {
            return;
        };
        let selected: Vec<usize> = self.selected().collect();
        let prior = self.sources[first.source].prior();
        let mut ensemble = Ensemble::new(self.sources.len(), first, prior, frequency);
        if let Some(wander) = self.expected_wander {
            ensemble.expect_wander(wander);
        }
        if let Some(wrong) = self.hearsay.take() {
            ensemble.doubt_frequency(self.unknown, wrong);
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.admitted = index == first.source || selected.contains(&index);
            source.outlier = None;
            source.expected = source.prior();
            if source.admitted && index != first.source {
                ensemble.admit(index, source.expected);
            }
        }
        for observation in rest {
            ensemble.observe(observation, selected.len());
        }
        self.ensemble = Some(ensemble);
        self.estimates = self.estimates.wrapping_add(1);
    }
}
