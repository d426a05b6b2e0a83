//! The state of the server, in one structure for people and for programs.

mod decimal;
pub(crate) mod exposition;
pub mod health;
pub mod kernel_clock;
pub mod probes;
pub mod quota;
mod silence;
pub mod sources;
mod text;
pub mod traffic;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::show_reference;
use protocol::time::unix_ns;
#[cfg(test)]
use responder::Family;
use responder::layout::Count;
use responder::verdict::{Action, Outcome, Verdict};
use responder::{ClockState, NtpTimestamp, clock};
use serde::{Deserialize, Serialize};

use crate::net::interfaces::Driver;
use crate::net::served::WithoutRoom;
use crate::net::xdp_mode::Mode;
use crate::status::kernel_clock::KernelClockStatus;
use crate::status::probes::ProbeCount;
use crate::status::sources::{Peer, Peers, Tally};
use crate::status::traffic::Clients;

/// The whole state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this build.
    pub version: String,
    /// The commit that was built, if a package was.
    #[serde(default)]
    pub revision: Option<String>,
    /// What it was built for, such as `x86_64-linux-musl`.
    #[serde(default)]
    pub target: String,
    /// The daemon, if it runs.
    pub daemon: Option<Daemon>,
    /// The clock as the program has it.
    pub clock: Clock,
    /// The upstreams, if the daemon takes the time from them.
    pub upstreams: Vec<Peer>,
    /// The interfaces to which the program is attached.
    pub interfaces: Vec<Interface>,
    /// Addresses that are not answered for in the NIC path because there is no room for them, if the daemon runs: one
    /// entry for each family that has some.
    #[serde(default)]
    pub addresses_without_room: Vec<WithoutRoom>,
    /// The sockets that answer what the program passes up, if the daemon runs.
    pub userspace_path: Vec<UserspacePath>,
    /// Packets that came to the sockets.
    pub userspace_counters: Vec<Counter>,
    /// Limits on clients, if the daemon runs.
    pub limits: Option<Limits>,
    /// The monthly traffic quota, if one is configured and the daemon runs.
    #[serde(default)]
    pub quota: Option<quota::Quota>,
    /// Where metrics and the status page are served, if the daemon runs.
    pub http: Vec<HttpListener>,
    /// What is valid in the configuration but most likely not meant, if the daemon runs.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What became of probes of the shape of the pool's monitors', if the daemon runs.
    #[serde(default)]
    pub probes: Vec<ProbeCount>,
    /// Kernel memory of the maps.
    pub maps: Maps,
}

/// The daemon's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process ID.
    pub pid: u32,
    /// Time since it started.
    pub uptime_s: f64,
    /// When it started, in seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// Number of daemons of this instance that were started since the first attach, including this one.
    pub starts: u64,
    /// Resident set size.
    pub resident_bytes: u64,
    /// CPU time in user space and in the kernel.
    pub cpu_s: f64,
    /// Number of open file descriptors.
    pub descriptors: u64,
    /// Its configuration file.
    #[serde(default)]
    pub config: Option<PathBuf>,
    /// The inode of its network namespace, as `/proc/PID/ns/net` has it.
    #[serde(default)]
    pub network_namespace: Option<u64>,
}

/// The clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Whether answers say at this moment that the clock is synchronised.
    pub synchronised: bool,
    /// Why it is not synchronised.
    pub reason: Option<String>,
    /// Where the time comes from; only the daemon knows.
    pub source: Option<String>,
    /// Leap indicator in answers.
    pub leap: u8,
    /// Stratum in answers; 0 is unsynchronised.
    pub stratum: u8,
    /// Reference ID in answers, as it is shown.
    pub reference: String,
    /// The same as a number.
    #[serde(default)]
    pub reference_id: u32,
    /// When the clock was last corrected, in seconds since the Unix epoch: the reference timestamp in answers.
    #[serde(default)]
    pub reference_unix_s: Option<f64>,
    /// Round trip to the primary source.
    pub root_delay_s: f64,
    /// Error bound to the primary source, including its growth up to this moment.
    pub root_dispersion_s: f64,
    /// Half the root delay plus the root dispersion: the time is not further off than this.
    pub error_bound_s: f64,
    /// Error bound above which answers do not claim to be synchronised; only the daemon knows.
    pub error_limit_s: Option<f64>,
    /// What the clock's keeper still has to correct; positive if the clock is slow.
    pub offset_s: Option<f64>,
    /// How much faster the oscillator is made to run, in ppm.
    pub frequency_ppm: Option<f64>,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Time since the last publication.
    pub age_s: f64,
    /// Time until answers say "unsynchronised" if nothing more is published; negative once they do.
    pub horizon_s: f64,
    /// The largest value of `horizon_s`, right after a publication.
    pub horizon_limit_s: Option<f64>,
    /// Number of clock steps that the daemon has noticed.
    pub steps: u64,
    /// How often the daemon found that the machine had stood still: paused, migrated or restored.
    #[serde(default)]
    pub pauses: u64,
    /// Whether this is still the line of the daemon before the latest start, because the upstreams of this one have not
    /// agreed on the time yet.
    #[serde(default)]
    pub inherited: bool,
    /// Time until the error bound reaches `error_limit_s` if no upstream answers any more, estimated from how fast the
    /// bound grows now. `None` without upstreams or without an agreement of theirs.
    #[serde(default)]
    pub holdover_s: Option<f64>,
    /// State of the discipline, if the daemon disciplines the clock itself.
    pub discipline: Option<Discipline>,
}

