//! The truth of a play: the host's clock, moved to where a leap second is near if the play has one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const S_PER_DAY: u64 = 86_400;

/// How far the time that is true in a play is ahead of the host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truth {
    shift_s: f64,
    leap: Option<LeapSecond>,
}

/// A leap second of a play.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeapSecond {
    /// When the clocks leap.
    pub(crate) at: Instant,
    /// By how much: -1 s is an insertion.
    pub(crate) by_s: f64,
}

impl LeapSecond {
    /// As a server announces it (RFC 5905, figure 9).
    pub(crate) fn indicator(self) -> u8 {
        if self.by_s < 0.0 { 1 } else { 2 }
    }
}

impl Truth {
    /// The truth is moved to the next end of June or December, so that a leap second comes after this time.
    /// `by_s` is -1 for an insertion and 1 for a deletion.
    pub(crate) fn with_leap(by_s: f64, after: Duration) -> Self {
        let (now, at) = (SystemTime::now(), Instant::now() + after);
        let host_s = (now + after).duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since 1970")]
        let midnight_s = next_half_year(host_s as u64);
        // A second that is deleted is the last one of the day.
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let leaps_at_s = midnight_s as f64 - by_s.max(0.0);
        Self { shift_s: leaps_at_s - host_s, leap: Some(LeapSecond { at, by_s }) }
    }

    /// How far the truth is ahead of the host's clock at first.
    pub(crate) fn shift_s(&self) -> f64 {
        self.shift_s
    }

    pub(crate) fn leap(&self) -> Option<LeapSecond> {
        self.leap
    }

    /// The error of a clock that was this far ahead of the host's at some moment between these two.
    pub(crate) fn error_s(&self, ahead_s: f64, from: Instant, to: Instant) -> f64 {
        let leapt_s = |at| self.leap.filter(|leap| at >= leap.at).map_or(0.0, |leap| leap.by_s);
        let (one, other) = (ahead_s - self.shift_s - leapt_s(from), ahead_s - self.shift_s - leapt_s(to));
        // Stamps of before and after the leap make anything between.
        if one * other < 0.0 {
            0.0
        } else if one.abs() < other.abs() {
            one
        } else {
            other
        }
    }
}

/// The next beginning of January or July, in s since 1970.
fn next_half_year(unix_s: u64) -> u64 {
    let mut day = 0;
    let mut year = 1970;
    loop {
        let february = if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 29 } else { 28 };
        for half in [31 + february + 31 + 30 + 31 + 30, 184] {
            day += half;
            if day * S_PER_DAY > unix_s {
                return day * S_PER_DAY;
            }
        }
        year += 1;
    }
}
