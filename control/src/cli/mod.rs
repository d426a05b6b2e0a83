//! The command line.

mod config;
mod query;
mod top;
mod upstream_probe;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::daemon::client::{AskError, ask, ask_when_up};
use crate::daemon::protocol::{AccessWord, Request};
use crate::daemon::{self, Options};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::log::{self, LogFormat};
use crate::net::prefix::Prefix;
use crate::output::{complain, print_line, print_versioned_json, write, write_table};
use crate::service_manager::how_to_start;
use crate::serving::limits::{Listed, duration};
use crate::serving::xdp::{self, ModeRequest, OpenError};
use crate::status::Status;
use crate::status::health::Health;
use crate::status::sources::Peers;
use crate::tools::doctor::{self, Asking, StatusError};
use crate::tools::import;
use crate::tools::pool::{self, PoolCommand};

/// How often `health --wait` looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// An NTP server that answers packets in the NIC path, with XDP.
#[derive(Parser, Debug)]
#[command(name = "pooltime-xdp", version = version::TEXT.as_str(), arg_required_else_help = true, max_term_width = 80)]
struct Arguments {
    /// Instance name, if several run on one host (for example in network namespaces)
    #[arg(long, global = true, value_name = "NAME")]
    instance: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Answer NTP on interfaces: through the running daemon, or else in the foreground until Ctrl-C
    Attach(AttachArguments),
    /// Run as a service on the configured interfaces; the XDP program stays attached when the daemon exits
    Run(RunArguments),
    /// Detach the XDP program from interfaces, or from all of them and leave nothing behind
    Detach {
        /// Interfaces to detach from [default: all]
        #[arg(value_name = "IFACE")]
        interfaces: Vec<String>,
    },
    /// Show the attached interfaces, the clock and the counters
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check that synchronised time is served within its error limit on all interfaces; fails if it is not
    Health {
        /// Keep checking for this long until it passes, for example 90s or 5m
        #[arg(long, value_name = "TIME", value_parser = duration)]
        wait: Option<Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the busiest clients, their request rates and the number of clients, until Ctrl-C
    Top {
        /// Print JSON once and exit
        #[arg(long)]
        json: bool,
        /// Print once and exit
        #[arg(long)]
        once: bool,
    },
    /// Show the upstreams in the format of `ntpq -p`
    Peers {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop answering clients in a prefix
    Deny(AccessArguments),
    /// Answer clients in a prefix, within the ordinary rate limits
    Allow {
        #[command(flatten)]
        entry: AccessArguments,
        /// Exempt them from the rate limits
        #[arg(long)]
        unlimited: bool,
    },
    /// Limit clients in a prefix to the strict rate
    Limit(AccessArguments),
    /// Show the access lists and remove entries
    #[command(subcommand)]
    Access(AccessCommand),
    /// Query servers for the time without setting the clock
    Query(query::QueryArguments),
    /// NTP Pool tools: check a server as the pool's monitors do, show its score, verify that it is yours
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Find upstreams for the configuration
    #[command(subcommand)]
    Upstream(UpstreamCommand),
    /// Convert an ntpd or chronyd configuration; settings without an equivalent are listed with the reason
    Import(import::ImportArguments),
    /// Diagnose problems and suggest fixes; changes nothing. Exits with 0 if all is well, 1 for warnings, 2 for
    /// problems
    Doctor(doctor::DoctorArguments),
    /// Work with configuration files
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

#[derive(Args, Debug)]
struct AttachArguments {
    /// Interfaces to answer on
    #[arg(required = true, value_name = "IFACE")]
    interfaces: Vec<String>,
    /// Run in the driver (native) or in the network stack behind it (generic)
    #[arg(long, value_enum, default_value_t)]
    mode: ModeRequest,
    /// Configuration file [default: /etc/pooltime-xdp.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace another XDP program that is already attached to an interface
    #[arg(long)]
    replace: bool,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Args, Debug)]
struct RunArguments {
    /// Configuration file [default: /etc/pooltime-xdp.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run in the driver (native) or in the network stack behind it (generic)
    #[arg(long, value_enum, default_value_t)]
    mode: ModeRequest,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Args, Debug)]
struct AccessArguments {
    /// IPv4 or IPv6 prefix or address, for example 192.0.2.0/24 or 192.0.2.1
    #[arg(value_name = "PREFIX")]
    prefix: Prefix,
    /// Duration, for example 90s, 10m, 2h or 1d [default: until the daemon exits]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

#[derive(Subcommand, Debug)]
enum AccessCommand {
    /// Show the entries, those added by commands first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove an entry that was added by a command
    Remove {
        /// Prefix of the entry, exactly as it was added
        #[arg(value_name = "PREFIX")]
        prefix: Prefix,
    },
}

#[derive(Subcommand, Debug)]
enum UpstreamCommand {
    /// Measure candidates in parallel and print a configuration with the best ones; does not set the clock
    Probe(upstream_probe::ProbeArguments),
}

/// Returns the whole command definition, from which man pages and completions are generated.
#[must_use]
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and executes it.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _nowhere_to_tell = error.print();
            // Help and version are not errors; for real errors clap would exit with 2.
            return if error.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    match execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("pooltime-xdp: {error}\n"));
            ExitCode::from(&error)
        }
    }
}

