//! Hosts out of network namespaces, made by `scripts/lab`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use control::instance::BPFFS;
use nix::sched::{CloneFlags, setns};

use crate::output::Output;
use crate::waiting::PATIENCE;

/// Hosts in network namespaces, from up to drop. `scripts/lab --help` has their addresses.
pub struct Lab {
    name: String,
    directory: PathBuf,
}

impl Lab {
    /// Makes a lab with these options of `scripts/lab up`.
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

    /// Makes a lab whose two ends take frames without an XDP program, for tests that put one there themselves.
    pub fn bare() -> Self {
        let lab = Self::up(&[]);
        lab.ip("client", "link set dev lan0 xdp off");
        for host in ["server", "client"] {
            // Only then does a veth poll, as with a program.
            lab.exec(host, &["ethtool", "-K", "lan0", "gro", "on"]).expect_success();
        }
        lab
    }

    /// The lab's name, which is the instance's of its server, too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file of the lab's own, which goes with it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A command that will run on a host: in its network namespace, everything else is the machine's.
    pub fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(host).display())).arg("--").arg(program);
        // Left to itself, `ip` takes any bpffs that is mounted, a chroot's for example.
        command.env("TC_BPF_MNT", BPFFS).stdin(Stdio::null());
        command
    }

    /// Runs a command on a host to its end, which is near.
    pub fn exec<S: AsRef<str>>(&self, host: &str, command: &[S]) -> Output {
        let mut bounded = self.command(host, "timeout");
        bounded.arg("--kill-after=5").arg(PATIENCE.as_secs().to_string());
        bounded.args(command.iter().map(AsRef::as_ref));
        Output::of(&mut bounded)
    }

    /// Runs `ip` on a host.
    pub fn ip(&self, host: &str, arguments: &str) {
        let words = std::iter::once("ip").chain(arguments.split_whitespace());
        self.exec(host, &words.collect::<Vec<_>>()).expect_success();
    }

    /// What a shell on a host says that sees its own interfaces in `/sys/class/net`, which must not fail.
    #[track_caller]
    pub fn sysfs(&self, host: &str, commands: &str) -> String {
        let namespace = format!("{}-{host}", self.name);
        Output::of(Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", commands]))
            .expect_success()
    }

    /// Calls a function on a thread that is on a host. A socket made there stays there.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.namespace(host)).unwrap();
        let on_host = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(on_host).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A directory of the lab's own, likewise.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The network namespace that a host is.
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

/// The path of `scripts/lab`.
pub fn lab_script() -> PathBuf {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lab");
    std::env::var_os("POOLTIME_LAB").map_or_else(|| beside.into(), PathBuf::from)
}

fn script(verb: &[&str], options: &[&str], name: &str) -> Output {
    Output::of(Command::new(lab_script()).args(verb).args(options).arg(name).stdin(Stdio::null()))
}
