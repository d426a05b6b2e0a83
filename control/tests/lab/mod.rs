//! The laboratory of the tests that need root: hosts out of network namespaces (`scripts/lab`), and the
//! server on them.
//!
//! Whatever happens to a test, its [`Server`] ends and detaches, and its [`Lab`] is taken down.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod fake_upstream;
pub(crate) mod ntp;
pub(crate) mod oracle;
pub(crate) mod upstreams;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::Sub;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use control::instance::{BPFFS, Instance};
use control::status::{Counter, Status};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use responder::verdict::{Family, Verdict};

/// Serves the machine's clock whether it is synchronised or not, so that clients accept it.
pub(crate) const CONFIG: &str = "interfaces = [\"lan0\"]\n[clock]\nstratum = 4\nlocal_stratum = 4\n";
/// The program under test.
pub(crate) const POOLTIME: &str = env!("CARGO_BIN_EXE_pooltime-xdp");
/// Long enough for anything on a machine that is busy with something else; nothing waits for it in vain but
/// a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Hosts in network namespaces, from up to drop. `scripts/lab --help` has their addresses.
pub(crate) struct Lab {
    name: String,
    directory: PathBuf,
}

impl Lab {
    /// Makes a lab with these options of `scripts/lab up`.
    pub(crate) fn up(options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = std::env::var("POOLTIME_LAB_PREFIX").unwrap_or_else(|_| "test-".into());
        let name = format!("{prefix}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("pooltime-{name}"));
        fs::create_dir(&directory).unwrap();
        let lab = Self { name, directory };
        script(&["up"], options, &lab.name).expect_success();
        lab
    }

    /// The lab's name, which is the instance's of its server, too.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A file of the lab's own, which goes with it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A command that will run on a host: in its network namespace, everything else is the machine's.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(host).display())).arg("--").arg(program);
        // Left to itself, `ip` takes any bpffs that is mounted, a chroot's for example.
        command.env("TC_BPF_MNT", BPFFS).stdin(Stdio::null());
        command
    }

    /// Runs a command on a host to its end, which is near.
    pub(crate) fn exec<S: AsRef<str>>(&self, host: &str, command: &[S]) -> Output {
        let mut bounded = self.command(host, "timeout");
        bounded.arg("--kill-after=5").arg(PATIENCE.as_secs().to_string());
        bounded.args(command.iter().map(AsRef::as_ref));
        Output::of(&mut bounded)
    }

    /// Runs `ip` on a host.
    pub(crate) fn ip(&self, host: &str, arguments: &str) {
        let words = std::iter::once("ip").chain(arguments.split_whitespace());
        self.exec(host, &words.collect::<Vec<_>>()).expect_success();
    }

    /// Runs `pooltime-xdp` on a host, for the instance of the lab's server.
    pub(crate) fn pooltime(&self, host: &str, arguments: &[&str]) -> Output {
        let command = [&[POOLTIME, "--instance", self.name.as_str()], arguments].concat();
        self.exec(host, &command)
    }

