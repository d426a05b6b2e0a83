//! The server on a host of the lab.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use control::instance::Instance;
use control::status::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::machine::pooltime_xdp;
use crate::output::Output;
use crate::waiting::wait_for;

/// A configuration that serves the machine's clock on `lan0` as synchronised, whether it is synchronised or not.
pub const CONFIG: &str = "interfaces = [\"lan0\"]\n[clock]\nstratum = 4\nlocal_stratum = 4\n";

impl Lab {
    /// Runs `pooltime-xdp` on a host with the instance of the lab's server.
    pub fn pooltime(&self, host: &str, arguments: &[&str]) -> Output {
        let command = [&[pooltime_xdp(), "--instance", self.name()], arguments].concat();
        self.exec(host, &command)
    }

    /// Starts the server as a service on the host `server`, and waits until it is up.
    pub fn server(&self, config: &str, arguments: &[&str]) -> Server<'_> {
        let config = self.file("server.toml", config);
        let command = [&["run", "--config", config.to_str().unwrap()], arguments].concat();
        Server::start(self, "server", self.name(), &command)
    }
}

/// A `pooltime-xdp` that runs on a host of the lab. When this is dropped it ends and detaches.
pub struct Server<'lab> {
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
    pub fn start(lab: &'lab Lab, host: &str, instance: &str, arguments: &[&str]) -> Self {
        Self::start_as(lab, pooltime_xdp().as_ref(), host, instance, arguments)
    }

    /// The same with another build, or with a script that becomes the server.
    pub fn start_as(lab: &'lab Lab, program: &Path, host: &str, instance: &str, arguments: &[&str]) -> Self {
        let mut server = Self {
            lab,
            host: host.into(),
            instance: instance.into(),
            program: program.into(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            log: lab.file(&format!("{instance}.log"), ""),
            process: None,
        };
        server.restart();
        server
    }

    /// Starts it again with the same arguments after it ended.
    pub fn restart(&mut self) {
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

    /// Starts another build with the same arguments after it ended.
    pub fn restart_as(&mut self, program: &Path) {
        self.program = program.into();
        self.restart();
    }

    /// The output of `status --json`.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    /// The process ID of the daemon.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Its output so far, over all restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Kills the daemon with SIGKILL. The eBPF program stays attached.
    pub fn kill_9(&mut self) {
        let ended = self.end(Signal::SIGKILL);
        assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{}", self.log());
    }

    /// Stops the daemon with SIGTERM, as a service manager does.
    pub fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Stops the daemon with SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) -> ExitStatus {
        self.end(Signal::SIGINT)
    }

    /// Sends a signal that does not end the daemon.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Waits until the daemon ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let ended =
            wait_for("the server to end", || self.process.as_mut().expect("it runs").try_wait().unwrap());
        self.process = None;
        ended
    }

    /// Runs another command for the same instance on the same host.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let command = [&[pooltime_xdp(), "--instance", self.instance.as_str()], arguments].concat();
        self.lab.exec(&self.host, &command)
    }

    /// The paths of its instance.
    pub fn paths(&self) -> Instance {
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
