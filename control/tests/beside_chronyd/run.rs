//! A run: four upstreams, the two daemons that follow them, and what they serve second by second.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use control::discipline::ns_to_s;
use control::net::query::exchange;
use testlab::{Lab, Output, tool};

use crate::AHEAD;
use crate::relay::Relay;
use crate::upstreams::{Chronyd, Upstreams};

/// What is done to the upstreams, and for how long.
pub(crate) struct Plan {
    pub(crate) seconds: u32,
    pub(crate) lies: Vec<Lie>,
}

/// An upstream is ahead for a while.
pub(crate) struct Lie {
    /// Counted from 0.
    pub(crate) upstream: u8,
    pub(crate) seconds: Range<u32>,
    pub(crate) ahead: Duration,
}

impl Plan {
    /// The nearest two upstreams lie in turn, each for a quarter of the time, with a truce before and between.
    pub(crate) fn of_minutes(minutes: u32) -> Self {
        let seconds = minutes * 60;
        let part = |from: u32, to: u32| seconds * from / 100..seconds * to / 100;
        let lie = |upstream, seconds| Lie { upstream, seconds, ahead: AHEAD };
        Self { seconds, lies: vec![lie(0, part(30, 55)), lie(1, part(65, 90))] }
    }
}

/// What came of it.
pub(crate) struct Outcome {
    /// pooltime-xdp, chronyd.
    pub(crate) subjects: [Subject; 2],
    /// pooltime-xdp's.
    pub(crate) log: String,
    /// `pooltime-xdp peers`, at the end.
    pub(crate) peers: String,
    /// `ntpq -np`, at the end, if it is there.
    pub(crate) ntpq: Option<String>,
    pub(crate) chronyd_version: String,
}

/// A daemon that is compared.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    server: SocketAddr,
    /// Where its requests come from.
    client: IpAddr,
    pub(crate) first_synchronised_s: Option<f64>,
    pub(crate) records: Vec<Record>,
    pub(crate) requests: u64,
}

/// What was served at a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) at_s: f64,
    /// Less the truth.
    pub(crate) error_s: f64,
    /// Half the root delay and the root dispersion, as served.
    pub(crate) bound_s: f64,
    /// Round trip of the question: the error is known to half of this.
    pub(crate) round_trip_s: f64,
}

/// Of the records of some time.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) seconds: usize,
    pub(crate) rms_s: f64,
    pub(crate) max_s: f64,
    pub(crate) median_bound_s: f64,
    /// Seconds in which the error was above the bound by more than the question's own error.
    pub(crate) outside: usize,
}

impl Subject {
    fn new(name: &'static str, server: &str, client: &str) -> Self {
        Self {
            name,
            server: server.parse().unwrap(),
            client: client.parse().unwrap(),
            first_synchronised_s: None,
            records: Vec::new(),
            requests: 0,
        }
    }

    pub(crate) fn figures(&self, counts: impl Fn(f64) -> bool) -> Figures {
        let records: Vec<_> = self.records.iter().filter(|record| counts(record.at_s)).copied().collect();
        let count = records.len().max(1) as f64;
        let squares: f64 = records.iter().map(|record| record.error_s * record.error_s).sum();
        let mut bounds: Vec<f64> = records.iter().map(|record| record.bound_s).collect();
        bounds.sort_by(f64::total_cmp);
        Figures {
            seconds: records.len(),
            rms_s: (squares / count).sqrt(),
            max_s: records.iter().map(|record| record.error_s.abs()).fold(0.0, f64::max),
            median_bound_s: bounds.get(bounds.len() / 2).copied().unwrap_or_default(),
            outside: records
                .iter()
                .filter(|record| record.error_s.abs() > record.bound_s + record.round_trip_s / 2.0)
                .count(),
        }
    }

