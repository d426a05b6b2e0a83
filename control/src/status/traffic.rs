//! Who asks, how much and how often, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::{self, count, rate};

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
    /// Kinds of abuse that its requests show.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// Time between two requests in s, if it is constant and far below the usual ones.
    #[serde(default)]
    pub interval_s: Option<f64>,
    /// Devices that are known for such an interval.
    #[serde(default)]
    pub resembles: Option<String>,
}

/// What the requests of a source show that no well-behaved client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Many requests per second from one source port: one program.
    FixedPort,
    /// The transmit timestamp is always the same.
    RepeatedTimestamp,
    /// The time between two requests is the same to a fiftieth, and far below 64 s.
    ExactInterval,
    /// The time between two requests is about the same, and far below 64 s.
    ConstantPoll,
    /// Requests of a known source go on coming by its usual path and by another one, or far more than its rate come by
    /// another one.
    Forged,
    /// Far more requests than its rate come by the usual path of a known source.
    UsualPath,
    /// There are more different numbers of hops than one host or NAT has.
    ManyPaths,
}

impl Kind {
    /// Describes it in a few words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::FixedPort => "one source port at a high rate",
            Self::RepeatedTimestamp => "always the same timestamp",
            Self::ExactInterval => "exact interval",
            Self::ConstantPoll => "constant poll far below 64 s",
            Self::Forged => "not by its usual path: forged, or a large NAT",
            Self::UsualPath => "by its usual path: runs wild, or forged TTL and all",
            Self::ManyPaths => "many paths: forged, or a large NAT",
        }
    }
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
    for talker in talkers {
        let Talker { source, requests_per_s, dropped_per_s, error, .. } = talker;
        let (requests, dropped) = (rate(*requests_per_s), rate(*dropped_per_s));
        writeln!(text, "  {source:<40} {requests:>12} {dropped:>12} {:>6}", percent(*error))?;
        for kind in &talker.kinds {
            writeln!(text, "      {}{}", kind.describe(), interval_of(*kind, talker))?;
        }
        if let Some(devices) = &talker.resembles {
            writeln!(text, "      as known of {devices}")?;
        }
    }
    Ok(())
}

fn interval_of(kind: Kind, talker: &Talker) -> String {
    let is_of_interval = matches!(kind, Kind::ExactInterval | Kind::ConstantPoll);
    talker
        .interval_s
        .filter(|_| is_of_interval)
        .map_or_else(String::new, |interval_s| format!(": {}", units::interval(interval_s)))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_does_is_below_its_rates_in_lines_of_at_most_80_columns() {
        let talker = Talker {
            source: "2001:db8:1234:5678::/64".into(),
            requests_per_s: 1_234_567.0,
            dropped_per_s: 1_234_567.0,
            error: 1.0,
            kinds: vec![
                Kind::FixedPort,
                Kind::RepeatedTimestamp,
                Kind::ExactInterval,
                Kind::ConstantPoll,
                Kind::Forged,
                Kind::UsualPath,
                Kind::ManyPaths,
            ],
            interval_s: Some(5.004),
            resembles: Some("TP-Link repeaters of 2017".into()),
        };
        let top = Top {
            answered_per_s: 1.0,
            dropped_per_s: 1.0,
            denied_per_s: 0.0,
            denied: Vec::new(),
            sampled_one_in: 1,
            clients: Vec::new(),
            versions: Vec::new(),
            intervals: Vec::new(),
            by_requests: vec![talker],
            by_drops: Vec::new(),
        };
        let text = top.to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for part in [
            "\n      one source port at a high rate\n",
            "\n      exact interval: 5.00 s\n",
            "\n      constant poll far below 64 s: 5.00 s\n",
            "\n      not by its usual path: forged, or a large NAT\n",
            "\n      by its usual path: runs wild, or forged TTL and all\n",
            "\n      as known of TP-Link repeaters of 2017\n",
        ] {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
        // What an earlier version has written has none of it.
        let mut json = serde_json::to_value(&top).unwrap();
        let talker = json["by_requests"][0].as_object_mut().unwrap();
        assert!(["kinds", "interval_s", "resembles"].iter().all(|key| talker.remove(*key).is_some()));
        let read: Top = serde_json::from_value(json).unwrap();
        assert_eq!((read.by_requests[0].kinds.len(), read.by_requests[0].interval_s), (0, None));
    }
}
