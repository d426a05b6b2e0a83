//! `doctor` examines everything that can keep a server from serving well, and says what to type.
//!
//! There is one file per topic. Its `examine` reads facts from the kernel, from other programs or over the
//! network, always with a timeout. Its pure function `judge` turns the facts into findings. Nothing is ever
//! changed. [`finding`] defines a finding, and `render` shows it.

mod address;
mod clock;
mod configuration;
mod conntrack;
mod finding;
mod firewall;
mod inbound;
mod interface;
mod native;
mod port;
mod queues;
mod render;
mod room;
mod system;
mod upstream;
mod upstream_status;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use responder::verdict::Family;

pub use finding::{Finding, Severity};

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::net::default_route::default_interface;
use crate::net::interfaces::{Interface, Netlink};
use crate::net::own_addresses::OwnAddresses;
use crate::net::topology::{self, LinkRelations};
use crate::output::{print_json, write};
use crate::service_manager::{self, Verb};
use crate::status::Status;
use crate::status::traffic::SourceTraffic;
use crate::sys::process;
use address::Address;
use render::DoctorReport;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArguments {
    /// Interfaces to look at [default: those that are attached or configured, or that of the default route]
    #[arg(value_name = "IFACE")]
    interfaces: Vec<String>,
    /// Configuration file [default: the running daemon's, else /etc/pooltime-xdp.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Wait for a query from this host, another machine of yours; what to type there is shown first
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// With --from: how long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "from")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600))]
    wait: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Why the status is unknown.
pub(crate) enum StatusError {
    /// Only root can read it.
    NotAllowed(Error),
    /// A daemon runs, but it does not answer.
    Silent(Error),
    /// It cannot be read for another reason.
    Failed(Error),
}

impl From<StatusError> for Error {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::NotAllowed(error) | StatusError::Silent(error) | StatusError::Failed(error) => error,
        }
    }
}

/// What is served at this moment.
enum Serving {
    /// Unknown, because root is missing or the daemon does not answer.
    Unknown,
    Nothing,
    This(Box<Status>),
}

impl Serving {
    const fn status(&self) -> Option<&Status> {
        match self {
            Self::This(status) => Some(status),
            Self::Unknown | Self::Nothing => None,
        }
    }
}

/// The ways to the daemon, which the command line has.
pub(crate) struct Asking {
    /// Returns the daemon's status, or what a daemon has left behind.
    pub(crate) status: fn(&Instance) -> Result<Option<Status>, StatusError>,
    /// Returns what the daemon knows of a source's requests.
    pub(crate) source: fn(&Instance, IpAddr) -> Result<SourceTraffic>,
}

/// What the kernel reports about the interfaces.
struct Links {
    interfaces: Vec<Interface>,
    relations: Vec<LinkRelations>,
    addresses: Vec<Address>,
    own: OwnAddresses,
}

/// Examines everything and prints the report. The exit status is 0 if all is well, 1 for warnings, 2 for problems.
pub(crate) fn run(instance: &Instance, arguments: &DoctorArguments, asking: &Asking) -> Result<ExitCode> {
    let mut report = DoctorReport::default();
    let (serving, findings) = serving(instance, (asking.status)(instance));
    let served = serving.status();
    let files = Files::of(arguments.config.as_deref(), served);
    let (checked, found_in_file) = configuration::examine(files.checked());
    // What runs is judged by the file that it runs with, whichever file is checked.
    let config = files.running_apart().map(|running| configuration::examine(Some(running)).0);
    let config = config.as_ref().unwrap_or(&checked);
    report.add(system::examine(instance, config.clock.source));
    report.add(found_in_file);
    report.add(findings);
    report.add(served.and_then(|status| configuration::compare(config, status, instance)));
    if let (Some(status), Some(running)) = (served, files.running_apart()) {
        report.add(configuration::checked_another(&checked, status, files.checked(), running));
    }
    if let Some(elsewhere) =
        served.and_then(|status| elsewhere(status, process::network_namespace(), instance))
    {
        // Interfaces, ports, firewall and upstreams would be those of another network.
        report.add(std::iter::once(elsewhere));
        report.add(clock::examine(instance, &config.clock, served));
        report.add(served.map(upstream_status::examine).into_iter().flatten());
        return print(&report, arguments);
    }

    let links = links()?;
    let names = names(arguments, config, served, &links)?;
    for name in &names {
        report.add(match links.interfaces.iter().find(|interface| interface.name == *name) {
            Some(interface) => examine_interface(interface, &links, &serving, instance),
            None => vec![missing(name, &links)],
        });
    }
    report.add(clock::examine(instance, &config.clock, served));
    report.add(upstream::examine(&checked, files.checked(), &links.own, instance));
    report.add(served.map(upstream_status::examine).into_iter().flatten());
    report.add(port::examine(config, served.and_then(|status| Some(status.daemon.as_ref()?.pid))));
    let has_ipv6 = links.addresses.iter().any(|address| address.ip.is_ipv6());
    report.add(firewall::examine(&names, if has_ipv6 { Family::ALL } else { &[Family::Ipv4] }));
    report.add(conntrack::examine());
    if let Some(served) = served {
        report.add(room::examine(served));
        report.add(inbound::examine(served, &instance.command()));
    }
    if let Some(peer) = &arguments.from {
        report.add(match served {
            None => {
                vec![Finding::unseen(
                    "inbound-from",
                    "inbound packets",
                    "nothing is attached, or it needs root",
                )]
            }
            Some(before) => {
                let patience = Duration::from_secs(arguments.wait);
                eprint!("{}", inbound::instructions(peer, before, patience));
                let listening = inbound::Listening {
                    peer,
                    addresses: inbound::addresses(peer),
                    patience,
                    look: || (asking.status)(instance),
                    source: |address| (asking.source)(instance, address),
                };
                let denied = inbound::denied(peer, instance, config);
                denied.into_iter().chain([listening.wait(before)]).collect()
            }
        });
    }
    print(&report, arguments)
}

