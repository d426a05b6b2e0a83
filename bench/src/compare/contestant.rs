//! The contestants: how each is found, started without access to the machine's clock, and stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab::{LINK, Lab, SERVER_PRIORITY};
use super::{CompareError, Named};
use crate::failure::Failure;
use crate::programs::{load_program, not_loaded, program};

/// Deadline for a daemon to end; the slowest one needs less.
const PATIENCE: Duration = Duration::from_secs(5);
/// Port of the chronyd whose time other servers relay.
const RELAYED_PORT: u16 = 11_123;

/// openntpd changes to the user of its package and keeps files where its package does. It gets its own view
/// of the file system, in which both exist without the package.
const OPENNTPD_USER: &str = "ntpd:x:65533:65533::/var/lib/openntpd:/bin/false";
const OPENNTPD_VIEW: &str = "mount --bind \"$1\" /etc/passwd; mount -t tmpfs none /var/lib; \
    mkdir -p /var/lib/openntpd/run /var/lib/openntpd/db; shift; exec \"$@\"";

/// What a contestant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Our own program, in the driver or in the generic path.
    Program(&'static str),
    /// The sockets of our own daemon.
    Userspace,
    /// An XDP program that only swaps addresses.
    Reflector,
    Chronyd,
    Ntpsec,
    Openntpd,
    NtpdRs,
    Rsntp,
}

/// For each contestant: its name, its kind, and the names of its program.
const ALL: [(&str, Kind, &[&str]); 9] = [
    ("native", Kind::Program("native"), &[OURS]),
    ("generic", Kind::Program("generic"), &[OURS]),
    ("userspace", Kind::Userspace, &[OURS]),
    ("reflector", Kind::Reflector, &[]),
    ("chronyd", Kind::Chronyd, &["chronyd"]),
    ("ntpsec", Kind::Ntpsec, &["ntpd"]),
    ("openntpd", Kind::Openntpd, &["openntpd"]),
    ("ntpd-rs", Kind::NtpdRs, &["ntp-daemon"]),
    ("rsntp", Kind::Rsntp, &["rsntp"]),
];
const OURS: &str = "pooltime-xdp";

pub(super) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, ..)| *name).collect()
}

/// Returns the names of contestants for which a path can be given.
pub(super) fn programs() -> Vec<&'static str> {
    let named = ALL.iter().filter(|(_, kind, _)| !matches!(kind, Kind::Reflector));
    named.map(|(name, ..)| *name).collect()
}

/// A contestant.
#[derive(Clone, Debug)]
pub(super) struct Contestant {
    name: &'static str,
    kind: Kind,
    program: PathBuf,
    chronyd: Option<PathBuf>,
}

/// A contestant that was found, or the reason why it was not.
#[derive(Debug)]
pub(super) enum Found {
    Here(Contestant),
    Missing { name: &'static str, reason: String },
}

impl Found {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Here(contestant) => contestant.name,
            Self::Missing { name, .. } => name,
        }
    }
}

/// Looks for all contestants: where the command line says, next to this program, where `scripts/setup`
/// unpacks them, and in the path.
pub(super) fn find(named: &[Named]) -> Vec<Found> {
    let path_of = |name: &str, programs: &[&str]| {
        let given = named.iter().find(|named| named.name == name).map(|named| named.path.clone());
        given.or_else(|| programs.iter().find_map(|program| search(program)))
    };
    let chronyd = path_of("chronyd", &["chronyd"]);
    ALL.iter()
        .map(|(name, kind, programs)| {
            let here =
                |program| Found::Here(Contestant { name, kind: *kind, program, chronyd: chronyd.clone() });
            match path_of(name, programs) {
                _ if *kind == Kind::Reflector => here(PathBuf::new()),
                Some(program) if program.exists() => here(program),
                Some(program) => {
                    Found::Missing { name, reason: format!("{} does not exist", program.display()) }
                }
                None => {
                    let reason = format!("not found: pass its path with --server {name}=PATH");
                    Found::Missing { name, reason }
                }
            }
        })
        .collect()
}

fn search(program: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_path_buf()));
    let tools = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from);
    let unpacked = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/pooltime-xdp/tools"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(tools).chain(unpacked).chain(std::env::split_paths(&path));
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    directories.chain(system).map(|directory| directory.join(program)).find(|path| path.exists())
}

impl Contestant {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it sends requests back unchanged.
    pub(super) fn echoes(&self) -> bool {
        self.kind == Kind::Reflector
    }

