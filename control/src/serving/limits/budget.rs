//! The server's budget: what it costs an answer, and how it is shared out among all that answer.

use responder::budget::{Cost, PARTS_OF_A_UNIT, UNITS_IN_A_NS};

use crate::config::LimitsConfig;

/// A cap on all answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Answers a second.
    pub answers_per_s: Option<u32>,
    /// Bits of their Ethernet frames a second.
    pub bits_per_s: Option<f64>,
}

impl Budget {
    /// The one of a configuration, or of a cap in bytes a second that the traffic quota imposes: whichever is the
    /// tighter.
    #[must_use]
    pub fn of(limits: &LimitsConfig, cap_bytes_per_s: Option<f64>) -> Option<Self> {
        let LimitsConfig { budget_answers_per_s: answers_per_s, budget_bits_per_s, .. } = *limits;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
        let configured = budget_bits_per_s.map(|bits| bits as f64);
        let of_quota = cap_bytes_per_s.map(|bytes| 8.0 * bytes);
        let bits_per_s = configured.into_iter().chain(of_quota).reduce(f64::min);
        (answers_per_s.is_some() || bits_per_s.is_some()).then_some(Self { answers_per_s, bits_per_s })
    }

    /// The time that the whole server takes to earn an answer, and a byte of its frame, in the units of
    /// [`responder::budget`].
    fn times(self) -> [f64; 2] {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
        let units_in_a_s = (1_000_000_000 * UNITS_IN_A_NS) as f64;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are enough")]
        let parts_in_8_s = units_in_a_s * (8 * PARTS_OF_A_UNIT) as f64;
        let by_bits = self.bits_per_s.map_or(0.0, |bits| parts_in_8_s / bits);
        [self.answers_per_s.map_or(0.0, |answers| units_in_a_s / f64::from(answers)), by_bits]
    }
}

/// How the budget is shared out. The shares are 1 in all, so that the cap holds whatever each of them is.
///
/// Nothing else is measured than how full each bucket is: more goes to those that are emptier than the others, until
/// all are equally empty. Then a source owes too much on one CPU if it does on the other, wherever the NIC sends it.
#[derive(Clone, Debug)]
pub struct Shares {
    shares: Vec<f64>,
}

/// The most that an answer costs, in units: a minute. Each of those that answer has one a minute at least, and is not
/// in debt for longer when the budget grows.
const DEAREST_ANSWER: u64 = 60 * 1_000_000_000 * UNITS_IN_A_NS;
/// The same for a byte of the shortest answer, in parts of a unit. No frame is so long that its cost overflows.
const DEAREST_BYTE: u64 = DEAREST_ANSWER * PARTS_OF_A_UNIT / 90;
const _: () = assert!(DEAREST_BYTE.checked_mul(1 << 16).is_some());

/// No share is smaller than this part of an equal one: the first requests that come to an idle CPU are answered.
const LEAST: f64 = 1.0 / 8.0;
/// A share changes by no more than this factor in one go.
const LARGEST_CHANGE: f64 = 2.0;
/// Levels of difference that change a share by the factor e.
const LEVELS: f64 = 8.0;

