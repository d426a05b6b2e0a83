//! Units that scenarios are written in.

/// A microsecond, in s.
pub(crate) const US: f64 = 1e-6;
/// A millisecond, in s.
pub(crate) const MS: f64 = 1e-3;
/// A part per million, in s/s.
pub(crate) const PPM: f64 = 1e-6;