    /// Whether it cannot be synchronised without steering a clock. Such a server answers, and says that it is
    /// not synchronised.
    pub(super) fn unsynchronised(&self) -> bool {
        matches!(self.kind, Kind::Openntpd | Kind::NtpdRs)
    }

    /// Returns the versions to ask it in, if it does not answer all of them.
    pub(super) fn versions(&self) -> Option<&'static str> {
        (self.kind == Kind::NtpdRs).then_some("3:6.0,4:5.2")
    }

    /// Returns what is special about it, for the table.
    pub(super) fn note(&self) -> &'static str {
        match self.kind {
            Kind::NtpdRs => ", asked in versions 3 and 4 only, not synchronised",
            Kind::Openntpd => ", not synchronised",
            Kind::Userspace => ", its sockets",
            Kind::Program("generic") => ", behind the driver",
            Kind::Reflector => "swaps addresses",
            _ => "",
        }
    }

    /// Returns the version that it reports.
    pub(super) fn version(&self) -> String {
        let flag = match self.kind {
            Kind::Reflector => return String::new(),
            // These programs have no version option: the call would start them.
            Kind::Rsntp | Kind::Openntpd => return "of unknown version".into(),
            _ => "--version",
        };
        let output = Command::new(&self.program).arg(flag).stdin(Stdio::null()).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let words = text.lines().next().unwrap_or_default().split(" (+").next().unwrap_or_default();
        words.trim().to_owned()
    }

    /// Starts it on the lab's server host.
    pub(super) fn start<'lab>(&self, lab: &'lab Lab) -> Result<Running<'lab>, Failure> {
        let mut running = Running { name: self.name, lab, processes: Vec::new(), ebpf: None, ours: None };
        let work = |file: &str| lab.directory.join(file).display().to_string();
        let write = |file: &str, text: &str| {
            let path = lab.directory.join(file);
            fs::write(&path, text).map_err(|reason| Failure::File { path: path.clone(), reason })?;
            Ok::<_, Failure>(path.display().to_string())
        };
        match self.kind {
            Kind::Reflector => running.ebpf = Some(lab.inside("server", attach_reflector)?),
            Kind::Program(mode) => {
                let config = write("pooltime.toml", "[clock]\nlocal_stratum = 10\n")?;
                running.ours = Some(self.program.clone());
                let instance = ["--instance", &lab.name, "attach", LINK, "--mode", mode, "--config", &config];
                running.spawn(&self.program, &instance)?;
            }
            Kind::Userspace => {
                // The program is attached to another link, so that all requests on this one go to the
                // daemon's sockets.
                let other = ["link", "add", "other0", "type", "veth", "peer", "name", "other1"];
                let _from_the_last_round = lab.ip("server", &["link", "delete", "other0"]);
                lab.ip("server", &other)?;
                lab.ip("server", &["link", "set", "other0", "up"])?;
                let config = write("pooltime.toml", "[clock]\nlocal_stratum = 10\n")?;
                running.ours = Some(self.program.clone());
                let attach = ["--instance", &lab.name, "attach", "other0", "--mode", "generic"];
                running.spawn(&self.program, &[&attach[..], &["--config", &config]].concat())?;
            }
            Kind::Chronyd => running.chronyd(&self.program, 123)?,
            Kind::Ntpsec => {
                let config = write(
                    "ntp.conf",
                    "disable ntp\ndisable kernel\ntos orphan 10 orphanwait 1\nrestrict default nomodify\n",
                )?;
                running.spawn(&self.program, &["-n", "-N", "-c", &config])?;
            }
            Kind::Openntpd => {
                let config = write("openntpd.conf", "listen on *\n")?;
                let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
                let users = write("passwd", &format!("{users}\n{OPENNTPD_USER}\n"))?;
                let program = self.program.display().to_string();
                let shell = ["--mount", "sh", "-euc", OPENNTPD_VIEW, "sh", &users];
                running
                    .spawn(Path::new("unshare"), &[&shell[..], &[&program, "-d", "-f", &config]].concat())?;
            }
            Kind::NtpdRs => {
                let observe = work("observe");
                let text = format!(
                    "[observability]\nobservation-path = \"{observe}\"\n[synchronization]\nlocal-stratum = 10\n\
                     [[server]]\nlisten = \"0.0.0.0:123\"\n"
                );
                let config = write("ntp.toml", &text)?;
                running.spawn(&self.program, &["--config", &config])?;
            }
            Kind::Rsntp => {
                let Some(chronyd) = &self.chronyd else {
                    let what = "relays another server's time, and chronyd is not available for it".into();
                    return Err(CompareError::Contestant { name: self.name, what, log: String::new() }.into());
                };
                running.chronyd(chronyd, RELAYED_PORT)?;
                let relayed = format!("127.0.0.1:{RELAYED_PORT}");
                running.spawn(&self.program, &["-4", "1", "-6", "0", "-s", &relayed])?;
            }
        }
        Ok(running)
    }
}

