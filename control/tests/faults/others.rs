//! The faults that make sense for other servers, too, under the same load and the same judgement.

use std::fmt::Write as _;
use std::fs::{File, read_to_string};
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testlab::fake_upstream::FakeUpstream;
use testlab::{Lab, tool};

use crate::fault::Outcome;
use crate::scene::{self, Daemon, Stage};
use crate::{link, process, table, upstreams};

/// How long one of them may take to be synchronised at first.
const FIRST: Duration = Duration::from_mins(1);
/// In which a first contact is over, and then some.
const SETTLED: Duration = Duration::from_secs(15);

type Play = fn(&mut Stage<'_>) -> Result<(), String>;

/// The faults of the table that are done to other servers, by their names there.
const PLAYS: [(&str, Play); 18] = [
    ("killed", process::killed),
    ("killed-often", process::killed_often),
    ("hangs", process::hangs),
    ("restarted", process::restarted),
    ("upstreams-cut", upstreams::cut),
    ("upstreams-lie", upstreams::one_lies),
    ("upstreams-lie-beyond-the-limit", upstreams::one_lies_much),
    ("upstreams-lie-together", upstreams::two_lie),
    ("upstreams-flap", upstreams::flap),
    ("upstreams-deny", upstreams::deny),
    ("upstreams-unsynchronised", upstreams::unsynchronised),
    ("upstreams-slow", upstreams::slow),
    ("interface-down", link::down),
    ("mac-changed", link::mac_changed),
    ("addresses-come-and-go", link::addresses_come_and_go),
    ("neighbours-flushed", link::neighbours_flushed),
    ("routes-flushed", link::routes_flushed),
    ("firewall", link::firewall),
];

/// Another server on the host `server`, without the right to set a clock.
struct Other<'lab> {
    lab: &'lab Lab,
    command: Vec<String>,
    log: PathBuf,
    running: Option<Child>,
}

impl Daemon for Other<'_> {
    fn kill_9(&mut self) {
        self.end_by(Signal::SIGKILL);
    }

    fn end(&mut self) {
        self.end_by(Signal::SIGTERM);
    }

    fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.lab.command("server", "setpriv");
        command.arg("--bounding-set=-sys_time").args(&self.command);
        self.running = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn send(&self, signal: Signal) {
        let process = self.running.as_ref().expect("it runs").id();
        kill(Pid::from_raw(process.cast_signed()), signal).unwrap();
    }

    fn is_well(&self) -> Result<(), String> {
        let query = self.lab.pooltime("client", &["query", "--timeout", "1", "10.77.0.1"]);
        if query.status.success() { Ok(()) } else { Err(format!("{}{}", query.stdout, query.stderr)) }
    }
}

impl Other<'_> {
    fn end_by(&mut self, signal: Signal) {
        self.send(signal);
        self.running.take().expect("it runs").wait().unwrap();
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        if let Some(mut process) = self.running.take() {
            let _ended_already = process.kill();
            let _ended = process.wait();
        }
    }
}

/// Does all of that to each of these servers that is here, and tells what came of it.
pub(crate) fn compare(servers: &str, rate: u64) {
    for name in servers.split_whitespace() {
        let Some(program) = tool(name) else {
            println!("{name}: not here");
            continue;
        };
        for (fault, play) in PLAYS {
            match live_through(name, program.to_str().unwrap(), play, rate) {
                Ok(outcome) => table::tell_of_other(name, fault, &outcome),
                Err(why) => table::tell_why_not_of_other(name, fault, &why),
            }
        }
    }
}

fn live_through(name: &str, program: &str, play: Play, rate: u64) -> Result<Outcome, String> {
    let lab = Lab::up(&[]);
    let upstreams = scene::upstreams(&lab);
    let config = lab.file("other.conf", &config(name, &upstreams, &lab)).display().to_string();
    let arguments: &[&str] = match name {
        // With -x it never touches the clock.
        "chronyd" => &["-x", "-d", "-u", "root", "-f"],
        _ => &["-n", "-N", "-c"],
    };
    let command = [&[program], arguments, &[config.as_str()]].concat();
    let command = command.into_iter().map(ToOwned::to_owned).collect();
    let log = lab.file("other.log", "");
    let mut other = Other { lab: &lab, command, log: log.clone(), running: None };
    other.start_again();
    let started = Instant::now();
    while let Err(why) = other.is_well() {
        if started.elapsed() > FIRST {
            let log = read_to_string(&log).unwrap_or_default();
            return Err(format!("it does not get synchronised: {}; {}", why.trim(), log.replace('\n', "; ")));
        }
        sleep(Duration::from_millis(200));
    }
    sleep(SETTLED.saturating_sub(started.elapsed()));
    let play = |other: &mut Other<'_>| play(&mut Stage { lab: &lab, upstreams: &upstreams, daemon: other });
    scene::under_load(&lab, rate, &mut other, play, Daemon::is_well)
}

fn config(name: &str, upstreams: &[FakeUpstream], lab: &Lab) -> String {
    let mut text = if name == "chronyd" {
        let pid = lab.file("chronyd.pid", "");
        format!("allow\ncmdport 0\nbindcmdaddress /\npidfile {}\n", pid.display())
    } else {
        // Its limit would refuse a client that asks this often, as ours would.
        "restrict default nomodify\nunrestrict default limited\n".into()
    };
    for upstream in upstreams {
        writeln!(text, "server {} iburst minpoll 3 maxpoll 3", upstream.address()).unwrap();
    }
    text
}
