//! Who is answered: what the access lists say of a source, and then the limiter.

use crate::limiter::{self, Buckets, Class, Decision, Policy, Source};
use crate::message::Request;
use crate::verdict::Verdict;

/// What the entry of the longest prefix that a source is in says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Access {
    /// Like everybody that no list names: limited as [`Policy::ordinary`].
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
    /// The inverse of `as u32`. What is none of them is ordinary.
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

    /// The word for it.
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

/// A client, as far as it matters for whether it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// What the lists say of it.
    pub access: Access,
    /// Whose bucket it takes from.
    pub source: Source,
}

impl Client {
    /// Sorts out those that the lists deny and that are told nothing: for them no clock need be read.
    ///
    /// # Errors
    ///
    /// [`Verdict::DropDenied`].
    #[inline(always)]
    pub fn may_ask(self, policy: &Policy) -> Result<(), Verdict> {
        if self.access == Access::Denied && policy.kiss_denied == 0 {
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
            Access::Unlimited => Class::UNLIMITED,
            Access::Denied => {
                return if limiter::may_kiss(buckets, policy, now_ns) {
                    Verdict::KissDeny
                } else {
                    Verdict::DropDenied
                };
            }
        };
        match limiter::decide(buckets, policy, class, self.source, now_ns, request.noise()) {
            Decision::Answer => Verdict::Answered,
            Decision::Leak => Verdict::Leaked,
            Decision::Kiss => Verdict::KissRate,
            Decision::Drop => Verdict::DropLimited,
        }
    }
}
