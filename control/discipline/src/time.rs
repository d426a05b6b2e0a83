//! Instants of the local clock, and seconds between them.
//!
//! The local clock is the clock of which the published line is a function, `CLOCK_MONOTONIC` in the daemon.
//! It never steps, and its rate changes only if somebody steers the kernel. Instants are whole nanoseconds.
//! Differences are `f64` seconds, named `_s`, because they lose nothing that matters: a day in a double is
//! exact to 20 ps.

const NS_PER_S: f64 = 1e9;

/// A reading of the local clock in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime {
    ns: i64,
}

impl LocalTime {
    /// Returns the instant at which the local clock read `ns` nanoseconds.
    #[must_use]
    pub const fn from_ns(ns: i64) -> Self {
        Self { ns }
    }

    /// Returns the reading in nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> i64 {
        self.ns
    }

    /// Returns the seconds from `earlier` to this instant; negative if `earlier` is in fact later.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        ns_to_s(self.ns.saturating_sub(earlier.ns))
    }

    /// Returns the instant `seconds` after this one.
    #[must_use]
    pub fn plus_seconds(self, seconds: f64) -> Self {
        Self { ns: self.ns.saturating_add(s_to_ns(seconds)) }
    }
}

/// Converts a difference in nanoseconds to seconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "differences, exact to 1 ns up to 104 days")]
pub fn ns_to_s(ns: i64) -> f64 {
    ns as f64 / NS_PER_S
}

/// Converts a difference in seconds to nanoseconds, rounded; saturates at the ends of `i64`.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "a float cast saturates, which is what is wanted")]
pub fn s_to_ns(seconds: f64) -> i64 {
    (seconds * NS_PER_S).round() as i64
}
