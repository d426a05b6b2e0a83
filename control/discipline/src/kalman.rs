//! One Kalman filter over a clock and the biases of the paths to its sources, for one assumed wander.

use super::observation::{Gaussian, Observation, Prior};

/// Limit for the evidence of one sample against a model, in squared standard deviations: noise has longer
/// tails than a Gaussian.
const SQUARED_INNOVATION_CAP: f64 = 16.0;
/// White frequency noise of any clock that software reads, in s per square root of a second.
const PHASE_NOISE: f64 = 1e-9;
/// Number of samples over which a source's noise is estimated.
const NOISE_MEMORY: u32 = 64;

pub(super) const OFFSET: usize = 0;
pub(super) const FREQUENCY: usize = 1;
pub(super) const FIRST_BIAS: usize = 2;

/// One Kalman filter with its own assumption about the wander.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) wander: f64,
    pub(super) log_weight: f64,
    /// The weight, which is the exponential of `log_weight` when the bank last settled the weights.
    pub(super) weight: f64,
    /// Offset in s, frequency in s/s, and the bias of each path in s.
    pub(super) state: Vec<f64>,
    /// Covariance matrix, symmetric, row by row.
    pub(super) covariance: Vec<f64>,
    pub(super) noise: Vec<Noise>,
}

/// Number of samples after which half of the noise that a server states is still expected, if none was seen.
const EXPECTED_FOR: f64 = 4.0;

/// Noise in one source's samples that the round trips do not show, as one model sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noise {
    /// The variance that was expected before any sample, in s².
    expected_s2: f64,
    learnt_s2: f64,
    /// Mean information of a sample about this variance, 1/s⁴.
    information: f64,
    readings: u32,
}

impl Noise {
    pub(super) fn expecting(variance_s2: f64) -> Self {
        Self { expected_s2: variance_s2, ..Self::default() }
    }

    /// Returns the variance as far as it is known, in s². What was expected counts for a few samples and then
    /// fades quickly: a server that says it may be off by 10 ms is usually steady to some microseconds.
    pub(super) fn variance_s2(&self) -> f64 {
        self.learnt_s2 + self.expected_s2 / (1.0 + (f64::from(self.readings) / EXPECTED_FOR).powi(4))
    }

    /// Follows the likelihood of an innovation with an expected variance of `expected_s2`, of which
    /// `reading_s2` comes from the sample itself. An innovation that was uncertain for other reasons says
    /// little about the noise.
    fn learn(&mut self, innovation: f64, expected_s2: f64, reading_s2: f64) {
        let variance_s2 = expected_s2 - self.variance_s2() + self.learnt_s2;
        if self.readings == 0 {
            self.information = 1.0 / (reading_s2 * reading_s2);
        }
        self.readings = self.readings.saturating_add(1);
        let step = 1.0 / f64::from(self.readings.saturating_add(1).min(NOISE_MEMORY));
        let information = 1.0 / (variance_s2 * variance_s2);
        self.information += step * (information - self.information);
        let squared = (innovation * innovation).min(SQUARED_INNOVATION_CAP * variance_s2);
        let share = information / self.information;
        self.learnt_s2 = (self.learnt_s2 + step * share * (squared - variance_s2)).max(0.0);
    }
}

impl Model {
    pub(super) fn new(
        sources: usize,
        wander: f64,
        first: &Observation,
        prior: Prior,
        frequency: Gaussian,
    ) -> Self {
        let size = FIRST_BIAS + sources;
        let mut model = Self {
            wander,
            log_weight: 0.0,
            weight: 1.0,
            state: vec![0.0; size],
            covariance: vec![0.0; size * size],
            noise: vec![Noise::default(); sources],
        };
        let bias = FIRST_BIAS + first.source;
        model.noise[first.source] = Noise::expecting(prior.noise_s2);
        let bias_variance = prior.bias_s2;
        // This is the first sample, without any earlier knowledge of the offset, solved by hand: offset and
        // bias are known to add up to the sample.
        model.state[OFFSET] = first.offset_s;
        model.state[FREQUENCY] = frequency.mean;
        *model.covariance_mut(OFFSET, OFFSET) = first.variance_s2 + prior.noise_s2 + bias_variance;
        *model.covariance_mut(OFFSET, bias) = -bias_variance;
        *model.covariance_mut(bias, OFFSET) = -bias_variance;
        *model.covariance_mut(bias, bias) = bias_variance;
        *model.covariance_mut(FREQUENCY, FREQUENCY) = frequency.variance;
        model
    }