/// State of a clock that follows our own upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discipline {
    /// The system peer, from which the error is counted, as it is configured.
    pub system_peer: Option<String>,
    /// Number of upstreams that are followed.
    pub selected: usize,
    /// Number of all upstreams.
    pub upstreams: usize,
    /// Uncertainty of the frequency in ppm, one standard deviation.
    pub skew_ppm: Option<f64>,
    /// State of the kernel's clock.
    pub kernel_clock: KernelClockStatus,
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
    /// Where the program runs; `None` if it is no longer attached.
    pub mode: Option<Mode>,
    /// Why it does not run in the driver, if that was tried.
    pub fallback: Option<String>,
    /// A further remark on how it runs.
    pub remark: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
    /// State of its driver.
    pub driver: Driver,
    /// Answers that the driver was handed and did not send, by its own counters, if it has any for that.
    pub xdp_transmit_errors: Option<u64>,
    /// Which share of the latest answers was not sent. Only a running daemon knows it.
    #[serde(default)]
    pub unsent_share: Option<f64>,
    /// Addresses that are answered for.
    pub addresses: Vec<String>,
    /// MAC addresses that are answered for, each with its VLAN.
    pub stations: Vec<String>,
    /// Why nothing is received on it, where that is as it should be: it is the backup port of a bond.
    pub idle: Option<String>,
    /// Why some requests are not answered by the program, but left to the sockets.
    pub left_to_sockets: Option<String>,
    /// Number of MAC addresses and VLANs that are not answered for by the program because there is no room for them.
    #[serde(default)]
    pub stations_without_room: usize,
    /// The counters that are not zero.
    pub counters: Vec<Counter>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Label of the verdict, from [`Verdict::label`].
    pub verdict: String,
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// NTP version; 0 where none was read.
    pub version: u8,
    /// Number of packets.
    pub packets: u64,
    /// Number of bytes in these packets.
    pub bytes: u64,
}

/// A socket on port 123.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserspacePath {
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// What keeps it from listening.
    pub failure: Option<String>,
}

/// An address of the HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpListener {
    /// Address and port.
    pub address: SocketAddr,
    /// What keeps it from listening on this address.
    pub failure: Option<String>,
}

/// Limits on clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Whether sources that are on no list are limited.
    pub enabled: bool,
    /// Requests per second that a source may send.
    pub rate: u32,
    /// Number of requests that a source may send at once.
    pub burst: u32,
    /// Number of leading bits of an IPv4 address that identify a source.
    pub ipv4_prefix: u8,
    /// Number of leading bits of an IPv6 address that identify a source.
    pub ipv6_prefix: u8,
    /// One refused request in 2^leak is answered.
    pub leak: u8,
    /// Kisses of death per second.
    pub kod: u32,
    /// Number of sources that the table has room for.
    pub table_entries: u32,
    /// Number of sources in the table that are not fully refilled, estimated from a sample.
    pub table_in_use: u32,
    /// Estimated number of sources that were forgotten before they were refilled, since the daemon started.
    pub evictions: u64,
    /// Number of sources that are known from earlier; absent in the first minutes.
    pub known_sources: Option<u32>,
    /// Estimated number of sources in the last hour, by family; empty if nobody is limited.
    pub clients: Vec<Clients>,
    /// Number of entries in the access lists.
    pub access_entries: usize,
    /// The cap on all answers per second, if there is one.
    pub budget_answers_per_s: Option<u32>,
    /// The cap on the bits of their frames per second, if there is one.
    pub budget_bits_per_s: Option<u64>,
}

/// Kernel memory of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// Total in bytes.
    pub bytes: u64,
    /// Bytes by name of the map.
    pub by_name: BTreeMap<String, u64>,
}

impl Clock {
    /// Makes it of a published state, at a moment of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn of(state: &ClockState, now_ns: u64) -> Self {
        let synchronised = state.is_synchronised_at(now_ns);
        let stratum = if synchronised { state.stratum } else { 0 };
        let reference_id = if synchronised { state.reference_id } else { 0 };
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
            reference: show_reference(stratum, reference_id),
            reference_id,
            reference_unix_s: (state.reference_time != NtpTimestamp(0)).then(|| unix_s(state.reference_time)),
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
            pauses: 0,
            inherited: false,
            holdover_s: None,
            discipline: None,
        }
    }

    /// Whether a daemon that runs has not published the clock for so long that it must hang. The age of an inherited line
    /// says nothing of the daemon that runs now.
    #[must_use]
    pub fn is_late(&self) -> bool {
        /// A living daemon publishes four times per second.
        const LATE_S: f64 = 2.0;
        !self.inherited && self.age_s > LATE_S
    }
}

