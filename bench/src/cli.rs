//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, value_parser};

use crate::compare::{self, Named};
use crate::cost;
use crate::failure::{self, Failure};
use crate::load::{
    self, Allowed, Choices, Format, Kind, Load, Mac, Mix, Profile, Rates, SourceNet, SourcePorts, Sources,
    Spacing,
};

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
    /// This server beside every other NTP server that is found, on the same cores and under the same load
    ///
    /// Makes a lab of network namespaces, and in it, one after the other and in several rounds, lets the server
    /// (in the driver, behind it, from its sockets), a bare reflector and the other servers answer; none of them
    /// can set the clock. For each: the highest rate, answers per second of the server's core, round trips at
    /// half of its own highest rate, and what a rate costs that all can serve. Needs root and two CPUs.
    Compare(Compare),
}

#[derive(clap::Args)]
struct Compare {
    /// Rounds; each has every server once, each begins with another one
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Time of each load
    #[arg(long, default_value = "2s", value_parser = load::time)]
    duration: Duration,
    /// The rate at which all are measured
    #[arg(long, default_value = "20k", value_parser = load::rate)]
    rate: f64,
    /// Acceptable loss at the highest rate, wrong answers included
    #[arg(long, default_value = "0.1%", value_parser = load::fraction)]
    loss: f64,
    /// Leave out this part of each step there, the worst of it
    #[arg(long, default_value = "10%", value_parser = load::left_out, value_name = "PART")]
    leave_out: f64,
    /// Addresses that requests come from, rounded up to a power of two
    #[arg(long, default_value_t = 131_072, value_parser = value_parser!(u32).range(1..=8_388_608))]
    clients: u32,
    /// Do not look for higher rates than this
    #[arg(long, default_value = "4M", value_parser = load::rate, value_name = "RATE")]
    at_most: f64,
    /// How often either end of the link is polled, as by a NIC that coalesces its interrupts
    #[arg(long, default_value = "50us", value_parser = load::time)]
    poll: Duration,
    /// CPU of the servers
    #[arg(long)]
    server_cpu: Option<usize>,
    /// CPU of the generator
    #[arg(long)]
    generator_cpu: Option<usize>,
    /// Where a server's program is, if it is not found
    #[arg(long = "server", value_name = "NAME=PATH")]
    servers: Vec<Named>,
    /// Compare these only: native, generic, userspace, reflector, chronyd, ntpsec, openntpd, ntpd-rs, rsntp
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Directory to write the table and the raw runs to
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// The script that makes labs
    #[arg(long, value_name = "SCRIPT", env = "POOLTIME_LAB", default_value = compare::LAB)]
    lab: PathBuf,
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
    /// Leave out this part of each step, the worst of it: the milliseconds in which a host takes a virtual machine's CPU
    /// away say nothing of the server
    #[arg(long, default_value = "0%", value_parser = load::left_out, value_name = "PART")]
    leave_out: f64,
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
    /// Threads; if not given, as many as CPUs for sockets, and one for frames
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
    /// Send from this many addresses, rounded up to a power of two
    #[arg(long, requires = "source_net", default_value_t = 1, value_name = "N")]
    clients: u32,
    /// Network that these are in; over IPv6 each has a /64 of its own, if there are as many
    #[arg(long, value_name = "PREFIX")]
    source_net: Option<SourceNet>,
    /// What is unusual about the requests
    ///
    /// - `hot-source[:SHARE]`: half of all, or this share, comes from one of the `--clients`
    /// - `spoofed`: each comes from any address of the `--source-net`
    /// - `malformed[:SHARE]`: a tenth, or this share, must not be answered: short, not of a client's mode, with wrong
    ///   checksums or lengths; answers to them are errors
    /// - `long[:WORDS]`: with an extension field of 7, or so many, words of four bytes
    /// - `top-of-hour[:FACTOR]`: 10 times the rate, or so many, after a quarter of the time, for an eighth of it, and
    ///   less and less for three more eighths
    #[arg(long, default_value = "normal", verbatim_doc_comment)]
    profile: Profile,
    /// Ports that requests come from: 1024-65535
    #[arg(long, value_name = "RANGE")]
    source_ports: Option<SourcePorts>,
    /// Send by this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Send to this router on the link
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<IpAddr>,
    /// Send to this station on the link
    #[arg(long, value_name = "MAC", conflicts_with = "gateway")]
    next_hop: Option<Mac>,
    /// The target sends requests back as they are: measure the way alone
    #[arg(long)]
    echo: bool,
    /// Take answers of a server that says it is not synchronised for right
    #[arg(long)]
    accept_unsynchronised: bool,
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
        Ok((load, load::Output { format, html: self.html }))
    }
}

/// Where requests come from, if not from this host's address.
fn sources(net: Option<SourceNet>, clients: u32, profile: Profile) -> Result<Option<Sources>, String> {
    match (profile, net) {
        (Profile::HotSource(_), _) if clients < 2 => {
            Err("hot-source is one of several: give --clients and --source-net".into())
        }
        (Profile::Spoofed, None) => Err("spoofed requests come from a network: give --source-net".into()),
        (Profile::Spoofed, Some(_)) if clients > 1 => {
            Err("spoofed requests come from all of --source-net: leave --clients out".into())
        }
        (Profile::Spoofed, Some(net)) => Ok(Some(Sources::all(net))),
        (_, net) => net.map(|net| Sources::new(net, clients)).transpose(),
    }
}

fn step_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 1.01);
    factor.ok_or_else(|| format!("{text} is no factor above 1.01"))
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
            let (load, output) = common.into_parts()?;
            load::run(load, rate, step, &output)
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
