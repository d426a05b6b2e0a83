//! Numbers with units, as people read them, in ASCII.

/// Formats an interval in s, with three significant digits and the unit that suits it: `12.0 us`, `1.25 ms`, `19.8 s`.
/// Longer ones are as [`duration`] formats them.
#[must_use]
pub(crate) fn interval(seconds: f64) -> String {
    let size = seconds.abs();
    // What would be shown as 1000 of one unit is shown as 1 of the next.
    if size == 0.0 {
        "0 s".into()
    } else if size < 999.5e-9 {
        format!("{} ns", digits(seconds * 1e9))
    } else if size < 999.5e-6 {
        format!("{} us", digits(seconds * 1e6))
    } else if size < 999.5e-3 {
        format!("{} ms", digits(seconds * 1e3))
    } else if size < 120.0 {
        format!("{} s", digits(seconds))
    } else if seconds < 0.0 {
        format!("-{}", duration(size))
    } else {
        duration(size)
    }
}

/// As [`interval`], with the sign also where it is positive.
#[must_use]
pub(crate) fn difference(seconds: f64) -> String {
    let sign = if seconds > 0.0 { "+" } else { "" };
    format!("{sign}{}", interval(seconds))
}

/// Formats how long something takes, in s and longer: `42 s`, `5 min`, `3 h 20 min`, `2 d 5 h`. Negative is zero.
#[must_use]
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let two = |large: f64, unit: &str, small: f64, parts: &str| {
        if small == 0.0 {
            format!("{large:.0} {unit}")
        } else {
            format!("{large:.0} {unit} {small:.0} {parts}")
        }
    };
    let (minutes, hours) = ((seconds / 60.0).floor(), (seconds / 3600.0).floor());
    if seconds < 120.0 {
        format!("{:.0} s", seconds.floor())
    } else if minutes < 120.0 {
        format!("{minutes:.0} min")
    } else if hours < 48.0 {
        two(hours, "h", minutes % 60.0, "min")
    } else {
        two((hours / 24.0).floor(), "d", hours % 24.0, "h")
    }
}

/// Formats a count with its thousands apart: `1,234,567`.
#[must_use]
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a rate per second without digits that nobody needs: `0`, `2.5`, `250`, `1,234,567`.
#[must_use]
pub(crate) fn rate(per_second: f64) -> String {
    let rate = per_second.max(0.0);
    if rate == 0.0 || rate >= 99.95 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
        return count(rate.round() as u64);
    }
    format!("{rate:.1}")
}

/// Formats an amount of data with three significant digits: `1.20 TB`, `500 MB`, `90 B`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for showing")]
pub(crate) fn amount(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    thousands(bytes as f64, &["kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Formats a rate in bytes per second as links are measured: `12.0 Mbit/s`.
#[must_use]
pub(crate) fn bit_rate(bytes_per_s: f64) -> String {
    let bits = 8.0 * bytes_per_s.max(0.0);
    if bits < 999.5 {
        return format!("{bits:.0} bit/s");
    }
    thousands(bits, &["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"])
}

/// With the largest of these units, of which each is a thousand of the one before, that it is one of.
fn thousands(value: f64, units: &[&str]) -> String {
    let mut value = value / 1e3;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // What would be shown as 1000 of one unit is shown as 1 of the next.
    while value >= 999.5
        && let Some(larger) = units.next()
    {
        (value, unit) = (value / 1e3, larger);
    }
    format!("{} {unit}", digits(value))
}

/// Three significant digits of a number from 1 to 1000.
fn digits(value: f64) -> String {
    match value.abs() {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_three_digits_and_the_unit_that_suits_them() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (2.5e-7, "250 ns"),
            (0.000_012, "12.0 us"),
            (-0.000_999_7, "-1.00 ms"),
            (0.001_25, "1.25 ms"),
            (0.9996, "1.00 s"),
            (19.84, "19.8 s"),
            (119.9, "120 s"),
            (300.0, "5 min"),
            (-300.0, "-5 min"),
        ] {
            assert_eq!(interval(seconds), text);
        }
        assert_eq!(difference(0.000_012), "+12.0 us");
        assert_eq!(difference(-0.5), "-500 ms");
        assert_eq!(difference(0.0), "0 s");
    }

    #[test]
    fn durations_are_rounded_down_so_that_nobody_is_promised_more() {
        for (seconds, text) in [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (119.9, "119 s"),
            (120.0, "2 min"),
            (7199.0, "119 min"),
            (12_000.0, "3 h 20 min"),
            (7200.0, "2 h"),
            (172_800.0, "2 d"),
            (190_900.0, "2 d 5 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn amounts_and_bit_rates_have_three_digits_and_decimal_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (12_345_678, "12.3 MB"),
            (4_000_000_000_000, "4.00 TB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
        for (bytes_per_s, text) in [
            (-1.0, "0 bit/s"),
            (0.3, "2 bit/s"),
            (1_500_000.0, "12.0 Mbit/s"),
            (1e30, "8000000000000000 Pbit/s"),
        ] {
            assert_eq!(bit_rate(bytes_per_s), text);
        }
    }

    #[test]
    fn counts_and_rates_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!((rate(0.0), rate(2.54), rate(99.96)), ("0".into(), "2.5".into(), "100".into()));
        assert_eq!(rate(1234.4), "1,234");
    }
}
