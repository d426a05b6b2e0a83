//! Debian's chronyd as a server and as a client, which never touches the clock.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use testlab::upstreams::address;
use testlab::{Lab, tool, wait_for};

/// A key that server and clients have.
const KEY: &str = "1 SHA256 HEX:46e0a1ff2c7c8e4fd2b0f0d3bd0c4c9d7d5c2b1a";
/// How long a client asks, in seconds.
const LIMIT_S: &str = "6";

/// The programs.
pub(crate) struct Tools {
    pub(crate) chronyd: PathBuf,
    chronyc: PathBuf,
}

impl Tools {
    pub(crate) fn find() -> Option<Self> {
        Some(Self { chronyd: tool("chronyd")?, chronyc: tool("chronyc")? })
    }
}

/// The directive that names the file with the key.
pub(crate) fn keyfile(lab: &Lab) -> String {
    format!("keyfile {}\n", lab.file("chrony.keys", KEY).display())
}

/// What chronyd counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) received: u64,
    pub(crate) key_exchanges: u64,
    pub(crate) authenticated: u64,
}

/// A chronyd that serves on the host `server`, and follows an upstream.
pub(crate) struct Chronyd<'lab> {
    lab: &'lab Lab,
    chronyc: PathBuf,
    config: PathBuf,
    /// For commands that only root may give.
    socket: PathBuf,
    process: Child,
}

impl<'lab> Chronyd<'lab> {
    /// Starts it with these directives beside its upstream, and waits until it is synchronised.
    pub(crate) fn start(lab: &'lab Lab, tools: &Tools, directives: &str) -> Self {
        let directory = lab.directory("chrony");
        // chronyd makes no socket where anybody can get at it.
        std::fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        let socket = directory.join("chronyd.sock");
        let own = format!(
            "server {} minpoll 0 maxpoll 0 iburst\npidfile {}\nbindcmdaddress {}\nbindcmdaddress 127.0.0.1\n",
            address(0),
            directory.join("chronyd.pid").display(),
            socket.display()
        );
        let config = lab.file("chrony.conf", &format!("{own}{directives}"));
        let mut command = lab.command("server", tools.chronyd.to_str().unwrap());
        command.args(["-x", "-d", "-u", "root", "-f", config.to_str().unwrap()]);
        let log = std::fs::File::create(config.with_file_name("chronyd.log")).unwrap();
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let chronyd = Self { lab, chronyc: tools.chronyc.clone(), config, socket, process };
        wait_for("chronyd to be synchronised", || {
            chronyd.says("tracking").ends_with(",Normal").then_some(())
        });
        chronyd
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> String {
        self.config.to_str().unwrap().into()
    }

    /// What `chronyc -c` says to this, nothing where it does not answer.
    fn says(&self, what: &str) -> String {
        let command = [self.chronyc.to_str().unwrap(), "-c", "-n", "-h", self.socket.to_str().unwrap(), what];
        self.lab.exec("server", &command).stdout.trim().to_owned()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let said = self.says("serverstats");
        let columns: Vec<u64> = said.split(',').map(|column| column.parse().unwrap()).collect();
        Statistics { received: columns[0], key_exchanges: columns[5], authenticated: columns[7] }
    }

    /// The reach register of a source.
    pub(crate) fn reach(&self, source: &str) -> u16 {
        let said = self.says("sources");
        let columns: Vec<_> = said
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>())
            .find(|columns| columns[2] == source)
            .unwrap_or_else(|| panic!("no {source} in {said}"));
        u16::from_str_radix(columns[5], 8).unwrap()
    }

    pub(crate) fn end(&mut self) {
        let _ended_already = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Drop for Chronyd<'_> {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.config.with_file_name("chronyd.log"));
            eprintln!("chronyd's log:\n{}", log.unwrap_or_default());
        }
    }
}

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A chronyd on the host `client` with the server as its peer.
pub(crate) fn peer(lab: &Lab, tools: &Tools, address: &str, server: &str) -> Running {
    let mut command = lab.command("client", tools.chronyd.to_str().unwrap());
    command.args(["-x", "-d", "-u", "root", "cmdport 0", "bindcmdaddress /", "allow", "local stratum 2"]);
    command.arg(format!("pidfile {}", lab.file("peer.pid", "").display()));
    command.args([format!("bindaddress {address}"), format!("bindacqaddress {address}")]);
    command.arg(format!("peer {server} minpoll 0 maxpoll 0"));
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// What a client makes of a server.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Whether it would have taken its time.
    pub(crate) is_synchronised: bool,
    /// What it said, for a test that fails.
    #[expect(dead_code, reason = "for the message of a test that fails")]
    said: String,
}

/// `chronyd -Q` on the host `client`: it asks, says the offset, and sets nothing.
pub(crate) struct Client<'lab> {
    lab: &'lab Lab,
    chronyd: &'lab Path,
    directives: String,
}

impl<'lab> Client<'lab> {
    pub(crate) fn of(lab: &'lab Lab, tools: &'lab Tools) -> Self {
        let directives =
            format!("cmdport 0\nbindcmdaddress /\npidfile {}\n", lab.file("asking.pid", "").display());
        Self { lab, chronyd: &tools.chronyd, directives }.with_key(KEY)
    }

    /// One that has this key in place of the others.
    pub(crate) fn with_key(mut self, key: &str) -> Self {
        let keys = self.lab.file("client.keys", key);
        writeln!(self.directives, "keyfile {}", keys.display()).unwrap();
        self
    }

    /// One with more directives.
    pub(crate) fn with(mut self, directives: &str) -> Self {
        self.directives += directives;
        self
    }

    /// Asks a source.
    pub(crate) fn ask(&self, source: &str) -> Asked {
        let config = self.lab.file("client.conf", &format!("{}{source}\n", self.directives));
        let command = [
            self.chronyd.to_str().unwrap(),
            "-Q",
            "-t",
            LIMIT_S,
            "-u",
            "root",
            "-f",
            config.to_str().unwrap(),
        ];
        let output = self.lab.exec("client", &command);
        Asked {
            is_synchronised: output.status.success() && output.stderr.contains("System clock wrong by"),
            said: output.stderr,
        }
    }
}
