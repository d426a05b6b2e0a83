//! One estimate of the local clock from the samples of all selected sources.
//!
//! # Model
//!
//! There is one clock and there are several paths. The clock has an offset (true time minus local time) and
//! a frequency; the frequency is a random walk. Each path has a bias: half the difference of its two base
//! delays, constant until there is evidence of a change. A sample of source `i` measures
//!
//! ```text
//! offset + bias[i] + noise          bias[i] ~ N(0, (a share of the round trip)²)
//! ```
//!
//! so the state is `[offset, frequency, bias 0, bias 1, ...]`, and a Kalman filter gives the least-squares
//! solution. The clock is estimated once, and not once per source with a vote among the results. This lets
//! every source's samples show how the clock *moves*, while the short paths, whose bias cannot be large,
//! determine where it *is*. It also leaves room for a route change: [`Ensemble::inflate_bias`] frees one
//! bias, and the clock stays where the others, or its own steadiness, say that it is.
//!
//! # Wander
//!
//! How fast the frequency wanders differs by orders of magnitude between a rack's TCXO and a guest on a
//! busy host. Both the gain and the honesty of the error bound depend on it. So a bank of filters runs, one
//! for each wander on a logarithmic grid, and the likelihood of the innovations weighs them. The estimate is
//! the mixture, and its variance includes how much the filters disagree: if the wander is not yet known, the
//! uncertainty shows it. Old likelihood is forgotten, so that the bank follows an oscillator whose
//! surroundings change. A filter that has lost is restarted from the winner, so that it is ready to win
//! again.
//!
//! # Noise
//!
//! The round trip shows how noisy a sample may be, but not how noisy the server's own clock is. Each filter
//! learns that for each source from its innovations: noise is what a filter of this wander cannot explain
//! otherwise. A filter that takes noise for wander, or wander for noise, predicts worse and loses its weight.

use super::kalman::{FIRST_BIAS, FREQUENCY, Model, Noise, OFFSET};
use super::observation::{Gaussian, Observation, Prior};
use super::time::LocalTime;

/// The wanders in the bank: random walk of frequency, in s/s per square root of a second. The smallest is
/// that of a good OCXO, the largest that of a very bad clock.
const WANDERS: [f64; 8] = [1e-10, 3e-10, 1e-9, 3e-9, 1e-8, 3e-8, 1e-7, 3e-7];

/// Share of the log-likelihood that is kept from one round of samples to the next: a memory of about a
/// hundred polls.
const LIKELIHOOD_KEPT: f64 = 0.99;

/// Lowest log-weight relative to the best model. Models at this weight are restarted from the best one.
const LOG_WEIGHT_FLOOR: f64 = -14.0;

/// Models that are less likely than their twins by this factor are dropped.
const REFUTED: f64 = 1e-4;

/// The bank of filters.
#[derive(Debug, Clone)]
pub struct Ensemble {
    sources: usize,
    at: LocalTime,
    models: Vec<Model>,
}

impl Ensemble {
    /// Begins with a first observation. `prior` is what is expected of its source, and `frequency` is what is
    /// known of the frequency (true seconds per local second, minus one).
    #[must_use]
    pub fn new(sources: usize, first: &Observation, prior: Prior, frequency: Gaussian) -> Self {
        let models =
            WANDERS.iter().map(|&wander| Model::new(sources, wander, first, prior, frequency)).collect();
        Self { sources, at: first.at, models }
    }

    /// Expects the wander that an earlier run has learnt. A wander that is e times as fast or slow is e times
    /// less likely, until samples have said more.
    pub fn expect_wander(&mut self, wander: f64) {
        for model in &mut self.models {
            model.log_weight -= (model.wander / wander).ln().abs();
        }
        self.settle_weights();
    }

    /// Allows for a known frequency to be wrong, like one from another machine's file: an equal number of
    /// models begins without it, and the samples decide.
    pub fn doubt_frequency(&mut self, without: Gaussian, likelihood: f64) {
        let skeptics: Vec<Model> = self
            .models
            .iter()
            .map(|model| {
                let mut skeptic = model.clone();
                skeptic.state[FREQUENCY] = without.mean;
                *skeptic.covariance_mut(FREQUENCY, FREQUENCY) = without.variance;
                skeptic.log_weight += likelihood.ln();
                skeptic
            })
            .collect();
        self.models.extend(skeptics);
        self.settle_weights();
    }

