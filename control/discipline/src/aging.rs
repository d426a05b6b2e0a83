//! How what a source said is carried on to a later moment.
//!
//! A claim of some time ago has moved with the local clock's frequency since, and that is only known so well. The
//! estimate's frequency is no help for a *bound*: it rests on whom the estimate has followed, and if one of them lied,
//! or the first samples were worse than they looked, it is wrong by more than its own deviation. So each source's claims
//! are carried on within the frequencies that its own samples leave possible. If the source is truthful, the frequency
//! is among them, whatever the others have done. [`PHI`] is added for what any clock may change by.

use super::observation::Gaussian;

/// What any clock may drift, in s/s (RFC 5905's PHI): what was said some time ago holds less.
pub(super) const PHI: f64 = 15e-6;
/// Standard deviations of an unknown frequency that are allowed for.
pub(crate) const UNKNOWN_SIGMAS: f64 = 3.0;

/// The lowest and the highest frequency of any local clock, given `unknown`, in s/s.
pub(super) fn any_clock(unknown: Gaussian) -> (f64, f64) {
    let reach = UNKNOWN_SIGMAS * unknown.sd();
    (unknown.mean - reach, unknown.mean + reach)
}

/// How a claim moves and widens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aging {
    /// The local clock's frequency as it is believed to be, in s/s.
    pub(super) rate: f64,
    /// What this and everything else may be wrong by, in s/s.
    pub(super) growth: f64,
}

impl Aging {
    /// Within the frequencies `possible` (lowest and highest), and near `believed`, where that is one of them.
    /// `unknown` is what holds for any local clock.
    pub(super) fn new(possible: Option<(f64, f64)>, unknown: Gaussian, believed: f64) -> Self {
        let any = any_clock(unknown);
        // Where they have nothing in common, the samples are from before and after a jump.
        let (low, high) = possible
            .filter(|&(low, high)| low <= any.1 && high >= any.0)
            .map_or(any, |(low, high)| (low.max(any.0), high.min(any.1)));
        let rate = believed.max(low).min(high);
        Self { rate, growth: PHI + (rate - low).max(high - rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Gaussian = Gaussian { mean: 0.0, variance: 200e-6 * 200e-6 };

    #[test]
    fn every_possible_frequency_is_covered_whatever_is_believed() {
        for possible in
            [None, Some((-10e-6, 30e-6)), Some((-1.0, 1.0)), Some((5e-6, 5e-6)), Some((0.01, 0.02))]
        {
            for believed in [0.0, 20e-6, -900e-6, 0.5] {
                let aging = Aging::new(possible, UNKNOWN, believed);
                let (low, high) = possible.filter(|&(low, _)| low < 0.001).unwrap_or((-600e-6, 600e-6));
                let clipped = (low.max(-600e-6), high.min(600e-6));
                assert!(aging.rate - aging.growth <= clipped.0 && aging.rate + aging.growth >= clipped.1);
                assert!(aging.growth >= PHI);
            }
        }
    }
}
