//! Commands that look and report, and need no daemon of their own.

pub mod doctor;
pub mod import;
pub mod pool;
pub(crate) mod resolve;
pub mod upstream_survey;
