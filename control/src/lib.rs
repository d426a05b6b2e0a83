//! `pooltime-xdp`: attaches the NTP server to interfaces, keeps its clock and shows what it does.
//!
//! The parts and which of them may use which are in ARCHITECTURE.md.

pub mod cli;
pub mod config;
pub mod daemon;
pub use ::discipline;
pub mod error;
pub mod http;
pub mod instance;
pub mod log;
pub mod net;
pub(crate) mod output;
pub(crate) mod safe_text;
pub mod service_manager;
pub mod serving;
pub mod status;
pub mod sys;
pub mod timekeeping;
pub mod tools;
