//! The rows: which program gets which frame, what it must do with it, and how much it may cost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use responder::clock::{DispersionRate, Rate};
use responder::limiter::{Class, IPV4_LIST, IPV6_LIST, KNOWN};
use responder::sample::Chances;
use responder::{
    ClockState, Family, NtpShort, NtpTimestamp, Outcome, Policy, ServedTable, Station, StationTable, Tags,
    Verdict,
};

use crate::frames::{self, NTP_PORT, Path};
use crate::programs::{Gauge, REARMED_FRAME, XdpAction};
use bench_ebpf::alternation::{MOST_TURNS, Turns};

/// A kind of packet to measure.
pub(super) struct Subject {
    /// Name in tables and results files.
    pub(super) name: String,
    pub(super) program: Program,
    pub(super) method: Method,
    /// The frame, padded to one length so that rows differ only in what they are about.
    pub(super) frame: [u8; REARMED_FRAME],
    pub(super) expected: Expected,
    pub(super) aim: Option<Aim>,
    /// Whether it runs on all CPUs at once, on the same maps.
    pub(super) crowded: bool,
}

/// How much a row may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Aim {
    /// At most this multiple of the cost of `XDP_PASS`.
    Ratio(f64),
    /// At most this multiple of the cost of `XDP_PASS` in addition to the same row of the plain server.
    More(f64),
    /// At most this multiple of the cost of the same row of the plain server.
    Times(f64),
}

/// The program under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Gauge(Gauge),
    /// A server: [`SERVER`] and its variants, or [`CANDIDATE`].
    Server(usize),
}

/// How a program is run again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// It gets its own output, which is right where it changes nothing.
    Direct,
    /// The frame is written anew each time; the time for that is subtracted.
    Rearmed,
    /// The frame has another IPv6 source each time.
    Scattered,
    /// The frame has another IPv4 source each time.
    ScatteredIpv4,
}

impl Method {
    /// Returns the program that runs before the one under measurement, if there is one.
    pub(super) const fn gauge(self) -> Option<Gauge> {
        match self {
            Self::Direct => None,
            Self::Rearmed => Some(Gauge::Rearm),
            Self::Scattered => Some(Gauge::RearmScattered),
            Self::ScatteredIpv4 => Some(Gauge::RearmScatteredIpv4),
        }
    }

    /// Returns how two programs take turns, for each of two copies, in a row with this number of runs.
    ///
    /// With a single source everything that a program needs stays in the caches. Turns are then as short as
    /// possible, because what slows the machine down lasts longer than a turn. With random sources a program
    /// needs the whole table of sources. The table falls out of the cache while the other program runs, which
    /// would not happen if the program ran alone. Therefore a turn goes through the table once before it is
    /// measured, and then again.
    pub(super) const fn turns(self, repeat: u32) -> Turns {
        match self {
            Self::Direct | Self::Rearmed => Turns::of(MOST_TURNS, repeat / 64, repeat / 512),
            Self::Scattered | Self::ScatteredIpv4 => Turns::of(4, repeat / 4, repeat / 8),
        }
    }
}

/// What a program must do with each frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expected {
    pub(super) action: XdpAction,
    /// The counter of the server that goes up; no other one does.
    pub(super) counted: Option<Outcome>,
    pub(super) output: Output,
}

/// What a program leaves in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Unchanged,
    /// The frame is sent back to its sender with the same payload.
    Reflected,
    /// A server's message whose origin is the request's transmit timestamp.
    Answer,
}

/// The built-in server without limits.
pub(super) const SERVER: usize = 0;
/// The built-in server with the limiter on.
pub(super) const LIMITED: usize = 1;
/// Number of prefixes in each access list; there is one server for each size.
pub(super) const LISTS: [u32; 2] = [100, 100_000];
const LISTED: usize = 2;
/// The candidate without limits.
pub(super) const CANDIDATE: usize = LISTED + LISTS.len();
/// The candidate with the limiter on.
const CANDIDATE_LIMITED: usize = CANDIDATE + 1;
/// Suffix of the candidate's rows, after the name of the built-in server's row.
const OF_CANDIDATE: &str = " (candidate)";

/// The baseline, whose cost is the unit of all ratios.
pub(super) const PASS: &str = "XDP_PASS";
/// The baseline behind `rearm`: the additional time is that for writing the frame.
pub(super) const REARMED_PASS: &str = "XDP_PASS, re-armed";

