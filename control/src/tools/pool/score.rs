//! How the pool scores a check: a step, sometimes a cap, and from check to check a score. This module is
//! pure.
//!
//! The figures are those of the pool's own scorer (monitor 4.1.5). The leap indicator, root delay and root
//! dispersion are not scored.

use std::fmt;

/// The fraction of the previous score that each check keeps.
const KEPT: f64 = 0.95;
/// The score from which on a server is handed out.
pub const JOINING_SCORE: f64 = 10.0;
/// The strata with which a server is handed out.
pub const JOINING_STRATA: std::ops::RangeInclusive<u8> = 1..=5;
/// The monitor's own limit. If the stratum is higher, it looks at nothing else.
pub const HIGHEST_STRATUM: u8 = 10;
/// Enough checks for any score to come as close to its limit as it ever will.
const FORECAST_CHECKS: u32 = 500;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFinding {
    /// Nothing came back that could be taken for an answer.
    NoResponse,
    /// A kiss of death with its code.
    Kiss(String),
    /// Stratum 0 without a kiss code.
    NoStratum,
    /// A stratum of 16, or above [`HIGHEST_STRATUM`].
    BadStratum(u8),
    /// An answer with the time.
    Time {
        /// The stratum, from 1 to [`HIGHEST_STRATUM`].
        stratum: u8,
        /// The server's clock minus ours.
        offset_ns: i64,
    },
}

/// The effect of a check on the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreEffect {
    /// What is added to the score.
    pub step: f64,
    /// The highest score that is possible afterwards.
    pub cap: Option<f64>,
    /// Why the score changes like this.
    pub reason: &'static str,
}

impl ScoreEffect {
    const fn of(step: f64, cap: Option<f64>, reason: &'static str) -> Self {
        Self { step, cap, reason }
    }

    /// Returns the score after a check, from the one before it.
    #[must_use]
    pub fn apply(&self, score: f64) -> f64 {
        let next = score * KEPT + self.step;
        self.cap.map_or(next, |cap| next.min(cap))
    }

    /// Returns the limit of the score if all checks are like this one.
    #[must_use]
    pub fn limit(&self) -> f64 {
        (0..FORECAST_CHECKS).fold(0.0, |score, _| self.apply(score))
    }

    /// Returns how many checks like this one bring a score of 0 to [`JOINING_SCORE`]; `None` if no number
    /// does.
    #[must_use]
    pub fn checks_to_join(&self) -> Option<u32> {
        let mut score = 0.0;
        (1..=FORECAST_CHECKS).find(|_| {
            score = self.apply(score);
            score >= JOINING_SCORE
        })
    }
}

/// Returns the effect of a check on the score.
#[must_use]
pub fn score_effect(finding: &CheckFinding) -> ScoreEffect {
    match finding {
        CheckFinding::NoResponse => ScoreEffect::of(-5.0, None, "no response"),
        CheckFinding::Kiss(code) => match code.as_str() {
            "RATE" => ScoreEffect::of(-3.5, None, "kiss of death: the monitor asks too often for it"),
            "RSTR" | "DENY" => {
                ScoreEffect::of(-10.0, Some(-50.0), "kiss of death: the monitor is not served")
            }
            _ => ScoreEffect::of(-4.0, None, "kiss of death"),
        },
        CheckFinding::NoStratum => ScoreEffect::of(-2.0, Some(5.0), "not synchronised (stratum 0)"),
        CheckFinding::BadStratum(_) => ScoreEffect::of(-4.0, None, "stratum above 10"),
        CheckFinding::Time { stratum, offset_ns } => score_effect_of_time(*stratum, *offset_ns),
    }
}

fn score_effect_of_time(stratum: u8, offset_ns: i64) -> ScoreEffect {
    let away = std::time::Duration::from_nanos(offset_ns.unsigned_abs());
    let away_s = away.as_secs_f64();
    match away.as_nanos() {
        3_000_000_001.. => ScoreEffect::of(-4.0, Some(-20.0), "offset above 3 s"),
        _ if stratum >= 8 => ScoreEffect::of(-4.0, None, "stratum 8 or more"),
        750_000_001.. => ScoreEffect::of(-2.0, None, "offset above 750 ms"),
        100_000_001.. => ScoreEffect::of(-2.308 * away_s + 0.731, None, "offset above 100 ms"),
        25_000_001.. => ScoreEffect::of((-6.667 * away_s + 1.167).min(1.0), None, "offset above 25 ms"),
        _ => ScoreEffect::of(1.0, None, "offset within 25 ms"),
    }
}

