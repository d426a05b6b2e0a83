//! Leap seconds: when one is due, and which sources to believe about it.
//!
//! A leap second ends a month in UTC. Sources announce it with two bits, and some announce it wrongly, so a
//! majority of the selected sources must agree. If the operator has provided a leap-seconds.list that has not
//! expired, the list must contain it too.

use std::fmt;

use super::calendar::{S_PER_DAY, first_day, month_after, year_and_month};
use super::sha1::sha1;

/// Seconds from 1900, the epoch of leap-seconds.list, to 1970.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;

/// An announced leap second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leap {
    /// No leap second is announced.
    #[default]
    None,
    /// The month's last minute has 61 seconds.
    Insert,
    /// The month's last minute has 59 seconds.
    Delete,
}

impl Leap {
    /// Returns what the leap second adds to UTC minus a clock without leap seconds, in s.
    #[must_use]
    pub fn shift_s(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Insert => -1.0,
            Self::Delete => 1.0,
        }
    }
}

/// Returns what the sources announce if more than half of them agree.
#[must_use]
pub(super) fn majority(announced: &[Leap]) -> Leap {
    [Leap::Insert, Leap::Delete]
        .into_iter()
        .find(|leap| announced.iter().filter(|other| *other == leap).count() * 2 > announced.len())
        .unwrap_or_default()
}

/// Returns the beginning of the month after `unix_s`, in s since 1970.
#[must_use]
pub(super) fn month_end(unix_s: i64) -> i64 {
    let (year, month) = year_and_month(unix_s.div_euclid(S_PER_DAY));
    let (year, month) = month_after(year, month);
    first_day(year, month) * S_PER_DAY
}

/// The leap seconds in a leap-seconds.list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeapList {
    /// TAI-UTC in s before the first of them.
    first_tai_utc_s: i64,
    /// Instants (s since 1970) at which a new difference begins, with the leap second just before.
    leaps: Vec<(i64, Leap)>,
    expires_unix_s: i64,
}

/// Why a leap-seconds.list could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeapListError {
    /// The line, counted from 1; 0 if something is missing altogether.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for LeapListError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => out.write_str(self.problem),
            line => write!(out, "line {line}: {}", self.problem),
        }
    }
}

impl std::error::Error for LeapListError {}

impl LeapList {
    /// Parses the format that the IERS and NIST publish: lines of "NTP seconds, TAI-UTC", and `#@` with the
    /// expiry.
    ///
    /// # Errors
    ///
    /// A line does not have two numbers, the differences do not change by one, the expiry is missing, or the checksum
    /// (`#h`), if there is one, is that of another list.
    pub fn parse(text: &str) -> Result<Self, LeapListError> {
        check_sum(text)?;
        let mut leaps = Vec::new();
        let mut expires_unix_s = None;
        let mut difference: Option<i64> = None;
        for (index, line) in text.lines().enumerate() {
            let wrong = |problem| LeapListError { line: index + 1, problem };
            if let Some(expiry) = line.strip_prefix("#@") {
                let ntp_s: i64 = expiry.trim().parse().map_err(|_| wrong("the expiry is not a number"))?;
                expires_unix_s = Some(ntp_s.saturating_sub(NTP_TO_UNIX_S));
                continue;
            }
            let numbers = line.split('#').next().unwrap_or_default().trim();
            if numbers.is_empty() {
                continue;
            }
            let mut fields = numbers.split_whitespace().map(str::parse::<i64>);
            let (Some(Ok(ntp_s)), Some(Ok(tai_utc))) = (fields.next(), fields.next()) else {
                return Err(wrong("there must be two numbers, NTP seconds and TAI-UTC"));
            };
            match difference.map(|before| tai_utc.saturating_sub(before)) {
                None => {}
                Some(1) => leaps.push((ntp_s.saturating_sub(NTP_TO_UNIX_S), Leap::Insert)),
                Some(-1) => leaps.push((ntp_s.saturating_sub(NTP_TO_UNIX_S), Leap::Delete)),
                Some(_) => return Err(wrong("TAI-UTC does not change by one second")),
            }
            difference = Some(tai_utc);
        }
        let expires_unix_s =
            expires_unix_s.ok_or(LeapListError { line: 0, problem: "it names no expiry (#@)" })?;
        let difference = difference.ok_or(LeapListError { line: 0, problem: "it has no entry" })?;
        let first_tai_utc_s = leaps.iter().fold(difference, |tai_utc_s, (_, leap)| match leap {
            Leap::Insert => tai_utc_s.saturating_sub(1),
            Leap::Delete => tai_utc_s.saturating_add(1),
            Leap::None => tai_utc_s,
        });
        Ok(Self { first_tai_utc_s, leaps, expires_unix_s })
    }

    /// Returns TAI-UTC in s at a time (s since 1970), or `None` where the list has expired.
    #[must_use]
    pub fn tai_utc_s(&self, unix_s: i64) -> Option<i64> {
        let before = self.leaps.iter().filter(|(from_s, _)| *from_s <= unix_s);
        let tai_utc_s = before.fold(self.first_tai_utc_s, |tai_utc_s, (_, leap)| match leap {
            Leap::Insert => tai_utc_s.saturating_add(1),
            Leap::Delete => tai_utc_s.saturating_sub(1),
            Leap::None => tai_utc_s,
        });
        (unix_s < self.expires_unix_s).then_some(tai_utc_s)
    }

