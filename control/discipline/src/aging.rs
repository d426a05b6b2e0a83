//! How a source's claim is carried on to a later moment.
//!
//! An old claim has moved with the local clock's frequency since, and that frequency is not known exactly.
//! The estimate's frequency is no help for a *bound*. It depends on which sources the estimate has followed.
//! If one of them lied, or the first samples were worse than they looked, it is wrong by more than its own
//! deviation. So each source's claims are carried on within the frequencies that its own samples leave
//! possible. If the source is truthful, the frequency is among them, whatever the others have done. [`PHI`]
//! is added for the change of any clock's frequency.

use super::observation::Gaussian;

/// Assumed drift of any clock, in s/s (PHI of RFC 5905), by which an old claim widens.
pub(super) const PHI: f64 = 15e-6;
/// Number of standard deviations of an unknown frequency that are allowed for.
pub(crate) const UNKNOWN_SIGMAS: f64 = 3.0;

/// Returns the lowest and the highest frequency of any local clock, given `unknown`, in s/s.
pub(super) fn any_clock(unknown: Gaussian) -> (f64, f64) {
    let reach = UNKNOWN_SIGMAS * unknown.sd();
    (unknown.mean - reach, unknown.mean + reach)
}

/// How a claim moves and widens over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aging {
    /// The believed frequency of the local clock, in s/s.
    pub(super) rate: f64,
    /// How much this and everything else may be wrong, in s/s.
    pub(super) growth: f64,
}

impl Aging {
    /// Carries claims on within the `possible` frequencies (lowest and highest), and near the `believed` one
    /// if it is among them. `unknown` holds for any local clock.
    pub(super) fn new(possible: Option<(f64, f64)>, unknown: Gaussian, believed: f64) -> Self {
        let any = any_clock(unknown);
        // If they have nothing in common, the samples are from before and after a jump.
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
