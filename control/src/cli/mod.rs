//! The command line.

mod query;
mod top;
mod upstream_probe;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::Config;
use crate::daemon::protocol::{AccessWord, Request, ask, ask_running};
use crate::daemon::{self, Options};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::log::{self, LogFormat};
use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::Prefix;
use crate::output::{say, say_json, write};
use crate::serving::limits::{Listed, duration};
use crate::serving::xdp::{self, ModeRequest};
use crate::status::Status;
use crate::status::health::Health;
use crate::status::sources::Peers;
use crate::tools::doctor;
use crate::tools::import;
use crate::tools::pool::{self, PoolCommand};

/// An NTP server that answers in the NIC path.
#[derive(Parser, Debug)]
#[command(name = "pooltime-xdp", version, arg_required_else_help = true)]
struct Arguments {
    /// Name of the instance, where several run on a host (network namespaces, laboratories)
    #[arg(long, global = true, value_name = "NAME")]
    instance: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Answer NTP on interfaces: asks the running daemon, or becomes it in the foreground until Ctrl-C
    Attach(AttachArguments),
    /// Run as a service on the configured interfaces; the program stays attached when it ends
    Run(RunArguments),
    /// Take the program off interfaces, or off all of them and leave nothing behind
    Detach {
        /// Interfaces; all if none is named
        #[arg(value_name = "IFACE")]
        interfaces: Vec<String>,
    },
    /// Show what is attached, the clock and the counters
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether synchronised time is served within its error limit on all interfaces; fails if not
    Health {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show who asks most, how often and how many there are, until Ctrl-C
    Top {
        /// Once, as JSON
        #[arg(long)]
        json: bool,
        /// Once
        #[arg(long)]
        once: bool,
    },
    /// Show the upstreams, in the columns of `ntpq -p`
    Peers {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Do not answer sources with this prefix
    Deny(AccessArguments),
    /// Answer sources with this prefix, within the ordinary limits
    Allow {
        #[command(flatten)]
        entry: AccessArguments,
        /// Without a limit
        #[arg(long)]
        unlimited: bool,
    },
    /// Limit sources with this prefix to the strict rate
    Limit(AccessArguments),
    /// Look at the access lists, and take entries out
    #[command(subcommand)]
    Access(AccessCommand),
    /// Ask servers for the time, as a client; sets nothing
    Query(query::QueryArguments),
    /// The NTP Pool: check a server as its monitor does, see its score, prove that it is yours
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Find upstreams for the configuration
    #[command(subcommand)]
    Upstream(UpstreamCommand),
    /// Make a configuration of an ntpd's or a chronyd's; what has no counterpart is named with its reason
    Import(import::Arguments),
    /// Look for what keeps the server from serving well, and say what to type; changes nothing. Ends with 0 if all
    /// is well, 1 for warnings, 2 for problems
    Doctor(doctor::Arguments),
    /// Look at configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Args, Debug)]
struct AttachArguments {
    /// Interfaces to answer on
    #[arg(required = true, value_name = "IFACE")]
    interfaces: Vec<String>,
    /// In the driver (native) or behind it (generic)
    #[arg(long, value_enum, default_value_t)]
    mode: ModeRequest,
    /// Configuration file [default: /etc/pooltime-xdp.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take somebody else's XDP program off the interface first
    #[arg(long)]
    replace: bool,
    /// What log lines look like
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Args, Debug)]
struct RunArguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
    /// In the driver (native) or behind it (generic)
    #[arg(long, value_enum, default_value_t)]
    mode: ModeRequest,
    /// What log lines look like
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Args, Debug)]
struct AccessArguments {
    /// Like 192.0.2.0/24 or 192.0.2.1, IPv6 likewise
    #[arg(value_name = "PREFIX")]
    prefix: Prefix,
    /// How long: 90s, 10m, 2h, 1d [default: until the daemon ends]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
}

#[derive(Subcommand, Debug)]
enum AccessCommand {
    /// Show the entries: those of commands first
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove an entry that a command made
    Remove {
        /// As it was given
        #[arg(value_name = "PREFIX")]
        prefix: Prefix,
    },
}

#[derive(Subcommand, Debug)]
enum UpstreamCommand {
    /// Measure candidates, all at the same time, and print the configuration's lines for the best; sets nothing
    Probe(upstream_probe::ProbeArguments),
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Say whether a file is right, and where not
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
        file: PathBuf,
    },
}

/// The whole definition: man pages and completions are made from it.
#[must_use]
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Reads the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _nowhere_to_tell = error.print();
            // Help and version are no errors; clap would end with 2 for the others.
            return if error.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    match execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pooltime-xdp: {error}");
            ExitCode::from(&error)
        }
    }
}

