//! What was used of a quota: counted over restarts, reboots and clocks that are not known or go back.

use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::pace::{Pace, Standing};
use super::period::Period;
use crate::config::Quota;

/// The time over which the shown rates are averaged, in s.
const SHOWN_S: f64 = 86_400.0;
/// Before this time nothing is said of rates and forecasts, in s.
const LEAST_SHOWN_S: f64 = 60.0;
/// A period is taken to last this much longer while it is not known what time it is, in s.
const UNKNOWN_LEFT_S: f64 = 86_400.0;
/// Length of a period while none is known, in s.
const UNKNOWN_LENGTH_S: f64 = 31.0 * 86_400.0;

/// What was counted in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Month {
    /// When the period began, in s since 1970.
    pub start_s: i64,
    /// What was counted in it.
    pub bytes: Bytes,
}

/// Average rates in bytes per second. They begin at the first look, and fade over a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of what was received, each second of it weighted by how long ago it was.
    pub received: f64,
    /// Of what was sent.
    pub sent: f64,
    /// Of what the budget refused.
    pub refused: f64,
    /// The sum of the weights, from 0 to 1.
    pub weight: f64,
}

/// What was used, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// The day on which periods begin.
    pub day: u8,
    /// The current period; `None` before the time was known for the first time.
    pub current: Option<Month>,
    /// The period before. A clock that went ahead and comes back finds what was counted there.
    pub previous: Option<Month>,
    /// What was counted since `known_s`: it belongs to a period when the time is known again.
    pub unplaced: Bytes,
    /// When the time was last known, in s since 1970.
    pub known_s: Option<f64>,
    /// The time now, in s since 1970: as it is known, or else the time when it was last known and what has passed
    /// since.
    pub now_s: Option<f64>,
    /// Whether the time is known at this moment.
    pub is_known: bool,
    /// Rates that are shown.
    pub rates: Rates,
    /// What the cap follows.
    pub pace: Pace,
}

/// The rates that are shown, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// What is received.
    pub received: f64,
    /// What would be sent if nothing were refused for the quota.
    pub sent: f64,
}

impl Account {
    /// Makes one in which nothing was counted.
    #[must_use]
    pub fn new() -> Self {
        Self { day: 1, ..Self::default() }
    }

    /// Takes in what was counted since the last call, some seconds ago. `time_s` is the time in s since 1970, where it
    /// is known. Without a quota, traffic is counted by the calendar's months, for a quota that may be set later.
    pub fn step(&mut self, came: Bytes, passed_s: f64, time_s: Option<f64>, quota: Option<&Quota>) {
        let passed_s = passed_s.max(0.0);
        self.missed(came);
        self.is_known = time_s.is_some();
        match time_s {
            Some(time_s) => self.place(time_s, quota.map_or(self.day.max(1), |quota| quota.day)),
            None => self.now_s = self.now_s.map(|now_s| now_s + passed_s),
        }
        self.rates.take(came, passed_s);
        if let Some(quota) = quota {
            let standing = self.standing(quota);
            let [demand, received] = [came.wanted(quota.counts), came.received].map(as_f64);
            self.pace.take(demand, received, passed_s, &standing);
        }
    }

    /// Takes in what was counted while nobody looked: it counts, but says nothing of the rate.
    pub fn missed(&mut self, came: Bytes) {
        self.unplaced = self.unplaced.plus(came);
    }

    /// Returns what was used in the current period, by what was counted.
    #[must_use]
    pub fn used(&self) -> Bytes {
        self.current.map_or(Bytes::default(), |month| month.bytes).plus(self.unplaced)
    }

    /// Returns the current period; `None` as long as the time was never known.
    #[must_use]
    pub fn period(&self) -> Option<Period> {
        self.current.map(|month| Period::containing(month.start_s, self.day))
    }

