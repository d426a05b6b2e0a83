//! Who asks, how much and how often, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::{count, rate};

/// Number of denied sources that are named.
const NAMED: usize = 3;
/// What is left of the rate of sources that have ended is less than this, in requests per second.
const GOING_ON_PER_S: f64 = 0.05;

/// Rates cover about the last ten seconds. What is sampled and not counted is an estimate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// Answered requests per second, counted.
    pub answered_per_s: f64,
    /// Dropped requests per second, counted.
    pub dropped_per_s: f64,
    /// Requests per second that were dropped or refused because the access lists deny their sources, counted. They are
    /// not sampled.
    #[serde(default)]
    pub denied_per_s: f64,
    /// Sources that commands have denied and that are still denied. Whether they go on is in `denied_per_s`.
    #[serde(default)]
    pub denied: Vec<String>,
    /// One in this many requests is sampled.
    pub sampled_one_in: u64,
    /// Sources of the last hour by family; empty if nobody is limited, because only the limiter knows them.
    pub clients: Vec<Clients>,
    /// Shares of the NTP versions, counted.
    pub versions: Vec<Version>,
    /// Distribution of the time between two requests of a source, over some minutes.
    pub intervals: Vec<Interval>,
    /// The sources with the most requests.
    pub by_requests: Vec<Talker>,
    /// The sources with the most dropped requests.
    pub by_drops: Vec<Talker>,
}

/// Number of sources of a family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// Number within the last hour: accurate to 3 %, and exact below a thousand.
    pub last_hour: u64,
}

/// A version's share of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// NTP version; 0 where none was read.
    pub version: u8,
    /// Share from 0 to 1.
    pub share: f64,
}

/// A class of times between two requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower limit in seconds, inclusive.
    pub from_s: u64,
    /// Upper limit in seconds, exclusive; `None` if there is none.
    pub below_s: Option<u64>,
    /// Share from 0 to 1.
    pub share: f64,
}

/// A source that sends many requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Talker {
    /// The prefix that the limiter treats as one source.
    pub source: String,
    /// Estimated requests per second.
    pub requests_per_s: f64,
    /// Estimated dropped requests per second.
    pub dropped_per_s: f64,
    /// Relative standard error of these figures.
    pub error: f64,
}

/// What is known of the requests of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceTraffic {
    /// Estimated number of its latest requests that were answered or refused by a limit. What came `fades_in_s` ago counts
    /// 37 %, so the number only grows when a request of the source is sampled.
    pub requests: f64,
    /// Those of them that were dropped.
    pub dropped: f64,
    /// See `requests`.
    pub fades_in_s: f64,
    /// One in this many requests is sampled.
    pub sampled_one_in: u64,
}

/// Writes the traffic for people.
impl fmt::Display for Top {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(text, "answered {}/s, dropped {}/s", rate(self.answered_per_s), rate(self.dropped_per_s))?;
        if !self.denied.is_empty() || self.denied_per_s > 0.0 {
            let mut names: Vec<_> = self.denied.iter().take(NAMED).cloned().collect();
            if let Some(more @ 1..) = self.denied.len().checked_sub(NAMED) {
                names.push(format!("{more} more"));
            }
            let names = if names.is_empty() { "sources of the lists".into() } else { names.join(", ") };
            if self.denied_per_s >= GOING_ON_PER_S {
                writeln!(text, "denied     {names}: going on with {}/s", rate(self.denied_per_s))?;
            } else {
                writeln!(text, "denied     {names}: silent now")?;
            }
        }
        let clients: Vec<_> = self
            .clients
            .iter()
            .map(|clients| format!("about {} over {}", count(clients.last_hour), clients.family))
            .collect();
        if clients.is_empty() {
            writeln!(text, "clients    not counted: rate limits are disabled")?;
        } else {
            writeln!(text, "clients    {} (1 h)", clients.join(", "))?;
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
    writeln!(text, "\n{title:<42} {:>12} {:>12} {:>6}", "requests/s", "dropped/s", "+-")?;
    for Talker { source, requests_per_s, dropped_per_s, error } in talkers {
        let (requests, dropped) = (rate(*requests_per_s), rate(*dropped_per_s));
        writeln!(text, "  {source:<40} {requests:>12} {dropped:>12} {:>6}", percent(*error))?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
