//! What `top` shows, for people and for programs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use responder::verdict::Family;
use serde::{Deserialize, Serialize};

use super::heavy::{Counts, Key};
use super::{FADE_S, Traffic, distinct};

/// Rates are of the last ten seconds or so, and what is not counted but sampled is an estimate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// Requests a second that were answered, by count.
    pub answered_per_s: f64,
    /// And that were dropped, by count.
    pub dropped_per_s: f64,
    /// One request in so many is sampled.
    pub sampled_one_in: u64,
    /// The sources of the last hour, by family; none where nobody is limited, for the limiter knows them.
    pub clients: Vec<Clients>,
    /// The mix of versions, by count.
    pub versions: Vec<Version>,
    /// The mix of times between two requests of a source, of some minutes.
    pub intervals: Vec<Interval>,
    /// The sources that ask most.
    pub by_requests: Vec<Talker>,
    /// The sources of which most is dropped.
    pub by_drops: Vec<Talker>,
}

/// Sources of a family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// [`Family::label`].
    pub family: String,
    /// Within the last hour, about: to 3 %, and exactly below a thousand.
    pub last_hour: u64,
}

/// A version's part of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// 0 where none was read.
    pub version: u8,
    /// From 0 to 1.
    pub share: f64,
}

/// A class of times between two requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// From so many seconds on.
    pub from_s: u64,
    /// To fewer than so many; open where there is none.
    pub below_s: Option<u64>,
    /// From 0 to 1.
    pub share: f64,
}

/// A source that asks much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talker {
    /// The prefix that the limiter takes for one source.
    pub source: String,
    /// Requests a second, about.
    pub requests_per_s: f64,
    /// Of these dropped, about.
    pub dropped_per_s: f64,
    /// How far the figures may be off, as a part of them: the standard error.
    pub error: f64,
}

impl Traffic {
    /// The view of now, with so many talkers. Sources are prefixes of these lengths.
    pub(crate) fn top(&self, most: usize, prefixes: [u8; 2], limited: bool) -> Top {
        let talkers = |figure: fn(&Counts) -> f64| {
            let talker = |(key, counts): &(Key, Counts)| Talker {
                source: show_source(*key, prefixes),
                requests_per_s: counts.requests / FADE_S,
                dropped_per_s: counts.dropped / FADE_S,
                error: 1.0 / counts.samples.max(1.0).sqrt(),
            };
            self.heavy.largest(most, figure).iter().map(talker).collect()
        };
        let shares = |all: &[f64]| {
            let sum: f64 = all.iter().sum();
            let shares: Vec<_> = all.iter().map(|part| part / sum).enumerate().collect();
            shares.into_iter().filter(|(_, share)| *share > 0.0).collect::<Vec<_>>()
        };
        let version = |(version, share)| Version { version: u8::try_from(version).unwrap_or(0), share };
        let interval = |(class, share): (usize, f64)| Interval {
            from_s: if class == 0 { 0 } else { 1 << (class - 1) },
            below_s: (class + 1 < super::INTERVALS).then_some(1 << class),
            share,
        };
        Top {
            answered_per_s: self.answered / FADE_S,
            dropped_per_s: self.refused / FADE_S,
            sampled_one_in: 1 << self.rarity,
            clients: if limited { self.clients_by_family() } else { Vec::new() },
            versions: shares(&self.versions).into_iter().map(version).collect(),
            intervals: shares(&self.intervals).into_iter().map(interval).collect(),
            by_requests: talkers(|counts| counts.requests),
            by_drops: talkers(|counts| counts.dropped),
        }
    }

    /// See [`Clients`].
    pub(crate) fn clients_by_family(&self) -> Vec<Clients> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of sources")]
        let of = |family: &Family| Clients {
            family: family.label().into(),
            last_hour: self.clients(*family).round() as u64,
        };
        Family::ALL.iter().map(of).collect()
    }
}

fn show_source((family, bits): Key, [ipv4_prefix, ipv6_prefix]: [u8; 2]) -> String {
    if family == Family::Ipv4 as u8 {
        let address = u32::try_from(bits).unwrap_or(0).to_ne_bytes();
        return show(IpAddr::V4(Ipv4Addr::from(address)), ipv4_prefix, 32);
    }
    let mut address = [0; 16];
    address[..8].copy_from_slice(&bits.to_ne_bytes());
    show(IpAddr::V6(Ipv6Addr::from(address)), ipv6_prefix, 128)
}

fn show(address: IpAddr, length: u8, whole: u8) -> String {
    if length == whole { address.to_string() } else { format!("{address}/{length}") }
}

/// For people.
impl fmt::Display for Top {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(text, "answered {:.0}/s, dropped {:.0}/s", self.answered_per_s, self.dropped_per_s)?;
        let clients: Vec<_> = self
            .clients
            .iter()
            .map(|clients| format!("about {} over {}", clients.last_hour, clients.family))
            .collect();
        let hours = distinct::WINDOW.as_secs() / 3600;
        if clients.is_empty() {
            writeln!(text, "clients    not counted: rate limits are disabled")?;
        } else {
            writeln!(text, "clients    {} ({hours} h)", clients.join(", "))?;
        }
        let versions = self.versions.iter().map(|mix| format!("v{} {}", mix.version, percent(mix.share)));
        writeln!(text, "versions   {}", versions.collect::<Vec<_>>().join(", "))?;
        let interval = |mix: &Interval| match mix.below_s {
            Some(below) => format!("<{below}s {}", percent(mix.share)),
            None => format!("longer {}", percent(mix.share)),
        };
        let intervals: Vec<_> = self.intervals.iter().map(interval).collect();
        writeln!(text, "intervals  {}", intervals.join(", "))?;
        write_talkers(text, "most requests", &self.by_requests)?;
        write_talkers(text, "most dropped", &self.by_drops)?;
        writeln!(
            text,
            "\nby source: estimated from one request in {}, over about the last ten seconds",
            self.sampled_one_in
        )
    }
}

fn write_talkers(text: &mut fmt::Formatter<'_>, title: &str, talkers: &[Talker]) -> fmt::Result {
    writeln!(text, "\n{title:<42} {:>11} {:>11} {:>6}", "requests/s", "dropped/s", "+-")?;
    for Talker { source, requests_per_s, dropped_per_s, error } in talkers {
        writeln!(text, "  {source:<40} {requests_per_s:>11.1} {dropped_per_s:>11.1} {:>6}", percent(*error))?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
