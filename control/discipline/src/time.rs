//! Instants of the local clock, and seconds between them.
//!
//! The local clock is whatever the published line runs through, `CLOCK_MONOTONIC` in the daemon: it never
//! steps, and its rate changes only where somebody steers the kernel. Instants are whole nanoseconds;
//! differences are `f64` seconds, named `_s`, since a difference loses nothing that matters: a day in a
//! double is exact to 20 ps.

const NS_PER_S: f64 = 1e9;

/// A reading of the local clock in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime {
    ns: i64,
}

impl LocalTime {
    /// The instant at which the local clock read `ns` nanoseconds.
    #[must_use]
    pub const fn from_ns(ns: i64) -> Self {
        Self { ns }
    }

    /// The reading in nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> i64 {
        self.ns
    }

    /// Seconds from `earlier` to this instant; negative where `earlier` is in fact later.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        ns_to_s(self.ns.saturating_sub(earlier.ns))
    }

    /// The instant `seconds` after this one.
    #[must_use]
    pub fn plus_seconds(self, seconds: f64) -> Self {
        Self { ns: self.ns.saturating_add(s_to_ns(seconds)) }
    }
}

/// Seconds of a difference in nanoseconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "differences, exact to 1 ns up to 104 days")]
pub fn ns_to_s(ns: i64) -> f64 {
    ns as f64 / NS_PER_S
}

/// Nanoseconds of a difference in seconds, rounded; saturates at the ends of `i64`.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "a float cast saturates, which is what is wanted")]
pub fn s_to_ns(seconds: f64) -> i64 {
    (seconds * NS_PER_S).round() as i64
}
