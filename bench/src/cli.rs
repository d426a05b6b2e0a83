//! The command line.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, value_parser};

use crate::compare::{self, Named};
use crate::cost;
use crate::failure::{self, Failure};
use crate::load::{
    self, Allowed, Choices, Format, Kind, Load, Mac, Mix, Profile, Rates, SourceNet, SourcePorts, Sources,
    Spacing, Thresholds,
};

/// Benchmarks NTP servers, primarily pooltime-xdp.
#[derive(Parser)]
#[command(name = "pooltime-bench", version = version::TEXT.as_str(), max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the nanoseconds per packet of the server's program, compared with `XDP_PASS`
    ///
    /// Runs the real program in the kernel (`BPF_PROG_TEST_RUN`), attached to nothing and pinned to one CPU.
    /// Prints a figure only if every single run reached the verdict that the figure is named after, according to
    /// the program's return value and the server's own counters. Needs root.
    Cost(Cost),
    /// Put load on an NTP server and check every answer
    ///
    /// Requests go out on a schedule that does not wait for answers. They go only to loopback, link-local and
    /// private addresses, unless you declare that the server is yours.
    Load(LoadArguments),
    /// Find the highest rate that an NTP server sustains
    FindMax(FindMax),
    /// Compare this server with every other NTP server found, on the same cores and under the same load
    ///
    /// Creates a lab of network namespaces and runs in it, one after the other and in several rounds, the server
    /// (in the driver, behind it, from its sockets), a bare reflector and the other servers; none of them can
    /// set the clock. Reports for each: the highest rate, answers per second of the server's core, round trips
    /// at half of its own highest rate, and the cost of a rate that all can serve. Needs root and two CPUs.
    Compare(Compare),
}

#[derive(clap::Args)]
struct Compare {
    /// Number of rounds; each runs every server once and starts with a different one
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Duration of each load
    #[arg(long, default_value = "2s", value_parser = load::duration)]
    duration: Duration,
    /// Common rate at which all servers are measured
    #[arg(long, default_value = "20k", value_parser = load::rate)]
    rate: f64,
    /// Acceptable loss at the highest rate, including wrong answers
    #[arg(long, default_value = "0.1%", value_parser = load::fraction)]
    loss: f64,
    /// Ignore this share of each step at the highest rate, the worst of it
    #[arg(long, default_value = "10%", value_parser = load::left_out, value_name = "PART")]
    leave_out: f64,
    /// Number of source addresses, rounded up to a power of two
    #[arg(long, default_value_t = 131_072, value_parser = value_parser!(u32).range(1..=8_388_608))]
    clients: u32,
    /// Upper limit of the search for the highest rate
    #[arg(long, default_value = "4M", value_parser = load::rate, value_name = "RATE")]
    at_most: f64,
    /// Poll interval of both ends of the link, like that of a NIC that coalesces its interrupts
    #[arg(long, default_value = "50us", value_parser = load::time)]
    poll: Duration,
    /// CPU to run the servers on
    #[arg(long)]
    server_cpu: Option<usize>,
    /// CPU to run the generator on
    #[arg(long)]
    generator_cpu: Option<usize>,
    /// Path of a server's program, if it is not found automatically
    #[arg(long = "server", value_name = "NAME=PATH")]
    servers: Vec<Named>,
    /// Compare only these: native, generic, userspace, reflector, chronyd, ntpsec, openntpd, ntpd-rs, rsntp
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Directory to write the table and the raw runs to
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// Script that creates labs [default: the one that is built in]
    #[arg(long, value_name = "SCRIPT", env = "POOLTIME_LAB")]
    lab: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Cost {
    /// Number of rounds; each measures every row once
    #[arg(long, default_value_t = 11, value_parser = value_parser!(u32).range(1..=1001))]
    rounds: u32,
    /// Number of packets per row and round
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1000..=100_000_000))]
    repeat: u32,
    /// CPU to run on [default: the last one that is allowed]
    #[arg(long)]
    cpu: Option<usize>,
    /// Measure another build of the server's object in the same rounds
    #[arg(long, value_name = "OBJECT")]
    candidate: Option<PathBuf>,
    /// Compare with earlier results, as written by `--json`
    #[arg(long, value_name = "RESULTS")]
    against: Option<PathBuf>,
    /// Print all results as JSON, including those of single rounds
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct LoadArguments {
    #[command(flatten)]
    common: Common,
    /// Requests per second, or a ramp: 50k, 1000..2M
    #[arg(long, default_value = "1000")]
    rate: Rates,
    /// Factor from one step of a ramp to the next
    #[arg(long, default_value_t = 1.5, value_parser = step_factor)]
    step: f64,
    /// Fail, with exit status 1, if more requests than this share are lost, refused or answered wrongly
    #[arg(long, value_name = "SHARE", value_parser = load::fraction)]
    max_loss: Option<f64>,
    /// Fail, with exit status 1, if more than 1 % of the answers take longer than this
    #[arg(long, value_name = "TIME", value_parser = load::time)]
    max_p99: Option<Duration>,
}