impl Discipline {
    /// Makes it of the upstreams, if there are any.
    #[must_use]
    pub fn of(peers: &Peers) -> Option<Self> {
        let system = &peers.system;
        let followed = |peer: &&Peer| matches!(peer.tally, Tally::SystemPeer | Tally::Candidate);
        let reference = peers.peers.iter().find(|peer| Some(peer.association) == system.system_peer);
        system.kernel_clock.as_ref().map(|kernel_clock| Self {
            system_peer: reference.map(|peer| peer.name.clone()),
            selected: peers.peers.iter().filter(followed).count(),
            upstreams: peers.peers.len(),
            skew_ppm: system.skew_ppm,
            kernel_clock: kernel_clock.clone(),
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
fn unix_s(time: NtpTimestamp) -> f64 {
    unix_ns(time) as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn signed_seconds(later_ns: u64, earlier_ns: u64) -> f64 {
    (i128::from(later_ns) - i128::from(earlier_ns)) as f64 / 1e9
}

/// Returns the counters that are not zero, with their names.
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

/// Returns the number of packets under all counters whose verdict has this action.
#[must_use]
pub fn total(counters: &[Counter], action: Action) -> u64 {
    let has = |label: &str| {
        Verdict::ALL.iter().any(|verdict| verdict.label() == label && verdict.action() == action)
    };
    counters.iter().filter(|counter| has(&counter.verdict)).map(|counter| counter.packets).sum()
}

/// Returns the status of a healthy server with something in every field.
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
        revision: Some("0123456789ab".into()),
        target: "x86_64-linux-musl".into(),
        daemon: Some(Daemon {
            pid: 1,
            uptime_s: 60.0,
            started_unix_s: 1.7e9,
            starts: 1,
            resident_bytes: 1 << 23,
            cpu_s: 0.5,
            descriptors: 20,
            config: None,
            network_namespace: None,
        }),
        clock: Clock {
            synchronised: true,
            reason: None,
            source: Some("system".into()),
            leap: 0,
            stratum: 2,
            reference: "192.0.2.1".into(),
            reference_id: 0xc000_0201,
            reference_unix_s: Some(1_700_000_000.25),
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
            pauses: 0,
            inherited: false,
            holdover_s: Some(7200.0),
            discipline: Some(Discipline {
                system_peer: Some("ntp1.example.net".into()),
                selected: 1,
                upstreams: 1,
                skew_ppm: Some(0.02),
                kernel_clock: KernelClockStatus { offset_s: Some(0.000_02), ..KernelClockStatus::default() },
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
            xdp_transmit_errors: Some(0),
            unsent_share: None,
            addresses: vec!["192.0.2.53".into()],
            stations: vec!["02:00:00:00:00:35".into()],
            idle: None,
            left_to_sockets: None,
            stations_without_room: 0,
            counters: vec![counter(Verdict::Answered, 3, 7), counter(Verdict::DropLimited, 4, 2)],
        }],
        addresses_without_room: Vec::new(),
        userspace_path: vec![UserspacePath { family: Family::Ipv4.label().into(), failure: None }],
        userspace_counters: Vec::new(),
        limits: Some(sample_limits()),
        quota: Some(sample_quota()),
        http: vec![HttpListener { address: SocketAddr::from(([127, 0, 0, 1], 9200)), failure: None }],
        warnings: Vec::new(),
        probes: vec![ProbeCount {
            family: Family::Ipv4.label().into(),
            outcome: "answered".into(),
            requests: 9,
        }],
        maps: Maps { bytes: 4096, by_name: [("PT_STATE".to_owned(), 4096)].into() },
    }
}

/// The quota of [`sample`]: it lasts.
#[cfg(test)]
fn sample_quota() -> quota::Quota {
    quota::Quota {
        quota_bytes: 4_000_000_000_000,
        counts: "out".into(),
        used_bytes: 1_200_000_000_000,
        received_bytes: 1_300_000_000_000,
        sent_bytes: 1_200_000_000_000,
        refused_bytes: 0,
        period_start_unix_s: Some(1_698_796_800),
        period_end_unix_s: Some(1_701_388_800),
        rate_bytes_per_s: Some(1_000_000.0),
        forecast_bytes: Some(2_500_000_000_000),
        used_up_unix_s: None,
        cap_bytes_per_s: None,
        netspeed_bits_per_s: Some(50_000_000),
        advice: None,
    }
}

/// The limits of [`sample`].
#[cfg(test)]
fn sample_limits() -> Limits {
    Limits {
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
        known_sources: Some(2),
        clients: vec![Clients { family: Family::Ipv4.label().into(), last_hour: 1000 }],
        budget_answers_per_s: None,
        budget_bits_per_s: None,
    }
}
