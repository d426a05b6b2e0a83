//! A bucket of the limiter as a word that all CPUs share, and what it says about a source.

use core::sync::atomic::{AtomicU64, Ordering};

/// Number of buckets in a set: half a cache line.
pub const WAYS: usize = 4;
/// The longest time to fill an empty bucket, in seconds.
pub const LONGEST_WINDOW_S: u64 = 3600;

/// A tick of the buckets' clock is 2^14 ns, 16 microseconds.
pub(crate) const TICK_SHIFT: u32 = 14;
pub(crate) const TICKS_IN_A_SECOND: u64 = 1_000_000_000 >> TICK_SHIFT;
/// The longest window in ticks is shorter than 2 to the power of this.
pub(crate) const LONGEST_WINDOW_BITS: u32 = 28;
const _: () = assert!(LONGEST_WINDOW_S.saturating_mul(TICKS_IN_A_SECOND) >> LONGEST_WINDOW_BITS == 0);
/// In a bucket, the bits above this are the moment at which it is full, in ticks modulo 2^40, 208 days.
pub(crate) const MOMENT_SHIFT: u32 = 24;

/// A word that other CPUs read and write too, each time as a whole. In the eBPF program it is not an
/// `AtomicU64`, because the compiler has no instruction for its loads.
pub trait Bucket {
    /// Reads the word.
    fn load(&self) -> u64;

    /// Writes the word.
    fn store(&self, word: u64);
}

impl Bucket for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, word: u64) {
        self.store(word, Ordering::Relaxed);
    }
}

/// The limiter's decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request is answered.
    Answer,
    /// The source is over the rate, and the request is answered by chance.
    Leak,
    /// The source is over the rate, and gets a kiss of death.
    Kiss,
    /// The source is over the rate, and the request is dropped.
    Drop,
}

/// A decision, and what it is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The decision itself.
    pub decision: Decision,
    /// The source's hash, or `u64::MAX` if no bucket was looked for.
    pub hash: u64,
    /// Whether a source whose bucket was not full was forgotten for this one.
    pub evicted: bool,
    /// How far from full the source's bucket was; [`Self::owed`] and [`Self::quiet`] derive the rest if
    /// needed.
    pub(crate) until_full: u64,
}

impl Ruling {
    /// Nothing is known about the source: it may never have asked before.
    pub(crate) const fn unknown(decision: Decision) -> Self {
        Self { decision, hash: u64::MAX, evicted: false, until_full: 1 }
    }

    /// The source is refused before any other when the budget runs low.
    pub(crate) const fn of_denied(decision: Decision) -> Self {
        Self { until_full: 1 << (LONGEST_WINDOW_BITS + MOMENT_SHIFT), ..Self::unknown(decision) }
    }

    /// Returns how far from full the source's bucket was, in ticks of its clock.
    #[must_use]
    #[inline(always)]
    pub const fn owed(&self) -> u64 {
        // A value above the longest window stands for a moment in the past; exactly the longest window is
        // what `of_denied` sets.
        let owed = self.until_full >> MOMENT_SHIFT;
        if owed >> LONGEST_WINDOW_BITS > 1 { 0 } else { owed }
    }

    /// Returns how long the bucket had been full, in ticks, or 0 if it was not. For a source that had no
    /// bucket it is the largest value.
    #[must_use]
    #[inline(always)]
    pub const fn quiet(&self) -> u64 {
        0_u64.wrapping_sub(self.until_full) >> MOMENT_SHIFT
    }
}