impl fmt::Display for CheckFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse => f.write_str("no response"),
            Self::Kiss(code) => write!(f, "kiss of death {code}"),
            Self::NoStratum => f.write_str("stratum 0, no code"),
            Self::BadStratum(stratum) => write!(f, "stratum {stratum}"),
            Self::Time { stratum, .. } => write!(f, "stratum {stratum}, offset {:+.6} s", self.offset_s()),
        }
    }
}

impl CheckFinding {
    /// Returns the server's clock minus ours in s; 0 where there is none.
    #[must_use]
    pub fn offset_s(&self) -> f64 {
        match self {
            Self::Time { offset_ns, .. } => {
                let away_s = std::time::Duration::from_nanos(offset_ns.unsigned_abs()).as_secs_f64();
                if *offset_ns < 0 { -away_s } else { away_s }
            }
            _ => 0.0,
        }
    }

    /// Whether the pool accepts a server of this stratum.
    #[must_use]
    pub fn may_join(&self) -> bool {
        matches!(self, Self::Time { stratum, .. } if JOINING_STRATA.contains(stratum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(stratum: u8, offset_us: i64) -> CheckFinding {
        CheckFinding::Time { stratum, offset_ns: offset_us * 1_000 }
    }

    #[test]
    fn every_row_of_the_monitors_table_has_its_step_and_its_cap() {
        let kiss = |code: &str| CheckFinding::Kiss(code.into());
        for (finding, step, cap) in [
            (CheckFinding::NoResponse, -5.0, None),
            (kiss("RATE"), -3.5, None),
            (kiss("RSTR"), -10.0, Some(-50.0)),
            (kiss("DENY"), -10.0, Some(-50.0)),
            (kiss("INIT"), -4.0, None),
            (CheckFinding::NoStratum, -2.0, Some(5.0)),
            (CheckFinding::BadStratum(16), -4.0, None),
            (CheckFinding::BadStratum(11), -4.0, None),
            (time(2, 3_000_001), -4.0, Some(-20.0)),
            (time(9, 4_000_000), -4.0, Some(-20.0)),
            (time(8, 0), -4.0, None),
            (time(10, 900_000), -4.0, None),
            (time(7, 0), 1.0, None),
            (time(2, 3_000_000), -2.0, None),
            (time(2, 750_001), -2.0, None),
            (time(2, 750_000), -2.308 * 0.75 + 0.731, None),
            (time(2, 200_000), -2.308 * 0.2 + 0.731, None),
            (time(2, 100_000), -6.667 * 0.1 + 1.167, None),
            (time(2, 80_000), -6.667 * 0.08 + 1.167, None),
            (time(2, 30_000), -6.667 * 0.03 + 1.167, None),
            (time(2, 25_001), 1.0, None),
            (time(2, 25_000), 1.0, None),
            (time(1, 0), 1.0, None),
        ] {
            for finding in [finding.clone(), negative(finding)] {
                let effect = score_effect(&finding);
                assert!((effect.step - step).abs() < 1e-4, "{finding:?}: {effect:?}, not {step}");
                assert_eq!(effect.cap, cap, "{finding:?}");
            }
        }
    }

    fn negative(finding: CheckFinding) -> CheckFinding {
        match finding {
            CheckFinding::Time { stratum, offset_ns } => {
                CheckFinding::Time { stratum, offset_ns: -offset_ns }
            }
            other => other,
        }
    }

    #[test]
    fn fourteen_good_checks_make_ten_points_and_no_number_makes_more_than_twenty() {
        let good = score_effect(&time(2, 10_000));
        assert_eq!(good.checks_to_join(), Some(14));
        assert!((good.limit() - 20.0).abs() < 1e-6, "{}", good.limit());
    }

    #[test]
    fn two_lost_checks_in_a_row_take_a_perfect_score_below_ten() {
        let lost = score_effect(&CheckFinding::NoResponse);
        let after_one = lost.apply(20.0);
        assert!(after_one >= JOINING_SCORE && lost.apply(after_one) < JOINING_SCORE);
    }

    #[test]
    fn a_middling_offset_never_joins() {
        for offset_us in [105_000, 200_000, 900_000, 4_000_000] {
            assert_eq!(score_effect(&time(2, offset_us)).checks_to_join(), None);
        }
    }

    #[test]
    fn a_cap_holds_whatever_the_score_was() {
        let denied = score_effect(&CheckFinding::Kiss("DENY".into()));
        assert!((denied.apply(20.0) - -50.0).abs() < 1e-9);
        assert!((score_effect(&CheckFinding::NoStratum).apply(20.0) - 5.0).abs() < 1e-9);
        assert!((score_effect(&time(2, 4_000_000)).apply(20.0) - -20.0).abs() < 1e-9);
    }
}
