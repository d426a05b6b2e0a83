//! Who asks, how much and how often, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// [`responder::Family::label`].
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

/// For people.
impl fmt::Display for Top {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(text, "answered {:.0}/s, dropped {:.0}/s", self.answered_per_s, self.dropped_per_s)?;
        let clients: Vec<_> = self
            .clients
            .iter()
            .map(|clients| format!("about {} over {}", clients.last_hour, clients.family))
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
    writeln!(text, "\n{title:<42} {:>11} {:>11} {:>6}", "requests/s", "dropped/s", "+-")?;
    for Talker { source, requests_per_s, dropped_per_s, error } in talkers {
        writeln!(text, "  {source:<40} {requests_per_s:>11.1} {dropped_per_s:>11.1} {:>6}", percent(*error))?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
