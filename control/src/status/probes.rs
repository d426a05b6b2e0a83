//! The probes of the pool's monitors and what became of them, beside the server's own state at that time: data for
//! people and for programs.
//!
//! A monitor sends three requests, a few seconds apart, and counts the best answer. They are told by their shape alone,
//! so that whoever sends the like is among them.

use std::fmt;

use responder::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// Requests of a round.
pub const REQUESTS: usize = 3;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It was answered with the time.
    Answered,
    /// It was answered by chance, for its source is over its rate.
    Leaked,
    /// It was answered although its source is over its rate, for it came by the usual path of a known source.
    KnownPath,
    /// The answer said that the server is not synchronised.
    Unsynchronised,
    /// It was dropped, for its source is over its rate.
    Limited,
    /// It was answered with a kiss of death (RATE), for its source is over its rate.
    KissRate,
    /// It was dropped, for the server's budget was spent.
    OverBudget,
    /// It was dropped, for an access list denies its source.
    Denied,
    /// It was answered with a kiss of death (DENY), for an access list denies its source.
    KissDeny,
    /// The socket could not send the answer.
    Unsent,
}

impl Fate {
    /// All fates, in the order in which they are exported.
    pub const ALL: &'static [Self] = &[
        Self::Answered,
        Self::Leaked,
        Self::KnownPath,
        Self::Unsynchronised,
        Self::Limited,
        Self::KissRate,
        Self::OverBudget,
        Self::Denied,
        Self::KissDeny,
        Self::Unsent,
    ];

    /// Returns the name under which it is counted and written.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Leaked => "leaked",
            Self::KnownPath => "known_path",
            Self::Unsynchronised => "unsynchronised",
            Self::Limited => "limited",
            Self::KissRate => "kiss_rate",
            Self::OverBudget => "over_budget",
            Self::Denied => "denied",
            Self::KissDeny => "kiss_deny",
            Self::Unsent => "unsent",
        }
    }

    /// Returns the fate that a verdict means; `None` if the request was passed on, and another verdict decides.
    /// `synchronised` says whether answers of that moment were.
    #[must_use]
    pub const fn of(verdict: Verdict, synchronised: bool) -> Option<Self> {
        Some(match verdict {
            Verdict::Answered | Verdict::Leaked | Verdict::AnsweredKnown if !synchronised => {
                Self::Unsynchronised
            }
            Verdict::Answered => Self::Answered,
            Verdict::Leaked => Self::Leaked,
            Verdict::AnsweredKnown => Self::KnownPath,
            Verdict::Unsynchronised => Self::Unsynchronised,
            Verdict::KissRate => Self::KissRate,
            Verdict::KissDeny => Self::KissDeny,
            Verdict::DropLimited => Self::Limited,
            Verdict::DropDenied => Self::Denied,
            Verdict::DropBudget => Self::OverBudget,
            Verdict::DropUnsent => Self::Unsent,
            _ => return None,
        })
    }

    /// Whether the monitor was sent the time.
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Answered | Self::Leaked | Self::KnownPath)
    }

    /// Whether this server refused the request.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Limited | Self::KissRate | Self::OverBudget | Self::Denied | Self::KissDeny | Self::Unsent
        )
    }

    /// Whether a monitor that gets this sends no further request of the round.
    #[must_use]
    pub const fn ends_round(self) -> bool {
        matches!(self, Self::Unsynchronised | Self::KissRate | Self::KissDeny)
    }
}

/// A request of a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundRequest {
    /// When it arrived, in s after the first one.
    pub after_s: f32,
    /// What became of it.
    pub fate: Fate,
}

/// The requests of one source that belong together: one to three. It is written as one word for the time at which the
/// first one arrived, in seconds since the Unix epoch, and one for each request: `1790000000.25 answered+0
/// limited+2.01`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Round {
    /// When the first one arrived, in seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// The requests, in the order of their arrival.
    pub requests: Vec<RoundRequest>,
}

impl Round {
    /// Returns when the last request arrived, in seconds since the Unix epoch.
    #[must_use]
    pub fn end_unix_s(&self) -> f64 {
        self.at_unix_s + self.requests.last().map_or(0.0, |request| f64::from(request.after_s))
    }

    /// Returns how many requests had this fate.
    #[must_use]
    pub fn count(&self, is: impl Fn(Fate) -> bool) -> usize {
        self.requests.iter().filter(|request| is(request.fate)).count()
    }

    /// Returns how many requests did not arrive. A monitor that is refused in so many words sends no more.
    #[must_use]
    pub fn missing(&self) -> usize {
        if self.count(Fate::ends_round) > 0 { 0 } else { REQUESTS.saturating_sub(self.requests.len()) }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{:.2}", self.at_unix_s)?;
        self.requests
            .iter()
            .try_for_each(|request| write!(text, " {}+{:.2}", request.fate.label(), request.after_s))
    }
}

impl From<Round> for String {
    fn from(round: Round) -> Self {
        round.to_string()
    }
}

impl TryFrom<String> for Round {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a round of probes");
        let mut words = text.split(' ');
        let at_unix_s = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let request = |word: &str| {
            let (label, after) = word.split_once('+')?;
            let fate = Fate::ALL.iter().copied().find(|fate| fate.label() == label)?;
            Some(RoundRequest { after_s: after.parse().ok()?, fate })
        };
        let requests: Vec<_> = words.map(request).collect::<Option<_>>().ok_or_else(wrong)?;
        if requests.is_empty() || requests.len() > REQUESTS {
            return Err(wrong());
        }
        Ok(Self { at_unix_s, requests })
    }
}

