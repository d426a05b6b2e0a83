//! The link that the contestants are put on: two hosts of `scripts/lab`, and which core does what.
//!
//! Left to itself, all that a veth link does runs on the core that sends: the server's share and the load's could
//! not be told apart. So each end is polled on a core of its own, every 50 us as by a NIC that coalesces its
//! interrupts (`gro_flush_timeout`, and `napi_defer_hard_irqs` as large as it can be, so that the timer is never
//! given up). A NAPI instance stays on the core on which it was woken up, which is the core of whoever sends the
//! first packet after that is set.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use core_affinity::CoreId;
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::CompareError;
use crate::failure::Failure;

/// Addresses of `scripts/lab`.
pub(super) const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";
const SERVER_MAC: &str = "02:00:00:77:00:01";
const CLIENT_MAC: &str = "02:00:00:77:00:02";
pub(super) const LINK: &str = "lan0";
/// The network of the clients, behind the client's host.
pub(super) const CLIENTS: &str = "10.128.0.0/9";

/// Real-time priorities: what interrupts would do is above the servers, the soaker below them.
const POLL_PRIORITY: u32 = 3;
pub(super) const SERVER_PRIORITY: u32 = 2;
pub(super) const SOAKER_PRIORITY: u32 = 1;

const POLL_NS: u32 = 50_000;
/// `S32_MAX`: the most that the kernel takes.
const POLL_FOR_EVER: u32 = 0x7fff_ffff;
/// To see where an end is polled, and how often that is at least if it is polled at all.
const LOOK: Duration = Duration::from_millis(100);
const LEAST_POLLS: u64 = 500;
const ATTEMPTS: u32 = 20;
/// What wakes an end up: nobody listens, and nobody complains about a broadcast.
const WAKER: (&str, u16) = ("10.77.0.255", 9);

/// Which core does what.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Cores {
    /// The server, and what the kernel does for it.
    pub(super) server: usize,
    /// The generator, and what the kernel does for the client's end.
    pub(super) generator: usize,
}

impl Cores {
    /// The last two that this process may use, if not told otherwise.
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

/// See the module. Gone when it goes out of scope, whatever happens.
pub(super) struct Lab {
    pub(super) name: String,
    pub(super) cores: Cores,
    /// For configurations and logs.
    pub(super) directory: PathBuf,
    script: PathBuf,
    ksoftirqd: Option<Pid>,
}

impl Lab {
    pub(super) fn up(script: &Path, cores: Cores) -> Result<Self, Failure> {
        let name = format!("compare{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir(&directory).map_err(|reason| Failure::File { path: directory.clone(), reason })?;
        let mut lab = Self { name, cores, directory, script: script.into(), ksoftirqd: None };
        call(Command::new(&lab.script).args(["up", &lab.name]))?;
        // With GRO, and nothing that the other end could leave in one piece, an end is polled whether or not it has
        // an XDP program; the generator brings its own.
        lab.ip("client", &["link", "set", "dev", LINK, "xdp", "off"])?;
        for host in ["server", "client"] {
            call(lab.on(host, "ethtool").args(["-K", LINK, "gro", "on", "tso", "off"]))?;
        }
        // The bare reflector sends back whatever comes, the search for its address, too.
        for (host, address, mac) in [("server", CLIENT, CLIENT_MAC), ("client", SERVER, SERVER_MAC)] {
            let permanent = ["neigh", "replace", address, "lladdr", mac, "dev", LINK, "nud", "permanent"];
            lab.ip(host, &permanent)?;
        }
        lab.ip("server", &["route", "add", CLIENTS, "via", CLIENT])?;
        // Softirqs that are left to this thread would not run beside real-time servers.
        lab.ksoftirqd = find_kernel_thread(&format!("ksoftirqd/{}", cores.server));
        if let Some(thread) = lab.ksoftirqd {
            give_priority(thread, POLL_PRIORITY)?;
        }
        Ok(lab)
    }

    /// Has neither end polled without need.
    pub(super) fn rest(&self) -> Result<(), Failure> {
        for host in ["client", "server"] {
            self.set(host, "napi_defer_hard_irqs", "0")?;
            self.set(host, "gro_flush_timeout", "0")?;
        }
        Ok(())
    }

    /// Sees to it that each end is polled on its core.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        self.poll("client", "server", self.cores.generator)?;
        self.poll("server", "client", self.cores.server)
    }

    /// A command that will run on a host.
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

    /// Calls a function on a thread that is on a host.
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

