//! The time of a step in windows, so that it is known when something went wrong, and not only how often.

/// The most windows that a step has.
pub const WINDOWS: usize = 1024;
/// The shortest windows have 2^23 ns: long enough for the requests in it to be more than a few, and short enough for
/// a machine that stood still for some milliseconds to show in one or two of them.
const SHORTEST: u32 = 23;

/// Windows of a step that lasts so long have 2 to the power of this nanoseconds.
#[must_use]
pub const fn window_shift(duration_ns: u64) -> u32 {
    let mut shift = SHORTEST;
    while shift < 63 && duration_ns >> shift >= WINDOWS as u64 {
        shift += 1;
    }
    shift
}

/// The window of a moment, in nanoseconds from the start of the step.
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
