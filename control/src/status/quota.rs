//! The monthly traffic quota, for people and for programs.

use std::fmt;

use discipline::calendar::{S_PER_DAY, first_day, year_and_month};
use serde::{Deserialize, Serialize};

use super::units::{amount, bit_rate};

/// The part of the quota that advice on the pool's setting aims at: traffic is not the same in each month.
const AIM: f64 = 0.9;
/// Traffic below this part of the quota leaves room for a higher setting.
const ROOM: f64 = 0.5;

/// Where the quota stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    /// Bytes that may be used in each period.
    pub quota_bytes: u64,
    /// What uses them: `out`, `in` or `both`.
    pub counts: String,
    /// Bytes that were used in this period.
    pub used_bytes: u64,
    /// Bytes that were received in this period.
    pub received_bytes: u64,
    /// Bytes that were sent in this period.
    pub sent_bytes: u64,
    /// Bytes of answers that a budget refused in this period, the quota's or a configured one.
    pub refused_bytes: u64,
    /// When the period began, in s since 1970; `None` until the time was known for the first time.
    pub period_start_unix_s: Option<i64>,
    /// When it ends and the next one begins, in s since 1970.
    pub period_end_unix_s: Option<i64>,
    /// Bytes per second that would be used if all were answered, on average over about the last day; `None` in the
    /// first minute.
    pub rate_bytes_per_s: Option<f64>,
    /// Bytes that would be used by the end of the period at this rate.
    pub forecast_bytes: Option<u64>,
    /// When the quota is used up at this rate, in s since 1970, if that is before the end of the period.
    pub used_up_unix_s: Option<i64>,
    /// The cap on all answers that the quota imposes, in bytes per second; `None` if there is none.
    pub cap_bytes_per_s: Option<f64>,
    /// What the configuration says of the server's setting in the pool, in bits per second.
    pub netspeed_bits_per_s: Option<u64>,
    /// What to set in the pool, if something else suits the quota better.
    pub advice: Option<Advice>,
}

/// Advice on the setting of the server in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// The new setting as a part of the present one.
    pub factor: f64,
    /// The new setting in bits per second, if the present one is known.
    pub netspeed_bits_per_s: Option<u64>,
    /// Bytes that a whole month then takes at the present rate.
    pub month_bytes: u64,
}

impl Quota {
    /// Whether nothing is left.
    #[must_use]
    pub const fn is_used_up(&self) -> bool {
        self.used_bytes >= self.quota_bytes
    }

    /// Works out advice: for months of this length in s, at the present rate.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "estimates, which are not negative"
    )]
    pub fn advise(&self, length_s: f64) -> Option<Advice> {
        let month = self.rate_bytes_per_s? * length_s;
        let quota = self.quota_bytes as f64;
        if month <= 0.0 || (ROOM * quota..=quota).contains(&month) {
            return None;
        }
        let wanted = AIM * quota / month;
        let bits = self.netspeed_bits_per_s.map(|bits| two_digits(bits as f64 * wanted));
        let factor = match (bits, self.netspeed_bits_per_s) {
            (Some(bits), Some(present)) => bits as f64 / present as f64,
            _ => wanted,
        };
        // Rounded down, a setting may come out as it is.
        let differs = (factor - 1.0).abs() > 0.01;
        let advice = Advice { factor, netspeed_bits_per_s: bits, month_bytes: (month * factor) as u64 };
        differs.then_some(advice)
    }

    /// Says what to know of it, if it does not last: for `health`.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let quota = amount(self.quota_bytes);
        let until =
            self.period_end_unix_s.map_or_else(String::new, |end_s| format!(" until {}", date(end_s)));
        let advice = self.advice.map_or_else(String::new, |advice| format!(": {}", advice.imperative()));
        match (self.cap_bytes_per_s, self.used_up_unix_s) {
            (Some(cap), _) if self.is_used_up() => Some(format!(
                "the traffic quota of {quota} is used up: no more than {} is answered{until}{advice}",
                bit_rate(cap)
            )),
            (Some(cap), _) => Some(format!(
                "the traffic quota of {quota} would not last: no more than {} is answered now{advice}",
                bit_rate(cap)
            )),
            (None, Some(at_s)) => Some(format!(
                "the traffic quota of {quota} will be used up on {} at this rate{advice}",
                date(at_s)
            )),
            (None, None) => None,
        }
    }
}