    /// Sets what is expected of a source that joins, and forgets what was known of it.
    pub fn admit(&mut self, source: usize, prior: Prior) {
        for model in &mut self.models {
            model.forget_bias(source, prior);
        }
    }

    /// Allows for a server that states a larger error than before: its bias may be larger by this much, and
    /// its noise is unknown again.
    pub fn reopen(&mut self, source: usize, bias_s2: f64, noise_s2: f64) {
        self.inflate_bias(source, bias_s2);
        for model in &mut self.models {
            model.noise[source] = Noise::expecting(noise_s2.max(model.noise[source].variance_s2()));
        }
    }

    /// Makes room for one more source.
    pub fn grow(&mut self) {
        self.sources += 1;
        for model in &mut self.models {
            model.grow();
        }
    }

    /// Inflates the variance of a path's bias by `variance_s2`, because its route changed and the clock
    /// should not follow.
    pub fn inflate_bias(&mut self, source: usize, variance_s2: f64) {
        for model in &mut self.models {
            *model.covariance_mut(FIRST_BIAS + source, FIRST_BIAS + source) += variance_s2;
        }
    }

    /// Inflates the variance of the clock, because it did what the model thought impossible.
    pub fn inflate_clock(&mut self, offset_variance_s2: f64, frequency_variance: f64) {
        for model in &mut self.models {
            *model.covariance_mut(OFFSET, OFFSET) += offset_variance_s2;
            *model.covariance_mut(FREQUENCY, FREQUENCY) += frequency_variance;
        }
    }

    /// Returns how far the observation is from what was expected, and how far it may be.
    #[must_use]
    pub fn innovation(&self, observation: &Observation) -> Gaussian {
        let ahead_s = observation.at.seconds_since(self.at);
        self.mixture(|model| {
            let expected = model.offset(Some(observation.source), ahead_s);
            Gaussian {
                mean: observation.offset_s - expected.mean,
                variance: expected.variance
                    + observation.variance_s2
                    + model.noise[observation.source].variance_s2(),
            }
        })
    }

    /// Takes in an observation. `sharers` is the number of sources that take turns in observing; the memory
    /// of the bank is counted in rounds of them.
    pub fn observe(&mut self, observation: &Observation, sharers: usize) {
        let elapsed_s = observation.at.seconds_since(self.at).max(0.0);
        // Answers can overtake each other: a sample from just before the state's time is carried up to it.
        let early_s = self.at.seconds_since(observation.at).max(0.0);
        self.at = self.at.max(observation.at);
        #[allow(clippy::cast_precision_loss, reason = "a handful of sources")]
        let kept = LIKELIHOOD_KEPT.powf(1.0 / sharers.max(1) as f64);
        for model in &mut self.models {
            model.advance(elapsed_s);
            let offset_s = observation.offset_s + model.state[FREQUENCY] * early_s;
            let log_likelihood = model.update(observation.source, offset_s, observation.variance_s2);
            model.log_weight = model.log_weight * kept + log_likelihood;
        }
        self.settle_weights();
    }

    /// Returns the clock's offset at `at`, in s.
    #[must_use]
    pub fn offset(&self, at: LocalTime) -> Gaussian {
        let ahead_s = at.seconds_since(self.at);
        self.mixture(|model| model.offset(None, ahead_s))
    }

    /// Returns what `source` would measure at `at` without noise: offset and bias, in s. Its variance does
    /// not contain the absolute uncertainty of the bias, because the sum of offset and bias is known far
    /// better than either of them.
    #[must_use]
    pub fn apparent_offset(&self, source: usize, at: LocalTime) -> Gaussian {
        let ahead_s = at.seconds_since(self.at);
        self.mixture(|model| model.offset(Some(source), ahead_s))
    }

    /// Returns the bias of a source's path, in s.
    #[must_use]
    pub fn bias(&self, source: usize) -> Gaussian {
        let index = FIRST_BIAS + source;
        self.mixture(|model| Gaussian { mean: model.state[index], variance: model.covariance(index, index) })
    }

