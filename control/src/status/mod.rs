//! What the server does, in one structure for people and for programs.

pub(crate) mod exposition;
pub mod health;
pub mod sources;
mod text;
pub mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use protocol::show_reference;
#[cfg(test)]
use responder::Family;
use responder::layout::Count;
use responder::verdict::{Action, Outcome, Verdict};
use responder::{ClockState, clock};
use serde::{Deserialize, Serialize};

use crate::net::interfaces::Driver;
use crate::net::xdp_mode::Mode;
use crate::status::sources::{Peer, Peers, Tally};
use crate::status::traffic::Clients;

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This build's.
    pub version: String,
    /// The daemon, if one runs.
    pub daemon: Option<Daemon>,
    /// The clock as the program has it.
    pub clock: Clock,
    /// Where the time is taken from, if that is not somebody else's work.
    pub upstreams: Vec<Peer>,
    /// The interfaces it is attached to.
    pub interfaces: Vec<Interface>,
    /// The sockets that answer what the program passes up, if a daemon runs.
    pub userspace_path: Vec<UserspacePath>,
    /// What came to the sockets.
    pub userspace_counters: Vec<Counter>,
    /// Limits on clients, if a daemon runs.
    pub limits: Option<Limits>,
    /// Where metrics and the status page are served, if a daemon runs.
    pub http: Vec<HttpListener>,
    /// Kernel memory of the maps.
    pub maps: Maps,
}

/// The daemon's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process number.
    pub pid: u32,
    /// Since it started.
    pub uptime_s: f64,
    /// When it started, since the Unix epoch.
    pub started_unix_s: f64,
    /// Daemons of this instance that were started since the first attach, this one among them.
    pub starts: u64,
    /// Resident set.
    pub resident_bytes: u64,
    /// Time on the CPUs, in user space and in the kernel.
    pub cpu_s: f64,
    /// Open file descriptors.
    pub descriptors: u64,
}

/// The clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Whether answers say that it is synchronised, at this moment.
    pub synchronised: bool,
    /// Why not, if not.
    pub reason: Option<String>,
    /// Where the time comes from; only the daemon knows.
    pub source: Option<String>,
    /// Leap indicator in answers.
    pub leap: u8,
    /// Stratum in answers; 0 is unsynchronised.
    pub stratum: u8,
    /// Reference in answers.
    pub reference: String,
    /// To the primary source and back.
    pub root_delay_s: f64,
    /// Error bound to the primary source, grown to this moment.
    pub root_dispersion_s: f64,
    /// Half the root delay and the root dispersion: the time is not further off than this.
    pub error_bound_s: f64,
    /// Above this error bound answers do not claim to be synchronised; only the daemon knows.
    pub error_limit_s: Option<f64>,
    /// What the clock's keeper still has to correct; positive if the clock is slow.
    pub offset_s: Option<f64>,
    /// How much faster the oscillator is made to run, in parts in 10^6.
    pub frequency_ppm: Option<f64>,
    /// log2 seconds.
    pub precision: i8,
    /// Since the last publication.
    pub age_s: f64,
    /// Until answers say "unsynchronised" if nothing is published any more; negative since then.
    pub horizon_s: f64,
    /// What that is right after a publication, at most.
    pub horizon_limit_s: Option<f64>,
    /// Steps of the clock that the daemon noticed.
    pub steps: u64,
    /// What is known of it where the daemon disciplines it itself.
    pub discipline: Option<Discipline>,
}

/// A clock of our own upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discipline {
    /// The upstream that the error is counted from, as it is configured.
    pub system_peer: Option<String>,
    /// Upstreams that are followed.
    pub selected: usize,
    /// Of all.
    pub upstreams: usize,
    /// Uncertainty of the frequency, in parts in 10^6, one standard deviation.
    pub skew_ppm: Option<f64>,
    /// What the line is ahead of the kernel's clock.
    pub kernel_offset_s: Option<f64>,
    /// What is made of the kernel's clock.
    pub steering: String,
    /// Upstreams that cannot be asked, and why.
    pub trouble: Vec<String>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Where the program runs; `None` if it is not there any more.
    pub mode: Option<Mode>,
    /// Why not in the driver, where that was tried.
    pub fallback: Option<String>,
    /// What else there is to know of how it runs.
    pub remark: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its driver.
    pub driver: Driver,
    /// Answered for.
    pub addresses: Vec<String>,
    /// Those that are not zero.
    pub counters: Vec<Counter>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// [`Verdict::label`].
    pub verdict: String,
    /// [`responder::Family::label`].
    pub family: String,
    /// Of NTP; 0 where none was read.
    pub version: u8,
    /// So many.
    pub packets: u64,
    /// And their bytes.
    pub bytes: u64,
}

