//! The link that the contestants are put on: two hosts of `scripts/lab`, and which core does what.
//!
//! By default, all work of a veth link runs on the core that sends, so the server's share and the load's
//! could not be told apart. Therefore each end is polled by a thread of its own (`threaded`), on the core of
//! its side and with priority over everything else there. It polls about every 50 us, like a NIC that
//! coalesces its interrupts (`gro_flush_timeout`, with `napi_defer_hard_irqs` as large as possible, so that
//! the timer is never given up).

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::CompareError;
use crate::failure::Failure;

/// Addresses that `scripts/lab` assigns.
pub(super) const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";
const SERVER_MAC: &str = "02:00:00:77:00:01";
const CLIENT_MAC: &str = "02:00:00:77:00:02";
pub(super) const LINK: &str = "lan0";
/// The network of the clients, which is routed to the client's host.
pub(super) const CLIENTS: &str = "10.128.0.0/9";

/// Real-time priorities: what would be an interrupt on a NIC comes before the servers.
const POLL_PRIORITY: u32 = 3;
pub(super) const SERVER_PRIORITY: u32 = 2;

/// `S32_MAX`: the largest value that the kernel accepts.
const POLL_FOR_EVER: u32 = 0x7fff_ffff;

/// Which core does what.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Cores {
    /// The core of the server, and of what the kernel does for it.
    pub(super) server: usize,
    /// The core of the generator, and of what the kernel does for the client's end.
    pub(super) generator: usize,
}

impl Cores {
    /// Takes the last two cores that this process may use, unless the command line names others.
    pub(super) fn choose(server: Option<usize>, generator: Option<usize>) -> Result<Self, CompareError> {
        let allowed: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        let refused = || {
            let list: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            CompareError::Cores(list.join(", "))
        };
        let usable = |core: &usize| allowed.contains(core);
        let last_but = |taken: Option<usize>| allowed.iter().rev().copied().find(|core| Some(*core) != taken);
        let server = server.or_else(|| last_but(generator)).filter(usable).ok_or_else(refused)?;
        let generator = generator.or_else(|| last_but(Some(server))).filter(usable).ok_or_else(refused)?;
        if server == generator { Err(refused()) } else { Ok(Self { server, generator }) }
    }
}

/// The lab; see the module. It is taken down when this is dropped, even after a failure.
pub(super) struct Lab {
    pub(super) name: String,
    pub(super) cores: Cores,
    /// Directory for configurations and logs.
    pub(super) directory: PathBuf,
    script: PathBuf,
    /// Interval at which each end is polled.
    poll: Duration,
    /// The kernel's thread that polls the server's end.
    poller: Option<Pid>,
}

impl Lab {
    /// Makes the lab by this script, or by the one that is built in.
    pub(super) fn up(script: Option<&Path>, cores: Cores, poll: Duration) -> Result<Self, Failure> {
        let name = format!("compare{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory).map_err(|reason| Failure::File { path: directory.clone(), reason })?;
        let script = match script {
            Some(script) => script.into(),
            None => unpack(&directory)?,
        };
        let mut lab = Self { name, cores, directory, script, poll, poller: None };
        call(Command::new(&lab.script).args(["up", &lab.name]))?;
        // With GRO an end is polled whether or not it has an XDP program, and the other end cannot send
        // anything that GRO would merge. The generator brings its own program.
        lab.ip("client", &["link", "set", "dev", LINK, "xdp", "off"])?;
        for host in ["server", "client"] {
            call(lab.on(host, "ethtool").args(["-K", LINK, "gro", "on", "tso", "off"]))?;
        }
        // The bare reflector sends everything back, even ARP requests for its address.
        for (host, address, mac) in [("server", CLIENT, CLIENT_MAC), ("client", SERVER, SERVER_MAC)] {
            let permanent = ["neigh", "replace", address, "lladdr", mac, "dev", LINK, "nud", "permanent"];
            lab.ip(host, &permanent)?;
        }
        lab.ip("server", &["route", "add", CLIENTS, "via", CLIENT])?;
        lab.poll("client", cores.generator)?;
        lab.poller = Some(lab.poll("server", cores.server)?);
        Ok(lab)
    }

    /// Returns a command that will run on a host.
    pub(super) fn on(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(host).display())).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `ip` on a host.
    pub(super) fn ip(&self, host: &str, arguments: &[&str]) -> Result<(), Failure> {
        call(self.on(host, "ip").args(arguments)).map(drop)
    }

