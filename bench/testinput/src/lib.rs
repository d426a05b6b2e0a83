//! Inputs for tests and for fuzz targets, and what must hold for every answer.
//!
//! [`frames`] has requests that a test changes field by field, and takes answers apart; [`generator`] makes any number
//! of frames from a seed; [`checks`] has what holds whatever comes in. [`random`] is what is random in all of them.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test that panics says what it has to say, and a test that ignores a result tests nothing"
)]

pub mod checks;
pub mod frames;
pub mod generator;
pub mod random;
