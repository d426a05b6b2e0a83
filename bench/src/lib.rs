//! `pooltime-bench`: what the server program costs, and how much load a server can take.
//!
//! - `cost` runs the real program in the kernel with `BPF_PROG_TEST_RUN`. It reports how many nanoseconds
//!   each kind of packet takes, compared with the least that an XDP program can take. It prints no figure
//!   unless the program did what the figure's name says in every single run.
//!
//! - `load` sends requests to any NTP server on a schedule that a slow server does not slow down, and checks
//!   every answer; `find-max` searches for the highest rate that a server sustains.
//!
//! - `compare` runs this server and every other one that is found on the same link and cores and under the
//!   same load, one after the other.
//!
//! The modules, top-down: `cli` is the one definition of the command line; `cost`, `load` and `compare` are
//! the commands; `programs` has the loaded eBPF programs, `frames` the packets and `statistics` the
//! arithmetic.

mod cli;
mod compare;
mod cost;
mod failure;
mod frames;
mod interrupt;
mod load;
mod machine;
pub mod map_values;
mod programs;
mod progress;
mod statistics;

use std::ffi::OsString;
use std::process::ExitCode;

/// Returns the whole definition of the command line, from which man pages and completions are made.
#[must_use]
pub fn definition() -> clap::Command {
    cli::definition()
}

/// Runs the command with these arguments; the first one is the program's name.
///
/// Exit codes are 0; 1 for results that are not what was asked for; 130 for results up to an interruption; and else those
/// of `sysexits.h`: 64 for a wrong command line; 68 for a target that does not
/// exist; 69 for what the kernel, the machine or the target refuses; 70 for a measurement that did not
/// measure what it should; 74 for a file; 77 for a missing privilege.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(cli::run(arguments))
}