#[derive(clap::Args)]
struct FindMax {
    #[command(flatten)]
    common: Common,
    /// Acceptable loss
    #[arg(long, default_value = "0.1%", value_parser = load::fraction)]
    loss: f64,
    /// Ignore this share of each step, the worst of it: the milliseconds in which a host takes away a virtual machine's
    /// CPU say nothing about the server
    #[arg(long, default_value = "0%", value_parser = load::left_out, value_name = "PART")]
    leave_out: f64,
    /// Range of rates to search
    #[arg(long, default_value = "1000..2M")]
    rate: Rates,
}

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
struct Common {
    /// Server address or name, with a port if it is not 123
    target: String,
    /// Generator that sends the requests
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    generator: Kind,
    /// Duration of each step
    #[arg(long, default_value = "5s", value_parser = load::duration)]
    duration: Duration,
    /// Warm-up at the first rate before the first step, not counted
    #[arg(long, default_value = "500ms", value_parser = load::time)]
    warm_up: Duration,
    /// Answers that take longer count as lost
    #[arg(long, default_value = "1s", value_parser = load::time)]
    timeout: Duration,
    /// Number of threads [default: one per CPU for sockets, one for frames]
    #[arg(long, value_parser = value_parser!(u32).range(1..=256))]
    workers: Option<u32>,
    /// Number of sockets, and thus of source ports, per thread
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=1000))]
    sockets: u32,
    /// NTP versions by weight, for example 4 or 3:1,4:2 [default: as counted on a public server]
    #[arg(long)]
    versions: Option<Mix>,
    /// Spacing of requests
    #[arg(long, value_enum, default_value_t = Spacing::Even)]
    spacing: Spacing,
    /// Number of source addresses, rounded up to a power of two
    #[arg(long, requires = "source_net", default_value_t = 1, value_name = "N")]
    clients: u32,
    /// Network of the source addresses; over IPv6 each gets its own /64 if there are enough
    #[arg(long, value_name = "PREFIX")]
    source_net: Option<SourceNet>,
    /// Kind of unusual requests
    ///
    /// - `hot-source[:SHARE]`: half of the requests, or this share, comes from one of the `--clients`
    /// - `spoofed`: each request comes from a random address in the `--source-net`
    /// - `malformed[:SHARE]`: a tenth of the requests, or this share, must not be answered: they are short, have another
    ///   mode than client, or wrong checksums or lengths; answers to them are errors
    /// - `long[:WORDS]`: requests have an extension field of 7, or WORDS, words of four bytes
    /// - `top-of-hour[:FACTOR]`: after a quarter of the time the rate rises to 10 times, or FACTOR times, for an eighth
    ///   of it, and then falls for three more eighths
    #[arg(long, default_value = "normal", verbatim_doc_comment)]
    profile: Profile,
    /// Range of source ports, for example 1024-65535
    #[arg(long, value_name = "RANGE")]
    source_ports: Option<SourcePorts>,
    /// Interface to send on
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Router on the link to send to
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<IpAddr>,
    /// MAC address on the link to send to
    #[arg(long, value_name = "MAC", conflicts_with = "gateway")]
    next_hop: Option<Mac>,
    /// The target echoes requests unchanged: measure the path only
    #[arg(long)]
    echo: bool,
    /// Accept answers of a server that declares itself unsynchronised
    #[arg(long)]
    accept_unsynchronised: bool,
    /// The server reads this machine's clock: check its timestamps against it. Always set on loopback
    #[arg(long)]
    shared_clock: bool,
    /// Tolerance of that check
    #[arg(long, default_value = "1ms", value_parser = load::time)]
    tolerance: Duration,
    /// Allow a public target address
    #[arg(long)]
    i_own_this_server: bool,
    /// Allow more than 5M requests per second, or more than 10 minutes
    #[arg(long)]
    uncapped: bool,
    /// Format of the results
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print the results as JSON
    #[arg(long, conflicts_with_all = ["format", "csv"])]
    json: bool,
    /// Print the results as CSV
    #[arg(long, conflicts_with = "format")]
    csv: bool,
    /// Write the results as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the results as JSON to a file, whatever is printed
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

