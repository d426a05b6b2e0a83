//! When a request was sent and its answer came by `CLOCK_MONOTONIC`, from the kernel's timestamps of both.
//!
//! The kernel timestamps packets by `CLOCK_REALTIME`, which may be stepped at any moment. Each timestamp is
//! converted with a reading of both clocks next to it. It is believed only if it falls between the moments
//! that the program saw itself; otherwise those moments count, with their larger error.

use protocol::Times;

use crate::discipline::ns_to_s;
use crate::sys::kernel_clock::CrossTimestamp;

/// How late a program may notice what happened before it was woken up, in s. A late notice also makes the
/// round trip longer, and half of that is part of the error bound anyway.
const WAKE_UP_S: f64 = 50e-6;

/// What is known about both ends of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExchangeTimestamps {
    /// Both clocks, just before the request was passed to the kernel.
    pub(super) before: CrossTimestamp,
    /// `CLOCK_MONOTONIC` after the kernel had taken the request.
    pub(super) handed_over_ns: u64,
    /// The kernel's timestamp of the request.
    pub(super) transmit_stamp_ns: Option<i128>,
    /// The kernel's timestamp of the answer.
    pub(super) receive_stamp_ns: Option<i128>,
    /// Both clocks, just after the program had received the answer.
    pub(super) after: CrossTimestamp,
}

impl ExchangeTimestamps {
    pub(super) fn times(&self) -> Times {
        let begin = self.before.monotonic_before_ns.cast_signed();
        let end = self.after.monotonic_after_ns.cast_signed();
        let (sent_ns, sent_error_s) = self
            .transmit_stamp_ns
            .map(|stamp_ns| carry_over(stamp_ns, &self.before))
            .filter(|(at, _)| (begin..=end).contains(at))
            .unwrap_or_else(|| {
                let earliest = self.before.monotonic_after_ns.cast_signed();
                (earliest, ns_to_s(self.handed_over_ns.cast_signed().saturating_sub(earliest)))
            });
        let (received_ns, received_error_s) = self
            .receive_stamp_ns
            .map(|stamp_ns| carry_over(stamp_ns, &self.after))
            .filter(|(at, _)| (sent_ns..=end).contains(at))
            .unwrap_or((self.after.monotonic_before_ns.cast_signed(), WAKE_UP_S));
        Times { sent_ns, received_ns, error_s: f64::midpoint(sent_error_s, received_error_s) }
    }
}

/// Converts a timestamp by `CLOCK_REALTIME` to `CLOCK_MONOTONIC`, with its error in s.
fn carry_over(stamp_ns: i128, reading: &CrossTimestamp) -> (i64, f64) {
    let middle_ns = i128::midpoint(reading.monotonic_before_ns.into(), reading.monotonic_after_ns.into());
    let at_ns = middle_ns - (reading.realtime_ns - stamp_ns);
    let half_width_ns = reading.width_ns().cast_signed() / 2;
    (i64::try_from(at_ns).unwrap_or(i64::MAX), ns_to_s(half_width_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALTIME_NS: i128 = 1_790_000_000_000_000_000;

    /// Makes a reading that took 40 ns, of clocks that differ by this much.
    fn reading(monotonic_ns: u64, difference_ns: i128) -> CrossTimestamp {
        CrossTimestamp {
            monotonic_before_ns: monotonic_ns - 20,
            realtime_ns: i128::from(monotonic_ns) + difference_ns,
            monotonic_after_ns: monotonic_ns + 20,
        }
    }

    /// Makes an exchange that was asked at 1 ms, sent by the kernel at 1.02 ms, answered at 2 ms and seen at
    /// 2.1 ms.
    fn seen() -> ExchangeTimestamps {
        ExchangeTimestamps {
            before: reading(1_000_000, REALTIME_NS),
            handed_over_ns: 1_030_000,
            transmit_stamp_ns: Some(REALTIME_NS + 1_020_000),
            receive_stamp_ns: Some(REALTIME_NS + 2_000_000),
            after: reading(2_100_000, REALTIME_NS),
        }
    }

    fn ends_ns(seen: &ExchangeTimestamps) -> (i64, i64) {
        let times = seen.times();
        (times.sent_ns, times.received_ns)
    }

    #[test]
    fn the_kernel_s_stamps_count() {
        assert_eq!(ends_ns(&seen()), (1_020_000, 2_000_000));
        assert!(seen().times().error_s < 30e-9);
    }

    #[test]
    fn a_step_between_the_stamps_changes_nothing() {
        for step_ns in [-3_600_000_000_000, -1000, 1000, 1_000_000_000] {
            let stepped = REALTIME_NS + step_ns;
            let seen = ExchangeTimestamps {
                receive_stamp_ns: Some(stepped + 2_000_000),
                after: reading(2_100_000, stepped),
                ..seen()
            };
            assert_eq!(ends_ns(&seen), (1_020_000, 2_000_000), "{step_ns}");
        }
    }

    #[test]
    fn a_stamp_that_cannot_be_is_not_believed() {
        let step_ns = 1_000_000_000;
        let before_the_step =
            ExchangeTimestamps { after: reading(2_100_000, REALTIME_NS + step_ns), ..seen() };
        assert_eq!(ends_ns(&before_the_step), (1_020_000, 2_099_980));
        let after_the_step =
            ExchangeTimestamps { transmit_stamp_ns: Some(REALTIME_NS + step_ns + 1_020_000), ..seen() };
        assert_eq!(ends_ns(&after_the_step), (1_000_020, 2_000_000));
    }

    #[test]
    fn without_stamps_the_error_says_so() {
        let seen = ExchangeTimestamps { transmit_stamp_ns: None, receive_stamp_ns: None, ..seen() };
        assert_eq!(ends_ns(&seen), (1_000_020, 2_099_980));
        assert!(seen.times().error_s > 30e-6);
    }
}
