//! What an answer claims, judged by the truth: the machine's `CLOCK_REALTIME`, which all hosts of the lab share.

use std::fmt::{self, Display, Formatter};

use crate::ntp::{Message, Moment, measured};

/// Error of two readings of the clock and of NTP's formats, in s.
const READING_S: f64 = 2e-6;

/// What an answer claims, and how far it is from the true time.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "their unit")]
pub(crate) struct Claim {
    /// The error bound that the server claims, in s.
    pub(crate) bound_s: f64,
    /// How far the server is ahead of the true time, in s.
    pub(crate) offset_s: f64,
    /// Uncertainty of the offset in s.
    pub(crate) uncertainty_s: f64,
}

impl Claim {
    /// Judges an answer by when its request was sent and it was received.
    pub(crate) fn of(sent: Moment, message: &Message, received: Moment) -> Self {
        let (offset_s, delay_s) = measured(sent, message, received);
        Self {
            bound_s: message.root_delay_s / 2.0 + message.root_dispersion_s,
            offset_s,
            uncertainty_s: delay_s.max(0.0) / 2.0 + READING_S,
        }
    }

    /// How far the error is beyond the claimed bound at least, in s.
    pub(crate) fn excess_s(&self) -> f64 {
        self.offset_s.abs() - self.bound_s - self.uncertainty_s
    }
}

impl Display for Claim {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [offset, bound, uncertainty] = [self.offset_s, self.bound_s, self.uncertainty_s].map(|s| s * 1e3);
        write!(f, "{offset:+.3} ms off, {bound:.3} ms claimed at most (sure to {uncertainty:.3} ms)")
    }
}
