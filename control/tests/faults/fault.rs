//! A fault, what is promised for it, and what came of it.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use testlab::drops::Drops;
use testlab::load::Account;
use testlab::oracle::Verdict;

use crate::scene::{Carried, Scene};

/// What is promised to clients while a fault lasts and after it. In every case no answer that claims to be synchronised
/// is further off than it claims, none comes twice, and in the end all are answered and synchronised again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every request is answered, and every answer is synchronised.
    Unharmed,
    /// Every request is answered. Some answers may say that the server is not synchronised.
    Honest,
    /// Requests are lost, and only while the fault lasts: nothing can answer them then, for the reason given.
    Gap(&'static str),
}

/// A fault that a server lives through.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// What is done, for a table.
    pub(crate) what: &'static str,
    pub(crate) promise: Promise,
    /// What it needs of the lab and the server.
    pub(crate) setup: Setup,
    /// Does it and, where it does not end by itself, undoes it. An error says why this machine cannot.
    pub(crate) play: fn(&mut Scene<'_>) -> Result<(), String>,
}

/// What a fault needs of the lab and the server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Options of `scripts/lab up`.
    pub(crate) lab: &'static [&'static str],
    /// Keys of `[clock]`.
    pub(crate) clock: &'static str,
    /// Whether the upstreams are names, which a name server of the lab knows.
    pub(crate) names: bool,
    /// Whether the daemon has a mount namespace of its own.
    pub(crate) own_mounts: bool,
}

/// Needs nothing special.
pub(crate) const PLAIN: Setup = Setup { lab: &[], clock: "", names: false, own_mounts: false };
/// With a horizon that a test can wait for.
pub(crate) const SHORT_HORIZON: Setup = Setup { clock: "horizon_ms = 4000", ..PLAIN };

/// What came of a fault.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Requests per second that were to be sent.
    pub(crate) rate: u64,
    pub(crate) account: Account,
    pub(crate) verdict: Verdict,
    /// What the lab itself lost.
    pub(crate) drops: Drops,
    /// Bytes on the wire, if they could be counted throughout.
    pub(crate) carried: Option<Carried>,
    /// From when to when the fault lasted, since the first request.
    pub(crate) lasted: (Duration, Duration),
    /// How long after its end the server was healthy again.
    pub(crate) recovered: Result<Duration, String>,
}

/// How long after the end of a fault requests may still get lost where a gap is promised: neighbours have to be found
/// again, and the daemon looks at interfaces once in this time.
const AFTER_A_GAP: Duration = Duration::from_secs(5);

/// What a server may send of its own accord while a fault lasts: requests to its upstreams and to a name server, and
/// what finds and greets neighbours.
const OWN_BYTES: u64 = 100_000;
const OWN_FRAMES: u64 = 1000;

impl Outcome {
    /// Wrong answers that claim to be synchronised.
    pub(crate) fn wrong(&self) -> u64 {
        self.account.wrong + self.verdict.wrong() as u64
    }

    /// Requests that were lost, but for those that the lab itself lost.
    pub(crate) fn lost(&self, promise: Promise) -> u64 {
        match promise {
            // The lab counts what an interface that is down refuses, too.
            Promise::Gap(_) => self.account.lost(),
            _ => self.account.lost().saturating_sub(self.drops.total()),
        }
    }

    /// What is not as promised; empty if all is.
    pub(crate) fn broken(&self, promise: Promise) -> Vec<String> {
        let mut broken = Vec::new();
        let mut is_so = |so: bool, what: String| {
            if !so {
                broken.push(what);
            }
        };
        let (account, lost) = (&self.account, self.lost(promise));
        is_so(account.sent > 0 && account.answered > 0, format!("nothing was answered of {}", account.sent));
        is_so(account.wrong == 0, format!("{} wrong, the worst {:?}", account.wrong, account.worst));
        is_so(self.verdict.wrong() == 0, format!("the oracle: {}", self.verdict));
        is_so(account.duplicates == 0, format!("{} answers came twice", account.duplicates));
        is_so(account.strange == 0, format!("{} datagrams answer nothing", account.strange));
        if let Some(Carried { requests, answers }) = self.carried {
            is_so(
                answers.bytes <= requests.bytes + OWN_BYTES && answers.frames <= requests.frames + OWN_FRAMES,
                format!("an amplifier: {answers:?} for {requests:?}"),
            );
        }
        if let Err(why) = &self.recovered {
            is_so(false, format!("not healthy again: {why}"));
        }
        let changes = account.changes();
        is_so(changes.first().is_some_and(|first| first.0), "not synchronised at first".into());
        is_so(changes.last().is_some_and(|last| last.0), "not synchronised in the end".into());
        if !matches!(promise, Promise::Gap(_)) {
            let (rate, drops) = (account.rates().0, self.drops.total());
            is_so(rate * 10 >= self.rate * 9, format!("the lab has sent {rate} per second only"));
            is_so(drops * 100 <= account.sent, format!("the lab itself has lost {drops}"));
        }
        match promise {
            Promise::Unharmed => {
                is_so(lost == 0, format!("{lost} lost, {:?}", account.lost_between()));
                is_so(changes.len() == 1, format!("{} were not synchronised", account.unsynchronised()));
            }
            Promise::Honest => is_so(lost == 0, format!("{lost} lost, {:?}", account.lost_between())),
            Promise::Gap(_) => {
                let (begin, end) = self.lasted;
                let within = account.lost_between().is_none_or(|(first, last)| {
                    first + Duration::from_millis(100) >= begin && last <= end + AFTER_A_GAP
                });
                is_so(
                    within,
                    format!("lost {:?}, the fault lasted {:?}", account.lost_between(), self.lasted),
                );
            }
        }
        broken
    }
}

impl Display for Promise {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unharmed => f.write_str("all answered, all synchronised"),
            Self::Honest => f.write_str("all answered, unsynchronised where the time is not known"),
            Self::Gap(reason) => write!(f, "none lost before and after; meanwhile {reason}"),
        }
    }
}