fn execute(arguments: Arguments) -> Result<ExitCode> {
    let instance = Instance::new(arguments.instance.as_deref())?;
    let done = match arguments.command {
        // It has more to say than success or failure.
        Command::Doctor(arguments) => return doctor::run(&instance, &arguments, known_status),
        Command::Attach(arguments) => attach(&instance, arguments),
        Command::Run(arguments) => {
            log::start(arguments.log_format);
            daemon::run(&Options {
                instance,
                config: Some(arguments.config),
                interfaces: Vec::new(),
                mode: arguments.mode,
                replace: false,
                detach_at_end: false,
            })
        }
        Command::Detach { interfaces } => detach(&instance, &interfaces),
        Command::Status { json } => status(&instance, json),
        Command::Health { json } => health(&instance, json),
        Command::Top { json, once } => top::show(&instance, json, once),
        Command::Peers { json } => peers(&instance, json),
        Command::Deny(entry) => set_access(&instance, &entry, AccessWord::Deny),
        Command::Allow { entry, unlimited } => {
            set_access(&instance, &entry, if unlimited { AccessWord::Unlimited } else { AccessWord::Allow })
        }
        Command::Limit(entry) => set_access(&instance, &entry, AccessWord::Limit),
        Command::Access(AccessCommand::List { json }) => list_access(&instance, json),
        Command::Access(AccessCommand::Remove { prefix }) => {
            let messages: Vec<String> = ask_running(&instance, &Request::RemoveAccess { prefix })?;
            messages.iter().try_for_each(|message| say(format_args!("{message}")))
        }
        Command::Query(arguments) => query::query(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Pool(command) => pool::run(&command),
        Command::Upstream(UpstreamCommand::Probe(arguments)) => upstream_probe::probe(&arguments),
        Command::Config(ConfigCommand::Check { file }) => {
            let config = Config::load_on(Some(&file), &OwnAddresses::of_this_host()?)?;
            crate::serving::limits::configured(&config.access)?;
            config.clock.discipline()?;
            for warning in config.warnings() {
                eprintln!("pooltime-xdp: {}: warning: {warning}", file.display());
            }
            say(format_args!("{}: right", file.display()))
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn attach(instance: &Instance, arguments: AttachArguments) -> Result<()> {
    let AttachArguments { interfaces, mode, config, replace, log_format } = arguments;
    let request = Request::Attach { interfaces: interfaces.clone(), mode, replace };
    if let Some(messages) = ask::<Vec<String>>(instance, &request)? {
        return messages.iter().try_for_each(|message| say(format_args!("{message}")));
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
    if let Some(messages) = ask::<Vec<String>>(instance, &request)? {
        return messages.iter().try_for_each(|message| say(format_args!("{message}")));
    }
    xdp::require_privileges(instance)?;
    let directory = instance.pin_directory();
    if !directory.exists() {
        return Err(Error::new(Code::NoInput, "nothing is attached")
            .remedy(format_args!("`{} attach IFACE` attaches", instance.command())));
    }
    if !interfaces.is_empty() {
        return Err(Error::new(Code::Unavailable, "no daemon runs that could detach single interfaces")
            .remedy(format_args!(
                "`{} detach` without names detaches all that was left behind",
                instance.command()
            )));
    }
    let lock = instance.lock()?;
    xdp::remove_pins(&directory)?;
    instance.clean_up(lock);
    say(format_args!("detached; {} is gone", directory.display()))
}

fn status(instance: &Instance, json: bool) -> Result<()> {
    let status = current_status(instance)?;
    if json { say_json(&status) } else { write(&status.to_string()) }
}

/// From the daemon, or from what it left behind.
fn current_status(instance: &Instance) -> Result<Status> {
    known_status(instance)?.ok_or_else(|| {
        Error::new(Code::Unavailable, "not running, and nothing is attached")
            .remedy(format_args!("`sudo {} attach IFACE` starts it", instance.command()))
    })
}

/// The same; `None` if there is neither.
fn known_status(instance: &Instance) -> Result<Option<Status>> {
    match ask(instance, &Request::Status)? {
        Some(status) => Ok(Some(status)),
        None => daemon::status_without_daemon(instance),
    }
}

fn health(instance: &Instance, json: bool) -> Result<()> {
    let health = Health::of(&current_status(instance)?);
    if json {
        say_json(&health)?;
    } else {
        write(&health.to_text())?;
    }
    if health.healthy { Ok(()) } else { Err(Error::new(Code::Unavailable, "not healthy")) }
}

fn peers(instance: &Instance, json: bool) -> Result<()> {
    let peers: Peers = ask_running(instance, &Request::Peers)?;
    if json {
        return say_json(&peers);
    }
    if peers.peers.is_empty() {
        return say(format_args!(
            "no upstreams: the clock is the system's; `clock.source = \"upstream\"` has them asked"
        ));
    }
    write(&peers.to_string())
}

fn set_access(instance: &Instance, entry: &AccessArguments, access: AccessWord) -> Result<()> {
    let seconds = entry.time.map(|time| time.as_secs());
    let request = Request::SetAccess { prefix: entry.prefix, access, seconds };
    let messages: Vec<String> = ask_running(instance, &request)?;
    messages.iter().try_for_each(|message| say(format_args!("{message}")))
}

fn list_access(instance: &Instance, json: bool) -> Result<()> {
    let entries: Vec<Listed> = ask_running(instance, &Request::ListAccess)?;
    if json {
        return say_json(&entries);
    }
    for Listed { prefix, access, live, seconds_left } in &entries {
        let origin = match (live, seconds_left) {
            (true, Some(seconds)) => format!("by command, {seconds} s left"),
            (true, None) => "by command".into(),
            (false, _) => "by configuration".into(),
        };
        say(format_args!("{access:<10} {:<40} {origin}", prefix.to_string()))?;
    }
    Ok(())
}