/// A contestant that runs. It is stopped and detached when this is dropped.
pub(super) struct Running<'lab> {
    name: &'static str,
    pub(super) lab: &'lab Lab,
    processes: Vec<Child>,
    ebpf: Option<Ebpf>,
    /// Our program, to detach what a dead daemon left.
    ours: Option<PathBuf>,
}

impl Running<'_> {
    /// Starts a process on the server's core, with a priority above all ordinary processes there, and without
    /// the right to set a clock.
    fn spawn<S: AsRef<str>>(&mut self, program: &Path, arguments: &[S]) -> Result<(), Failure> {
        let log = self.lab.directory.join("log");
        let file = |reason| Failure::File { path: log.clone(), reason };
        let output = File::options().create(true).append(true).open(&log).map_err(file)?;
        let mut command = self.lab.on("server", "setpriv");
        command.args(["--bounding-set=-sys_time", "taskset", "-c", &self.lab.cores.server.to_string()]);
        command.args(["chrt", "--fifo", &SERVER_PRIORITY.to_string()]).arg(program);
        command.args(arguments.iter().map(AsRef::as_ref));
        command.stdout(output.try_clone().map_err(file)?).stderr(output);
        self.processes.push(command.spawn().map_err(file)?);
        Ok(())
    }

    fn chronyd(&mut self, program: &Path, port: u16) -> Result<(), Failure> {
        let pidfile = format!("pidfile {}", self.lab.directory.join("chronyd.pid").display());
        let port = format!("port {port}");
        // With -x it never touches the clock.
        let arguments =
            ["-d", "-x", "-u", "root", "local stratum 10", "allow", "cmdport 0", "bindcmdaddress /"];
        self.spawn(program, &[&arguments[..], &[&pidfile, &port]].concat())
    }

    /// Makes a failure that says what it does not do, with the log of the process.
    pub(super) fn failed(&mut self, what: &str) -> Failure {
        let ended = self.processes.iter_mut().find_map(|process| process.try_wait().ok().flatten());
        let what = ended.map_or(what.to_owned(), |status| format!("ended with {status}"));
        let log = fs::read_to_string(self.lab.directory.join("log")).unwrap_or_default();
        CompareError::Contestant { name: self.name, what, log }.into()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let pid = Pid::from_raw(process.id().cast_signed());
            // Our own program detaches on this signal; the others end.
            let _ended_already = kill(pid, Signal::SIGINT);
            let deadline = Instant::now() + PATIENCE;
            while process.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ended_already = process.kill();
            let _ended = process.wait();
        }
        if let Some(program) = &self.ours {
            let mut detach = Command::new(program);
            detach.args(["--instance", &self.lab.name, "detach"]).stdout(Stdio::null()).stderr(Stdio::null());
            let _nothing_left = detach.status();
        }
        // The next contestant begins with an empty log.
        let _none = fs::remove_file(self.lab.directory.join("log"));
    }
}

/// Attaches the reflector; it stays attached as long as the returned object lives.
fn attach_reflector() -> Result<Ebpf, Failure> {
    const OBJECT: &str = "the built-in baseline object";
    const REFLECT: &str = "reflect";
    let mut ebpf = EbpfLoader::new().load(bench_ebpf::BASELINE).map_err(|error| not_loaded(OBJECT, error))?;
    load_program(&mut ebpf, OBJECT, REFLECT)?;
    let refused = |reason| Failure::Run { what: REFLECT.into(), reason };
    program(&ebpf, REFLECT).map_err(refused)?;
    let program: &mut Xdp = ebpf
        .program_mut(REFLECT)
        .ok_or(aya::programs::ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(refused)?;
    program.attach(LINK, XdpMode::Driver).map_err(refused)?;
    Ok(ebpf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_with_the_way_to_name_it() {
        let nowhere: Named = "rsntp=/nowhere/rsntp".parse().unwrap();
        let found = find(&[nowhere]);
        assert_eq!(found.len(), ALL.len());
        let reason = found.iter().find_map(|found| match found {
            Found::Missing { name: "rsntp", reason } => Some(reason.clone()),
            _ => None,
        });
        assert!(reason.unwrap().contains("/nowhere/rsntp"));
    }
}
