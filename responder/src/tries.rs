//! Tells a newcomer's second and third try from a stranger who asks once: a flood from random sources never comes back.
//!
//! A word holds the marks of the last five sources that came to it, 12 bits of the keyed hash each. The newest one
//! pushes out the oldest. Only sources of which nothing else is known come here, and only while the budget is short.
//! With 2^19 words, a source that asks again after two seconds is recognised about 95 times in 100 under a flood of half a
//! million strangers per second, as Poisson's law has it; a stranger is taken for one who comes back once in 800.

use crate::bucket::{Bucket, WAYS};

/// Bits of a mark.
const MARK_BITS: u32 = 12;
const MARK: u64 = (1 << MARK_BITS) - 1;
/// The bits of the hash above this are the mark.
const MARK_SHIFT: u32 = 52;
/// Two bits of the hash choose the word in a set; those below choose the set, see [`crate::known::set_number`].
const WAY_SHIFT: u32 = 42;
const WAY: u64 = 3;

/// Returns whether the source with this hash has come lately, and takes note of it if it has not.
#[inline(always)]
pub(crate) fn came_before<B: Bucket>(set: &[B; WAYS], hash: u64) -> bool {
    let Some(place) = set.get((hash >> WAY_SHIFT & WAY) as usize) else {
        return false;
    };
    let word = place.load();
    let mark = hash >> MARK_SHIFT;
    // An empty place is no source's mark.
    let mark = if mark == 0 { 1 } else { mark };
    if holds(word, mark) {
        return true;
    }
    place.store(word << MARK_BITS | mark);
    false
}

/// Whether one of the five marks is this one. There are no branches, which a flood would have mispredicted.
#[inline(always)]
fn holds(word: u64, mark: u64) -> bool {
    // 1 if the mark at this place is the same.
    let is_same = |shift: u32| ((word >> shift & MARK) ^ mark).wrapping_sub(1) >> 63;
    is_same(0) | is_same(12) | is_same(24) | is_same(36) | is_same(48) != 0
}
