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

/// The [`Ruling::until_full`] of a source that has no bucket: it has been quiet for ever.
const NEVER: u64 = 1;
/// The bits of a packed ruling that hold the excess.
const EXCESS_SHIFT: u32 = 4;
const EXCESS: u64 = 15;

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

/// Returns the smaller of two numbers below 2^63.
#[inline(always)]
pub(crate) const fn smaller(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    b.wrapping_add(difference & (difference.cast_signed() >> 63).cast_unsigned())
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
    /// Whether a bucket was looked for, and the source had none.
    pub is_new: bool,
    /// Whether a source without a bucket took the place of one that had been quiet for a quarter of a second at most: there are
    /// more sources than places.
    pub is_crowded: bool,
    /// How far from full the source's bucket was, in whole ticks above [`MOMENT_SHIFT`] bits; [`Self::owed`] and
    /// [`Self::quiet`] derive the rest if needed.
    pub(crate) until_full: u64,
    /// How many more requests of the source were refused than answered, up to a maximum, if this one is refused.
    pub(crate) excess: u64,
}

impl Ruling {
    /// Nothing is known about the source, and nothing was looked for.
    pub(crate) const fn unlimited() -> Self {
        Self {
            decision: Decision::Answer,
            hash: u64::MAX,
            evicted: false,
            is_new: false,
            is_crowded: false,
            until_full: NEVER,
            excess: 0,
        }
    }

    /// The source is refused before any other when the budget runs low.
    pub(crate) const fn of_denied(hash: u64) -> Self {
        let until_full = 1 << (LONGEST_WINDOW_BITS + MOMENT_SHIFT);
        Self { decision: Decision::Drop, hash, until_full, ..Self::unlimited() }
    }

    /// Packs it into a word, without the hash; see [`crate::admission::Client::to_words`].
    #[must_use]
    #[inline(always)]
    pub const fn to_word(&self) -> u64 {
        self.until_full >> MOMENT_SHIFT << MOMENT_SHIFT
            | (self.excess & EXCESS) << EXCESS_SHIFT
            | (self.is_crowded as u64) << 3
            | (self.is_new as u64) << 2
            | (self.evicted as u64) << 1
            | matches!(self.decision, Decision::Drop) as u64
    }

    /// The inverse of [`Self::to_word`] for rulings before it is decided what becomes of a refused request. `hash` is that
    /// of the source, or `u64::MAX` if no bucket was looked for.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64, hash: u64) -> Self {
        let is_new = word >> 2 & 1 != 0;
        let until_full = word >> MOMENT_SHIFT << MOMENT_SHIFT;
        Self {
            decision: if word & 1 == 0 { Decision::Answer } else { Decision::Drop },
            hash,
            evicted: word >> 1 & 1 != 0,
            is_new,
            is_crowded: word >> 3 & 1 != 0,
            until_full: if is_new || hash == u64::MAX { NEVER } else { until_full },
            excess: word >> EXCESS_SHIFT & EXCESS,
        }
    }

    /// Whether the source has a limit.
    #[must_use]
    #[inline(always)]
    pub const fn is_limited(&self) -> bool {
        self.hash != u64::MAX
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

    /// Returns how long the bucket had been full, in ns; see [`Self::quiet`].
    #[inline(always)]
    pub(crate) const fn quiet_ns(&self) -> u64 {
        self.quiet() << TICK_SHIFT
    }

    /// Returns how long the bucket had been full, in ticks, if the source owes nothing. For a source that had no
    /// bucket it is the largest value.
    #[must_use]
    #[inline(always)]
    pub const fn quiet(&self) -> u64 {
        0_u64.wrapping_sub(self.until_full) >> MOMENT_SHIFT
    }
}
