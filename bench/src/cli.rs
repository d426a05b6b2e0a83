//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand, value_parser};

use crate::cost;
use crate::failure::{self, Failure};

/// Measures NTP servers, pooltime-xdp above all.
#[derive(Parser)]
#[command(name = "pooltime-bench", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nanoseconds that the server's program takes for a packet, beside `XDP_PASS`
    ///
    /// Runs the real program in the kernel (`BPF_PROG_TEST_RUN`), attached to nothing and pinned to one CPU.
    /// Prints no figure unless every single run came to the verdict that the figure is named after, by the
    /// program's return value and by the server's own counters. Needs root.
    Cost(Cost),
}

#[derive(clap::Args)]
struct Cost {
    /// Rounds; each measures every row once
    #[arg(long, default_value_t = 11, value_parser = value_parser!(u32).range(1..=1001))]
    rounds: u32,
    /// Packets for each row and round
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1000..=100_000_000))]
    repeat: u32,
    /// CPU to run on; the last one allowed if not given
    #[arg(long)]
    cpu: Option<usize>,
    /// Measure another build of the server's object in the same rounds
    #[arg(long, value_name = "OBJECT")]
    candidate: Option<PathBuf>,
    /// Compare with results that `--json` wrote before
    #[arg(long, value_name = "RESULTS")]
    against: Option<PathBuf>,
    /// Print all results, those of single rounds included, as JSON
    #[arg(long)]
    json: bool,
}

/// See [`crate::run`].
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" too, for standard output; where that is closed nobody reads.
            let _nobody_reads = error.print();
            return if error.use_stderr() { failure::USAGE } else { 0 };
        }
    };
    match dispatch(arguments.command) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("pooltime-bench: {failure}");
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Cost(Cost { rounds, repeat, cpu, candidate, against, json }) => {
            cost::run(&cost::Options { rounds, repeat, cpu, candidate, against, json })
        }
    }
}
