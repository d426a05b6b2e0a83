//! A word of a map as a limiter's bucket.

use core::cell::UnsafeCell;

use responder::limiter::Bucket;

/// A word that programs on all CPUs read and write.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

impl Bucket for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: an aligned word in a map. Volatile, because other CPUs write it at any time: one load
        // instruction, whose value nothing is assumed about.
        unsafe { core::ptr::read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn store(&self, word: u64) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(self.0.get(), word) }
    }
}
