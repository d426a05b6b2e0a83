//! The upstreams and what the daemon makes of them, in one structure for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use responder::ClockState;
use serde::{Deserialize, Serialize};

use crate::discipline::{SourceReport, Standing};
use crate::status::Clock;
use crate::status::kernel_clock::KernelClockStatus;

/// The served clock and its upstreams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// The served clock.
    pub system: System,
    /// The upstreams in the order of the configuration; empty if another daemon keeps the clock.
    pub peers: Vec<Peer>,
}

/// The served clock at this moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// Whether answers say that the clock is synchronised.
    pub synchronised: bool,
    /// Where the time comes from: `system` or `upstream`.
    pub source: String,
    /// Leap indicator in answers.
    pub leap: u8,
    /// Stratum in answers; 0 is unsynchronised.
    pub stratum: u8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Round trip to the primary source.
    pub root_delay_s: f64,
    /// The remaining error bound, including its growth up to this moment.
    pub root_dispersion_s: f64,
    /// Reference ID in answers.
    pub reference_id: u32,
    /// The reference ID as it is shown.
    pub reference: String,
    /// When the clock was last corrected, as an NTP timestamp; 0 for never.
    #[serde(with = "crate::status::decimal")]
    pub reference_time: u64,
    /// The current time, as an NTP timestamp.
    #[serde(with = "crate::status::decimal")]
    pub clock: u64,
    /// The [`Peer::association`] of the system peer.
    pub system_peer: Option<u16>,
    /// Poll interval of the system peer in log2 seconds.
    pub poll_log2: Option<u8>,
    /// The [`Peer::offset_s`] of the system peer. The served clock is corrected at once, so no other offset
    /// remains.
    pub offset_s: Option<f64>,
    /// State of the kernel's clock, if the daemon disciplines a clock of its own.
    pub kernel_clock: Option<KernelClockStatus>,
    /// Correction of the uncorrected oscillator in ppm, with ntpd's sign: positive where it runs slow.
    pub frequency_ppm: Option<f64>,
    /// Uncertainty of the frequency in ppm, one standard deviation.
    pub skew_ppm: Option<f64>,
    /// How fast the frequency wanders, in ppm per square root of a second.
    pub wander_ppm: Option<f64>,
    /// Uncertainty of the offset, one standard deviation.
    pub jitter_s: Option<f64>,
}

impl System {
    /// Makes it of a published state, at a moment of `CLOCK_MONOTONIC`. What only the discipline knows is
    /// missing.
    #[must_use]
    pub fn of(state: &ClockState, now_ns: u64) -> Self {
        let clock = Clock::of(state, now_ns);
        Self {
            synchronised: clock.synchronised,
            leap: clock.leap,
            stratum: clock.stratum,
            precision: clock.precision,
            root_delay_s: clock.root_delay_s,
            root_dispersion_s: clock.root_dispersion_s,
            reference_id: if clock.synchronised { state.reference_id } else { 0 },
            reference: clock.reference,
            reference_time: state.reference_time.0,
            clock: state.time_at(now_ns).0,
            ..Self::default()
        }
    }
}

