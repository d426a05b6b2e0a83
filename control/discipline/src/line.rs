//! The published clock line, and how far it may be wrong.

use super::leap::Leap;
use super::time::{LocalTime, s_to_ns};

/// How long the bound of a published line holds, in s.
pub(super) const LINE_VALID_S: f64 = 3600.0;

/// Time as a linear function of the local clock, with its possible error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockLine {
    /// The local time for which the other fields are given.
    pub at: LocalTime,
    /// UTC in ns since 1970, minus local time, at `at`.
    pub offset_ns: i64,
    /// True seconds per local second, minus one.
    pub frequency: f64,
    /// Standard deviation of the frequency.
    pub skew: f64,
    /// The source from which the bound is counted.
    pub reference: usize,
    /// Local time of the reference's latest sample: the reference time of RFC 5905.
    pub updated: LocalTime,
    /// The stratum: one more than that of the reference.
    pub stratum: u8,
    /// The leap second to announce.
    pub leap: Leap,
    /// Local time of the leap second that is to come next or was taken last, as exact as the line is then.
    pub leap_at: Option<LocalTime>,
    /// Round trip to the primary source, in s.
    pub root_delay_s: f64,
    /// The remaining error bound at `at`, in s.
    pub root_dispersion_s: f64,
    /// Growth of the dispersion, in s/s; holds for [`ClockLine::valid_s`].
    pub dispersion_rate: f64,
    /// Whether a majority of all configured sources has agreed on the line, and not only a majority of those
    /// that answer.
    pub of_configured_majority: bool,
}

impl ClockLine {
    /// Returns how long the bound holds without a new line, in s.
    #[must_use]
    pub const fn valid_s(&self) -> f64 {
        LINE_VALID_S
    }

    /// Returns UTC in ns since 1970 at local time `now`.
    #[must_use]
    pub fn utc_ns(&self, now: LocalTime) -> i64 {
        let drifted_ns = s_to_ns(now.seconds_since(self.at) * self.frequency);
        now.as_ns().saturating_add(self.offset_ns).saturating_add(drifted_ns)
    }

    /// Returns the largest possible error of [`ClockLine::utc_ns`] at `now`, in s.
    #[must_use]
    pub fn bound_s(&self, now: LocalTime) -> f64 {
        let grown_s = self.dispersion_rate * now.seconds_since(self.at).max(0.0);
        self.root_delay_s / 2.0 + self.root_dispersion_s + grown_s
    }

    /// Returns the local time at which the bound reaches `limit_s`, or from which it no longer holds.
    #[must_use]
    pub fn horizon(&self, limit_s: f64) -> LocalTime {
        let room_s = limit_s - self.bound_s(self.at);
        self.at.plus_seconds((room_s / self.dispersion_rate).clamp(0.0, LINE_VALID_S))
    }
}
