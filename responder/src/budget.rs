//! A cap on all answers of the server. Each CPU keeps its part of it without locks. If it is not enough for
//! all, the sources that owe most are refused first.
//!
//! # The bucket
//!
//! Each CPU has a token bucket, which is full after [`WINDOW_NS`] without an answer. The cost of an answer
//! is the time that the bucket takes to earn it. It comes from the daemon, which divides the cap among the
//! CPUs so that their buckets are equally full. In any time t a CPU answers at most `(t + WINDOW_NS) / cost +
//! 1` requests, whatever arrives, and whether the daemon lives or not.
//!
//! # Who is refused
//!
//! The limiter knows how much each source owes: how long it would have to be quiet for its bucket to be
//! full. For sources that owe nothing, it knows how long they have owed nothing. The emptier the budget's
//! bucket is, the less a source may owe to be answered. Below that, the source must have been quiet for ever
//! longer, up to a minute, or be unknown. So sources that ask much cannot take what is left below their mark:
//! it is kept for those that ask less, above all for clients that ask now and then. The bucket settles where
//! the admitted requests are what the cap allows. That needs no measurement of rates and no look at other
//! CPUs.
//!
//! Sources without a limit are always answered and pay like the others.

use crate::bucket::{Bucket, Ruling};

/// Time in which an empty bucket fills: a little more than a second.
pub const WINDOW_NS: u64 = 1 << 30;
/// Costs and buckets are in units of 1/16 ns, so that a cap of ten million is kept to a thousandth.
pub const UNITS_IN_A_NS: u64 = 1 << UNIT_SHIFT;

/// Parts of a unit in which the cost of a byte is told. A hundred gigabits per second are a unit for each byte.
pub const PARTS_OF_A_UNIT: u64 = 1 << PART_SHIFT;

const UNIT_SHIFT: u32 = 4;
const PART_SHIFT: u32 = 10;
const WINDOW: u64 = WINDOW_NS << UNIT_SHIFT;
/// The bucket is divided into 32 levels. At each level a source may owe twice as much as at the one below, or
/// have been quiet for half as long.
const LEVEL_SHIFT: u32 = 29;
/// 2 to the power of this many ticks of the limiter are a little more than a minute.
const QUIET_BITS: u64 = 22;
/// No source that owes anything is answered below this level. A source that has been quiet for 4 ms is.
const DEBT_LEVEL: u64 = 14;
const _: () = assert!(WINDOW >> LEVEL_SHIFT == 32);

/// What an answer costs a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cost {
    /// The least that an answer costs, in units of 1/16 ns.
    pub answer: u64,
    /// What each byte of its Ethernet frame costs, in parts of such a unit: there are [`PARTS_OF_A_UNIT`].
    pub byte: u64,
}

impl Cost {
    /// There is no cap.
    pub const NOTHING: Self = Self { answer: 0, byte: 0 };

    /// Returns the cost of an answer with a frame of so many bytes: by whichever cap is the tighter.
    #[must_use]
    #[inline(always)]
    pub const fn of(self, bytes: usize) -> u64 {
        let parts = self.byte.wrapping_mul(bytes as u64);
        let by_bytes = parts.wrapping_add(PARTS_OF_A_UNIT.wrapping_sub(1)) >> PART_SHIFT;
        if by_bytes > self.answer { by_bytes } else { self.answer }
    }
}

/// A CPU's part of the budget.
#[derive(Debug)]
pub struct Allowance<'a, B> {
    /// What an answer costs.
    pub cost: Cost,
    /// When the bucket is full again, in the same units of `CLOCK_MONOTONIC`.
    pub bucket: &'a B,
}

impl<B: Bucket> Allowance<'_, B> {
    /// Whether there is an answer for a source with this ruling. If so, takes it out of the bucket. `always`
    /// is set for sources without a limit. `bytes` is the length of the answer's frame.
    #[inline(always)]
    pub(crate) fn admits(&self, ruling: &Ruling, always: bool, bytes: usize, now_ns: u64) -> bool {
        let now = now_ns << UNIT_SHIFT;
        let until_full = self.bucket.load().wrapping_sub(now);
        // A moment in the past is a huge number.
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
            self.bucket.store(now.wrapping_add(until_full).wrapping_add(self.cost.of(bytes)));
        }
        admitted
    }
}

/// Returns how full a bucket is, from 0 to 32.
#[must_use]
pub const fn level(bucket: u64, now_ns: u64) -> u64 {
    let until_full = bucket.wrapping_sub(now_ns << UNIT_SHIFT);
    if until_full.cast_signed() < 0 { 32 } else { WINDOW.saturating_sub(until_full) >> LEVEL_SHIFT }
}
