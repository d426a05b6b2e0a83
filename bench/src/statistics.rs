//! Order statistics of a handful of measurements.

use serde::{Deserialize, Serialize};

/// Distribution of several measurements of the same thing.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The smallest value.
    pub(crate) min: f64,
    /// The median: half of the values are below it.
    pub(crate) median: f64,
    /// The largest value.
    pub(crate) max: f64,
    /// Interquartile range: from the first to the third quartile.
    pub(crate) spread: f64,
}

impl Summary {
    /// Summarises at least one value; returns `None` if there is none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: quantile(&sorted, 0.5)?,
            max: *sorted.last()?,
            spread: quantile(&sorted, 0.75)? - quantile(&sorted, 0.25)?,
        })
    }
}

/// Returns the value below which `fraction` of the sorted values lie, with linear interpolation between
/// neighbours.
fn quantile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "a handful of values")]
    let position = last as f64 * fraction;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a handful")]
    let below = position.floor() as usize;
    let lower = *sorted.get(below)?;
    let upper = *sorted.get(below + 1).unwrap_or(&lower);
    Some(lower + (upper - lower) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_nothing_does_not_exist() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_value_is_its_own_summary_without_spread() {
        let summary = Summary::of(&[7.0]);
        assert_eq!(summary, Some(Summary { min: 7.0, median: 7.0, max: 7.0, spread: 0.0 }));
    }

    #[test]
    fn order_does_not_matter_and_quartiles_are_interpolated() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(summary, Some(Summary { min: 1.0, median: 2.5, max: 4.0, spread: 1.5 }));
    }

    #[test]
    fn one_wild_round_moves_neither_median_nor_spread_by_much() {
        let summary = Summary::of(&[10.0, 10.0, 11.0, 10.0, 900.0]).unwrap();
        assert!(summary.median < 10.1 && summary.spread < 1.1, "{summary:?}");
    }
}