const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const SERVER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BROADCAST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const SERVER6_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_PORT: u16 = 40_123;
const HTTPS: u16 = 443;
const TRANSMIT: u64 = 0x0123_4567_89ab_cdef;
const VERSION: u8 = 4;

const ANSWER_AIM: Aim = Aim::Ratio(3.5);
const PASS_AIM: Aim = Aim::Ratio(1.25);
/// Limit for the limiter where it knows the source.
const HIT_AIM: Aim = Aim::More(0.15);
/// Limit for the limiter where all sources are new.
const FLOOD_AIM: Aim = Aim::Times(1.25);
const LIST_AIM: Aim = Aim::Times(1.6);

/// Returns the addresses of the server under measurement: those of a host with one interface.
pub(super) fn served() -> ServedTable {
    let table = ServedTable::new(
        &[SERVER4.octets()],
        &[BROADCAST4.octets()],
        &[SERVER6.octets(), SERVER6_LINK.octets()],
    );
    table.expect("four addresses fit in the table")
}

/// Returns the stations of that host: its interface, without a VLAN.
pub(super) fn stations() -> StationTable {
    StationTable::new(&[Station::new(SERVER_MAC, Tags::NONE)]).expect("one station fits in the table")
}

/// Returns a clock that stays synchronised however long the measurement takes.
pub(super) fn clock() -> ClockState {
    ClockState {
        sequence: 1,
        monotonic_base_ns: 0,
        ntp_base: NtpTimestamp::from_unix(1_700_000_000, 0),
        rate: Rate(Rate::NOMINAL.0 + 1),
        horizon_ns: u64::MAX,
        reference_time: NtpTimestamp::from_unix(1_700_000_000, 0),
        root_delay: NtpShort::from_nanos(20_000_000),
        root_dispersion: NtpShort::from_nanos(1_000_000),
        dispersion_rate: DispersionRate::from_ppb(15_000),
        reference_id: u32::from_be_bytes([192, 0, 2, 200]),
        leap: 0,
        stratum: 2,
        precision: -25,
    }
}

/// Returns all rows, with the baselines first.
pub(super) fn all(candidate: bool) -> Vec<Subject> {
    let pass = Expected { action: XdpAction::Pass, counted: None, output: Output::Unchanged };
    let reflect = Expected { action: XdpAction::Tx, counted: None, output: Output::Reflected };
    let request4 = frames::udp(&path4(NTP_PORT), &frames::request(VERSION, TRANSMIT));
    let gauge = |name: &str, gauge, method, expected| Subject {
        name: name.into(),
        program: Program::Gauge(gauge),
        method,
        frame: padded(&request4),
        expected,
        aim: None,
        crowded: false,
    };
    let mut subjects = vec![
        gauge(PASS, Gauge::Pass, Method::Direct, pass),
        gauge(REARMED_PASS, Gauge::Pass, Method::Rearmed, pass),
        gauge("bare reflector", Gauge::Reflect, Method::Rearmed, reflect),
        gauge(
            "bare reflector, direct",
            Gauge::Reflect,
            Method::Direct,
            Expected { output: Output::Unchanged, ..reflect },
        ),
    ];
    subjects.extend(of_server());
    subjects.extend(of_limits());
    subjects.extend(of_limiters_alone());
    let is_worth_it = |row: &Subject| row.method == Method::Scattered || row.name.contains("alone");
    let of_all = of_limits().into_iter().chain(of_limiters_alone()).filter(is_worth_it);
    subjects.extend(crowded(of_all.collect()));
    if candidate {
        let built_in: Vec<_> = of_server().into_iter().chain(of_limits()).collect();
        subjects.extend(built_in.iter().filter_map(of_candidate));
    }
    subjects
}

/// Returns the row that another is compared with: a candidate's with that of the built-in server, a variant's
/// with that of the plain server.
pub(super) fn plain<'a>(subjects: &'a [Subject], subject: &Subject) -> Option<&'a Subject> {
    let program = match subject.program {
        Program::Gauge(_) | Program::Server(SERVER) => return None,
        Program::Server(CANDIDATE_LIMITED) => LIMITED,
        Program::Server(_) => SERVER,
    };
    subjects.iter().find(|other| {
        other.program == Program::Server(program)
            && other.method == subject.method
            && other.frame == subject.frame
            && other.expected == subject.expected
            && other.crowded == subject.crowded
    })
}

