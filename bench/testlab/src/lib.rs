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
pub mod fake_upstream;
pub mod foreign;
mod lab;
pub mod line_age;
pub mod load;
mod machine;
pub mod ntp;
pub mod oracle;
mod output;
mod server;
mod tally;
pub mod test_run;
pub mod upstreams;
mod waiting;
pub mod wire;

pub use lab::{Lab, lab_script};
pub use machine::{not_run, pooltime_xdp, tool};
pub use output::Output;
pub use server::{CONFIG, Server};
pub use tally::Tally;
pub use waiting::{PATIENCE, wait_for};