impl Advice {
    /// Says what to do.
    #[must_use]
    pub fn imperative(&self) -> String {
        let month = amount(self.month_bytes);
        match self.netspeed_bits_per_s {
            Some(bits) => format!("set the pool's netspeed to {}: about {month} a month", netspeed(bits)),
            None => {
                format!(
                    "set the pool's netspeed to {} of what it is: about {month} a month",
                    share(self.factor)
                )
            }
        }
    }
}

/// Writes the lines of `status`.
impl fmt::Display for Quota {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for showing")]
        let used = share(self.used_bytes as f64 / self.quota_bytes.max(1) as f64);
        let (used_bytes, quota) = (amount(self.used_bytes), amount(self.quota_bytes));
        write!(text, "quota       {used_bytes} of {quota} used ({used}, {})", self.counts)?;
        match self.period_end_unix_s {
            Some(end_s) => writeln!(text, " until {} UTC", date(end_s))?,
            None => writeln!(text, "\n            the clock does not know yet which month it is")?,
        }
        match (self.forecast_bytes, self.used_up_unix_s) {
            _ if self.is_used_up() => {}
            (Some(_), Some(at_s)) => {
                writeln!(text, "            at this rate it is used up on {}{}", date(at_s), self.needed())?;
            }
            (Some(forecast), None) => {
                writeln!(text, "            at this rate {} by then", amount(forecast))?;
            }
            (None, _) => {}
        }
        if let Some(cap) = self.cap_bytes_per_s {
            let why = if self.is_used_up() { "USED UP" } else { "SHEDDING so that it lasts" };
            writeln!(text, "            {why}: at most {} is answered", bit_rate(cap))?;
        }
        if let Some(advice) = &self.advice {
            writeln!(text, "            {}", advice.imperative())?;
        }
        Ok(())
    }
}

impl Quota {
    fn needed(&self) -> String {
        self.forecast_bytes.map_or_else(String::new, |bytes| format!(" ({} by then)", amount(bytes)))
    }
}

/// A day as people write it, of a moment in s since 1970.
fn date(unix_s: i64) -> String {
    let day = unix_s.max(0).div_euclid(S_PER_DAY);
    let (year, month) = year_and_month(day);
    format!("{year:04}-{month:02}-{:02}", day - first_day(year, month) + 1)
}