impl Shares {
    /// Equal ones, for so many that answer.
    #[must_use]
    pub fn equal(answering: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "CPUs")]
        let share = 1.0 / answering.max(1) as f64;
        Self { shares: vec![share; answering.max(1)] }
    }

    /// Takes account of how full the buckets are, from 0 to 32.
    pub fn balance(&mut self, levels: &[u64]) {
        #[expect(clippy::cast_precision_loss, reason = "at most 32")]
        let levels: Vec<f64> = levels.iter().map(|level| *level as f64).collect();
        if levels.len() != self.shares.len() {
            return;
        }
        // The level that the shares as they are would come to if they were one.
        let mean: f64 = levels.iter().zip(&self.shares).map(|(level, share)| level * share).sum();
        for (share, level) in self.shares.iter_mut().zip(&levels) {
            *share *= ((mean - level) / LEVELS).exp().clamp(1.0 / LARGEST_CHANGE, LARGEST_CHANGE);
        }
        #[expect(clippy::cast_precision_loss, reason = "CPUs")]
        let least = LEAST / self.shares.len() as f64;
        let (sum, rest): (f64, f64) = (self.shares.iter().sum(), 1.0 - LEAST);
        for share in &mut self.shares {
            *share = least + rest * *share / sum;
        }
    }

    /// What an answer costs each of them.
    pub fn costs(&self, budget: Budget) -> impl Iterator<Item = Cost> + '_ {
        let [answer, byte] = budget.times();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and saturating"
        )]
        let units = |cost: f64, most: u64| (cost.ceil() as u64).min(most);
        self.shares.iter().map(move |share| Cost {
            answer: units(answer / share, DEAREST_ANSWER),
            byte: units(byte / share, DEAREST_BYTE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { answers_per_s: Some(10_000), bits_per_s: None };

    fn sum_of_rates(shares: &Shares, budget: Budget) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a test")]
        shares.costs(budget).map(|cost| 1.6e10 / cost.of(90) as f64).sum()
    }

    #[test]
    fn the_shares_never_come_to_more_than_the_cap() {
        let mut shares = Shares::equal(5);
        for step in 0..200_u64 {
            assert!(sum_of_rates(&shares, BUDGET) <= 10_000.0, "{shares:?}");
            assert!(sum_of_rates(&shares, BUDGET) > 9_990.0, "{shares:?}");
            shares.balance(&[step % 33, 32, 0, step * 7 % 33, 32]);
        }
    }

    #[test]
    fn the_cap_in_bits_is_that_of_frames_and_the_tighter_one_counts() {
        let cost = |answers_per_s, bits_per_s| {
            let cost = Shares::equal(1).costs(Budget { answers_per_s, bits_per_s }).next().unwrap();
            // Over IPv4 and over IPv6, and over IPv6 with two tags.
            [90, 110, 118].map(|bytes| cost.of(bytes))
        };
        assert_eq!(cost(None, Some(720_000.0)), [16_000_001, 19_555_556, 20_977_778]);
        assert_eq!(cost(Some(1000), Some(7_200_000.0)), [16_000_000; 3]);
        // The most that can be set: the cost of a byte is a small number.
        assert_eq!(cost(None, Some(100_000_000_000.0)), [116, 141, 152]);
    }

    #[test]
    fn the_quota_tightens_a_configured_budget_and_never_loosens_it() {
        let limits = |answers, bits| LimitsConfig {
            budget_answers_per_s: answers,
            budget_bits_per_s: bits,
            ..LimitsConfig::default()
        };
        assert_eq!(Budget::of(&limits(None, None), None), None);
        let budget = |answers_per_s, bits_per_s| Some(Budget { answers_per_s, bits_per_s });
        assert_eq!(Budget::of(&limits(None, None), Some(1000.0)), budget(None, Some(8000.0)));
        assert_eq!(Budget::of(&limits(None, Some(100_000)), Some(1000.0)), budget(None, Some(8000.0)));
        assert_eq!(Budget::of(&limits(None, Some(100_000)), Some(1e9)), budget(None, Some(100_000.0)));
        assert_eq!(Budget::of(&limits(Some(100), None), Some(1e9)), budget(Some(100), Some(8e9)));
    }

    #[test]
    fn however_tight_the_budget_each_of_those_that_answer_has_an_answer_a_minute() {
        const MINUTE: u64 = 60 * 16_000_000_000;
        for bits_per_s in [1e-30, 0.0, 0.1, 10.0] {
            let budget = Budget { answers_per_s: None, bits_per_s: Some(bits_per_s) };
            for cost in Shares::equal(65).costs(budget) {
                assert!(
                    cost.of(90) <= MINUTE && cost.of(90) > MINUTE - MINUTE / 1000,
                    "{bits_per_s}: {cost:?}"
                );
                assert!(cost.of(1514) > 16 * MINUTE, "long answers cost more: {cost:?}");
            }
        }
    }

    /// Buckets under a constant demand, in steps of a quarter of a second: as much is answered as the share gives,
    /// and the level goes to where just that much is admitted.
    #[test]
    fn a_share_goes_to_where_the_demand_is() {
        for demands in [[9000.0, 1000.0, 0.0], [0.0, 0.0, 20_000.0], [40_000.0, 60_000.0, 0.0]] {
            let mut shares = Shares::equal(3);
            let mut levels = [32_u64; 3];
            for _ in 0..80 {
                let rates: Vec<_> = shares.shares.iter().map(|share| share * 10_000.0).collect();
                for ((level, demand), rate) in levels.iter_mut().zip(demands).zip(&rates) {
                    *level = if demand < *rate { (*level + 4).min(32) } else { level.saturating_sub(4) };
                }
                shares.balance(&levels);
            }
            let answered: f64 =
                shares.shares.iter().zip(demands).map(|(share, demand)| demand.min(share * 10_000.0)).sum();
            let wanted = demands.iter().sum::<f64>().min(10_000.0);
            assert!(answered > wanted * 0.85, "{demands:?}: {answered} by {shares:?}");
        }
    }
}