/// A socket on port 123.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserspacePath {
    /// [`responder::Family::label`].
    pub family: String,
    /// What keeps it from listening.
    pub failure: Option<String>,
}

/// An address of the HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpListener {
    /// With its port.
    pub address: SocketAddr,
    /// What keeps it from listening there.
    pub failure: Option<String>,
}

/// Limits on clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Whether sources are limited that no list names.
    pub enabled: bool,
    /// Requests a second of a source.
    pub rate: u32,
    /// And at once.
    pub burst: u32,
    /// Bits of an address that make a source.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// One refused request in 2^leak is answered.
    pub leak: u8,
    /// Kisses of death a second.
    pub kod: u32,
    /// Sources that the table has room for.
    pub table_entries: u32,
    /// Sources in it that are not fully refilled, by a sample.
    pub table_in_use: u32,
    /// Sources that were forgotten before they were refilled, since the daemon started, about.
    pub evictions: u64,
    /// Sources of the last hour by family, about; none where nobody is limited.
    pub clients: Vec<Clients>,
    /// Entries of the access lists.
    pub access_entries: usize,
    /// The cap on all answers a second, if there is one.
    pub budget_answers_per_s: Option<u32>,
    /// The cap on the bits of their frames, if there is one.
    pub budget_bits_per_s: Option<u64>,
}

/// Kernel memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// The sum.
    pub bytes: u64,
    /// By name.
    pub by_name: BTreeMap<String, u64>,
}

impl Clock {
    /// Of a published state, at a moment of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn of(state: &ClockState, now_ns: u64) -> Self {
        let synchronised = state.is_synchronised_at(now_ns);
        let stratum = if synchronised { state.stratum } else { 0 };
        let reason = (!synchronised).then(|| {
            let text = if now_ns > state.horizon_ns && state.sequence != 0 {
                "the horizon has passed: the clock is no longer published, because the daemon is dead or hangs"
            } else {
                "the clock is not synchronised"
            };
            text.to_owned()
        });
        let (root_delay_s, root_dispersion_s) =
            (seconds(state.root_delay), seconds(state.root_dispersion_at(now_ns)));
        Self {
            synchronised,
            reason,
            source: None,
            leap: if synchronised { state.leap } else { responder::message::LEAP_UNSYNCHRONISED },
            stratum,
            reference: show_reference(stratum, if synchronised { state.reference_id } else { 0 }),
            root_delay_s,
            root_dispersion_s,
            error_bound_s: root_delay_s / 2.0 + root_dispersion_s,
            error_limit_s: None,
            offset_s: None,
            frequency_ppm: None,
            precision: state.precision,
            age_s: signed_seconds(now_ns, state.monotonic_base_ns),
            horizon_s: signed_seconds(state.horizon_ns, now_ns),
            horizon_limit_s: None,
            steps: 0,
            discipline: None,
        }
    }
}

