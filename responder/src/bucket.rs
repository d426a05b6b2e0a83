//! A bucket of the limiter as a word that all CPUs share, and what is known of a source by it.

use core::sync::atomic::{AtomicU64, Ordering};

/// Buckets in a set: half a cache line.
pub const WAYS: usize = 4;
/// The longest time to fill an empty bucket, in seconds.
pub const LONGEST_WINDOW_S: u64 = 3600;

/// A tick of the buckets' clock is 2^14 ns, 16 microseconds.
pub(crate) const TICK_SHIFT: u32 = 14;
pub(crate) const TICKS_IN_A_SECOND: u64 = 1_000_000_000 >> TICK_SHIFT;
/// The longest window in ticks is shorter than 2 to this.
pub(crate) const LONGEST_WINDOW_BITS: u32 = 28;
const _: () = assert!(LONGEST_WINDOW_S.saturating_mul(TICKS_IN_A_SECOND) >> LONGEST_WINDOW_BITS == 0);
/// In a bucket, the bits above this are the moment at which it is full, in ticks modulo 2^40, 208 days.
pub(crate) const MOMENT_SHIFT: u32 = 24;

/// A word that other CPUs read and write too, each time as a whole. In the eBPF program that is not an
/// `AtomicU64`, whose loads its compiler has no instruction for.
pub trait Bucket {
    /// The word.
    fn load(&self) -> u64;

    /// Changes it.
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

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Answered.
    Answer,
    /// Over the rate, and answered by chance.
    Leak,
    /// Over the rate, and told so.
    Kiss,
    /// Over the rate, and dropped.
    Drop,
}

/// A decision, and what it was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What becomes of the request.
    pub decision: Decision,
    /// The source's hash, or `u64::MAX` where it was not looked for.
    pub hash: u64,
    /// Whether a source was forgotten for it whose bucket was not full.
    pub evicted: bool,
    /// How far from full the source's bucket was. Whoever wants to know more pays for it.
    pub(crate) until_full: u64,
}

impl Ruling {
    /// Nothing is known of the source: it might never have asked.
    pub(crate) const fn unknown(decision: Decision) -> Self {
        Self { decision, hash: u64::MAX, evicted: false, until_full: 1 }
    }

    /// The source goes without before any other.
    pub(crate) const fn of_denied(decision: Decision) -> Self {
        Self { until_full: 1 << (LONGEST_WINDOW_BITS + MOMENT_SHIFT), ..Self::unknown(decision) }
    }

    /// How far from full the source's bucket was, in ticks of its clock.
    #[must_use]
    #[inline(always)]
    pub const fn owed(&self) -> u64 {
        // More than the longest window is a moment of the past; just that is what `of_denied` says.
        let owed = self.until_full >> MOMENT_SHIFT;
        if owed >> LONGEST_WINDOW_BITS > 1 { 0 } else { owed }
    }

    /// How long it had been full, likewise, if it was; as long as can be for a source that had none.
    #[must_use]
    #[inline(always)]
    pub const fn quiet(&self) -> u64 {
        0_u64.wrapping_sub(self.until_full) >> MOMENT_SHIFT
    }
}
