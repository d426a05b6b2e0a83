//! The input of an estimate: observations, and what is expected before there are any.

use super::time::LocalTime;

/// One sample of a source as the estimate uses it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Index of the source.
    pub source: usize,
    /// Local time of the sample.
    pub at: LocalTime,
    /// True time minus local time according to the source, in s.
    pub offset_s: f64,
    /// Variance of the noise in it, in s², without the constant bias of the path.
    pub variance_s2: f64,
}

/// A mean and its variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gaussian {
    /// The mean.
    pub mean: f64,
    /// The variance, in the square of the mean's unit.
    pub variance: f64,
}

impl Gaussian {
    /// Returns the standard deviation.
    #[must_use]
    pub fn sd(self) -> f64 {
        self.variance.max(0.0).sqrt()
    }
}

/// What is expected of a source before its first sample, as variances in s².
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Variance of the constant error: asymmetry of the path, and the server's own error.
    pub bias_s2: f64,
    /// Variance of noise that no round trip shows, because the server's own error varies.
    pub noise_s2: f64,
}