fn execute(arguments: Arguments) -> Result<ExitCode> {
    let instance = Instance::new(arguments.instance.as_deref())?;
    let done = match arguments.command {
        // `doctor` has more exit codes than success and failure.
        Command::Doctor(arguments) => return doctor::run(&instance, &arguments, &ASKING),
        Command::Attach(arguments) => attach(&instance, arguments),
        Command::Run(arguments) => {
            log::start(arguments.log_format);
            daemon::run(&Options {
                instance,
                config: arguments.config,
                interfaces: Vec::new(),
                mode: arguments.mode,
                replace: false,
                detach_at_end: false,
            })
        }
        Command::Detach { interfaces } => detach(&instance, &interfaces),
        Command::Status { json } => status(&instance, json),
        Command::Health { wait, json } => health(&instance, wait, json),
        Command::Top { json, once } => top::show(&instance, json, once),
        Command::Peers { json } => peers(&instance, json),
        Command::Deny(entry) => set_access(&instance, &entry, AccessWord::Deny),
        Command::Allow { entry, unlimited } => {
            set_access(&instance, &entry, if unlimited { AccessWord::Unlimited } else { AccessWord::Allow })
        }
        Command::Limit(entry) => set_access(&instance, &entry, AccessWord::Limit),
        Command::Access(AccessCommand::List { json }) => list_access(&instance, json),
        Command::Access(AccessCommand::Remove { prefix }) => {
            print_all(&ask::<Vec<String>>(&instance, &Request::RemoveAccess { prefix })?)
        }
        Command::Query(arguments) => query::query(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Pool(command) => pool::run(&instance, &command, &ASKING_FOR_PROBES),
        Command::Upstream(UpstreamCommand::Probe(arguments)) => upstream_probe::probe(&arguments),
        Command::Config(command) => config::run(&command),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn attach(instance: &Instance, arguments: AttachArguments) -> Result<()> {
    let AttachArguments { interfaces, mode, config, replace, log_format } = arguments;
    let request = Request::Attach { interfaces: interfaces.clone(), mode, replace };
    match ask_when_up::<Vec<String>>(instance, &request) {
        Err(AskError::NoDaemon { .. }) => {}
        answer => return print_all(&answer?),
    }
    log::start(log_format);
    daemon::run(&Options {
        instance: instance.clone(),
        config,
        interfaces,
        mode,
        replace,
        detach_at_end: true,
    })
}

fn detach(instance: &Instance, interfaces: &[String]) -> Result<()> {
    let request = Request::Detach { interfaces: interfaces.to_vec() };
    match ask_when_up::<Vec<String>>(instance, &request) {
        Err(AskError::NoDaemon { .. }) => {}
        answer => return print_all(&answer?),
    }
    xdp::require_privileges(instance)?;
    let directory = instance.pin_directory();
    if !directory.exists() {
        return Err(Error::new(Code::NoInput, "nothing is attached").remedy(how_to_start(instance)));
    }
    if !interfaces.is_empty() {
        return Err(Error::new(Code::Unavailable, "no daemon is running to detach single interfaces")
            .remedy(format_args!(
                "`{} detach` without names detaches everything that was left behind",
                instance.command()
            )));
    }
    let lock = instance.lock()?;
    if let Err(error) = daemon::settle_without_daemon(instance) {
        complain(&format!("pooltime-xdp: what was answered is not counted for the traffic quota: {error}\n"));
    }
    xdp::remove_pins(&directory)?;
    instance.clean_up(lock);
    print_line(format_args!("detached; removed {}", directory.display()))
}

fn status(instance: &Instance, json: bool) -> Result<()> {
    let status = current_status(instance)?;
    if json { print_versioned_json(&status) } else { write(&status.to_string()) }
}

/// Asks the daemon for its status, or reads it from what the daemon left behind.
fn current_status(instance: &Instance) -> Result<Status> {
    known_status(instance)?.ok_or_else(|| {
        Error::new(Code::Unavailable, "not running, and nothing is attached").remedy(how_to_start(instance))
    })
}

/// How `doctor` asks the daemon.
const ASKING: Asking = Asking {
    status: known_status,
    source: |instance, address| Ok(ask(instance, &Request::Source { address })?),
};

/// How `pool why` asks the daemon.
const ASKING_FOR_PROBES: pool::Asking = pool::Asking {
    rounds: |instance| Ok(ask(instance, &Request::Probes)?),
    course: |instance| Ok(ask(instance, &Request::Course)?),
    entries: |instance| Ok(ask(instance, &Request::ListAccess)?),
    status: |instance| Ok(ask(instance, &Request::Status)?),
};

/// Like [`current_status`], but `None` if neither exists.
fn known_status(instance: &Instance) -> Result<Option<Status>, StatusError> {
    match ask(instance, &Request::Status) {
        Ok(status) => Ok(Some(status)),
        Err(AskError::NoDaemon { .. }) => {
            daemon::status_without_daemon(instance).map_err(|error| match error {
                OpenError::NotAllowed(missing) => StatusError::NotAllowed(missing.into()),
                OpenError::Failed(error) => StatusError::Failed(error),
            })
        }
        Err(error @ AskError::NotAllowed { .. }) => Err(StatusError::NotAllowed(error.into())),
        Err(error @ AskError::Silent { .. }) => Err(StatusError::Silent(error.into())),
        Err(error) => Err(StatusError::Failed(error.into())),
    }
}

fn health(instance: &Instance, wait: Option<Duration>, json: bool) -> Result<()> {
    let health = wait_until_healthy(instance, wait.unwrap_or_default())?;
    if json {
        print_versioned_json(&health)?;
    } else {
        write(&health.to_text())?;
    }
    if health.healthy { Ok(()) } else { Err(Error::new(Code::Unavailable, "not healthy")) }
}

/// Looks until the server is healthy or the time is over, and returns what it saw last. A daemon that does not run yet is
/// waited for, too.
fn wait_until_healthy(instance: &Instance, patience: Duration) -> Result<Health> {
    let deadline = Instant::now() + patience;
    loop {
        let health = current_status(instance).map(|status| Health::of(&status));
        let may_change = match &health {
            Ok(health) => !health.healthy,
            // Of a daemon that is starting, what it leaves in the kernel may be there in part.
            Err(error) => error.code != Code::NoPermission,
        };
        if !may_change || Instant::now() >= deadline {
            return health;
        }
        std::thread::sleep(LOOK_INTERVAL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

fn peers(instance: &Instance, json: bool) -> Result<()> {
    let peers: Peers = ask(instance, &Request::Peers)?;
    if json {
        return print_versioned_json(&peers);
    }
    if peers.peers.is_empty() {
        return print_line(format_args!(
            "no upstreams: the system clock is used; set `clock.source = \"upstream\"` to use upstreams"
        ));
    }
    write_table(&peers.to_string())
}

fn set_access(instance: &Instance, entry: &AccessArguments, access: AccessWord) -> Result<()> {
    let seconds = entry.time.map(|time| time.as_secs());
    let request = Request::SetAccess { prefix: entry.prefix, access, seconds };
    print_all(&ask::<Vec<String>>(instance, &request)?)
}

fn print_all(messages: &[String]) -> Result<()> {
    messages.iter().try_for_each(|message| print_line(format_args!("{message}")))
}

fn list_access(instance: &Instance, json: bool) -> Result<()> {
    let entries: Vec<Listed> = ask(instance, &Request::ListAccess)?;
    if json {
        return print_versioned_json(&serde_json::json!({ "entries": entries }));
    }
    for Listed { prefix, access, live, seconds_left } in &entries {
        let origin = match (live, seconds_left) {
            (true, Some(seconds)) => format!("by command, {seconds} s left"),
            (true, None) => "by command".into(),
            (false, _) => "by configuration".into(),
        };
        print_line(format_args!("{access:<10} {:<40} {origin}", prefix.to_string()))?;
    }
    Ok(())
}