impl Discipline {
    /// If there is one.
    #[must_use]
    pub fn of(peers: &Peers) -> Option<Self> {
        let system = &peers.system;
        let followed = |peer: &&Peer| matches!(peer.tally, Tally::SystemPeer | Tally::Candidate);
        let reference = peers.peers.iter().find(|peer| Some(peer.association) == system.system_peer);
        system.steering.as_ref().map(|steering| Self {
            system_peer: reference.map(|peer| peer.name.clone()),
            selected: peers.peers.iter().filter(followed).count(),
            upstreams: peers.peers.len(),
            skew_ppm: system.skew_ppm,
            kernel_offset_s: system.kernel_offset_s,
            steering: steering.clone(),
            trouble: peers
                .peers
                .iter()
                .filter_map(|peer| Some(format!("{}: {}", peer.name, peer.trouble.as_ref()?)))
                .collect(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn seconds(interval: clock::NtpShort) -> f64 {
    interval.as_nanos() as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn signed_seconds(later_ns: u64, earlier_ns: u64) -> f64 {
    (i128::from(later_ns) - i128::from(earlier_ns)) as f64 / 1e9
}

/// The counters that are not zero, with their names.
#[must_use]
pub fn name_counters(counters: &[Count]) -> Vec<Counter> {
    let mut named = Vec::new();
    for outcome in Outcome::all() {
        let Outcome { verdict, family, version } = outcome;
        let count = counters.get(outcome.counter()).copied().unwrap_or_default();
        if count.packets != 0 {
            named.push(Counter {
                verdict: verdict.label().into(),
                family: family.label().into(),
                version,
                packets: count.packets,
                bytes: count.bytes,
            });
        }
    }
    named
}

/// The packets under all counters whose verdict has this action.
#[must_use]
pub fn total(counters: &[Counter], action: Action) -> u64 {
    let has = |label: &str| {
        Verdict::ALL.iter().any(|verdict| verdict.label() == label && verdict.action() == action)
    };
    counters.iter().filter(|counter| has(&counter.verdict)).map(|counter| counter.packets).sum()
}

/// A server that is well, with something in every field.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    let counter = |verdict: Verdict, version, packets| Counter {
        verdict: verdict.label().into(),
        family: Family::Ipv4.label().into(),
        version,
        packets,
        bytes: 90 * packets,
    };
    Status {
        version: "1.2.3".into(),
        daemon: Some(Daemon {
            pid: 1,
            uptime_s: 60.0,
            started_unix_s: 1.7e9,
            starts: 1,
            resident_bytes: 1 << 23,
            cpu_s: 0.5,
            descriptors: 20,
        }),
        clock: Clock {
            synchronised: true,
            reason: None,
            source: Some("system".into()),
            leap: 0,
            stratum: 2,
            reference: "192.0.2.1".into(),
            root_delay_s: 0.002,
            root_dispersion_s: 0.001,
            error_bound_s: 0.002,
            error_limit_s: Some(1.0),
            offset_s: Some(0.000_012),
            frequency_ppm: Some(-3.5),
            precision: -20,
            age_s: 0.1,
            horizon_s: 19.9,
            horizon_limit_s: Some(20.0),
            steps: 0,
            discipline: Some(Discipline {
                system_peer: Some("ntp1.example.net".into()),
                selected: 1,
                upstreams: 1,
                skew_ppm: Some(0.02),
                kernel_offset_s: None,
                steering: "left alone".into(),
                trouble: vec!["192.0.2.7: no route".into()],
            }),
        },
        upstreams: vec![Peer {
            name: "ntp1.example.net".into(),
            address: Some("192.0.2.1".into()),
            tally: crate::status::sources::Tally::SystemPeer,
            stratum: 1,
            reach: 0o377,
            offset_s: Some(0.000_012),
            delay_s: Some(0.002),
            jitter_s: Some(0.000_01),
            rejected: [("origin".to_owned(), 2)].into(),
            ..Peer::default()
        }],
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            mode: Some(Mode::Native),
            fallback: None,
            remark: None,
            up: true,
            driver: Driver { receive_queues: 4, transmit_queues: 4, ..Driver::default() },
            addresses: vec!["192.0.2.53".into()],
            counters: vec![counter(Verdict::Answered, 3, 7), counter(Verdict::DropLimited, 4, 2)],
        }],
        userspace_path: vec![UserspacePath { family: Family::Ipv4.label().into(), failure: None }],
        userspace_counters: Vec::new(),
        limits: Some(Limits {
            enabled: true,
            rate: 16,
            burst: 256,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            leak: 4,
            kod: 64,
            table_entries: 1 << 16,
            table_in_use: 3,
            access_entries: 1,
            evictions: 0,
            clients: vec![Clients { family: Family::Ipv4.label().into(), last_hour: 1000 }],
            budget_answers_per_s: None,
            budget_bits_per_s: None,
        }),
        http: vec![HttpListener { address: SocketAddr::from(([127, 0, 0, 1], 9200)), failure: None }],
        maps: Maps { bytes: 4096, by_name: [("PT_STATE".to_owned(), 4096)].into() },
    }
}
