//! `pooltime-bench`: what the server program costs, and what a server takes.
//!
//! - `cost` runs the real program in the kernel by `BPF_PROG_TEST_RUN` and says how many nanoseconds each
//!   kind of packet takes, beside the least that an XDP program can take. It prints no figure unless the
//!   program did, in every single run, what the figure's name says.
//!
//! - `load` sends requests to any NTP server on a schedule that the server's slowness does not slow down, and
//!   checks every answer; `find-max` looks for the highest rate that a server takes.
//!
//! - `compare` puts this server and every other one that is found on the same link, cores and load, one after
//!   the other.
//!
//! Modules, top-down: `cli` is the one definition of the command line; `cost`, `load` and `compare` are the
//! commands; `programs` has the loaded eBPF programs; `frames` the packets; `statistics` the arithmetic.

mod cli;
mod compare;
mod cost;
mod failure;
mod frames;
mod load;
mod machine;
pub mod map_values;
mod programs;
mod progress;
mod statistics;

use std::ffi::OsString;
use std::process::ExitCode;

/// The command line's whole definition: man pages and completions are made from it.
#[must_use]
pub fn definition() -> clap::Command {
    cli::definition()
}

/// Runs the command with these arguments, the program's name first.
///
/// Exit codes are those of `sysexits.h`: 0, 64 for a wrong command line, 68 for a target that does not
/// exist, 69 for what the kernel, the machine or the target refuses, 70 for a measurement that did not measure what it should, 74 for a file, 77 for a
/// missing privilege.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(cli::run(arguments))
}
