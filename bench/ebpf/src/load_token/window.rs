//! The time of a step divided into windows, so that results show when something went wrong and not only how
//! often.

/// Largest number of windows of a step.
pub const WINDOWS: usize = 1024;
/// Binary logarithm of the shortest window in nanoseconds. A window of 2^23 ns is long enough to have more
/// than a few requests, and short enough that a machine that stood still for some milliseconds shows in one
/// or two windows only.
const SHORTEST: u32 = 23;

/// Returns the binary logarithm of the window length, in nanoseconds, of a step with this duration.
#[must_use]
pub const fn window_shift(duration_ns: u64) -> u32 {
    let mut shift = SHORTEST;
    while shift < 63 && duration_ns >> shift >= WINDOWS as u64 {
        shift += 1;
    }
    shift
}

/// Returns the window of a moment, given in nanoseconds from the start of the step.
#[must_use]
#[inline(always)]
pub const fn window(at_ns: u64, shift: u64) -> usize {
    (at_ns >> (shift & 63)) as usize & (WINDOWS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_of_a_step_has_a_window_of_its_own_time() {
        for duration_ns in [1, 400_000_000, 8_590_000_000, 600_000_000_000, u64::MAX >> 1] {
            let shift = u64::from(window_shift(duration_ns));
            assert_eq!(window(0, shift), 0);
            assert_eq!(window(duration_ns, shift) as u64, duration_ns >> shift);
        }
        assert_eq!(window_shift(400_000_000), 23);
    }
}
