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
//! The emptier the bucket is, the more a source must have to be answered. What is left below the mark of one kind of
//! source is kept for those of the kinds above it, see [`Rank`]:
//!
//! - Sources that are known from earlier ([`crate::known`]) are answered as long as there is anything, unless they ask
//!   all the time.
//! - Newcomers who ask a second or third time ([`crate::tries`]) are answered above [`NEWCOMER_LEVEL`].
//! - Strangers, whom nobody has seen before, are answered above [`STRANGER_LEVEL`]: all that a flood from random sources
//!   gets is what nobody else wants.
//! - Of other sources the limiter knows how long their bucket has been full: the emptier the budget is, the longer it must have
//!   been, up to a minute.
//! - Sources that owe something are answered above [`DEBT_LEVEL`] only. The limiter knows how much each owes: how
//!   long it would have to be quiet for its bucket to be full. The emptier the budget is, the less it may be.
//!
//! The bucket settles where the admitted requests are what the cap allows. That needs no measurement of rates and no
//! look at other CPUs.
//!
//! Sources without a limit are always answered. They pay like the others while there is anything to pay with.

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
/// No stranger is answered below this level.
const STRANGER_LEVEL: u64 = 12;
/// No newcomer who comes back is answered below this level.
const NEWCOMER_LEVEL: u64 = 4;
/// At this level and above, all sources that owe nothing are answered.
pub(crate) const PLENTY: u64 = QUIET_BITS;
/// By how many levels known sources are ahead of others that have been quiet for as long.
const KNOWN_LEVELS: u64 = 16;
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

/// The kinds of sources, in the order in which they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Without a limit.
    Unlimited,
    /// Known from earlier.
    Known,
    /// With a bucket, or not looked for.
    Ordinary,
    /// Without a bucket, but come before.
    Newcomer,
    /// Never seen before.
    Stranger,
}

impl<B: Bucket> Allowance<'_, B> {
    /// How full the bucket is, from 0 to 32.
    #[inline(always)]
    pub(crate) fn level(&self, now_ns: u64) -> u64 {
        WINDOW.saturating_sub(self.until_full(now_ns)) >> LEVEL_SHIFT & 63
    }

    #[inline(always)]
    fn until_full(&self, now_ns: u64) -> u64 {
        let until_full = self.bucket.load().wrapping_sub(now_ns << UNIT_SHIFT);
        // A moment in the past is a huge number.
        if until_full.cast_signed() < 0 { 0 } else { until_full }
    }

    /// Whether there is an answer for a source with this ruling, at this level. If so, takes it out of the bucket. `bytes`
    /// is the length of the answer's frame.
    #[inline(always)]
    pub(crate) fn admits(&self, ruling: &Ruling, rank: Rank, bytes: usize, level: u64, now_ns: u64) -> bool {
        let until_full = self.until_full(now_ns);
        if until_full >= WINDOW {
            return rank == Rank::Unlimited;
        }
        let admitted = match rank {
            Rank::Unlimited => true,
            Rank::Stranger => level >= STRANGER_LEVEL,
            Rank::Newcomer => level >= NEWCOMER_LEVEL,
            // One that owes draws on its reserve, which is small.
            Rank::Known => ruling.owed() != 0 || was_quiet_enough(ruling, level.wrapping_add(KNOWN_LEVELS)),
            Rank::Ordinary if ruling.owed() == 0 => was_quiet_enough(ruling, level),
            Rank::Ordinary => level >= DEBT_LEVEL && ruling.owed() >> level == 0,
        };
        if admitted {
            self.charge(bytes, now_ns);
        }
        admitted
    }

    /// Takes an answer with a frame of so many bytes out of the bucket.
    #[inline(always)]
    pub(crate) fn charge(&self, bytes: usize, now_ns: u64) {
        let full = (now_ns << UNIT_SHIFT).wrapping_add(self.until_full(now_ns));
        self.bucket.store(full.wrapping_add(self.cost.of(bytes)));
    }
}

/// Whether a source's bucket has been full for as long as is asked for at a level.
#[inline(always)]
const fn was_quiet_enough(ruling: &Ruling, level: u64) -> bool {
    level >= QUIET_BITS || ruling.quiet() >> (QUIET_BITS.wrapping_sub(level) & 63) != 0
}

/// Returns how full a bucket is, from 0 to 32.
#[must_use]
pub const fn level(bucket: u64, now_ns: u64) -> u64 {
    let until_full = bucket.wrapping_sub(now_ns << UNIT_SHIFT);
    if until_full.cast_signed() < 0 { 32 } else { WINDOW.saturating_sub(until_full) >> LEVEL_SHIFT }
}