    /// Asks a few times, and takes the shortest round trip: a busy machine makes some long.
    fn ask(&mut self, started: Instant, keep: bool) {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let at_s = started.elapsed().as_secs_f64();
        let readings = (0..3).filter_map(|_| exchange(self.server, TIMEOUT).ok());
        let best = readings
            .filter(|reading| reading.server.is_synchronised())
            .min_by_key(|reading| reading.delay_ns);
        let Some(reading) = best else { return };
        self.first_synchronised_s.get_or_insert(at_s);
        let bound_ns = reading.server.root_distance_ns();
        if keep {
            self.records.push(Record {
                at_s,
                error_s: ns_to_s(reading.offset_ns),
                bound_s: ns_to_s(bound_ns.cast_signed()),
                round_trip_s: ns_to_s(reading.delay_ns),
            });
        }
    }
}

/// Runs it: the client's host has the upstreams and the relay, the server's the two daemons.
pub(crate) fn run(lab: &Lab, chronyd: &Path, plan: &Plan) -> Outcome {
    let upstreams = Upstreams::up(lab, chronyd);
    lab.ip("server", "address add 10.77.0.5/24 dev lan0");
    let mut subjects = [
        Subject::new("pooltime-xdp", "10.77.0.1:123", "10.77.0.1"),
        Subject::new("chronyd", "10.77.0.1:1123", "10.77.0.5"),
    ];

    let started = Instant::now();
    let _follower = follower(lab, chronyd);
    let server = lab.server(&our_config(), &[]);
    lab.inside("client", || {
        watch(&mut subjects, &upstreams.relays, plan, started);
    });
    for subject in &mut subjects {
        subject.requests = upstreams.relays.iter().map(|relay| relay.requests(subject.client)).sum();
    }
    let ntpq = tool("ntpq").map(|ntpq| lab.exec("server", &[ntpq.to_str().unwrap(), "-np"]));
    // What went wrong is to be read where it should have been, not instead of the figures.
    let said = |Output { stdout, stderr, .. }: Output| stdout + &stderr;
    Outcome {
        subjects,
        log: server.log(),
        peers: said(server.command(&["peers"])),
        ntpq: ntpq.map(said),
        chronyd_version: Output::of(std::process::Command::new(chronyd).arg("--version")).stdout,
    }
}

/// Asks both each second, and five times a second until both have the time.
fn watch(subjects: &mut [Subject; 2], relays: &[Relay], plan: &Plan, started: Instant) {
    const STEPS: u32 = 5;
    for step in 0..plan.seconds * STEPS {
        let due = started + Duration::from_secs(1) * step / STEPS;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let second = step / STEPS;
        let whole = step % STEPS == 0;
        if whole {
            for (index, relay) in (0..).zip(relays) {
                let lies = plan.lies.iter().filter(|lie| lie.upstream == index);
                let ahead = lies.filter(|lie| lie.seconds.contains(&second)).map(|lie| lie.ahead).max();
                relay.lie(ahead.unwrap_or_default());
            }
        }
        let waiting = subjects.iter().any(|subject| subject.first_synchronised_s.is_none());
        if whole || waiting {
            // Whoever is asked first must not always be the same.
            let [ours, chronyd] = &mut *subjects;
            let (first, then) = if second.is_multiple_of(2) { (ours, chronyd) } else { (chronyd, ours) };
            first.ask(started, whole);
            then.ask(started, whole);
        }
    }
}

fn follower(lab: &Lab, chronyd: &Path) -> Chronyd {
    let servers = Upstreams::addresses().map(|address| format!("server {address} iburst\n"));
    let servers = servers.collect::<Vec<_>>().concat();
    let settings = format!("{servers}makestep 1 3\nport 1123\nbindacqaddress 10.77.0.5\n");
    Chronyd::start(lab, chronyd, "server", "follower", &settings)
}

fn our_config() -> String {
    let upstreams = Upstreams::addresses()
        .map(|address| format!("[[upstream]]\naddress = \"{address}\"\niburst = true\n"));
    let upstreams = upstreams.collect::<Vec<_>>().concat();
    format!("interfaces = [\"lan0\"]\n[clock]\nsource = \"upstream\"\nsteer = false\n{upstreams}")
}