    /// Returns when the list expires, in s since 1970.
    #[must_use]
    pub const fn expires_unix_s(&self) -> i64 {
        self.expires_unix_s
    }

    /// Whether the list contradicts a leap second at `month_end`: it is valid until then and does not contain
    /// it.
    #[must_use]
    pub fn denies(&self, leap: Leap, month_end_unix_s: i64) -> bool {
        month_end_unix_s < self.expires_unix_s && !self.leaps.contains(&(month_end_unix_s, leap))
    }
}

/// Compares the checksum in `#h` with that of the numbers, which are taken without the spaces between them: that of the
/// last change (`#$`), that of the expiry, and those of the entries.
fn check_sum(text: &str) -> Result<(), LeapListError> {
    let (mut numbers, mut expected) = (String::new(), None);
    for (index, line) in text.lines().enumerate() {
        if let Some(number) = line.strip_prefix("#$").or_else(|| line.strip_prefix("#@")) {
            numbers.extend(number.chars().filter(char::is_ascii_digit));
        } else if let Some(sum) = line.strip_prefix("#h") {
            expected = Some((index + 1, sum));
        } else if let Some(entry) = line.split('#').next() {
            numbers.extend(entry.split_whitespace().take(2));
        }
    }
    let Some((line, expected)) = expected else { return Ok(()) };
    let words = expected.split_whitespace().map(|word| u32::from_str_radix(word, 16));
    match words.collect::<Result<Vec<_>, _>>() {
        Ok(words) if words == sha1(numbers.as_bytes()) => Ok(()),
        _ => Err(LeapListError { line, problem: "the checksum is not that of the numbers in the list" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "#\tcomment\n#$ 3676924800\n#@ 3928521600\n\
        3644697600 36 # 1 Jul 2015\n3692217600\t37\t# 1 Jan 2017\n";

    #[test]
    fn the_list_knows_the_distance_to_tai_until_it_expires() {
        let list = LeapList::parse(LIST).unwrap();
        let of_ntp = |ntp_s: i64| list.tai_utc_s(ntp_s - NTP_TO_UNIX_S);
        assert_eq!(of_ntp(3_692_217_600 - 1), Some(36));
        assert_eq!(of_ntp(3_692_217_600), Some(37));
        assert_eq!(of_ntp(3_928_521_600 - 1), Some(37));
        assert_eq!(of_ntp(3_928_521_600), None, "it has expired");
    }

    #[test]
    fn months_end_where_the_calendar_says() {
        for (unix_s, end) in [
            (0, 2_678_400),
            (951_782_400, 951_868_800),
            (1_483_228_799, 1_483_228_800),
            (1_483_228_800, 1_485_907_200),
            (4_107_542_399, 4_107_542_400),
            (-1, 0),
        ] {
            assert_eq!(month_end(unix_s), end, "{unix_s}");
        }
    }

    #[test]
    fn a_leap_takes_more_than_half_of_the_sources() {
        assert_eq!(majority(&[Leap::Insert, Leap::None]), Leap::None);
        assert_eq!(majority(&[Leap::Insert, Leap::None, Leap::Insert]), Leap::Insert);
        assert_eq!(majority(&[]), Leap::None);
    }

    #[test]
    fn a_list_denies_what_it_does_not_have_until_it_expires() {
        let list = LeapList::parse(LIST).expect("a good list");
        assert!(!list.denies(Leap::Insert, 1_483_228_800));
        assert!(list.denies(Leap::Delete, 1_483_228_800));
        assert!(list.denies(Leap::Insert, 1_485_907_200));
        assert!(!list.denies(Leap::Insert, 4_102_444_800));
    }

    #[test]
    fn a_list_with_a_number_that_was_changed_is_refused_by_its_checksum() {
        // The value was computed with sha1sum.
        let list = format!("{LIST}#h 7e3e2943 3fa11956 e4e658de c4dca0e6 bf6622c9\n");
        assert!(LeapList::parse(&list).is_ok());
        for (from, to) in
            [("3692217600", "3692217601"), ("3928521600", "3928521601"), ("7e3e2943", "7e3e294a")]
        {
            let changed = list.replacen(from, to, 1);
            assert_ne!(changed, list);
            assert_eq!(LeapList::parse(&changed).map_err(|error| error.line), Err(6), "{changed}");
        }
        assert!(LeapList::parse(&format!("{LIST}#h 7e3e2943\n")).is_err(), "half a checksum");
    }

    #[test]
    fn a_broken_list_is_refused_by_line() {
        assert_eq!(LeapList::parse("1 2\nx 3\n").map_err(|error| error.line), Err(2));
        assert_eq!(LeapList::parse("#@ 9\n1 2\n2 9\n").map_err(|error| error.line), Err(3));
        assert_eq!(LeapList::parse("1 2\n").map_err(|error| error.line), Err(0));
    }
}
