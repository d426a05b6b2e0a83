//! The clocks of a step: the one that schedules requests, and the one that the server is compared with.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use responder::NtpTimestamp;

pub(super) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| nanos(Duration::from(time)))
}

/// Returns the wall clock's time, plus this much.
pub(super) fn ntp_after(time: Duration) -> NtpTimestamp {
    let then = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from) + time;
    NtpTimestamp::from_unix(then.as_secs().cast_signed(), then.subsec_nanos())
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