    /// Returns the frequency at `at`, in s/s.
    #[must_use]
    pub fn frequency(&self, at: LocalTime) -> Gaussian {
        let ahead_s = at.seconds_since(self.at).max(0.0);
        self.mixture(|model| Gaussian {
            mean: model.state[FREQUENCY],
            variance: model.covariance(FREQUENCY, FREQUENCY) + model.wander * model.wander * ahead_s,
        })
    }

    /// Returns the wander that the bank believes in, as root mean square, in s/s per square root of a second.
    #[must_use]
    pub fn wander(&self) -> f64 {
        self.mixture(|model| Gaussian { mean: 0.0, variance: model.wander * model.wander }).sd()
    }

    /// Changes the frequency by `rate` (s/s) from `at` on, because somebody steers the local clock.
    pub fn change_frequency(&mut self, at: LocalTime, rate: f64) {
        let elapsed_s = at.seconds_since(self.at).max(0.0);
        self.at = self.at.max(at);
        for model in &mut self.models {
            model.advance(elapsed_s);
            model.state[FREQUENCY] = (1.0 + model.state[FREQUENCY]) / (1.0 + rate) - 1.0;
        }
    }

    /// Moves every offset by `by_s`, because true time is renamed, as at a leap second.
    pub fn shift(&mut self, by_s: f64) {
        for model in &mut self.models {
            model.state[OFFSET] += by_s;
        }
    }

