//! When the kernel takes the leap second that it has been told of, for a clock that is mirrored.
//!
//! The kernel takes it at the end of the UTC day, at a tick of its timer: some milliseconds late, in which
//! `CLOCK_REALTIME` is one second off (`second_overflow` in the kernel's `kernel/time/ntp.c`).

use crate::sys::Adjtimex;

const SECOND_NS: i128 = 1_000_000_000;
const DAY_NS: i128 = 86_400 * SECOND_NS;
/// The kernel's timer ticks at least this often: 100 times per second, and a busy machine may be late.
const LATE_NS: i128 = 50_000_000;

/// A leap second that is to come, or comes just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// In so many nanoseconds, nobody can say any more whether it has come.
    In(u64),
    /// Nobody can say whether it has come.
    Now,
}

/// Looks for the leap second that the kernel is armed for, at `now_ns` of `CLOCK_REALTIME` (since 1970), which may be off
/// by `bound_ns`.
pub(super) fn ahead(kernel: &Adjtimex, now_ns: i128, bound_ns: u64) -> Option<Ahead> {
    let early_ns = match kernel.state {
        libc::TIME_INS => 0,
        libc::TIME_DEL => SECOND_NS,
        _ => return None,
    };
    let bound_ns = i128::from(bound_ns);
    // While the kernel is late, its clock is on the next day already.
    let day = (now_ns - LATE_NS - bound_ns - 1).div_euclid(DAY_NS);
    let leap_ns = (day + 1) * DAY_NS - early_ns;
    let starts_in_ns = leap_ns - bound_ns - now_ns;
    if starts_in_ns > 0 {
        return Some(Ahead::In(u64::try_from(starts_in_ns).unwrap_or(u64::MAX)));
    }
    (now_ns <= leap_ns + LATE_NS + bound_ns).then_some(Ahead::Now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timekeeping::fake::UNTOUCHED;

    /// The end of a day.
    const END_NS: i128 = 20_000 * DAY_NS;
    const MS: i128 = 1_000_000;

    fn armed(state: i32) -> Adjtimex {
        Adjtimex { state, ..UNTOUCHED }
    }

    #[test]
    fn the_gate_closes_a_bound_before_the_leap_second_and_opens_when_the_kernel_has_taken_it() {
        for (state, leap_ns) in [(libc::TIME_INS, END_NS), (libc::TIME_DEL, END_NS - SECOND_NS)] {
            let kernel = armed(state);
            let at = |ns: i128| ahead(&kernel, leap_ns + ns, 2_000_000);
            assert_eq!(at(-5_000 * MS), Some(Ahead::In(4_998_000_000)));
            assert_eq!(at(-2 * MS - 1), Some(Ahead::In(1)));
            for closed in [-2 * MS, 0, 10 * MS, 52 * MS] {
                assert_eq!(at(closed), Some(Ahead::Now), "{closed}");
            }
        }
        for state in [libc::TIME_OK, libc::TIME_OOP, libc::TIME_WAIT, libc::TIME_ERROR] {
            assert_eq!(ahead(&armed(state), END_NS, 2_000_000), None);
        }
    }

    #[test]
    fn a_day_that_has_only_begun_is_far_from_its_end() {
        let kernel = armed(libc::TIME_INS);
        let hour_ns = 3_600 * SECOND_NS;
        assert_eq!(
            ahead(&kernel, END_NS + hour_ns, 0),
            Some(Ahead::In(u64::try_from(DAY_NS - hour_ns).unwrap()))
        );
    }
}
