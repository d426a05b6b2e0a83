//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, value_parser};

use crate::cost;
use crate::failure::{self, Failure};
use crate::load::{self, Format, Kind, Load, Mix, Rates, Spacing};

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
    /// Load on an NTP server, with every answer checked
    ///
    /// Requests go out on a schedule that does not wait for answers. Sends to loopback, link-local and
    /// private addresses only, unless the server is said to be one's own.
    Load(LoadArguments),
    /// The highest rate that an NTP server takes
    FindMax(FindMax),
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

#[derive(clap::Args)]
struct LoadArguments {
    #[command(flatten)]
    common: Common,
    /// Requests a second, or a ramp of them: 50k, 1000..2M
    #[arg(long, default_value = "1000")]
    rate: Rates,
    /// Factor from one step of a ramp to the next
    #[arg(long, default_value_t = 1.5, value_parser = step_factor)]
    step: f64,
}

#[derive(clap::Args)]
struct FindMax {
    #[command(flatten)]
    common: Common,
    /// Acceptable loss
    #[arg(long, default_value = "0.1%", value_parser = load::fraction)]
    loss: f64,
    /// Rates between which to look
    #[arg(long, default_value = "1000..2M")]
    rate: Rates,
}

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
struct Common {
    /// Address or name of the server, with a port if it is not 123
    target: String,
    /// What sends the requests
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    generator: Kind,
    /// Time of each step
    #[arg(long, default_value = "5s", value_parser = load::time)]
    duration: Duration,
    /// Time at the first rate before the first step, not counted
    #[arg(long, default_value = "500ms", value_parser = load::time)]
    warm_up: Duration,
    /// Answers that take longer are lost
    #[arg(long, default_value = "1s", value_parser = load::time)]
    timeout: Duration,
    /// Threads; as many as CPUs if not given
    #[arg(long, value_parser = value_parser!(u32).range(1..=256))]
    workers: Option<u32>,
    /// Sockets, and so source ports, of each thread
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=1000))]
    sockets: u32,
    /// NTP versions by weight, as 4 or 3:1,4:2; as counted on a public server if not given
    #[arg(long)]
    versions: Option<Mix>,
    /// How requests are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Even)]
    spacing: Spacing,
    /// The server reads this machine's clock: check its timestamps against it. Always so on loopback
    #[arg(long)]
    shared_clock: bool,
    /// How far the server's clock may be off then
    #[arg(long, default_value = "1ms", value_parser = load::time)]
    tolerance: Duration,
    /// Send to a public address
    #[arg(long)]
    i_own_this_server: bool,
    /// Send at more than 5M requests a second, or for more than 10 minutes
    #[arg(long)]
    uncapped: bool,
    /// Shape of the results
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print the results as JSON
    #[arg(long, conflicts_with_all = ["format", "csv"])]
    json: bool,
    /// Print the results as CSV
    #[arg(long, conflicts_with = "format")]
    csv: bool,
    /// Write the results as a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Common {
    fn into_parts(self) -> (Load, load::Output) {
        let format = if self.json {
            Format::Json
        } else if self.csv {
            Format::Csv
        } else {
            self.format
        };
        let load = Load {
            target: self.target,
            owned: self.i_own_this_server,
            uncapped: self.uncapped,
            kind: self.generator,
            duration: self.duration,
            warm_up: self.warm_up,
            timeout: self.timeout,
            workers: self.workers,
            sockets: self.sockets,
            mix: self.versions.unwrap_or_default(),
            spacing: self.spacing,
            shared_clock: self.shared_clock,
            tolerance: self.tolerance,
        };
        (load, load::Output { format, html: self.html })
    }
}

fn step_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 1.01);
    factor.ok_or_else(|| format!("{text} is no factor above 1.01"))
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
        Command::Load(LoadArguments { common, rate, step }) => {
            let (load, output) = common.into_parts();
            load::run(load, rate, step, &output)
        }
        Command::FindMax(FindMax { common, loss, rate }) => {
            let (load, output) = common.into_parts();
            load::find_max(load, rate, loss, &output)
        }
    }
}