    pub(super) fn grow(&mut self) {
        let size = self.state.len();
        let grown = self.covariance.chunks(size).flat_map(|row| row.iter().copied().chain([0.0])).collect();
        self.covariance = grown;
        self.covariance.resize((size + 1) * (size + 1), 0.0);
        self.state.push(0.0);
        self.noise.push(Noise::default());
    }

    pub(super) fn covariance(&self, row: usize, column: usize) -> f64 {
        self.covariance[row * self.state.len() + column]
    }

    pub(super) fn covariance_mut(&mut self, row: usize, column: usize) -> &mut f64 {
        let size = self.state.len();
        &mut self.covariance[row * size + column]
    }

    pub(super) fn forget_bias(&mut self, source: usize, prior: Prior) {
        let bias = FIRST_BIAS + source;
        self.state[bias] = 0.0;
        self.noise[source] = Noise::expecting(prior.noise_s2);
        for other in 0..self.state.len() {
            *self.covariance_mut(bias, other) = 0.0;
            *self.covariance_mut(other, bias) = 0.0;
        }
        *self.covariance_mut(bias, bias) = prior.bias_s2;
    }

    pub(super) fn advance(&mut self, elapsed_s: f64) {
        if elapsed_s <= 0.0 {
            return;
        }
        let size = self.state.len();
        self.state[OFFSET] += self.state[FREQUENCY] * elapsed_s;
        for column in 0..size {
            *self.covariance_mut(OFFSET, column) += elapsed_s * self.covariance(FREQUENCY, column);
        }
        for row in 0..size {
            *self.covariance_mut(row, OFFSET) += elapsed_s * self.covariance(row, FREQUENCY);
        }
        let walk = self.wander * self.wander * elapsed_s;
        *self.covariance_mut(OFFSET, OFFSET) +=
            walk * elapsed_s * elapsed_s / 3.0 + PHASE_NOISE * PHASE_NOISE * elapsed_s;
        *self.covariance_mut(OFFSET, FREQUENCY) += walk * elapsed_s / 2.0;
        *self.covariance_mut(FREQUENCY, OFFSET) += walk * elapsed_s / 2.0;
        *self.covariance_mut(FREQUENCY, FREQUENCY) += walk;
    }

    /// Does the Kalman update. Returns the log-likelihood of the sample.
    pub(super) fn update(&mut self, source: usize, offset_s: f64, variance_s2: f64) -> f64 {
        let size = self.state.len();
        let bias = FIRST_BIAS + source;
        let innovation = offset_s - self.state[OFFSET] - self.state[bias];
        let column: Vec<f64> =
            (0..size).map(|row| self.covariance(row, OFFSET) + self.covariance(row, bias)).collect();
        let variance = column[OFFSET] + column[bias] + variance_s2 + self.noise[source].variance_s2();
        let reading_s2 = variance_s2 + self.noise[source].variance_s2();
        self.noise[source].learn(innovation, variance, reading_s2);
        for row in 0..size {
            let gain = column[row] / variance;
            self.state[row] += gain * innovation;
            for (other, value) in column.iter().enumerate() {
                *self.covariance_mut(row, other) -= gain * value;
            }
        }
        -0.5 * (variance.ln() + (innovation * innovation / variance).min(SQUARED_INNOVATION_CAP))
    }

    /// Returns the offset `ahead_s` from now, including a source's bias if one is given.
    pub(super) fn offset(&self, source: Option<usize>, ahead_s: f64) -> Gaussian {
        let forward_s = ahead_s.max(0.0);
        let mut mean = self.state[OFFSET] + self.state[FREQUENCY] * ahead_s;
        let mut variance = self.covariance(OFFSET, OFFSET)
            + 2.0 * forward_s * self.covariance(OFFSET, FREQUENCY)
            + forward_s * forward_s * self.covariance(FREQUENCY, FREQUENCY)
            + self.wander * self.wander * forward_s * forward_s * forward_s / 3.0
            + PHASE_NOISE * PHASE_NOISE * forward_s;
        if let Some(source) = source {
            let bias = FIRST_BIAS + source;
            mean += self.state[bias];
            variance += self.covariance(bias, bias)
                + 2.0 * (self.covariance(OFFSET, bias) + forward_s * self.covariance(FREQUENCY, bias));
        }
        Gaussian { mean, variance }
    }
}