impl Common {
    fn into_parts(self) -> Result<(Load, load::Output), Failure> {
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
            sources: sources(self.source_net, self.clients, self.profile).map_err(Failure::Usage)?,
            profile: self.profile,
            source_ports: self.source_ports,
            way: Choices { interface: self.interface, gateway: self.gateway, next_hop: self.next_hop },
            echo: self.echo,
            lenient: self.accept_unsynchronised,
            shared_clock: self.shared_clock,
            tolerance: self.tolerance,
        };
        Ok((load, load::Output { format, html: self.html, json_file: self.json_file }))
    }
}

/// Chooses the source addresses of requests, if they are not this host's own.
fn sources(net: Option<SourceNet>, clients: u32, profile: Profile) -> Result<Option<Sources>, String> {
    match (profile, net) {
        (Profile::HotSource(_), _) if clients < 2 => {
            Err("hot-source is one client of several: pass --clients and --source-net".into())
        }
        (Profile::Spoofed, None) => Err("spoofed requests come from a network: pass --source-net".into()),
        (Profile::Spoofed, Some(_)) if clients > 1 => {
            Err("spoofed requests come from all of --source-net: omit --clients".into())
        }
        (Profile::Spoofed, Some(net)) => Ok(Some(Sources::all(net))),
        (_, net) => net.map(|net| Sources::new(net, clients)).transpose(),
    }
}

fn step_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 1.01);
    factor.ok_or_else(|| format!("{text} is not a factor above 1.01"))
}

/// See [`crate::definition`].
pub(crate) fn definition() -> clap::Command {
    Arguments::command()
}

/// See [`crate::run`].
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" too; they are printed to standard output. If that is closed,
            // there is no reader.
            let _nobody_reads = error.print();
            return if error.use_stderr() { failure::USAGE } else { 0 };
        }
    };
    match dispatch(arguments.command) {
        Ok(()) => 0,
        Err(failure) => {
            // A reader that has gone away (`2>&1 | head`) is no error.
            let text = format!("pooltime-bench: {failure}");
            let text = if stderr().is_terminal() { load::folded(&text) } else { text };
            let _nobody_reads = writeln!(stderr(), "{text}");
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Cost(Cost { rounds, repeat, cpu, candidate, against, json }) => {
            cost::run(&cost::Options { rounds, repeat, cpu, candidate, against, json })
        }
        Command::Load(LoadArguments { common, rate, step, max_loss, max_p99 }) => {
            let (load, output) = common.into_parts()?;
            load::run(load, rate, step, Thresholds { max_loss, max_p99 }, &output)
        }
        Command::Compare(it) => compare::run(&compare::Options {
            rounds: it.rounds,
            duration: it.duration,
            common_rate: it.rate,
            loss: it.loss,
            left_out: it.leave_out,
            clients: it.clients,
            at_most: it.at_most,
            poll: it.poll,
            server_core: it.server_cpu,
            generator_core: it.generator_cpu,
            servers: it.servers,
            only: it.only,
            results: it.results,
            lab: it.lab,
        }),
        Command::FindMax(FindMax { common, loss, leave_out, rate }) => {
            let (load, output) = common.into_parts()?;
            load::find_max(load, rate, Allowed { loss, left_out: leave_out }, &output)
        }
    }
}