/// One upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Association ID: a number from 1 that stays the same while the daemon runs.
    pub association: u16,
    /// Tally code: the standing in the selection.
    pub tally: Tally,
    /// The standing in a sentence.
    pub standing: String,
    /// Name as it is configured.
    pub name: String,
    /// The address that is asked; `None` while the name is not resolved.
    pub address: Option<String>,
    /// The local address from which it is asked.
    pub local_address: Option<String>,
    /// The UDP port that is asked.
    pub port: u16,
    /// Reference ID in its latest answer; 0 before the first.
    pub reference_id: u32,
    /// The reference ID as it is shown.
    pub reference: String,
    /// Stratum in its latest answer; 16 before the first.
    pub stratum: u8,
    /// Leap indicator in its latest answer; 3 before the first.
    pub leap: u8,
    /// Precision of its clock in its latest answer, in log2 seconds.
    pub precision: i8,
    /// Time since its latest valid answer.
    pub when_s: Option<f64>,
    /// Our poll interval in log2 seconds.
    pub poll_log2: u8,
    /// The poll interval in its latest answer, in log2 seconds.
    pub its_poll_log2: u8,
    /// Reach register of the last eight requests, with the latest in the lowest bit: 1 means answered.
    pub reach: u8,
    /// The shortest recent round trip.
    pub delay_s: Option<f64>,
    /// Its offset relative to the served clock: by how much it would correct that.
    pub offset_s: Option<f64>,
    /// Mean queueing delay in one direction.
    pub jitter_s: Option<f64>,
    /// Error of the latest measurement that comes from the resolution of both clocks.
    pub dispersion_s: Option<f64>,
    /// The part of the offset that is attributed to asymmetry of the path.
    pub asymmetry_s: Option<f64>,
    /// Root delay in its latest answer.
    pub root_delay_s: f64,
    /// Root dispersion in its latest answer.
    pub root_dispersion_s: f64,
    /// Reference timestamp in its latest answer, as an NTP timestamp.
    #[serde(with = "crate::status::decimal")]
    pub reference_time: u64,
    /// When its latest answer came according to the served clock, as an NTP timestamp.
    #[serde(with = "crate::status::decimal")]
    pub receive_time: u64,
    /// Number of consecutive requests without a valid answer.
    pub unanswered: u32,
    /// Number of requests so far.
    pub requests: u64,
    /// Number of valid answers so far.
    pub answers: u64,
    /// Numbers of refused answers, by [`protocol::Reject::label`].
    pub rejected: BTreeMap<String, u64>,
    /// Kisses of death, by their code.
    pub kisses: BTreeMap<String, u64>,
    /// Why it cannot be asked or believed: its name, the network, or that it is this host itself.
    pub trouble: Option<String>,
}

/// The standing of an upstream, in ntpq's terms (its manual, "peers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tally {
    /// It has not answered yet or no longer answers, or it is not fit.
    #[default]
    Reject,
    /// The time that it claims is not within what the majority agrees on, or there is no majority.
    Falseticker,
    /// It is good, but preferred ones are followed.
    Backup,
    /// It is followed.
    Candidate,
    /// It is followed, and the error is counted from it.
    SystemPeer,
}

impl Tally {
    /// Returns the tally code for a source's standing in the discipline.
    #[must_use]
    pub const fn of(standing: Standing, is_reference: bool) -> Self {
        match standing {
            Standing::Selected if is_reference => Self::SystemPeer,
            Standing::Selected => Self::Candidate,
            Standing::Backup => Self::Backup,
            Standing::Falseticker | Standing::NoMajority => Self::Falseticker,
            Standing::Unreachable
            | Standing::Denied
            | Standing::Unfit
            | Standing::Retired
            | Standing::Waiting
            | Standing::Distant => Self::Reject,
        }
    }

    /// Returns the character with which `ntpq -p` marks it.
    #[must_use]
    pub const fn character(self) -> char {
        match self {
            Self::Reject => ' ',
            Self::Falseticker => 'x',
            Self::Backup => '#',
            Self::Candidate => '+',
            Self::SystemPeer => '*',
        }
    }

    /// Returns the selection code of a control message's peer status word (RFC 9327, section 3.2).
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Reject => 0,
            Self::Falseticker => 1,
            Self::Candidate => 4,
            Self::Backup => 5,
            Self::SystemPeer => 6,
        }
    }
}

impl Peer {
    /// Whether its latest requests were not answered: two of them, and a third one may still be. One that cannot be asked
    /// counts from the first failure on.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        const REQUESTS: u32 = 3;
        self.unanswered >= REQUESTS || self.trouble.is_some()
    }

    /// Adds what the discipline reports about it.
    pub fn describe(&mut self, report: &SourceReport, is_reference: bool) {
        self.tally = Tally::of(report.standing, is_reference);
        // What is wrong with its answers says more than that there are too few of them.
        let trouble = self.trouble.as_ref().filter(|_| self.tally == Tally::Reject);
        self.standing = trouble.cloned().unwrap_or_else(|| report.standing.reason().into());
        self.reach = report.reach;
        self.poll_log2 = report.poll_log2;
        self.delay_s = report.delay_s;
        self.offset_s = report.offset_s;
        self.jitter_s = report.jitter_s;
        self.dispersion_s = report.latest.map(|latest| latest.dispersion_s);
        self.asymmetry_s = report.bias_s.map(|bias| bias.mean);
    }
}

