//! `import` converts a configuration of ntpd or chronyd to one of this server, and gives a reason for
//! everything that has no counterpart.

mod chrony;
mod ntp;
mod plan;
mod source;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::config::{Config, read_text};
use crate::error::{Code, Error, Result};
use crate::net::default_route::default_interface;
use crate::net::own_addresses::OwnAddresses;
use crate::output::write;
use plan::Plan;

/// Arguments of `import`.
#[derive(clap::Args, Debug)]
pub(crate) struct ImportArguments {
    /// Like /etc/ntp.conf or /etc/chrony/chrony.conf
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose it is [default: told from what is in it]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The interface to answer on [default: that of the default route]
    #[arg(long, value_name = "IFACE")]
    interface: Vec<String>,
}

/// The program that a configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// ntpd's, of either make
    Ntp,
    /// chronyd's
    Chrony,
}

/// Prints the configuration to standard output, and what it leaves out to standard error.
pub(crate) fn run(arguments: &ImportArguments) -> Result<()> {
    let text = read_text(&arguments.file)?;
    let interfaces = if arguments.interface.is_empty() {
        default_interface().into_iter().collect()
    } else {
        arguments.interface.clone()
    };
    let format = arguments.format.unwrap_or_else(|| detect(&arguments.file, &text));
    let own = OwnAddresses::of_this_host()?;
    let (config, notes) = convert(&text, format, &interfaces, &own);
    // If the printed configuration is invalid, this program has a bug.
    Config::parse_on(&config, &own).map_err(|error| {
        Error::new(
            Code::Software,
            format_args!("the configuration made from {} is not accepted: {error}", arguments.file.display()),
        )
        .remedy("this is a bug; please report it together with the file")
    })?;
    for note in &notes {
        eprintln!("{}:{note}", arguments.file.display());
    }
    write(&config)
}

/// Returns the configuration as text, and what it leaves out as `LINE: DIRECTIVE: REASON`. Any input gives a
/// configuration that is valid on a host with these addresses. None of them becomes an upstream.
#[must_use]
pub fn convert(
    text: &str,
    format: Format,
    interfaces: &[String],
    own: &OwnAddresses,
) -> (String, Vec<String>) {
    let mut plan = Plan::on(own);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        // chronyd also takes these characters for comments, but only at the beginning of a line.
        let Some((directive, arguments)) =
            words.split_first().filter(|(first, _)| !first.starts_with([';', '%', '!']))
        else {
            continue;
        };
        plan.at(number, line.trim());
        let directive = directive.to_ascii_lowercase();
        match format {
            Format::Ntp => ntp::read(&mut plan, &directive, arguments),
            Format::Chrony => chrony::read(&mut plan, &directive, arguments),
        }
    }
    match format {
        Format::Ntp => ntp::finish(&mut plan),
        Format::Chrony => chrony::finish(&mut plan),
    }
    plan.finish(interfaces)
}

/// Detects the format by directives that only one of the programs has, and by the file's name if there are
/// none.
fn detect(path: &Path, text: &str) -> Format {
    const NTP: [&str; 10] = [
        "restrict",
        "statsdir",
        "filegen",
        "tinker",
        "tos",
        "leapfile",
        "fudge",
        "disable",
        "broadcast",
        "statistics",
    ];
    const CHRONY: [&str; 12] = [
        "makestep",
        "rtcsync",
        "leapsectz",
        "allow",
        "keyfile",
        "confdir",
        "sourcedir",
        "ntsdumpdir",
        "logdir",
        "maxupdateskew",
        "cmdallow",
        "bindcmdaddress",
    ];
    let votes = |words: &[&str]| {
        text.lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|first| words.contains(first))
            .count()
    };
    let (ntp, chrony) = (votes(&NTP), votes(&CHRONY));
    if chrony > ntp || (chrony == ntp && path.to_string_lossy().contains("chrony")) {
        Format::Chrony
    } else {
        Format::Ntp
    }
}

#[cfg(test)]
mod tests;