    /// Calls a function on a thread that is in the host's network namespace.
    pub(super) fn inside<T: Send>(
        &self,
        host: &str,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let path = self.namespace(host);
        let namespace = File::open(&path).map_err(|reason| Failure::File { path, reason })?;
        let on_host = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|error| failed("entering a host", error.desc()))?;
            work()
        };
        thread::scope(|scope| scope.spawn(on_host).join())
            .unwrap_or_else(|_| Err(failed("a thread on a host", "it ended early").into()))
    }

    /// Returns the `schedstat` files of all threads that work for the server: those of the processes on its
    /// host, and the one that polls its end of the link.
    pub(super) fn server_threads(&self) -> Vec<String> {
        let namespace = fs::metadata(self.namespace("server")).map(|it| it.ino()).ok();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let on_host = processes.filter(|process| {
            namespace.is_some() && fs::metadata(process.join("ns/net")).map(|it| it.ino()).ok() == namespace
        });
        let tasks =
            on_host.flat_map(|process| fs::read_dir(process.join("task")).into_iter().flatten().flatten());
        let of_task = |task: fs::DirEntry| task.path().join("schedstat").display().to_string();
        let kernel = self.poller.map(|pid| format!("/proc/{pid}/schedstat"));
        tasks.map(of_task).chain(kernel).collect()
    }

    /// Has an end polled by a thread of its own on a core, and returns that thread.
    fn poll(&self, host: &str, core: usize) -> Result<Pid, Failure> {
        self.set(host, "gro_flush_timeout", &self.poll.as_nanos().to_string())?;
        self.set(host, "napi_defer_hard_irqs", &POLL_FOR_EVER.to_string())?;
        let before = pollers();
        self.set(host, "threaded", "1")?;
        let Some(thread) = pollers().difference(&before).next().copied() else {
            let reason = "the kernel did not create a thread for it: Linux 5.12 or later is needed";
            return Err(failed(&format!("polling {LINK} of the {host}"), reason).into());
        };
        let thread = Pid::from_raw(thread);
        call(Command::new("taskset").args(["-pc", &core.to_string(), &thread.to_string()]))?;
        give_priority(thread, POLL_PRIORITY)?;
        Ok(thread)
    }

    /// Writes a setting of a host's end of the link. It disappears with the lab.
    fn set(&self, host: &str, setting: &str, value: &str) -> Result<(), Failure> {
        // /sys/class/net shows a namespace's devices only if it was mounted inside the namespace.
        let write = format!("echo {value} > /sys/class/net/{LINK}/{setting}");
        let namespace = format!("{}-{host}", self.name);
        call(Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", &write])).map(drop)
    }

    fn namespace(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("{}-{host}", self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The script reports what it could not take down.
        let _said = Command::new(&self.script).args(["down", &self.name]).status();
        let _nothing_left = fs::remove_dir_all(&self.directory);
    }
}

/// Writes the script and what it needs into a directory. Returns its path.
fn unpack(directory: &Path) -> Result<PathBuf, Failure> {
    let files: [(&str, &[u8], u32); 3] = [
        ("lab", include_bytes!("../../../scripts/lab"), 0o755),
        ("lib.sh", include_bytes!("../../../scripts/lib.sh"), 0o644),
        ("baseline", bench_ebpf::BASELINE, 0o644),
    ];
    for (name, contents, mode) in files {
        let path = directory.join(name);
        fs::write(&path, contents)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(|reason| Failure::File { path, reason })?;
    }
    Ok(directory.join("lab"))
}

/// Gives a thread a real-time priority.
pub(super) fn give_priority(thread: Pid, priority: u32) -> Result<(), Failure> {
    call(Command::new("chrt").args(["--fifo", "-p", &priority.to_string(), &thread.to_string()])).map(drop)
}

/// Lets a thread run only when nothing else wants to.
pub(super) fn give_least_priority(thread: Pid) -> Result<(), Failure> {
    call(Command::new("chrt").args(["--idle", "-p", "0", &thread.to_string()])).map(drop)
}

/// Runs a command and makes a failure of an unsuccessful exit.
pub(super) fn call(command: &mut Command) -> Result<Output, Failure> {
    let what = || {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        format!("{} {}", command.get_program().to_string_lossy(), words.join(" "))
    };
    let what = what();
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(&what, &error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(&what, String::from_utf8_lossy(&output.stderr).trim()).into())
}

fn failed(what: &str, reason: &str) -> CompareError {
    CompareError::Lab { what: what.into(), reason: reason.into() }
}

/// Returns the kernel's threads that poll links of this name.
fn pollers() -> BTreeSet<i32> {
    let name = format!("napi/{LINK}-");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let polls = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        fs::read_to_string(entry.path().join("comm")).ok()?.starts_with(&name).then_some(pid)
    };
    processes.filter_map(polls).collect()
}
