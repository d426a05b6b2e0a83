//! A cap on all that the server answers, kept without locks by each CPU for its part of it; where it is not enough
//! for all, those who owe most go without first.
//!
//! # The bucket
//!
//! Each CPU has a token bucket of its own, which is full after [`WINDOW_NS`] without an answer. A cost, the time
//! that it takes the bucket to earn an answer, comes from the daemon, which shares the cap out among the CPUs so
//! that their buckets are equally full. In any time t a CPU answers at most `(t + WINDOW_NS) / cost + 1` requests,
//! whatever comes, and whether the daemon lives or not.
//!
//! # Who goes without
//!
//! The limiter knows of each source how much it owes: how long it would have to be quiet to be as good as new; and of
//! those that owe nothing how long they have been so. The emptier the bucket is, the less a source may owe to be
//! answered, then the longer it must have been quiet, down to a minute or to one that was not heard of yet. So those
//! who ask much cannot take from the bucket what is below their mark: it is kept for those who ask less, the clients
//! that ask now and then before all. The bucket comes to rest where what is admitted is what the cap allows, and that
//! takes no measuring of rates and no look at other CPUs.
//!
//! Sources without a limit are always answered and pay like the others.

use crate::bucket::{Bucket, Ruling};

/// The time that an empty bucket takes to fill, a second and a bit.
pub const WINDOW_NS: u64 = 1 << 30;
/// Costs and buckets count sixteenths of nanoseconds: a cap of ten million is kept to a thousandth.
pub const UNITS_IN_A_NS: u64 = 1 << UNIT_SHIFT;

const UNIT_SHIFT: u32 = 4;
const WINDOW: u64 = WINDOW_NS << UNIT_SHIFT;
/// The bucket in 32 levels; at each a source may owe twice as much as at the one below, or have been quiet for half
/// as long.
const LEVEL_SHIFT: u32 = 29;
/// Of the limiter's ticks 2 to this are a minute and a bit.
const QUIET_BITS: u64 = 22;
/// No source that owes anything is answered below this level, which one that has been quiet for 4 ms is.
const DEBT_LEVEL: u64 = 14;
const _: () = assert!(WINDOW >> LEVEL_SHIFT == 32);

/// A CPU's part in the budget.
#[derive(Debug)]
pub struct Allowance<'a, B> {
    /// What an answer costs, in sixteenths of nanoseconds; 0 where there is no cap.
    pub cost: u64,
    /// When the bucket is full again, in the same units of `CLOCK_MONOTONIC`.
    pub bucket: &'a B,
}

impl<B: Bucket> Allowance<'_, B> {
    /// Whether there is an answer for a source of which the limiter knows this, and if so, takes it out of the
    /// bucket. `always` is for sources without a limit.
    #[inline(always)]
    pub(crate) fn admits(&self, ruling: &Ruling, always: bool, now_ns: u64) -> bool {
        let now = now_ns << UNIT_SHIFT;
        let until_full = self.bucket.load().wrapping_sub(now);
        // A moment of the past is a huge number.
        let until_full = if until_full.cast_signed() < 0 { 0 } else { until_full };
        if until_full >= WINDOW {
            return always;
        }
        let level = WINDOW.wrapping_sub(until_full) >> LEVEL_SHIFT & 63;
        let admitted = always
            || if ruling.owed() == 0 {
                level >= QUIET_BITS || ruling.quiet() >> (QUIET_BITS.wrapping_sub(level) & 63) != 0
            } else {
                level >= DEBT_LEVEL && ruling.owed() >> level == 0
            };
        if admitted {
            self.bucket.store(now.wrapping_add(until_full).wrapping_add(self.cost));
        }
        admitted
    }
}

/// How full a bucket is, from 0 to 32.
#[must_use]
pub const fn level(bucket: u64, now_ns: u64) -> u64 {
    let until_full = bucket.wrapping_sub(now_ns << UNIT_SHIFT);
    if until_full.cast_signed() < 0 { 32 } else { WINDOW.saturating_sub(until_full) >> LEVEL_SHIFT }
}