    /// Calls a function on a thread that is on a host. A socket made there stays there.
    pub(crate) fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.namespace(host)).unwrap();
        let on_host = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(on_host).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts the server as a service on the host `server`, and waits until it is up.
    pub(crate) fn server(&self, config: &str, arguments: &[&str]) -> Server<'_> {
        let config = self.file("server.toml", config);
        let command = [&["run", "--config", config.to_str().unwrap()], arguments].concat();
        Server::start(self, "server", &self.name, &command)
    }

    /// A directory of the lab's own, likewise.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The network namespace that a host is.
    pub(crate) fn namespace(&self, host: &str) -> PathBuf {
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

fn script(verb: &[&str], options: &[&str], name: &str) -> Output {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab");
    let path = std::env::var("POOLTIME_LAB").unwrap_or_else(|_| beside.into());
    Output::of(Command::new(path).args(verb).args(options).arg(name).stdin(Stdio::null()))
}

impl wire::Wire {
    /// Listens on an interface of a host from now on.
    pub(crate) fn tap(lab: &Lab, host: &str, interface: &str) -> Self {
        lab.inside(host, || Self::here(interface))
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit status, if it ended by itself.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output, of a command that must not fail.
    #[track_caller]
    pub(crate) fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// Standard error, of a command that must fail with this exit status.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> String {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self.stderr
    }
}

/// A `pooltime-xdp` that runs on a host of the lab.
pub(crate) struct Server<'lab> {
    lab: &'lab Lab,
    host: String,
    instance: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

impl<'lab> Server<'lab> {
    /// Starts `pooltime-xdp --instance INSTANCE ARGUMENTS` and waits until it answers `status`.
    pub(crate) fn start(lab: &'lab Lab, host: &str, instance: &str, arguments: &[&str]) -> Self {
        let mut server = Self {
            lab,
            host: host.into(),
            instance: instance.into(),
            program: POOLTIME.into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            log: lab.file(&format!("{instance}.log"), ""),
            process: None,
        };
        server.restart();
        server
    }

    /// Starts it again with the same arguments, after it ended or was killed.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "it is still running");
        let log = OpenOptions::new().append(true).open(&self.log).unwrap();
        let mut command = self.lab.command(&self.host, self.program.to_str().unwrap());
        command.args(["--instance", &self.instance]).args(&self.arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        wait_for("the server to answer `status`", || {
            if let Some(ended) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("it ended with {ended}:\n{}", self.log());
            }
            let status = self.try_status()?;
            (status.daemon?.pid == self.pid()).then_some(())
        });
    }

    /// Starts another build of it with the same arguments, after it ended or was killed.
    pub(crate) fn restart_as(&mut self, program: &Path) {
        self.program = program.into();
        self.restart();
    }

    /// What `status --json` says.
    pub(crate) fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    /// Its process, which is the daemon itself.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Everything that it has said so far, over all restarts.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Kills it with a signal that it cannot see. The program stays attached.
    pub(crate) fn kill_9(&mut self) {
        let ended = self.end(Signal::SIGKILL);
        assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{}", self.log());
    }

    /// Stops it as a service manager does.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.end(Signal::SIGINT)
    }

    /// Sends a signal that does not end it.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let ended =
            wait_for("the server to end", || self.process.as_mut().expect("it runs").try_wait().unwrap());
        self.process = None;
        ended
    }

    /// Runs another command for the same instance on the same host.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let command = [&[POOLTIME, "--instance", self.instance.as_str()], arguments].concat();
        self.lab.exec(&self.host, &command)
    }

    /// Where it keeps its things.
    pub(crate) fn paths(&self) -> Instance {
        Instance::new(Some(&self.instance)).unwrap()
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    fn try_status(&self) -> Option<Status> {
        let output = self.command(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_str(&output.stdout).expect(&output.stdout))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ended_already = process.kill();
            let _ended = process.wait();
        }
        let _nothing_left = self.command(&["detach"]);
        let _never_made = fs::remove_dir_all(self.paths().state_directory());
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Packets by verdict, family and NTP version: those that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(BTreeMap<(String, String, u8), u64>);

impl Tally {
    /// As a test expects it.
    pub(crate) fn of(counts: impl IntoIterator<Item = (Verdict, Family, u8, u64)>) -> Self {
        let named = |(verdict, family, version, packets): (Verdict, Family, u8, u64)| {
            ((verdict.label().into(), family.label().into(), version), packets)
        };
        Self(counts.into_iter().map(named).collect())
    }

    /// What the program counted, over all interfaces.
    pub(crate) fn of_program(status: &Status) -> Self {
        Self::sum(status.interfaces.iter().flat_map(|interface| &interface.counters))
    }

    /// What the sockets counted.
    pub(crate) fn of_sockets(status: &Status) -> Self {
        Self::sum(&status.userspace_counters)
    }

    /// All packets of a verdict, whatever family and version.
    pub(crate) fn packets(&self, verdict: Verdict) -> u64 {
        self.0.iter().filter(|((label, ..), _)| label == verdict.label()).map(|(_, packets)| packets).sum()
    }

    fn sum<'a>(counters: impl IntoIterator<Item = &'a Counter>) -> Self {
        let mut sum = BTreeMap::new();
        for Counter { verdict, family, version, packets, .. } in counters {
            *sum.entry((verdict.clone(), family.clone(), *version)).or_default() += packets;
        }
        Self(sum)
    }
}

/// What was counted since `earlier`.
impl Sub for Tally {
    type Output = Self;

    fn sub(mut self, earlier: Self) -> Self {
        for (key, packets) in earlier.0 {
            let now = self.0.entry(key).or_default();
            *now = now.checked_sub(packets).expect("counters do not go down");
        }
        self.0.retain(|_, packets| *packets != 0);
        self
    }
}

/// Puts a program that passes all on an interface of the server's, as somebody else would.
pub(crate) fn put_foreign_program(lab: &Lab, interface: &str, mode: &str) -> u64 {
    let object = lab.file("foreign.o", "");
    fs::write(&object, bench_ebpf::BASELINE).unwrap();
    lab.ip("server", &format!("link set dev {interface} {mode} obj {} program pass", object.display()));
    xdp(lab, interface).unwrap()
}

/// The number of the XDP program on an interface of the server's.
pub(crate) fn xdp(lab: &Lab, interface: &str) -> Option<u64> {
    let listed = lab.exec("server", &["ip", "-json", "link", "show", "dev", interface]).expect_success();
    let links: serde_json::Value = serde_json::from_str(&listed).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The path of a program that is not installed but unpacked for the tests, or of one in the path.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let unpacked = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|path| path.exists())
}

/// Says that this machine cannot run the test that calls it, which then returns. `scripts/test` lists and
/// counts that.
pub(crate) fn not_run(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("not run: {test}: {reason}");
    if let Some(path) = std::env::var_os("POOLTIME_NOT_RUN") {
        let mut list = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(list, "{test}: {reason}").unwrap();
    }
}