/// The rounds of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeSource {
    /// The address or prefix that the limiter treats as one source.
    pub source: String,
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// Rounds of it before this are not known, in seconds since the Unix epoch.
    pub since_unix_s: f64,
    /// The rounds, oldest first.
    pub rounds: Vec<Round>,
}

/// All rounds that the daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeRounds {
    /// Rounds before this are not known, in seconds since the Unix epoch.
    pub since_unix_s: f64,
    /// When this was written, in seconds since the Unix epoch.
    pub until_unix_s: f64,
    /// The sources.
    pub sources: Vec<ProbeSource>,
    /// Number of sources that were forgotten for want of room.
    pub forgotten: u64,
}

/// Something that went on for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// When it began, in seconds since the Unix epoch.
    pub from_unix_s: f64,
    /// When it was last seen, in seconds since the Unix epoch.
    pub to_unix_s: f64,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Answers said that the server is not synchronised.
    Unsynchronised {
        /// Why, with what to look at.
        reason: String,
    },
    /// An interface had no carrier, was down or gone.
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// The program was not on an interface, so that only the sockets answered.
    Detached {
        /// Its name.
        interface: String,
    },
    /// Reports of requests may have been lost between the program and the daemon.
    ReportsLost {
        /// How many, if that is known: more were held back for want of a grant.
        number: u64,
    },
    /// The driver had no room for frames that came in, or dropped frames on their way out.
    DriverDrops {
        /// The interface's name.
        interface: String,
        /// How many.
        number: u64,
    },
    /// No daemon ran. The program went on to answer, but nobody took its reports.
    NoDaemon,
}

/// The state of the server in a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// When it began, in seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// The largest error bound; `None` if the clock was not synchronised at all.
    pub bound_s: Option<f64>,
    /// The system peer at the end of the minute.
    pub peer: Option<String>,
    /// The offset of the system peer relative to the served clock that was furthest from zero. Without upstreams, what
    /// the clock's keeper still had to correct.
    pub offset_s: Option<f64>,
    /// The other upstream whose offset was furthest from zero.
    pub other: Option<String>,
    /// Its offset relative to the served clock.
    pub other_offset_s: Option<f64>,
    /// Requests that the limiter refused.
    pub limited: u64,
    /// Requests that the budget refused.
    pub over_budget: u64,
}

/// The server's own state over the time that the daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// What was before this is not known, in seconds since the Unix epoch.
    pub since_unix_s: f64,
    /// What went on, in the order of its beginning.
    pub spans: Vec<Span>,
    /// The minutes, oldest first.
    pub minutes: Vec<Minute>,
}

/// Number of probes with one fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCount {
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// From [`Fate::label`].
    pub outcome: String,
    /// How many there were since the daemon started.
    pub requests: u64,
}

/// One of the latest rounds, for the status page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatestRound {
    /// Who sent it, if addresses may be shown.
    pub source: Option<String>,
    /// Label of the family, from [`responder::Family::label`].
    pub family: String,
    /// When its first request arrived, in seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// What became of its requests, by [`Fate::label`].
    pub outcomes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_read_as_it_was_written_and_nothing_else_is_a_round() {
        for first in Fate::ALL {
            for last in Fate::ALL {
                let request = |after_s, fate: &Fate| RoundRequest { after_s, fate: *fate };
                let round = Round {
                    at_unix_s: 1_790_000_000.25,
                    requests: vec![request(0.0, first), request(2.25, &Fate::Answered), request(5.5, last)],
                };
                let text = serde_json::to_string(&round).unwrap();
                assert_eq!(serde_json::from_str::<Round>(&text).unwrap(), round, "{text}");
            }
        }
        let fine = "\"1790000000.25 answered+0.00\"";
        assert!(serde_json::from_str::<Round>(fine).is_ok());
        for wrong in [
            "\"\"",
            "\"1790000000\"",
            "\"x answered+0\"",
            "\"1 answered\"",
            "\"1 gone+0\"",
            "\"1 answered+x\"",
            "\"1 answered+0 answered+1 answered+2 answered+3\"",
            "7",
        ] {
            assert!(serde_json::from_str::<Round>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_verdict_on_an_admitted_request_has_a_fate_and_none_that_passes_it_on() {
        for verdict in Verdict::ALL {
            let decides = verdict.is_of_limits()
                || matches!(verdict, Verdict::Answered | Verdict::Unsynchronised | Verdict::DropUnsent);
            assert_eq!(Fate::of(*verdict, true).is_some(), decides, "{verdict:?}");
        }
        assert_eq!(Fate::of(Verdict::Answered, false), Some(Fate::Unsynchronised));
        assert_eq!(Fate::of(Verdict::DropLimited, false), Some(Fate::Limited));
    }

    #[test]
    fn a_monitor_that_is_told_off_sends_no_more_and_so_nothing_is_missing() {
        let of = |fates: &[Fate]| Round {
            at_unix_s: 0.0,
            requests: fates.iter().map(|fate| RoundRequest { after_s: 0.0, fate: *fate }).collect(),
        };
        assert_eq!(of(&[Fate::Answered]).missing(), 2);
        assert_eq!(of(&[Fate::Limited, Fate::Answered]).missing(), 1);
        assert_eq!(of(&[Fate::Answered; 3]).missing(), 0);
        for fate in [Fate::Unsynchronised, Fate::KissRate, Fate::KissDeny] {
            assert_eq!(of(&[fate]).missing(), 0, "{fate:?}");
        }
    }
}
