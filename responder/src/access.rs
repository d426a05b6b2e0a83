//! Decides who is answered: first by the access lists, and then by the limiter.

use crate::limiter::{self, BUDGET, Buckets, Class, Decision, KISS_DENIED, Policy, Ruling, Source};
use crate::message::Request;
use crate::sample::{EVICTED, Sample};
use crate::verdict::{Action, Family, Verdict};

/// The access that the list entry with the longest matching prefix gives to a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Access {
    /// Answered like sources on no list: limited as [`Policy::ordinary`].
    #[default]
    Ordinary = 0,
    /// Not answered.
    Denied = 1,
    /// Answered without a limit.
    Unlimited = 2,
    /// Limited as [`Policy::strict`].
    Strict = 3,
}

impl Access {
    /// The inverse of `as u32`. Any other value is ordinary.
    #[must_use]
    #[inline(always)]
    pub const fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Denied,
            2 => Self::Unlimited,
            3 => Self::Strict,
            _ => Self::Ordinary,
        }
    }

    /// Returns a stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ordinary => "allow",
            Self::Denied => "deny",
            Self::Unlimited => "unlimited",
            Self::Strict => "limit",
        }
    }
}

/// Entries of the map that says of each IPv4 /24 whether the access list has to be asked about it.
pub const BLOCK_ENTRIES: usize = 1 << 15;
/// Words of such an entry, a bit for each /24: a cache line.
pub const BLOCK_WORDS: usize = 8;

/// The position of the bit for a source's /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The entry, below [`BLOCK_ENTRIES`].
    pub entry: u32,
    /// The word in it, below [`BLOCK_WORDS`].
    pub word: usize,
    /// The bit in that word.
    pub mask: u64,
}

impl Block {
    /// Returns the position for an address.
    #[must_use]
    #[inline(always)]
    pub const fn of(address: [u8; 4]) -> Self {
        let block = u32::from_be_bytes(address) >> 8;
        Self { entry: block >> 9, word: (block >> 6 & 7) as usize, mask: 1 << (block & 63) }
    }
}

/// A client, as far as it matters for whether it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// What the lists say about it.
    pub access: Access,
    /// The source whose bucket it draws from.
    pub source: Source,
    /// The protocol of its request.
    pub family: Family,
    /// Length of its answer's Ethernet frame.
    pub answer_bytes: usize,
}

impl Client {
    /// Sorts out those that the lists deny and that are told nothing: for them no clock need be read.
    ///
    /// # Errors
    ///
    /// [`Verdict::DropDenied`].
    #[inline(always)]
    pub fn may_ask(self, policy: &Policy) -> Result<(), Verdict> {
        if self.access == Access::Denied && policy.options & KISS_DENIED == 0 {
            return Err(Verdict::DropDenied);
        }
        Ok(())
    }

    /// The verdict on a request that came at `now_ns` of `CLOCK_MONOTONIC`. Where its action is to transmit,
    /// [`crate::message::Answer::admitted`] makes of the answer what the verdict says.
    #[must_use]
    #[inline(always)]
    pub fn admit<B: Buckets>(self, buckets: &B, policy: &Policy, request: Request, now_ns: u64) -> Verdict {
        let class = match self.access {
            Access::Ordinary => policy.ordinary,
            Access::Strict => policy.strict,
            Access::Unlimited | Access::Denied => Class::UNLIMITED,
        };
        let ruling = if self.access != Access::Denied {
            limiter::decide(buckets, policy, class, self.source, now_ns, request.noise())
        } else if limiter::may_kiss(buckets, policy, now_ns) {
            Ruling::of_denied(Decision::Kiss)
        } else {
            return Verdict::DropDenied;
        };
        let verdict = match ruling.decision {
            Decision::Answer => Verdict::Answered,
            Decision::Leak => Verdict::Leaked,
            Decision::Kiss if self.access == Access::Denied => Verdict::KissDeny,
            Decision::Kiss => Verdict::KissRate,
            Decision::Drop => Verdict::DropLimited,
        };
        let verdict = self.within_budget(buckets, policy, verdict, &ruling, now_ns);
        let kind = policy.chances.choose(&ruling, now_ns);
        if kind != 0 {
            buckets.report(Sample {
                source: self.source.to_bits(),
                hash: ruling.hash,
                at_ns: now_ns,
                transmit: request.transmit(),
                port: 0,
                hops: 0,
                kind: if ruling.evicted { kind | EVICTED } else { kind },
                verdict: verdict as u8,
                family: self.family as u8,
                version: request.version(),
                poll: request.poll(),
            });
        }
        verdict
    }

    #[inline(always)]
    fn within_budget<B: Buckets>(
        self,
        buckets: &B,
        policy: &Policy,
        verdict: Verdict,
        ruling: &Ruling,
        now_ns: u64,
    ) -> Verdict {
        if policy.options & BUDGET == 0 || verdict.action() != Action::Transmit {
            return verdict;
        }
        match buckets.allowance() {
            Some(allowance)
                if !allowance.admits(ruling, self.access == Access::Unlimited, self.answer_bytes, now_ns) =>
            {
                Verdict::DropBudget
            }
            _ => verdict,
        }
    }
}
