//! The client's oscillator: how its frequency goes, and when it jumps or stands still.

use crate::units::{MS, PPM};

/// The client's oscillator.
#[derive(Clone, Debug)]
pub(crate) struct Oscillator {
    /// Base frequency error, s/s.
    pub(crate) base: f64,
    /// Random walk of frequency, s/s per square root of a second.
    pub(crate) wander: f64,
    /// Clock error at true time 0, s.
    pub(crate) offset_s: f64,
    /// Frequency errors on top.
    pub(crate) courses: Vec<Course>,
    /// The clock stands still from the first to the second true time, s, and the client is told.
    pub(crate) suspended: Vec<(f64, f64)>,
    /// What nobody tells the client.
    pub(crate) jumps: Vec<Jump>,
}

impl Oscillator {
    /// What a scenario has that is not about the oscillator: 10 ppm fast, a little wander, 50 ms off at first.
    pub(crate) fn usual() -> Self {
        Self {
            base: 10.0 * PPM,
            wander: 1e-9,
            offset_s: 50.0 * MS,
            courses: Vec::new(),
            suspended: Vec::new(),
            jumps: Vec::new(),
        }
    }
}

/// A frequency error that follows a given course over true time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Course {
    /// `amplitude` in s/s.
    Sine { amplitude: f64, period_s: f64 },
    /// From `from_s` on it rises to `height` (s/s) within `rise_s`, falls again as fast, and does so once each
    /// `period_s`.
    Triangle { from_s: f64, rise_s: f64, height: f64, period_s: f64 },
}

impl Course {
    fn at(self, at_s: f64) -> f64 {
        match self {
            Self::Sine { amplitude, period_s } => amplitude * (std::f64::consts::TAU * at_s / period_s).sin(),
            Self::Triangle { from_s, rise_s, height, period_s } => {
                let since_s = at_s - from_s;
                let phase_s = if since_s > 0.0 { since_s % period_s } else { 0.0 };
                let rises = (phase_s / rise_s).clamp(0.0, 2.0);
                height * if rises <= 1.0 { rises } else { 2.0 - rises }
            }
        }
    }
}

/// The local clock leaps forward, or stands still for a while; the client is not told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jump {
    /// When, in whole s of true time.
    pub(crate) at_s: f64,
    /// By how much the local clock is ahead afterwards, s. Where this is negative it stands still for as long,
    /// since no clock of this kind ever runs backwards.
    pub(crate) step_s: f64,
    /// Change of frequency that stays, s/s.
    pub(crate) frequency: f64,
}

impl Jump {
    /// From when on the clock runs again, s.
    pub(crate) fn ends_s(&self) -> f64 {
        self.at_s - self.step_s.min(0.0)
    }
}

impl Oscillator {
    /// The frequency error apart from the random walk.
    pub(crate) fn course(&self, at_s: f64) -> f64 {
        self.courses.iter().map(|course| course.at(at_s)).sum()
    }

    pub(crate) fn sleeps(&self, at_s: f64) -> bool {
        self.suspended.iter().any(|&(from_s, to_s)| (from_s..to_s).contains(&at_s))
    }

    pub(crate) fn wakes(&self, at_s: f64) -> bool {
        self.suspended.iter().any(|&(_, to_s)| to_s == at_s)
    }

    pub(crate) fn jump(&self, at_s: f64) -> Option<Jump> {
        self.jumps.iter().find(|jump| jump.at_s == at_s).copied()
    }
}
