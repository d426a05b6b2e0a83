//! Commands that examine and report, and do not need a running daemon.

pub mod doctor;
pub mod import;
pub mod pool;
pub(crate) mod resolve;
pub mod upstream_survey;
