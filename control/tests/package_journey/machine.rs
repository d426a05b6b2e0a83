//! A Debian 12 server with a real systemd, on a host of the lab: it has that host's network namespace and nothing else of
//! the machine's. Its clock is the kernel's, which nothing in it may set.

use std::fs::{self, read_to_string};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testlab::{Lab, Output, wait_for};

/// Of `scripts/debian-root`: packages cannot be had.
const EX_TEMPFAIL: i32 = 75;
/// Of `systemd-nspawn --keep-unit`, for whoever started it: again.
const REBOOT: i32 = 133;
/// The number of the capability to set the clock.
const CAP_SYS_TIME: u32 = 25;
/// Longest that a command in it takes, in seconds.
const LIMIT_S: &str = "60";

/// The server, from its first boot to drop. What it writes is gone with it.
pub(crate) struct Machine<'lab> {
    lab: &'lab Lab,
    host: String,
    work: PathBuf,
    cgroups: Vec<PathBuf>,
    nspawn: Option<Child>,
    leader: u32,
}

impl<'lab> Machine<'lab> {
    /// Boots it on a host of the lab, with this time daemon installed; or says why this machine cannot.
    pub(crate) fn boot(lab: &'lab Lab, host: &str, time_daemon: &str) -> Result<Self, String> {
        let root = debian_root(time_daemon)?;
        let work = std::env::temp_dir().join(format!("pooltime-machine-{}", lab.name()));
        fs::DirBuilder::new().mode(0o700).create(&work).unwrap();
        let machine = Self {
            lab,
            host: host.into(),
            work,
            cgroups: cgroup_mounts().iter().map(|mount| mount.join(lab.name())).collect(),
            nspawn: None,
            leader: 0,
        };
        // Of a file system that can be an overlay's upper layer, whatever the machine's own is.
        mount(&["-t", "tmpfs", "-o", "mode=700", "tmpfs"], &machine.work);
        for directory in ["upper", "overlay", "root"] {
            fs::create_dir(machine.work.join(directory)).unwrap();
        }
        let layers = format!(
            "lowerdir={},upperdir={1}/upper,workdir={1}/overlay",
            root.display(),
            machine.work.display()
        );
        mount(&["-t", "overlay", "-o", &layers, "overlay"], &machine.root());
        Ok(machine.start())
    }

    /// Its file system, as it is seen from here.
    fn root(&self) -> PathBuf {
        self.work.join("root")
    }

    /// Runs a shell's commands in it, as root, and shows them as they are run.
    pub(crate) fn shell(&self, commands: &str) -> Output {
        let mut command = self.enter();
        command.args(["timeout", "--kill-after=5", LIMIT_S, "sh", "-eu", "-c", commands]);
        Output::of(&mut command)
    }

    /// What a command in it says, which must not fail.
    #[track_caller]
    pub(crate) fn says(&self, command: &str) -> String {
        self.shell(command).expect_success()
    }

