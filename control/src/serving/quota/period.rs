//! The months of a quota: from a day of the month at 00:00 UTC to the next one.

use crate::discipline::calendar::{S_PER_DAY, first_day, month_after, year_and_month};

/// The last moment of the year 9999; no clock goes further.
const LAST_S: i64 = 253_402_300_799;

/// A month as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its beginning, in s since 1970.
    pub start_s: i64,
    /// Its end, which is the beginning of the next one.
    pub end_s: i64,
}

impl Period {
    /// Returns the period that a moment is in, in s since 1970, if periods begin on this day of the month (1 to 31). In
    /// months without that day, they begin on the last one.
    #[must_use]
    pub fn containing(unix_s: i64, day: u8) -> Self {
        let unix_s = unix_s.clamp(0, LAST_S);
        let (year, month) = year_and_month(unix_s.div_euclid(S_PER_DAY));
        let start = start_in(year, month, day);
        if unix_s < start {
            let before = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
            Self { start_s: start_in(before.0, before.1, day), end_s: start }
        } else {
            let (year, month) = month_after(year, month);
            Self { start_s: start, end_s: start_in(year, month, day) }
        }
    }

    /// Returns its length in s.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a month")]
    pub fn length_s(self) -> f64 {
        (self.end_s - self.start_s) as f64
    }
}

/// The moment at which the period begins that begins in this month.
fn start_in(year: i64, month: i64, day: u8) -> i64 {
    let first = first_day(year, month);
    let (next_year, next_month) = month_after(year, month);
    let last = first_day(next_year, next_month) - 1;
    (first + i64::from(day.max(1)) - 1).min(last) * S_PER_DAY
}

#[cfg(test)]
mod tests {
    use testinput::random::Random;

    use super::*;

    /// A moment on a day at noon, by counting days up from 1970, which is slow and has no formula.
    fn noon(year: i64, month: usize, day: i64) -> i64 {
        let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let length = |year, month| match month {
            2 => 28 + i64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let years: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
        let months: i64 = (1..month).map(|month| length(year, month)).sum();
        (years + months + day - 1) * S_PER_DAY + S_PER_DAY / 2
    }

    const HALF_S: i64 = S_PER_DAY / 2;

    #[test]
    fn periods_begin_on_their_day_or_on_the_last_one_of_a_shorter_month() {
        for (now, day, start, end) in [
            ((2026, 11, 27), 1, (2026, 11, 1), (2026, 12, 1)),
            ((2026, 12, 31), 1, (2026, 12, 1), (2027, 1, 1)),
            ((2027, 1, 14), 15, (2026, 12, 15), (2027, 1, 15)),
            ((2027, 1, 15), 15, (2027, 1, 15), (2027, 2, 15)),
            ((2027, 2, 27), 31, (2027, 1, 31), (2027, 2, 28)),
            ((2027, 2, 28), 31, (2027, 2, 28), (2027, 3, 31)),
            ((2028, 2, 28), 31, (2028, 1, 31), (2028, 2, 29)),
            ((2028, 2, 29), 30, (2028, 2, 29), (2028, 3, 30)),
            ((2028, 3, 29), 29, (2028, 3, 29), (2028, 4, 29)),
            ((2027, 3, 1), 29, (2027, 2, 28), (2027, 3, 29)),
            ((2100, 3, 1), 29, (2100, 2, 28), (2100, 3, 29)),
            ((2000, 3, 1), 29, (2000, 2, 29), (2000, 3, 29)),
            ((2026, 4, 30), 31, (2026, 4, 30), (2026, 5, 31)),
        ] {
            let moment = |(year, month, day): (i64, usize, i64)| noon(year, month, day);
            let period = Period::containing(moment(now), day);
            let wanted = Period { start_s: moment(start) - HALF_S, end_s: moment(end) - HALF_S };
            assert_eq!(period, wanted, "{now:?}, day {day}");
        }
    }

    /// Whatever the day and the moment, periods follow each other without a gap, each contains the moment that it was
    /// looked up by, and none is shorter than a February or longer than 31 days.
    #[test]
    fn periods_cover_all_time_without_gaps() {
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let day = u8::try_from(random.between(1, 31)).unwrap();
            let now = i64::try_from(random.bits() % 253_402_300_800).unwrap();
            let period = Period::containing(now, day);
            assert!(
                (period.start_s..period.end_s).contains(&now) || now < 31 * S_PER_DAY,
                "{now} {period:?}"
            );
            let days = (period.end_s - period.start_s) / S_PER_DAY;
            assert!((28..=31).contains(&days), "{days} days: {period:?}, day {day}");
            let next = Period::containing(period.end_s, day);
            assert_eq!(next.start_s.min(LAST_S), period.end_s.min(LAST_S), "{now}, day {day}");
            assert_eq!(Period::containing(period.end_s - 1, day), period, "{now}, day {day}");
        }
        assert_eq!(Period::containing(i64::MIN, 31).end_s, 30 * S_PER_DAY);
        assert!(Period::containing(i64::MAX, 31).start_s < LAST_S);
    }
}