    /// Returns the number of sources for which there is room.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources
    }

    fn mixture(&self, of: impl Fn(&Model) -> Gaussian) -> Gaussian {
        let (mut total, mut mean, mut square) = (0.0, 0.0, 0.0);
        // The sum is relative to one model's mean, so that squares of large offsets do not swallow small
        // variances.
        let reference = of(&self.models[0]).mean;
        for model in &self.models {
            let weight = model.weight;
            let part = of(model);
            let deviation = part.mean - reference;
            total += weight;
            mean += weight * deviation;
            square += weight * (part.variance + deviation * deviation);
        }
        let (mean, square) = (mean / total, square / total);
        Gaussian { mean: reference + mean, variance: (square - mean * mean).max(0.0) }
    }

    /// Drops either the models that began with the frequency of an earlier run or their sceptical twins, once
    /// samples have decided between them.
    fn drop_the_refuted(&mut self, top: f64) {
        let (known, skeptical) = self.models.split_at(WANDERS.len());
        let weight =
            |models: &[Model]| models.iter().map(|model| (model.log_weight - top).exp()).sum::<f64>();
        let (known, skeptical) = (weight(known), weight(skeptical));
        if skeptical < REFUTED * known {
            self.models.truncate(WANDERS.len());
        } else if known < REFUTED * skeptical {
            self.models.drain(..WANDERS.len());
        }
    }

    fn settle_weights(&mut self) {
        let Some(best) = (0..self.models.len())
            .max_by(|&a, &b| self.models[a].log_weight.total_cmp(&self.models[b].log_weight))
        else {
            return;
        };
        let top = self.models[best].log_weight;
        if self.models.len() > WANDERS.len() {
            self.drop_the_refuted(top);
        }
        let Some(best) = self.models.iter().position(|model| model.log_weight >= top) else {
            return;
        };
        for index in 0..self.models.len() {
            self.models[index].log_weight -= top;
            if self.models[index].log_weight < LOG_WEIGHT_FLOOR {
                let winner = self.models[best].clone();
                let loser = &mut self.models[index];
                loser.state = winner.state;
                loser.covariance = winner.covariance;
                loser.noise = winner.noise;
                loser.log_weight = LOG_WEIGHT_FLOOR;
            }
            self.models[index].weight = self.models[index].log_weight.exp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL_S: f64 = 64.0;
    const NOISE_S: f64 = 1e-5;

    fn at(seconds: f64) -> LocalTime {
        LocalTime::from_ns(0).plus_seconds(seconds)
    }

    fn reading(source: usize, round: u32, offset_s: f64) -> Observation {
        // The noise averages out, so that every figure is exact enough to be asserted.
        let noise_s = [NOISE_S, -NOISE_S, -NOISE_S, NOISE_S][round as usize % 4];
        let variance_s2 = NOISE_S * NOISE_S;
        Observation { source, at: at(f64::from(round) * POLL_S), offset_s: offset_s + noise_s, variance_s2 }
    }

    const PRIOR: Prior = Prior { bias_s2: 1e-10, noise_s2: 0.0 };
    const UNKNOWN: Gaussian = Gaussian { mean: 0.0, variance: 1e-10 };

    #[test]
    fn a_steady_frequency_is_learnt_with_its_uncertainty() {
        let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
        for round in 1..100 {
            ensemble.observe(&reading(0, round, 1e-6 * f64::from(round) * POLL_S), 1);
        }
        let frequency = ensemble.frequency(at(99.0 * POLL_S));
        assert!((frequency.mean - 1e-6).abs() < 4.0 * frequency.sd(), "{frequency:?}");
        assert!(frequency.sd() < 1e-8);
    }

    #[test]
    fn the_shorter_path_says_where_the_clock_is() {
        let mut ensemble = Ensemble::new(2, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
        ensemble.admit(1, Prior { bias_s2: 1e-6, noise_s2: 0.0 });
        for round in 1..100 {
            ensemble.observe(&reading(round as usize % 2, round, f64::from(round % 2) * 1e-3), 2);
        }
        assert!(ensemble.offset(at(99.0 * POLL_S)).mean.abs() < 1e-5);
        assert!((ensemble.bias(1).mean - 1e-3).abs() < 1e-4);
    }

    #[test]
    fn a_released_bias_takes_the_change() {
        let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
        for round in 1..100 {
            ensemble.observe(&reading(0, round, 0.0), 1);
        }
        ensemble.inflate_bias(0, 1e-6);
        for round in 100..110 {
            ensemble.observe(&reading(0, round, 1e-3), 1);
        }
        assert!(ensemble.offset(at(109.0 * POLL_S)).mean.abs() < 5e-5);
        assert!((ensemble.bias(0).mean - 1e-3).abs() < 5e-5);
    }

    #[test]
    fn a_clock_that_wanders_is_found_to() {
        let wander_after = |frequency_step: f64| {
            let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
            let (mut offset_s, mut frequency) = (0.0, 0.0);
            for round in 1..200_u32 {
                frequency += if (round / 7) % 2 == 0 { frequency_step } else { -frequency_step };
                offset_s += frequency * POLL_S;
                ensemble.observe(&reading(0, round, offset_s), 1);
            }
            ensemble.wander()
        };
        assert!(wander_after(4e-7) > 1e-8);
        assert!(wander_after(0.0) < 3e-9);
    }

    #[test]
    fn a_wander_learnt_before_is_expected_and_can_be_unlearnt() {
        let wander_after = |rounds: u32| {
            let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
            let naive = ensemble.wander();
            ensemble.expect_wander(1e-9);
            assert!(ensemble.wander() < naive / 2.0, "{}", ensemble.wander());
            let (mut offset_s, mut frequency) = (0.0, 0.0);
            for round in 1..rounds {
                frequency += if (round / 7) % 2 == 0 { 4e-7 } else { -4e-7 };
                offset_s += frequency * POLL_S;
                ensemble.observe(&reading(0, round, offset_s), 1);
            }
            ensemble.wander()
        };
        assert!(wander_after(200) > 1e-8);
    }

    #[test]
    fn uncertainty_grows_with_time() {
        let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
        for round in 1..100 {
            ensemble.observe(&reading(0, round, 0.0), 1);
        }
        let sd = |seconds: f64| ensemble.offset(at(99.0 * POLL_S + seconds)).sd();
        assert!(sd(0.0) < sd(1e3) && sd(1e3) < sd(1e4));
    }

    #[test]
    fn retuning_is_accounted_for() {
        let mut ensemble = Ensemble::new(1, &reading(0, 0, 0.0), PRIOR, UNKNOWN);
        ensemble.observe(&reading(0, 1, 0.0), 1);
        ensemble.change_frequency(at(POLL_S), 1e-4);
        let expected_s = -1e-4 * 100.0;
        assert!((ensemble.offset(at(POLL_S + 100.0)).mean - expected_s).abs() < 1e-4);
    }
}
