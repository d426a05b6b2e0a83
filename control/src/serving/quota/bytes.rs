//! Bytes as a quota counts them.

use responder::layout::Count;
use responder::verdict::{Action, Family, Outcome, Verdict};
use serde::{Deserialize, Serialize};

use crate::config::QuotaCounts;

/// Bytes of the headers of Ethernet, IP and UDP, by family.
const HEADERS: [(Family, u64); 2] = [(Family::Ipv4, 14 + 20 + 8), (Family::Ipv6, 14 + 40 + 8)];
/// No sum is larger than this, so that it fits into the state file.
const MOST: u64 = i64::MAX.cast_unsigned();

/// Bytes of Ethernet frames, without their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    /// Of all packets for NTP that were received.
    pub received: u64,
    /// Of all answers.
    pub sent: u64,
    /// Of the answers that the budget refused.
    pub refused: u64,
}

impl Bytes {
    /// Returns what the program has counted on an interface.
    #[must_use]
    pub fn of_program(counters: &[Count]) -> Self {
        let mut bytes = Self::default();
        for outcome in Outcome::all() {
            let count = counters.get(outcome.counter()).copied().unwrap_or_default();
            bytes.received = bytes.received.saturating_add(count.bytes);
            bytes.add_answers(outcome.verdict, count.bytes);
        }
        bytes
    }

    /// Returns what the sockets have counted, whose bytes are those of UDP payloads. What they have received, the
    /// program has counted already.
    #[must_use]
    pub fn of_sockets(counters: &[Count]) -> Self {
        let mut bytes = Self::default();
        for outcome in Outcome::all() {
            let count = counters.get(outcome.counter()).copied().unwrap_or_default();
            let header =
                HEADERS.iter().find(|(family, _)| *family == outcome.family).map_or(0, |(_, bytes)| *bytes);
            let frames = count.bytes.saturating_add(count.packets.saturating_mul(header));
            bytes.add_answers(outcome.verdict, frames);
        }
        bytes
    }

    fn add_answers(&mut self, verdict: Verdict, bytes: u64) {
        if verdict.action() == Action::Transmit {
            self.sent = self.sent.saturating_add(bytes);
        } else if verdict == Verdict::DropBudget {
            // An answer is as long as its request.
            self.refused = self.refused.saturating_add(bytes);
        }
    }

    /// Returns what was used of a quota that counts this.
    #[must_use]
    pub const fn used(self, counts: QuotaCounts) -> u64 {
        match counts {
            QuotaCounts::Out => self.sent,
            QuotaCounts::In => self.received,
            QuotaCounts::Both => self.sent.saturating_add(self.received),
        }
    }

    /// Returns what would have been used if nothing had been refused for the budget.
    #[must_use]
    pub const fn wanted(self, counts: QuotaCounts) -> u64 {
        match counts {
            QuotaCounts::In => self.received,
            QuotaCounts::Out | QuotaCounts::Both => self.used(counts).saturating_add(self.refused),
        }
    }

    /// Returns the sum.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        let sum = |a: u64, b: u64| a.saturating_add(b).min(MOST);
        Self {
            received: sum(self.received, more.received),
            sent: sum(self.sent, more.sent),
            refused: sum(self.refused, more.refused),
        }
    }

    /// Returns what counters have gone up by since they were at `before`. Counters that are below that have begun again
    /// at zero.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        if self.received < before.received || self.sent < before.sent || self.refused < before.refused {
            return self;
        }
        Self {
            received: self.received - before.received,
            sent: self.sent - before.sent,
            refused: self.refused - before.refused,
        }
    }

    /// Returns a part of it, from 0 to 1, rounded down.
    #[must_use]
    pub fn part(self, part: f64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "53 bits are enough, and a part is no more than the whole"
        )]
        let of = |bytes: u64| ((bytes as f64 * part.clamp(0.0, 1.0)) as u64).min(bytes);
        Self { received: of(self.received), sent: of(self.sent), refused: of(self.refused) }
    }
}

#[cfg(test)]
mod tests {
    use responder::verdict::COUNTERS;

    use super::*;

    #[test]
    fn what_was_answered_and_refused_is_told_from_the_counters() {
        let mut counters = vec![Count::default(); COUNTERS];
        let mut count = |verdict, family, packets| {
            let outcome = Outcome { verdict, family, version: 4 };
            counters[outcome.counter()] = Count { packets, bytes: 90 * packets };
        };
        count(Verdict::Answered, Family::Ipv4, 10);
        count(Verdict::KissRate, Family::Ipv6, 1);
        count(Verdict::DropBudget, Family::Ipv4, 3);
        count(Verdict::DropDenied, Family::Ipv4, 100);
        count(Verdict::PassLong, Family::Ipv4, 1000);
        let bytes = Bytes::of_program(&counters);
        assert_eq!(bytes, Bytes { received: 90 * 1114, sent: 90 * 11, refused: 90 * 3 });
        let bytes = Bytes::of_sockets(&counters);
        assert_eq!(bytes, Bytes { received: 0, sent: 10 * (90 + 42) + (90 + 62), refused: 3 * (90 + 42) });
    }

    #[test]
    fn sums_and_differences_neither_overflow_nor_go_below_zero() {
        let most = Bytes { received: u64::MAX, sent: u64::MAX, refused: 1 };
        assert_eq!(most.plus(most), Bytes { received: MOST, sent: MOST, refused: 2 });
        assert_eq!(most.used(QuotaCounts::Both), u64::MAX);
        let [small, large] = [Bytes { sent: 5, ..Bytes::default() }, Bytes { sent: 7, ..Bytes::default() }];
        assert_eq!(large.since(small).sent, 2);
        assert_eq!(small.since(large).sent, 5, "it has begun again");
        assert_eq!(large.part(0.5).sent, 3);
        assert_eq!(most.part(1.0), most);
    }
}
