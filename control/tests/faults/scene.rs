//! A server with four upstreams, and the load on it.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testlab::drops::{Drops, link};
use testlab::fake_upstream::{Conduct, FakeUpstream};
use testlab::load::load;
use testlab::oracle::Oracle;
use testlab::{Lab, Server, pooltime_xdp, wait_for};

use crate::fault::{Fault, Outcome, Setup};
use crate::name_server::NameServer;

/// The number of upstreams: one of them may lie, another one be gone.
const UPSTREAMS: u8 = 4;
/// Requests per second of the oracle, whose judgement is finer than that of the load.
const ORACLE_RATE: u32 = 50;
/// How long everything is well before a fault, and after it.
const QUIET: Duration = Duration::from_secs(1);
/// Longest that a server may take to be healthy again after a fault: a first contact, twice, and a restart.
const RECOVERY: Duration = Duration::from_secs(40);

/// Bytes in the header of a frame.
const ETHERNET_HEADER: u64 = 14;

/// What the wire carried, as the client's end of it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) requests: Traffic,
    pub(crate) answers: Traffic,
}

/// What the wire carried in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

impl Carried {
    fn of(lab: &Lab) -> Self {
        let link = link(lab, "client");
        let count = |way: &str, of: &str| link["stats64"][way][of].as_u64().unwrap_or_default();
        let traffic = |way| Traffic { frames: count(way, "packets"), bytes: count(way, "bytes") };
        let Traffic { frames, bytes } = traffic("tx");
        // The kernel counts a frame that a veth takes from a socket without its Ethernet header.
        Self { requests: Traffic { frames, bytes: bytes + ETHERNET_HEADER * frames }, answers: traffic("rx") }
    }

    /// `None` if the counters began anew, as those of an interface do that was made anew.
    fn since(self, earlier: &Self) -> Option<Self> {
        Some(Self {
            requests: self.requests.since(&earlier.requests)?,
            answers: self.answers.since(&earlier.answers)?,
        })
    }
}

impl Traffic {
    fn since(self, earlier: &Self) -> Option<Self> {
        let frames = self.frames.checked_sub(earlier.frames)?;
        Some(Self { frames, bytes: self.bytes.checked_sub(earlier.bytes)? })
    }
}

/// A server's process, whosever server it is.
pub(crate) trait Daemon: Send {
    /// Kills it.
    fn kill_9(&mut self);
    /// Ends it as a service manager does.
    fn end(&mut self);
    /// Starts it after it has ended, and waits until it is up.
    fn start_again(&mut self);
    /// Sends it a signal that does not end it.
    fn send(&self, signal: Signal);
    /// Whether it serves synchronised time, or why not.
    fn is_well(&self) -> Result<(), String>;
}

impl Daemon for Server<'_> {
    fn kill_9(&mut self) {
        Server::kill_9(self);
    }

    fn end(&mut self) {
        assert!(self.stop().success(), "{}", self.log());
    }

    fn start_again(&mut self) {
        self.restart();
    }

    fn send(&self, signal: Signal) {
        self.signal(signal);
    }

    fn is_well(&self) -> Result<(), String> {
        let health = self.command(&["health"]);
        if health.status.success() { Ok(()) } else { Err(format!("{}{}", health.stdout, health.stderr)) }
    }
}

/// What can be done to any server.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) upstreams: &'a [FakeUpstream],
    pub(crate) daemon: &'a mut dyn Daemon,
}

impl Stage<'_> {
    /// Changes the conduct of all upstreams.
    pub(crate) fn all_upstreams(&self, change: impl Fn(&mut Conduct)) {
        for upstream in self.upstreams {
            upstream.change(&change);
        }
    }

    /// Runs `ip` on the server.
    pub(crate) fn ip(&self, arguments: &str) {
        self.lab.ip("server", arguments);
    }
}

/// Does something to a server under a load, and waits until all is well again.
pub(crate) fn under_load<S: Send>(
    lab: &Lab,
    rate: u64,
    scene: &mut S,
    play: impl FnOnce(&mut S) -> Result<(), String> + Send,
    is_well: impl Fn(&S) -> Result<(), String> + Send + Sync,
) -> Result<Outcome, String> {
    let oracle = Oracle::start(lab, ORACLE_RATE);
    let (drops, carried) = (Drops::of(lab), Carried::of(lab));
    let started = Instant::now();
    let (account, played) = load(lab, rate, || {
        sleep(QUIET);
        let begin = started.elapsed();
        let played = play(scene);
        let end = started.elapsed();
        let recovered = recover(|| is_well(scene));
        sleep(QUIET);
        played.map(|()| ((begin, end), recovered))
    });
    let (lasted, recovered) = played?;
    let drops = Drops::of(lab).since(&drops);
    let carried = Carried::of(lab).since(&carried);
    Ok(Outcome { rate, account, verdict: oracle.stop(), drops, carried, lasted, recovered })
}

