//! What the limiter, the budget and the samples need from the host.

use crate::bucket::{Bucket, WAYS};
use crate::budget::Allowance;
use crate::sample::Sample;

/// Where the buckets are: in memory in userspace, in maps for the eBPF program.
pub trait Buckets {
    /// A bucket.
    type Bucket: Bucket;

    /// Returns the set with this number. If there is none, its sources are not limited.
    #[inline(always)]
    fn set(&self, _number: u32) -> Option<&[Self::Bucket; WAYS]> {
        None
    }

    /// Returns the share of a [`crate::Policy::leak`] that these buckets let through, in the same form. It is the whole
    /// one, unless a request meets other buckets, too.
    #[inline(always)]
    fn leak(&self, leak: u8) -> u8 {
        leak
    }

    /// Returns the bucket of the kisses that this CPU sends, or `None` for no kisses.
    #[inline(always)]
    fn kisses(&self) -> Option<&Self::Bucket> {
        None
    }

    /// Returns the set of known sources with this number, see [`crate::known`]. If there is none, nobody is known.
    #[inline(always)]
    fn known(&self, _number: u32) -> Option<&[Self::Bucket; WAYS]> {
        None
    }

    /// Returns the set of [`crate::tries`] with this number. If there is none, strangers are not told apart.
    #[inline(always)]
    fn tries(&self, _number: u32) -> Option<&[Self::Bucket; WAYS]> {
        None
    }

    /// Returns this CPU's part of the budget for answers, or `None` if there is no cap. Called only if
    /// [`crate::Policy::options`] says that there is one.
    #[inline(always)]
    fn allowance(&self) -> Option<Allowance<'_, Self::Bucket>> {
        None
    }

    /// Reports a sample to the daemon. The report may be lost.
    #[inline(always)]
    fn report(&self, _sample: Sample) {}
}
