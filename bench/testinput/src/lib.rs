//! Inputs for tests and fuzz targets, and assertions that hold for every answer.
//!
//! [`frames`] has requests that a test changes field by field, and decodes answers. [`generator`] makes any number of
//! frames from a seed. [`checks`] has assertions about `responder` that hold for every input, [`limit_checks`] those
//! about its limiter and budget, [`known_checks`] those about its table of known sources. All of them take their random numbers from [`random`].
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test that panics says what it has to say, and a test that ignores a result tests nothing"
)]

pub mod checks;
pub mod frames;
pub mod generator;
pub mod known_checks;
pub mod limit_checks;
pub mod random;
