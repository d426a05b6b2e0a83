//! What an estimate is made of: readings, and what is expected before there are any.

use super::time::LocalTime;

/// What one sample says: at `at`, source `source` read `offset_s`, with this variance of its noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Index of the source.
    pub source: usize,
    /// When, by the local clock.
    pub at: LocalTime,
    /// True time minus local time as the source has it, in s.
    pub offset_s: f64,
    /// Variance of the noise in it, in s², without the path's constant bias.
    pub variance_s2: f64,
}

/// A mean and its variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// The mean.
    pub mean: f64,
    /// The variance, in the mean's unit squared.
    pub variance: f64,
}

impl Gaussian {
    /// The standard deviation.
    #[must_use]
    pub fn sd(self) -> f64 {
        self.variance.max(0.0).sqrt()
    }
}

/// What is expected of a source before it has been read, as variances in s².
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Of what its readings are constantly off by: asymmetry of the path, and the server's own error.
    pub bias_s2: f64,
    /// Of noise that no round trip shows: the server's own error comes and goes.
    pub noise_s2: f64,
}
