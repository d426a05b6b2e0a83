//! The laboratory and the fakes that the tests of both programs share.
//!
//! A [`Lab`] has hosts made of network namespaces. A [`Server`] runs on one of them, and a [`Tally`] has its
//! counters. Around the server are [`upstreams`], which are real, [`fake_upstream`]s, the [`oracle`], which judges
//! every answer, a [`load`], the [`wire`] with its frames, and a [`foreign`] XDP program. Two modules need no lab:
//! [`test_run`] runs the eBPF program on single frames, and [`checks`] has assertions about the daemon's parsers that
//! hold for every input.
//!
//! Whatever happens to a test, its [`Server`] ends and detaches, and its [`Lab`] is taken down.
#![expect(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test that panics says what it has to say, and a test that ignores a result tests nothing"
)]

pub mod checks;
#[cfg(feature = "lab")]
mod claim;
#[cfg(feature = "lab")]
pub mod drops;
#[cfg(feature = "lab")]
pub mod fake_upstream;
#[cfg(feature = "lab")]
pub mod foreign;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "lab")]
pub mod line_age;
#[cfg(feature = "lab")]
pub mod load;
#[cfg(feature = "lab")]
mod machine;
#[cfg(feature = "lab")]
pub mod ntp;
#[cfg(feature = "lab")]
pub mod oracle;
#[cfg(feature = "lab")]
mod output;
#[cfg(feature = "lab")]
pub mod rebuild;
#[cfg(feature = "lab")]
mod server;
#[cfg(feature = "lab")]
mod tally;
#[cfg(feature = "lab")]
pub mod test_run;
#[cfg(feature = "lab")]
pub mod upstreams;
#[cfg(feature = "lab")]
mod waiting;
#[cfg(feature = "lab")]
pub mod wire;

#[cfg(feature = "lab")]
pub use lab::{Lab, lab_script};
#[cfg(feature = "lab")]
pub use machine::{not_run, pooltime_xdp, tool};
#[cfg(feature = "lab")]
pub use output::Output;
#[cfg(feature = "lab")]
pub use server::{CONFIG, Server};
#[cfg(feature = "lab")]
pub use tally::Tally;
#[cfg(feature = "lab")]
pub use waiting::{PATIENCE, patience, slowness, wait_for};
