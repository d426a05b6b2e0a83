//! Months of the proleptic Gregorian calendar, in UTC. Days are counted from 1970-01-01, which is day 0.

/// Length of a day in s.
pub const S_PER_DAY: i64 = 86_400;

/// Returns the day on which a month (1 to 12) begins.
#[must_use]
pub fn first_day(year: i64, month: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last day of a year.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days_before_month = (153 * month + 2) / 5;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_before_month
        - 719_468
}

/// Returns the year, and the month from 1 to 12, of a day from 1970 on.
#[must_use]
pub fn year_and_month(day: i64) -> (i64, i64) {
    let mut year = 1970 + day.div_euclid(366);
    while first_day(year + 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).take_while(|&month| first_day(year, month) <= day).last().unwrap_or(1);
    (year, month)
}

/// Returns the month after this one, with its year.
#[must_use]
pub const fn month_after(year: i64, month: i64) -> (i64, i64) {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}
