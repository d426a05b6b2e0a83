//! What the tests of the programs share: a laboratory, and fakes.
//!
//! A [`Lab`] has hosts out of network namespaces, a [`Server`] runs on one of them, and a [`Tally`] is what it counted.
//! Around them are [`upstreams`] (real ones) and [`fake_upstream`]s, the [`oracle`] that judges every answer, a [`load`],
//! frames on the [`wire`], and a [`foreign`] program in the server's place. Without a lab, [`test_run`] puts single
//! frames to the program in the kernel, and [`checks`] has what holds for every input of the daemon's parsers.
//!
//! Whatever happens to a test, its [`Server`] ends and detaches, and its [`Lab`] is taken down.
#![allow(
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