fn share(share: f64) -> String {
    let percent = 100.0 * share;
    if percent > 0.0 && percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// A setting as the pool writes it.
fn netspeed(bits: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    let bits = bits as f64;
    if bits < 1e6 { format!("{} kbit", bits / 1e3) } else { format!("{} Mbit", bits / 1e6) }
}

/// Rounds a speed down to two digits, and to a kbit at least.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating")]
fn two_digits(bits: f64) -> u64 {
    let unit = 10_f64.powf(bits.max(1.0).log10().floor() - 1.0);
    ((bits / unit + 1e-9).floor() * unit).round().max(1e3) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH_S: f64 = 30.0 * 86_400.0;

    fn quota(share_of_quota: f64, netspeed_bits_per_s: Option<u64>) -> Quota {
        let mut quota = Quota {
            quota_bytes: 4_000_000_000_000,
            counts: "out".into(),
            rate_bytes_per_s: Some(share_of_quota * 4e12 / MONTH_S),
            netspeed_bits_per_s,
            ..Quota::default()
        };
        quota.advice = quota.advise(MONTH_S);
        quota
    }

    #[test]
    fn the_setting_of_the_pool_is_lowered_where_the_quota_does_not_suffice_and_raised_where_there_is_room() {
        let advice = |share, netspeed| quota(share, netspeed).advice;
        assert_eq!(advice(0.9, Some(50_000_000)), None);
        assert_eq!(advice(0.5, None), None);
        assert_eq!(advice(0.0, Some(50_000_000)), None, "of no traffic nothing can be told");
        let lower = advice(2.0, Some(50_000_000)).unwrap();
        assert_eq!(lower.netspeed_bits_per_s, Some(22_000_000));
        assert!((lower.factor - 0.44).abs() < 1e-9 && lower.month_bytes.abs_diff(3_520_000_000_000) < 1000);
        assert_eq!(lower.imperative(), "set the pool's netspeed to 22 Mbit: about 3.52 TB a month");
        let unknown = advice(2.0, None).unwrap();
        assert_eq!(
            unknown.imperative(),
            "set the pool's netspeed to 45 % of what it is: about 3.60 TB a month"
        );
        let higher = advice(0.2, Some(1_500_000)).unwrap();
        assert_eq!(higher.netspeed_bits_per_s, Some(6_700_000));
        assert_eq!(advice(1000.0, Some(512_000)).unwrap().netspeed_bits_per_s, Some(1000));
    }

    #[test]
    fn whatever_the_rate_advice_keeps_a_month_within_the_quota() {
        for seed in 0..5000 {
            let mut random = testinput::random::Random::new(seed);
            let share = 10_f64.powf(random.uniform() * 6.0 - 3.0);
            let bits = random.chance(80).then(|| 1000 * random.pick(&[1, 512, 1500, 10_000, 3_000_000]));
            let Some(advice) = quota(share, bits).advice else { continue };
            assert!(advice.factor > 0.0, "{share} {bits:?}: {advice:?}");
            // No setting is below a kbit.
            if advice.netspeed_bits_per_s.is_none_or(|bits| bits > 1000) {
                assert!(advice.month_bytes <= 3_600_000_001_000, "{share} {bits:?}: {advice:?}");
                assert!(advice.month_bytes > 3_200_000_000_000, "{share} {bits:?}: {advice:?}");
            }
        }
    }

    #[test]
    fn the_lines_of_the_status_are_short_and_say_what_is_to_come() {
        let mut quota = quota(2.0, None);
        (quota.used_bytes, quota.period_end_unix_s) = (1_200_000_000_000, Some(1_796_083_200));
        (quota.forecast_bytes, quota.used_up_unix_s) = (Some(6_400_000_000_000), Some(1_795_000_000));
        let text = quota.to_string();
        assert!(
            text.starts_with("quota       1.20 TB of 4.00 TB used (30 %, out) until 2026-12-01 UTC\n"),
            "{text}"
        );
        assert!(text.contains("at this rate it is used up on 2026-11-18 (6.40 TB by then)"), "{text}");
        assert!(quota.warning().unwrap().contains("will be used up on 2026-11-18"), "{:?}", quota.warning());
        quota.cap_bytes_per_s = Some(1_500_000.0);
        let text = quota.to_string();
        assert!(text.contains("SHEDDING so that it lasts: at most 12.0 Mbit/s is answered"), "{text}");
        assert!(quota.warning().unwrap().contains("no more than 12.0 Mbit/s is answered now"));
        quota.used_bytes = 4_100_000_000_000;
        let text = quota.to_string();
        assert!(text.contains("(102 %, out)") && text.contains("USED UP: at most"), "{text}");
        assert!(
            quota
                .warning()
                .unwrap()
                .contains("is used up: no more than 12.0 Mbit/s is answered until 2026-12-01")
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        quota.period_end_unix_s = None;
        assert!(quota.to_string().contains("does not know yet which month it is"));
    }
}
