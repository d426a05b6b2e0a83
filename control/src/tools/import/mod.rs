//! `import` converts a configuration of another NTP daemon to one of this server, and gives a reason for everything
//! that has no counterpart.

mod chrony;
mod format;
mod lines;
mod ntp;
mod ntpd_rs;
mod openntpd;
mod plan;
mod source;
mod timesyncd;

use std::path::{Path, PathBuf};

use crate::config::{Config, MAX_BYTES, read_text};
use crate::error::{Code, Error, Result};
use crate::net::default_route::default_interface;
use crate::net::own_addresses::OwnAddresses;
use crate::output::write;
use format::Format;
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
    /// Leave the clock to the daemon that has FILE, and take over only who is answered, and how often
    #[arg(long)]
    beside: bool,
}

/// Prints the configuration to standard output, and what it leaves out to standard error.
pub(crate) fn run(arguments: &ImportArguments) -> Result<()> {
    let file = arguments.file.display();
    let text = read_text(&arguments.file, &file, MAX_BYTES)?;
    let interfaces = if arguments.interface.is_empty() {
        default_interface().into_iter().collect()
    } else {
        let list = toml::Value::from(arguments.interface.clone());
        Config::parse(&format!("interfaces = {list}")).map_err(|error| Error {
            code: Code::Usage,
            what: format!("--interface: {}", error.what),
            ..error
        })?;
        arguments.interface.clone()
    };
    let own = OwnAddresses::of_this_host()?;
    if Config::parse(&text).is_ok_and(|config| config != Config::default()) {
        return Err(Error::new(Code::Data, format_args!("{file} is a configuration of this server already"))
            .remedy(format_args!("`pooltime-xdp config check {file}` checks it")));
    }
    let format = arguments.format.or_else(|| Format::of(&arguments.file, &text));
    let plan = if arguments.beside { Plan::beside(&own) } else { Plan::on(&own) };
    let converted = format.and_then(|format| Some((format, fill(plan, &text, format, &interfaces)?)));
    let (format, (config, notes)) = converted.ok_or_else(|| not_understood(arguments))?;
    check(&config, &own, arguments)?;
    eprintln!("{file}: read as a configuration of {}", format.daemon());
    for note in &notes {
        eprintln!("{file}:{note}");
    }
    write(&config)
}

/// Checks the configuration as `config check` does. If it is not valid, this program has a bug.
fn check(config: &str, own: &OwnAddresses, ImportArguments { file, .. }: &ImportArguments) -> Result<()> {
    if u64::try_from(config.len()).is_ok_and(|bytes| bytes > MAX_BYTES) {
        return Err(Error::new(
            Code::Data,
            format_args!("the configuration made from {} is larger than {MAX_BYTES} bytes", file.display()),
        )
        .remedy("move the access list to a file of its own, one entry per line, for `files` in [access]"));
    }
    let checked = Config::parse_on(config, own).and_then(|config| {
        config.entries()?;
        config.clock.discipline()
    });
    checked.map(|_| ()).map_err(|error| {
        Error::new(
            Code::Software,
            format_args!("the configuration made from {} is not accepted: {error}", file.display()),
        )
        .remedy("this is a bug; please report it together with the file")
    })
}

/// Makes the error of a file in which nothing is of use.
fn not_understood(ImportArguments { file, format, .. }: &ImportArguments) -> Error {
    let file = file.display();
    let daemons = match format {
        Some(format) => format.daemon(),
        None => "ntpd, chronyd, OpenNTPD, systemd-timesyncd or ntpd-rs",
    };
    Error::new(Code::Data, format_args!("{file} is not a configuration of {daemons}")).remedy(
        "name such a file, like /etc/ntp.conf or /etc/chrony/chrony.conf, and `--format` if you know whose it is; \
         `pooltime-xdp upstream probe NAME...` makes a configuration without one",
    )
}

/// Returns the configuration as text, and what it leaves out as `LINE: DIRECTIVE: REASON`, or `None` if nothing in the
/// text is a directive of the daemon. The configuration is valid on a host with these addresses, whatever the text is.
/// None of the addresses becomes an upstream.
fn convert(
    text: &str,
    format: Format,
    interfaces: &[String],
    own: &OwnAddresses,
) -> Option<(String, Vec<String>)> {
    fill(Plan::on(own), text, format, interfaces)
}

/// The same for any plan.
fn fill(
    mut plan: Plan<'_>,
    text: &str,
    format: Format,
    interfaces: &[String],
) -> Option<(String, Vec<String>)> {
    format.read(&mut plan, text);
    let understanding = plan.understanding();
    (understanding.unknown < understanding.directives).then(|| plan.finish(format.daemon(), interfaces))
}

/// Converts the text of some daemon's configuration, whosever it is, on a host with no addresses: to one in place of that
/// daemon, and to one beside it. Returns `None` where nothing in it is understood. Whatever the text is, the results are
/// valid: `Config::parse` takes them.
#[must_use]
pub fn converted(text: &str) -> Option<[String; 2]> {
    let own = OwnAddresses::default();
    let format = Format::of(Path::new(""), text)?;
    let beside = fill(Plan::beside(&own), text, format, &[])?;
    Some([convert(text, format, &[], &own)?.0, beside.0])
}

#[cfg(test)]
mod tests;