    /// Writes one of its files.
    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.inner(path), text).unwrap();
    }

    /// Reads one of its files.
    pub(crate) fn read(&self, path: &str) -> String {
        read_to_string(self.inner(path)).unwrap()
    }

    /// Copies a file into one of its directories.
    pub(crate) fn put(&self, file: &Path, directory: &str) {
        fs::copy(file, self.inner(directory).join(file.file_name().unwrap())).unwrap();
    }

    fn inner(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// What it has logged.
    pub(crate) fn journal(&self) -> String {
        self.shell("journalctl --boot --no-pager --output=short-monotonic | tail -n 200").stdout
    }

    /// `reboot`, and waits until it is up again.
    pub(crate) fn reboot(&mut self) {
        let _cut_off = self.shell("systemctl reboot");
        let ended = wait_for("the machine to go down", || self.nspawn.as_mut()?.try_wait().unwrap());
        assert_eq!(ended.code(), Some(REBOOT), "{ended}");
        self.nspawn = None;
        self.clean_cgroups();
        self.boot_again();
    }

    fn start(mut self) -> Self {
        self.boot_again();
        self
    }

    fn boot_again(&mut self) {
        for cgroup in &self.cgroups {
            fs::create_dir(cgroup).unwrap();
        }
        // Into cgroups of its own, for it takes those that it finds itself in for the machine's.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\"; shift; done; shift; exec \"$@\"",
        ]);
        command.arg("sh").args(&self.cgroups).arg("--");
        command.args([
            "systemd-nspawn",
            "--boot",
            "--quiet",
            "--keep-unit",
            "--register=no",
            "--console=pipe",
        ]);
        command.arg(format!("--machine={}", self.lab.name()));
        command.arg(format!("--directory={}", self.root().display()));
        command.arg(format!("--network-namespace-path={}", self.lab.namespace(&self.host).display()));
        // What is not on its list of harmless calls: to load programs, and to read (only that) the clock's state.
        command.args(["--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--drop-capability=CAP_SYS_TIME"]);
        command.arg("--system-call-filter=bpf adjtimex clock_adjtime");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let nspawn = self.nspawn.insert(command.spawn().unwrap()).id();
        self.leader = wait_for("the machine's first process", || first_process(nspawn));
        wait_for("the machine's systemd", || {
            self.shell("systemctl is-system-running --wait").stdout.contains("running").then_some(())
        });
        assert!(!can_set_the_clock(self.leader), "nothing in it may set the clock");
        // As systemd does on machines that are none of nspawn's.
        self.says("mount -o remount,rw /sys && mount -t bpf -o mode=700 bpf /sys/fs/bpf");
    }

    /// A command that will run in it: in all of its namespaces, and without the means to set the clock.
    fn enter(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-sys_time", "--inh-caps=-sys_time", "nsenter"]);
        command.arg(format!("--target={}", self.leader));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "TERM=dumb",
            "LC_ALL=C.UTF-8",
        ]);
        command.arg("DEBIAN_FRONTEND=noninteractive").stdin(Stdio::null());
        command
    }

    fn end(&mut self) {
        let Some(mut nspawn) = self.nspawn.take() else { return };
        // With its first process all of it ends. Without nspawn, it would go on.
        if let Some(leader) = first_process(nspawn.id()) {
            let _ended_already = kill(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
        }
        let ended = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            nspawn.try_wait().is_ok_and(|status| status.is_some())
        });
        if !ended {
            let _ended_already = nspawn.kill();
            let _ended = nspawn.wait();
        }
    }

    /// Those that systemd made below, too: the deepest first.
    fn clean_cgroups(&self) {
        for _try in 0..100 {
            self.cgroups.iter().for_each(|cgroup| remove_cgroup(cgroup));
            if self.cgroups.iter().all(|cgroup| !cgroup.exists()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("these are in use by somebody: {:?}", self.cgroups);
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.nspawn.is_some() {
            let _nobody_reads = writeln!(std::io::stderr(), "the machine's journal:\n{}", self.journal());
        }
        self.end();
        for mount in [self.root(), self.work.clone()] {
            let _not_mounted = Command::new("umount").arg("--lazy").arg(mount).stderr(Stdio::null()).status();
        }
        let _never_made = fs::remove_dir(&self.work);
        self.clean_cgroups();
    }
}

fn debian_root(time_daemon: &str) -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/debian-root");
    let made = Output::of(Command::new(script).arg(time_daemon));
    if made.code() == Some(EX_TEMPFAIL) {
        return Err(made.stderr.trim().to_owned());
    }
    Ok(made.expect_success().trim_end().into())
}

/// Where the cgroups of systemd are: of the second version, and of the first one where that is mounted.
fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = read_to_string("/proc/self/mounts").unwrap();
    let lines = mounts.lines().filter_map(|line| {
        let [_, path, kind, options, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_systemds = kind == "cgroup2" || (kind == "cgroup" && options.contains("name=systemd"));
        (is_systemds && path.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(path))
    });
    lines.collect()
}

fn remove_cgroup(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    let _still_in_use = fs::remove_dir(directory);
}

/// Of nspawn's children the one that is 1 in the machine. There is another one while it starts.
fn first_process(nspawn: u32) -> Option<u32> {
    let children = read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find(|child: &u32| {
        let status = read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        numbers.split_whitespace().collect::<Vec<_>>()[..].ends_with(&["1"])
    })
}

fn can_set_the_clock(process: u32) -> bool {
    let status = read_to_string(format!("/proc/{process}/status")).unwrap();
    let bounds = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    u64::from_str_radix(bounds, 16).unwrap() >> CAP_SYS_TIME & 1 != 0
}

#[track_caller]
fn mount(what: &[&str], directory: &Path) {
    Output::of(Command::new("mount").args(what).arg(directory)).expect_success();
}