fn print(report: &DoctorReport, arguments: &DoctorArguments) -> Result<ExitCode> {
    if arguments.json {
        print_json(&report.as_json())?;
    } else {
        write(&report.to_text())?;
    }
    Ok(report.exit_code())
}

/// The configuration files that matter: the one to check, and the one that the daemon runs with.
struct Files {
    named: Option<PathBuf>,
    running: Option<PathBuf>,
}

impl Files {
    fn of(named: Option<&Path>, served: Option<&Status>) -> Self {
        let running = served.and_then(|status| status.daemon.as_ref()?.config.clone());
        // A daemon without a file has the path at which it would be.
        Self { named: named.map(Path::to_owned), running: running.filter(|path| path.exists()) }
    }

    /// Returns the file to check, if it is not the default one.
    fn checked(&self) -> Option<&Path> {
        self.named.as_deref().or(self.running.as_deref())
    }

    /// Returns the file that the daemon runs with, if another one is checked.
    fn running_apart(&self) -> Option<&Path> {
        let (named, running) = (self.named.as_deref()?, self.running.as_deref()?);
        let same = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        (same(named) != same(running)).then_some(running)
    }
}

/// Whether the daemon is in another network namespace than this process, which has this one.
fn elsewhere(status: &Status, here: Option<u64>, instance: &Instance) -> Option<Finding> {
    let daemon = status.daemon.as_ref()?;
    let (there, here) = (daemon.network_namespace?, here?);
    (there != here).then(|| {
        Finding::warning("other-network", "the daemon runs in another network namespace than this command")
            .why(
                "its interfaces, addresses, ports, firewall and upstreams cannot be seen from here, so they were not looked \
                 at",
            )
            .fix(format!("nsenter --net=/proc/{}/ns/net {} doctor", daemon.pid, instance.command()))
    })
}

fn serving(instance: &Instance, status: Result<Option<Status>, StatusError>) -> (Serving, Vec<Finding>) {
    let findings = match status {
        Ok(Some(status)) => return (Serving::This(Box::new(status)), Vec::new()),
        Ok(None) => {
            let nothing = Finding::warning("not-serving", "nothing is attached, and no daemon is running")
                .why("no request is answered in the NIC path")
                .fix(service_manager::command(instance, Verb::Start))
                .advice(format!("`{} attach IFACE` runs it in the foreground", instance.command()));
            return (Serving::Nothing, vec![nothing]);
        }
        Err(StatusError::NotAllowed(error)) => {
            vec![
                Finding::unseen(
                    "not-root",
                    "the daemon, the program, and which processes hold the ports",
                    error.what,
                )
                .fix(format!("sudo {} doctor", instance.command())),
            ]
        }
        Err(StatusError::Silent(error)) => {
            vec![
                Finding::problem("daemon-hangs", error.what)
                    .why("the program answers until its horizon, and then declares the clock unsynchronised")
                    .fix(service_manager::command(instance, Verb::Restart)),
            ]
        }
        Err(StatusError::Failed(error)) => {
            let found = Finding::problem("daemon", error.what);
            vec![error.remedy.map_or(found.clone(), |remedy| found.advice(remedy))]
        }
    };
    (Serving::Unknown, findings)
}