/// Returns the candidate's row for one of the built-in server's.
fn of_candidate(row: &Subject) -> Option<Subject> {
    let (program, aim) = match row.program {
        Program::Server(SERVER) => (CANDIDATE, row.aim),
        // Its limit is relative to the plain server.
        Program::Server(LIMITED) => (CANDIDATE_LIMITED, None),
        _ => return None,
    };
    Some(Subject {
        name: format!("{}{OF_CANDIDATE}", row.name),
        program: Program::Server(program),
        aim,
        ..*row
    })
}

fn of_server() -> Vec<Subject> {
    let message = frames::request(VERSION, TRANSMIT);
    let row = |name: &str, method, frame: &[u8], expected, aim| Subject {
        name: name.into(),
        program: Program::Server(SERVER),
        method,
        frame: padded(frame),
        expected,
        aim: Some(aim),
        crowded: false,
    };
    // Packets that are not for port 123 are never counted.
    let pass = Expected { action: XdpAction::Pass, counted: None, output: Output::Unchanged };
    let passed = |name, frame: &[u8]| row(name, Method::Direct, frame, pass, PASS_AIM);
    let answered = |name, frame: &[u8], family| {
        let outcome = Outcome { verdict: Verdict::Answered, family, version: VERSION };
        let expected = Expected { action: XdpAction::Tx, counted: Some(outcome), output: Output::Answer };
        row(name, Method::Rearmed, frame, expected, ANSWER_AIM)
    };
    vec![
        passed("parse and pass, TCP, IPv4", &frames::tcp(&path4(HTTPS))),
        passed("parse and pass, other UDP, IPv4", &frames::udp(&path4(HTTPS), &message)),
        passed("parse and pass, TCP, IPv6", &frames::tcp(&path6(HTTPS))),
        passed("parse and pass, other UDP, IPv6", &frames::udp(&path6(HTTPS), &message)),
        answered("answer, IPv4", &frames::udp(&path4(NTP_PORT), &message), Family::Ipv4),
        answered("answer, IPv6", &frames::udp(&path6(NTP_PORT), &message), Family::Ipv6),
    ]
}

/// Returns a policy with a limit that is never reached: it shows the cost of looking up a source and not that
/// of refusing. Some requests are reported to the daemon, as on a server with a million requests per second.
pub(super) fn limited() -> Policy {
    Policy {
        key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0],
        ordinary: Class::new(10_000, 36_000_000).unwrap_or_default(),
        chances: Chances { request: u64::MAX >> 11, source: u64::MAX >> 11 },
        options: KNOWN,
        ..Policy::OFF
    }
}

/// Returns a policy with access lists in force and without a limit.
pub(super) fn listed() -> Policy {
    Policy { lists: IPV4_LIST | IPV6_LIST, ..Policy::OFF }
}

/// Prefixes with their lengths.
type Prefixes<const N: usize> = Vec<([u8; N], u32)>;

/// Returns this number of prefixes spread over the address space, none of which contains the client.
pub(super) fn prefixes(number: u32) -> (Prefixes<4>, Prefixes<16>) {
    let scattered = (1..).map(|index: u32| index.wrapping_mul(0x9e37_79b1));
    let ipv4 = scattered.clone().map(|bits| bits & 0xffff_ff00);
    let ipv4 = ipv4.filter(|bits| *bits != CLIENT4.to_bits() & 0xffff_ff00);
    // All of them are in 2000::/8, like the client.
    let ipv6 = scattered.map(|bits| 0x20 << 120 | u128::from(bits) << 80);
    let ipv6 = ipv6.filter(|bits| *bits != CLIENT6.to_bits() >> 80 << 80);
    let take = number as usize;
    (
        ipv4.take(take).map(|bits| (bits.to_be_bytes(), 24)).collect(),
        ipv6.take(take).map(|bits| (bits.to_be_bytes(), 48)).collect(),
    )
}

