//! Seeds for hash tables whose buckets must not overflow.

/// Number of seeds that are tried before a table counts as full.
const ATTEMPTS: u64 = 4096;

/// Returns the first table that `fill` makes under a seed, or `None` if it makes none under any of them. Seeds are odd,
/// and differ much from one another.
pub(crate) fn first_that_fits<T>(fill: impl FnMut(u64) -> Option<T>) -> Option<T> {
    (0..ATTEMPTS).map(odd_seed).find_map(fill)
}

const fn odd_seed(attempt: u64) -> u64 {
    attempt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}
