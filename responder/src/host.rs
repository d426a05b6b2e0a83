//! What the limiter, the budget and the samples need of the host.

use crate::bucket::{Bucket, WAYS};
use crate::budget::Allowance;
use crate::sample::Sample;
use crate::verdict::Family;

/// Where the buckets are. Userspace has them in its memory, the eBPF program in maps.
pub trait Buckets {
    /// A bucket.
    type Bucket: Bucket;

    /// The set of this number, or `None` where there is none: its sources are not limited.
    #[inline(always)]
    fn set(&self, _number: u32) -> Option<&[Self::Bucket; WAYS]> {
        None
    }

    /// The bucket of the kisses that this CPU sends, or `None` for no kisses.
    #[inline(always)]
    fn kisses(&self) -> Option<&Self::Bucket> {
        None
    }

    /// This CPU's part of the budget for answers to a family, or `None` where there is no cap. Called only where
    /// [`crate::Policy::options`] says that there is one.
    #[inline(always)]
    fn allowance(&self, _family: Family) -> Option<Allowance<'_, Self::Bucket>> {
        None
    }

    /// Takes a report to the daemon, which may be lost.
    #[inline(always)]
    fn report(&self, _sample: Sample) {}
}