/// Returns the rows that show what limits cost an answer.
fn of_limits() -> Vec<Subject> {
    let message = frames::request(VERSION, TRANSMIT);
    let row = |name: String, server, method, family, aim| {
        let path = if family == Family::Ipv4 { path4(NTP_PORT) } else { path6(NTP_PORT) };
        let outcome = Outcome { verdict: Verdict::Answered, family, version: VERSION };
        Subject {
            name,
            program: Program::Server(server),
            method,
            frame: padded(&frames::udp(&path, &message)),
            expected: Expected { action: XdpAction::Tx, counted: Some(outcome), output: Output::Answer },
            aim,
            crowded: false,
        }
    };
    let mut rows = Vec::new();
    for (family, name, scattered) in
        [(Family::Ipv4, "IPv4", Method::ScatteredIpv4), (Family::Ipv6, "IPv6", Method::Scattered)]
    {
        let mut add = |what: String, server, method, aim| {
            rows.push(row(format!("{what}, {name}"), server, method, family, aim));
        };
        add("limiter, one source".into(), LIMITED, Method::Rearmed, Some(HIT_AIM));
        add("answer, random sources".into(), SERVER, scattered, None);
        add("limiter, random sources".into(), LIMITED, scattered, Some(FLOOD_AIM));
        for (index, prefixes) in LISTS.iter().enumerate() {
            add(format!("lists of {prefixes} prefixes"), LISTED + index, Method::Rearmed, Some(LIST_AIM));
        }
    }
    rows
}

/// Returns the rows of the limiter without the server, and of the kernel's alternative.
fn of_limiters_alone() -> Vec<Subject> {
    let frame = padded(&frames::udp(&path6(NTP_PORT), &frames::request(VERSION, TRANSMIT)));
    let expected = Expected { action: XdpAction::Tx, counted: None, output: Output::Unchanged };
    let mut rows = Vec::new();
    for (sources, method) in [("one source", Method::Rearmed), ("random sources", Method::Scattered)] {
        for (name, gauge) in [("limiter alone", Gauge::Table), ("kernel's LRU hash alone", Gauge::Lru)] {
            let (name, program) = (format!("{name}, {sources}"), Program::Gauge(gauge));
            rows.push(Subject { name, program, method, frame, expected, aim: None, crowded: false });
        }
    }
    rows
}

/// Returns the same rows on all CPUs at once.
fn crowded(rows: Vec<Subject>) -> Vec<Subject> {
    let crowd =
        |row: Subject| Subject { name: format!("all CPUs: {}", row.name), aim: None, crowded: true, ..row };
    rows.into_iter().map(crowd).collect()
}

fn path4(destination_port: u16) -> Path {
    path(IpAddr::V4(CLIENT4), IpAddr::V4(SERVER4), destination_port)
}

fn path6(destination_port: u16) -> Path {
    path(IpAddr::V6(CLIENT6), IpAddr::V6(SERVER6), destination_port)
}

fn path(source: IpAddr, destination: IpAddr, destination_port: u16) -> Path {
    Path {
        source_mac: CLIENT_MAC,
        destination_mac: SERVER_MAC,
        source,
        destination,
        source_port: CLIENT_PORT,
        destination_port,
    }
}

fn padded(frame: &[u8]) -> [u8; REARMED_FRAME] {
    let mut padded = [0; REARMED_FRAME];
    padded[..frame.len()].copy_from_slice(frame);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_responder_itself_comes_to_each_expected_verdict() {
        struct Host(ServedTable, StationTable);
        impl responder::Published for &Host {
            fn served(&self) -> &ServedTable {
                &self.0
            }
            fn stations(&self) -> &StationTable {
                &self.1
            }
            fn clock(&self) -> Option<ClockState> {
                Some(clock())
            }
        }
        impl responder::limiter::Buckets for Host {
            type Bucket = std::sync::atomic::AtomicU64;
        }
        impl responder::Server for Host {
            type Published<'a> = &'a Self;

            fn published(&self) -> Option<&Self> {
                Some(self)
            }
        }
        impl responder::Host for Host {
            fn received_ns(&self) -> u64 {
                1
            }
        }
        for subject in of_server() {
            let mut frame = subject.frame;
            let outcome = responder::respond(&mut frame.as_mut_slice(), &Host(served(), stations()));
            assert_eq!(outcome, subject.expected.counted.unwrap_or(Outcome::NOT_NTP), "{}", subject.name);
        }
    }

    #[test]
    fn each_row_of_a_variant_or_a_candidate_has_its_plain_one() {
        let subjects = all(true);
        for subject in &subjects {
            let other = matches!(subject.program, Program::Server(index) if index != SERVER);
            assert_eq!(plain(&subjects, subject).is_some(), other, "{}", subject.name);
        }
    }

    #[test]
    fn names_are_different() {
        let mut names: Vec<_> = all(true).into_iter().map(|subject| subject.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all(true).len());
    }
}