/// Waits until a server is well, and tells for how long, or what it says instead.
fn recover(is_well: impl Fn() -> Result<(), String>) -> Result<Duration, String> {
    let started = Instant::now();
    while let Err(why) = is_well() {
        if started.elapsed() > RECOVERY {
            return Err(why);
        }
        sleep(Duration::from_millis(100));
    }
    Ok(started.elapsed())
}

/// What a fault is done to.
pub(crate) struct Scene<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) server: Server<'lab>,
    pub(crate) upstreams: Vec<FakeUpstream>,
    pub(crate) names: Option<NameServer>,
    /// The server's configuration file.
    pub(crate) config_file: PathBuf,
    /// What is in it.
    pub(crate) config: String,
}

/// Lives through a fault in a scene of its own. An error says why this machine cannot.
pub(crate) fn live_through(fault: &Fault, rate: u64) -> Result<Outcome, String> {
    let lab = Lab::up(fault.setup.lab);
    let mut scene = Scene::begin(&lab, &fault.setup);
    let outcome = scene.live_through(fault, rate)?;
    if !outcome.broken(fault.promise).is_empty() {
        eprintln!("the server's log:\n{}", scene.server.log());
    }
    Ok(outcome)
}

impl<'lab> Scene<'lab> {
    /// Lives through a fault under a load.
    pub(crate) fn live_through(&mut self, fault: &Fault, rate: u64) -> Result<Outcome, String> {
        under_load(self.lab, rate, self, |scene| (fault.play)(scene), |scene| scene.server.is_well())
    }

    /// What a fault needs that can be done to any server.
    pub(crate) fn stage(&mut self) -> Stage<'_> {
        Stage { lab: self.lab, upstreams: &self.upstreams, daemon: &mut self.server }
    }

    pub(crate) fn begin(lab: &'lab Lab, setup: &Setup) -> Self {
        let upstreams = upstreams(lab);
        let addresses = || upstreams.iter().map(FakeUpstream::address).collect();
        let names = setup.names.then(|| NameServer::start(lab, addresses()));
        let config = config(setup, &upstreams, names.is_some());
        let config_file = lab.file("server.toml", &config);
        let server = if setup.own_mounts || setup.names {
            let script = own_mounts(lab, setup.names);
            let run = ["run", "--config", config_file.to_str().unwrap()];
            Server::start_as(lab, &script, "server", lab.name(), &run)
        } else {
            lab.server(&config, &[])
        };
        let scene = Self { lab, server, upstreams, names, config_file, config };
        wait_for("the server to be healthy", || scene.server.is_well().ok());
        // The first contact is over: what happens next meets a server in its everyday state.
        sleep(QUIET);
        scene
    }

    /// Writes the configuration file, and has the daemon read it.
    pub(crate) fn reload(&self, text: &str) {
        self.write_config(text);
        self.server.signal(Signal::SIGHUP);
    }

    /// Writes the configuration file at once, so that no reload reads half of it.
    pub(crate) fn write_config(&self, text: &str) {
        let whole = self.config_file.with_extension("new");
        fs::write(&whole, text).unwrap();
        fs::rename(&whole, &self.config_file).unwrap();
    }

    /// Runs `ip` on the server.
    pub(crate) fn ip(&self, arguments: &str) {
        self.lab.ip("server", arguments);
    }
}

/// Starts upstreams that are exact.
pub(crate) fn upstreams(lab: &Lab) -> Vec<FakeUpstream> {
    let address = |number| testlab::upstreams::address(number).parse::<IpAddr>().unwrap();
    (0..UPSTREAMS).map(|number| FakeUpstream::start(lab, address(number), Conduct::exact())).collect()
}

fn config(setup: &Setup, upstreams: &[FakeUpstream], names: bool) -> String {
    let mut config = format!(
        "interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = false\n{}\n[access]\n\
         unlimited = [\"10.77.0.0/24\", \"fd77::/64\"]\n",
        setup.clock
    );
    for (number, upstream) in upstreams.iter().enumerate() {
        let address = if names { format!("ntp{number}.example.net") } else { upstream.address().to_string() };
        write!(config, "[[upstream]]\naddress = \"{address}\"\nminpoll = 3\nmaxpoll = 3\n").unwrap();
    }
    config
}

/// A program that is the server in a mount namespace of its own, in which the machine's name servers are the lab's.
fn own_mounts(lab: &Lab, names: bool) -> PathBuf {
    let resolver = lab.file("resolv.conf", "nameserver 10.77.0.2\noptions timeout:1 attempts:1\n");
    let bind = if names {
        format!("mount --bind {} \"$(readlink -f /etc/resolv.conf)\" && ", resolver.display())
    } else {
        String::new()
    };
    let script = lab.file(
        "own-mounts.sh",
        &format!(
            "#!/bin/sh\nexec unshare --mount sh -c '{bind}exec \"$0\" \"$@\"' {} \"$@\"\n",
            pooltime_xdp()
        ),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}