/// Writes the columns of `ntpq -p`: times in ms, `when` in s (or m, h, d), `poll` in s, `reach` in octal.
/// Below them comes what keeps upstreams from being asked or believed.
impl fmt::Display for Peers {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.peers.iter().map(|peer| peer.name.chars().count()).max().unwrap_or(0).max(15);
        let header = format!(
            " {:<width$} {:<15} {:>2} t {:>4} {:>4} {:>5} {:>9} {:>9} {:>9}",
            "remote", "refid", "st", "when", "poll", "reach", "delay", "offset", "jitter"
        );
        writeln!(text, "{header}\n{}", "=".repeat(header.len()))?;
        for peer in &self.peers {
            let ms =
                |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{:.4}", value * 1e3));
            writeln!(
                text,
                "{}{:<width$} {:<15} {:>2} u {:>4} {:>4} {:>5} {:>9} {:>9} {:>9}",
                peer.tally.character(),
                peer.name,
                reference(&peer.reference),
                peer.stratum,
                peer.when_s.map_or_else(|| "-".into(), interval),
                interval(f64::from(1_u32 << peer.poll_log2.min(31))),
                format!("{:o}", peer.reach),
                ms(peer.delay_s),
                ms(peer.offset_s),
                ms(peer.jitter_s),
            )?;
        }
        for peer in &self.peers {
            if let Some(trouble) = &peer.trouble {
                writeln!(text, "{}: {trouble}", peer.name)?;
            }
        }
        Ok(())
    }
}

/// Puts letters between dots, so that they are not taken for a host's name.
fn reference(reference: &str) -> String {
    if reference.is_empty() || reference.parse::<IpAddr>().is_ok() {
        reference.into()
    } else {
        format!(".{reference}.")
    }
}

/// Formats seconds in at most four characters, like ntpq.
fn interval(seconds: f64) -> String {
    match seconds {
        ..2049.0 => format!("{seconds:.0}"),
        ..18_000.0 => format!("{:.0}m", seconds / 60.0),
        ..345_600.0 => format!("{:.0}h", seconds / 3600.0),
        _ => format!("{:.0}d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_ntpq() {
        let peer = Peer {
            tally: Tally::SystemPeer,
            name: "ntp1.example.net".into(),
            reference: "GPS".into(),
            stratum: 1,
            when_s: Some(3.4),
            poll_log2: 6,
            reach: 0o377,
            delay_s: Some(0.001_234_5),
            offset_s: Some(-0.000_012_3),
            jitter_s: Some(0.000_004),
            ..Peer::default()
        };
        let silent = Peer { name: "192.0.2.1".into(), stratum: 16, poll_log2: 10, ..Peer::default() };
        let text = Peers { peers: vec![peer, silent], ..Peers::default() }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            " remote           refid           st t when poll reach     delay    offset    jitter"
        );
        assert_eq!(
            lines[2],
            "*ntp1.example.net .GPS.            1 u    3   64   377    1.2345   -0.0123    0.0040"
        );
        assert_eq!(
            lines[3],
            " 192.0.2.1                        16 u    - 1024     0         -         -         -"
        );
        assert!(lines.iter().all(|line| line.chars().count() == lines[1].len()), "{text}");
    }

    #[test]
    fn what_is_wrong_with_an_upstream_is_said_below_the_columns() {
        let own = Peer {
            name: "192.0.2.1".into(),
            trouble: Some("192.0.2.1 is an address of this host itself: it is not asked".into()),
            ..Peer::default()
        };
        let text = Peers { peers: vec![own, Peer::default()], ..Peers::default() }.to_string();
        assert_eq!(
            text.lines().skip(4).collect::<Vec<_>>(),
            ["192.0.2.1: 192.0.2.1 is an address of this host itself: it is not asked"]
        );
    }

    #[test]
    fn long_intervals_are_short_to_read() {
        for (seconds, text) in
            [(0.0, "0"), (2048.0, "2048"), (3600.0, "60m"), (36_000.0, "10h"), (864_000.0, "10d")]
        {
            assert_eq!(interval(seconds), text);
        }
    }
}