    /// Accounts (`schedstat`) of all threads that work for the server: of the processes on its host, and of the
    /// kernel on its core.
    pub(super) fn server_threads(&self) -> Vec<String> {
        let namespace = fs::metadata(self.namespace("server")).map(|it| it.ino()).ok();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let on_host = processes.filter(|process| {
            namespace.is_some() && fs::metadata(process.join("ns/net")).map(|it| it.ino()).ok() == namespace
        });
        let tasks =
            on_host.flat_map(|process| fs::read_dir(process.join("task")).into_iter().flatten().flatten());
        let of_task = |task: fs::DirEntry| task.path().join("schedstat").display().to_string();
        let kernel = self.ksoftirqd.map(|pid| format!("/proc/{pid}/schedstat"));
        tasks.map(of_task).chain(kernel).collect()
    }

    /// Has an end polled on a core, on which nothing else of the kind happens.
    fn poll(&self, host: &str, other: &str, core: usize) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            let before = polls_on(core);
            thread::sleep(LOOK);
            if polls_on(core).saturating_sub(before) >= LEAST_POLLS {
                return Ok(());
            }
            // Not at all so far, or elsewhere: a packet that nobody sends on purpose, of IPv6 say, came first.
            self.set(host, "napi_defer_hard_irqs", "0")?;
            self.set(host, "gro_flush_timeout", "0")?;
            thread::sleep(LOOK / 10);
            self.set(host, "gro_flush_timeout", &POLL_NS.to_string())?;
            self.set(host, "napi_defer_hard_irqs", &POLL_FOR_EVER.to_string())?;
            self.inside(other, || {
                let sent = core_affinity::set_for_current(CoreId { id: core })
                    && UdpSocket::bind("0.0.0.0:0")
                        .and_then(|socket| {
                            socket.set_broadcast(true).and_then(|()| socket.send_to(&[0], WAKER))
                        })
                        .is_ok();
                if sent {
                    Ok(())
                } else {
                    Err(failed("waking up a link's end", "cannot send a broadcast").into())
                }
            })?;
        }
        let what = format!("polling {LINK} of the {host} on CPU {core}");
        Err(failed(&what, "it is polled elsewhere, or not at all; other network traffic on this machine?")
            .into())
    }

    /// Writes a setting of a host's end of the link. It goes with the lab.
    fn set(&self, host: &str, setting: &str, value: &str) -> Result<(), Failure> {
        // /sys/class/net is that of the namespace only where it is mounted in there.
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
        if let Some(thread) = self.ksoftirqd {
            let _gone = call(Command::new("chrt").args(["--other", "-p", "0", &thread.to_string()]));
        }
        // It says itself what it could not take down.
        let _said = Command::new(&self.script).args(["down", &self.name]).status();
        let _nothing_left = fs::remove_dir_all(&self.directory);
    }
}

/// Gives a thread a real-time priority.
pub(super) fn give_priority(thread: Pid, priority: u32) -> Result<(), Failure> {
    call(Command::new("chrt").args(["--fifo", "-p", &priority.to_string(), &thread.to_string()])).map(drop)
}

/// Lets a thread run when nobody else wants to.
pub(super) fn give_least_priority(thread: Pid) -> Result<(), Failure> {
    call(Command::new("chrt").args(["--idle", "-p", "0", &thread.to_string()])).map(drop)
}

/// Runs a command that must not fail.
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

fn find_kernel_thread(name: &str) -> Option<Pid> {
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let found = fs::read_to_string(entry.path().join("comm")).ok()?;
        (found.trim() == name).then(|| Pid::from_raw(pid))
    };
    processes.find_map(named)
}

/// How often receive queues have been polled on a core.
fn polls_on(core: usize) -> u64 {
    polls_in(&fs::read_to_string("/proc/softirqs").unwrap_or_default(), core)
}

/// By a table of the shape of `/proc/softirqs`, whose columns are the CPUs that are online.
fn polls_in(table: &str, core: usize) -> u64 {
    let name = format!("CPU{core}");
    let column = table.lines().next().and_then(|line| line.split_whitespace().position(|cpu| cpu == name));
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix("NET_RX:"));
    let count = row.zip(column).and_then(|(row, column)| row.split_whitespace().nth(column));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_those_of_the_core() {
        let table = "                    CPU0       CPU2\n          HI:          1          2\n      NET_RX:    3157       25813\n";
        assert_eq!([0, 1, 2].map(|core| polls_in(table, core)), [3157, 0, 25813]);
    }
}