fn links() -> Result<Links> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
    let own = OwnAddresses::of_this_host()?;
    runtime.block_on(async {
        let netlink = Netlink::connect_to_ask()?;
        let messages = netlink.address_messages().await?;
        Ok(Links {
            interfaces: netlink.interfaces().await?,
            relations: netlink.relations().await?,
            addresses: messages.iter().filter_map(Address::of).collect(),
            own,
        })
    })
}

/// Returns the interfaces to examine: those given on the command line, else those that are or should be
/// attached, else the one of the default route.
fn names(
    arguments: &DoctorArguments,
    config: &Config,
    served: Option<&Status>,
    links: &Links,
) -> Result<Vec<String>> {
    if !arguments.interfaces.is_empty() {
        return Ok(arguments.interfaces.clone());
    }
    let mut names = config.interfaces.clone();
    for interface in served.iter().flat_map(|status| &status.interfaces) {
        if !names.contains(&interface.name) {
            names.push(interface.name.clone());
        }
    }
    if names.is_empty() {
        names.extend(default_interface());
    }
    if names.is_empty() {
        let there: Vec<_> = links.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        return Err(Error::new(
            Code::Usage,
            "no interface is attached or configured, and there is no default route",
        )
        .remedy(format_args!("name the interface to check, one of: {}", there.join(", "))));
    }
    Ok(names)
}

fn examine_interface(
    interface: &Interface,
    links: &Links,
    serving: &Serving,
    instance: &Instance,
) -> Vec<Finding> {
    let stack = topology::stacked_on(interface.index, &links.relations);
    let mut findings = interface::examine(interface, serving, &instance.command());
    findings.extend(queues::examine(&interface.name));
    findings.extend(address::examine(&interface.name, &links.addresses, &stack));
    findings
}

fn missing(name: &str, links: &Links) -> Finding {
    let there: Vec<_> = links.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    Finding::problem("interface-missing", format!("there is no interface `{name}`"))
        .why("it was removed or renamed after it was configured or attached")
        .advice(format!(
            "name the right one in `interfaces` of the configuration, one of: {}",
            there.join(", ")
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use finding::ids;

    #[test]
    fn a_daemon_in_another_network_is_told_of_and_one_in_this_network_is_not() {
        let (mut status, instance) = (crate::status::sample(), Instance::new(None).unwrap());
        assert_eq!(
            elsewhere(&status, Some(7), &instance),
            None,
            "an earlier version does not say where it is"
        );
        status.daemon.as_mut().unwrap().network_namespace = Some(7);
        assert_eq!(elsewhere(&status, Some(7), &instance), None);
        let found = elsewhere(&status, Some(8), &instance).unwrap();
        assert_eq!(found.fix.as_deref(), Some("nsenter --net=/proc/1/ns/net pooltime-xdp doctor"));
    }

    #[test]
    fn the_running_daemon_s_file_is_checked_unless_another_is_named() {
        let directory = std::env::temp_dir().join(format!("pooltime-doctor-files-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (own, other) = (directory.join("own.toml"), directory.join("other.toml"));
        std::fs::write(&own, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let mut status = crate::status::sample();
        status.daemon.as_mut().unwrap().config = Some(own.clone());
        assert_eq!(Files::of(None, Some(&status)).checked(), Some(own.as_path()));
        assert_eq!(Files::of(None, Some(&status)).running_apart(), None);
        let spelt_otherwise = directory.join(".").join("own.toml");
        assert_eq!(Files::of(Some(&spelt_otherwise), Some(&status)).running_apart(), None);
        let apart = Files::of(Some(&other), Some(&status));
        assert_eq!((apart.checked(), apart.running_apart()), (Some(other.as_path()), Some(own.as_path())));
        std::fs::remove_file(&own).unwrap();
        assert_eq!(Files::of(None, Some(&status)).checked(), None, "it does not exist");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_keeps_the_status_from_being_known_is_told_apart_whatever_the_exit_code() {
        let instance = Instance::new(None).unwrap();
        // A daemon that is ending says this code, too, and does not hang.
        let error = || Error::new(Code::TryAgain, "words");
        for (unknown, id, severity) in [
            (StatusError::NotAllowed(error()), "not-root", Severity::Note),
            (StatusError::Silent(error()), "daemon-hangs", Severity::Problem),
            (StatusError::Failed(error()), "daemon", Severity::Problem),
        ] {
            let (serving, findings) = serving(&instance, Err(unknown));
            assert!(serving.status().is_none());
            assert_eq!(ids(&findings), [(id, severity)]);
        }
    }
}