    /// Returns where the quota stands now.
    #[must_use]
    pub fn standing(&self, quota: &Quota) -> Standing {
        let (length_s, time_left_s) = match (self.period(), self.now_s) {
            (Some(period), Some(now_s)) => {
                let left_s = time(period.end_s) - now_s;
                // The time may be later than it seems, but no period ends before that is known.
                let least_s = if self.is_known { 0.0 } else { UNKNOWN_LEFT_S };
                (period.length_s(), left_s.clamp(least_s, period.length_s().max(least_s)))
            }
            _ => (UNKNOWN_LENGTH_S, UNKNOWN_LENGTH_S),
        };
        let left = quota.bytes.saturating_sub(self.used().used(quota.counts));
        Standing {
            counts: quota.counts,
            quota: as_f64(quota.bytes),
            left: as_f64(left),
            length_s,
            time_left_s,
        }
    }

    /// Returns the cap on all answers in bytes per second; `None` if there is none.
    #[must_use]
    pub fn cap(&self, quota: &Quota) -> Option<f64> {
        self.pace.cap(&self.standing(quota))
    }

    /// Returns the rates of about the last day; `None` in the first minute.
    #[must_use]
    pub fn demand(&self) -> Option<Demand> {
        let Rates { received, sent, refused, weight } = self.rates;
        let known = weight >= 1.0 - (-LEAST_SHOWN_S / SHOWN_S).exp();
        known.then(|| Demand { received: received / weight, sent: (sent + refused) / weight })
    }

    /// Puts what is not placed yet where it belongs, now that the time is known.
    fn place(&mut self, time_s: f64, day: u8) {
        #[expect(clippy::cast_possible_truncation, reason = "saturating; seconds of a clock")]
        let period = Period::containing(time_s.floor() as i64, day);
        let unplaced = std::mem::take(&mut self.unplaced);
        let known_s = self.known_s.replace(time_s);
        self.now_s = Some(time_s);
        let fresh = Month { start_s: period.start_s, bytes: unplaced };
        let Some(current) = self.current else {
            (self.day, self.current) = (day, Some(fresh));
            return;
        };
        let all = Month { bytes: current.bytes.plus(unplaced), ..current };
        let (new_current, new_previous) = if self.day != day {
            // The day was changed: what was counted so far belongs to the period that has become the current one.
            (Month { start_s: period.start_s, ..all }, None)
        } else if period.start_s == current.start_s {
            (all, self.previous)
        } else if period.start_s > current.start_s {
            // Of what came since the time was last known, each period gets its part of that time.
            let since_s = (time_s - known_s.unwrap_or(time_s)).max(0.0);
            let in_new_s = (time_s - time(period.start_s)).max(0.0);
            let part = if since_s > in_new_s { in_new_s / since_s } else { 1.0 };
            let of_new = unplaced.part(part);
            let of_old = Month { bytes: current.bytes.plus(unplaced.since(of_new)), ..current };
            (Month { bytes: of_new, ..fresh }, Some(of_old))
        } else {
            // The clock was ahead. What was counted as the new period's belongs to the one before.
            match self.previous.filter(|previous| previous.start_s == period.start_s) {
                Some(previous) => (Month { bytes: previous.bytes.plus(all.bytes), ..previous }, None),
                None => (Month { start_s: period.start_s, ..all }, None),
            }
        };
        (self.day, self.current, self.previous) = (day, Some(new_current), new_previous);
    }
}

impl Rates {
    fn take(&mut self, came: Bytes, passed_s: f64) {
        if passed_s <= 0.0 {
            return;
        }
        let weight = 1.0 - (-passed_s / SHOWN_S).exp();
        let towards =
            |average: &mut f64, bytes: u64| *average += weight * (as_f64(bytes) / passed_s - *average);
        towards(&mut self.received, came.received);
        towards(&mut self.sent, came.sent);
        towards(&mut self.refused, came.refused);
        self.weight += weight * (1.0 - self.weight);
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
const fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
const fn time(unix_s: i64) -> f64 {
    unix_s as f64
}
