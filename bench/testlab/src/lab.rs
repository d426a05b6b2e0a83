//! Hosts made of network namespaces by `scripts/lab`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use control::instance::BPFFS;
use nix::sched::{CloneFlags, setns};

use crate::output::Output;
use crate::waiting::patience;

/// Hosts in network namespaces. They are removed when this is dropped. `scripts/lab --help` lists their addresses.
pub struct Lab {
    name: String,
    directory: PathBuf,
}

impl Lab {
    /// Creates a lab with these options of `scripts/lab up`.
    pub fn up(options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = std::env::var("POOLTIME_LAB_PREFIX").unwrap_or_else(|_| "test-".into());
        let name = format!("{prefix}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("pooltime-{name}"));
        fs::create_dir(&directory).unwrap();
        let lab = Self { name, directory };
        script(&["up"], options, &lab.name).expect_success();
        lab
    }

    /// Creates a lab without XDP programs on its interfaces, for tests that attach their own on the client.
    pub fn bare() -> Self {
        let lab = Self::up(&[]);
        lab.ip("client", "link set dev lan0 xdp off");
        for host in ["server", "client"] {
            // With GRO a veth polls as it does with an XDP program: what a program sends back arrives.
            lab.exec(host, &["ethtool", "-K", "lan0", "gro", "on"]).expect_success();
        }
        lab
    }

    /// The lab's name. It is also the name of its server's instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a file that is removed with the lab, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A command that will run in the network namespace of a host. Everything else it shares with the machine.
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(host).display())).arg("--").arg(program);
        // Left to itself, `ip` takes any bpffs that is mounted, a chroot's for example.
        command.env("TC_BPF_MNT", BPFFS).stdin(Stdio::null());
        command
    }

    /// Runs a command on a host until it ends. It is killed after [`patience`].
    pub fn exec<S: AsRef<str>>(&self, host: &str, command: &[S]) -> Output {
        let mut bounded = self.command(host, "timeout");
        bounded.arg("--kill-after=5").arg(patience().as_secs().to_string());
        bounded.args(command.iter().map(AsRef::as_ref));
        Output::of(&mut bounded)
    }

    /// Runs `ip` on a host.
    pub fn ip(&self, host: &str, arguments: &str) {
        let words = std::iter::once("ip").chain(arguments.split_whitespace());
        self.exec(host, &words.collect::<Vec<_>>()).expect_success();
    }

    /// Runs shell commands on a host and returns their standard output. `/sys/class/net` shows the interfaces of the
    /// host, which it does not for [`Self::exec`]. The commands must succeed.
    #[track_caller]
    pub fn sysfs(&self, host: &str, commands: &str) -> String {
        let namespace = format!("{}-{host}", self.name);
        Output::of(Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", commands]))
            .expect_success()
    }

    /// Calls a function on a thread in the network namespace of a host. Sockets that it creates stay in it.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.namespace(host)).unwrap();
        let on_host = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(on_host).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Creates a directory that is removed with the lab, and returns its path.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The path of a host's network namespace.
    pub fn namespace(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("{}-{host}", self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = script(&["down"], &[], &self.name);
        let _not_there = fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            down.expect_success();
        }
    }
}

/// The path of `scripts/lab`: `$POOLTIME_LAB`, or that of this source tree.
pub fn lab_script() -> PathBuf {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lab");
    std::env::var_os("POOLTIME_LAB").map_or_else(|| beside.into(), PathBuf::from)
}

fn script(verb: &[&str], options: &[&str], name: &str) -> Output {
    Output::of(Command::new(lab_script()).args(verb).args(options).arg(name).stdin(Stdio::null()))
}
