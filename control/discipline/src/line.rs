//! The published line of time, and how far it may be wrong.

use super::leap::Leap;
use super::time::{LocalTime, s_to_ns};

/// A published line's bound holds for so long, in s.
pub(super) const LINE_VALID_S: f64 = 3600.0;

/// Time as a line through the local clock, with the error that it may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockLine {
    /// The local time that the rest is given for.
    pub at: LocalTime,
    /// UTC in ns since 1970, minus local time, at `at`.
    pub offset_ns: i64,
    /// True seconds a local second, minus one.
    pub frequency: f64,
    /// Standard deviation of the frequency.
    pub skew: f64,
    /// The source that the bound is counted from.
    pub reference: usize,
    /// Local time of the reference's latest sample: the reference time of RFC 5905.
    pub updated: LocalTime,
    /// One more than the reference's stratum.
    pub stratum: u8,
    /// The leap second to announce.
    pub leap: Leap,
    /// Round trip to the primary source, in s.
    pub root_delay_s: f64,
    /// The rest of the error bound at `at`, in s.
    pub root_dispersion_s: f64,
    /// Growth of the dispersion, in s/s; holds for [`ClockLine::valid_s`].
    pub dispersion_rate: f64,
    /// Whether a majority of all configured sources has agreed on it, not only one of those that answer.
    pub of_configured_majority: bool,
}

impl ClockLine {
    /// For how long the bound holds without a new line, in s.
    #[must_use]
    pub const fn valid_s(&self) -> f64 {
        LINE_VALID_S
    }

    /// UTC in ns since 1970 at local time `now`.
    #[must_use]
    pub fn utc_ns(&self, now: LocalTime) -> i64 {
        let drifted_ns = s_to_ns(now.seconds_since(self.at) * self.frequency);
        now.as_ns().saturating_add(self.offset_ns).saturating_add(drifted_ns)
    }

    /// The most that [`ClockLine::utc_ns`] may be wrong at `now`, in s.
    #[must_use]
    pub fn bound_s(&self, now: LocalTime) -> f64 {
        let grown_s = self.dispersion_rate * now.seconds_since(self.at).max(0.0);
        self.root_delay_s / 2.0 + self.root_dispersion_s + grown_s
    }

    /// The local time at which the bound reaches `limit_s`, or holds no longer.
    #[must_use]
    pub fn horizon(&self, limit_s: f64) -> LocalTime {
        let room_s = limit_s - self.bound_s(self.at);
        self.at.plus_seconds((room_s / self.dispersion_rate).clamp(0.0, LINE_VALID_S))
    }
}
