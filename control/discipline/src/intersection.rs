//! Which sources to believe: the largest set of overlapping intervals, if it is a majority.
//!
//! Each source claims that true time lies within its offset plus or minus its root distance. If more than
//! half of the sources have a point in common, that point is believed, and a source that does not reach it is
//! a falseticker (RFC 5905, section 11.2.1, after Marzullo). Without a majority no source is believed.

/// One source's claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Index of the source.
    pub source: usize,
    /// True time minus local time, in s.
    pub offset_s: f64,
    /// Root distance: half of the delay to the reference clock plus the dispersion, in s.
    pub distance_s: f64,
    /// Whether this source's claim has priority over those of others.
    pub trusted: bool,
}

impl Claim {
    fn low(&self) -> f64 {
        self.offset_s - self.distance_s
    }

    fn high(&self) -> f64 {
        self.offset_s + self.distance_s
    }
}

/// The interval that the majority has in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Lower end in s.
    pub low_s: f64,
    /// Upper end in s.
    pub high_s: f64,
    /// Number of sources that overlap there.
    pub votes: usize,
}

impl Agreement {
    /// Whether the claim overlaps with the agreement.
    #[must_use]
    pub fn holds(&self, claim: &Claim) -> bool {
        claim.low() <= self.high_s && claim.high() >= self.low_s
    }
}

/// Finds what a majority of `claims` agrees on. `voters` is the number of sources of which a majority is
/// counted. It may be larger than the number of claims, if others are still expected to answer. If any claim
/// is trusted, only trusted claims have a vote, and the majority is one of them.
#[must_use]
pub fn agreement(claims: &[Claim], voters: usize) -> Option<Agreement> {
    let trusted: Vec<&Claim> = claims.iter().filter(|claim| claim.trusted).collect();
    let (voting, voters) =
        if trusted.is_empty() { (claims.iter().collect(), voters) } else { (trusted.clone(), trusted.len()) };
    let best = largest_overlap(&voting)?;
    (best.votes * 2 > voters).then_some(best)
}

/// Returns the ends of everything that a majority of `claims` overlaps on. True time is between them if a
/// majority of the sources is truthful, whatever the others say. Unlike the largest overlap, it does not
/// shrink to what a liar claims. `silent` is the number of sources that are about to answer and may say
/// anything. If any claim is trusted, only trusted claims count.
#[must_use]
pub fn majority_hull(claims: &[Claim], silent: usize) -> Option<Agreement> {
    let trusted = claims.iter().any(|claim| claim.trusted);
    let voting: Vec<&Claim> = claims.iter().filter(|claim| claim.trusted || !trusted).collect();
    let silent = if trusted { 0 } else { silent };
    let covered = |at_s: f64| {
        let count = voting.iter().filter(|claim| claim.low() <= at_s && claim.high() >= at_s).count();
        count > 0 && (count + silent) * 2 > voting.len() + silent
    };
    let low_s = voting.iter().map(|claim| claim.low()).filter(|&end| covered(end)).reduce(f64::min)?;
    let high_s = voting.iter().map(|claim| claim.high()).filter(|&end| covered(end)).reduce(f64::max)?;
    Some(Agreement { low_s, high_s, votes: voting.len() / 2 + 1 })
}

fn largest_overlap(claims: &[&Claim]) -> Option<Agreement> {
    // A largest overlap begins at the lower end of some claim, so it is enough to look there.
    let mut best: Option<Agreement> = None;
    for start in claims {
        let low_s = start.low();
        let there = || claims.iter().filter(move |claim| claim.low() <= low_s && claim.high() >= low_s);
        let votes = there().count();
        let high_s = there().map(|claim| claim.high()).fold(f64::INFINITY, f64::min);
        if best.is_none_or(|best| votes > best.votes) {
            best = Some(Agreement { low_s, high_s, votes });
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(intervals: &[(f64, f64)]) -> Vec<Claim> {
        let claim = |(source, &(offset_s, distance_s)): (usize, &(f64, f64))| Claim {
            source,
            offset_s,
            distance_s,
            trusted: false,
        };
        intervals.iter().enumerate().map(claim).collect()
    }

    #[test]
    fn the_largest_overlap_is_found_with_its_ends() {
        let found = agreement(&claims(&[(0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (9.0, 1.0)]), 4);
        assert_eq!(found, Some(Agreement { low_s: 0.25, high_s: 1.0, votes: 3 }));
    }

    #[test]
    fn half_is_no_majority() {
        let two_by_two = claims(&[(0.0, 1.0), (0.1, 1.0), (9.0, 1.0), (9.1, 1.0)]);
        assert_eq!(agreement(&two_by_two, 4), None);
        assert_eq!(agreement(&[], 0), None);
    }

    #[test]
    fn those_who_have_not_spoken_count() {
        let two = claims(&[(0.0, 1.0), (0.1, 1.0)]);
        assert_eq!(agreement(&two, 4), None);
        assert!(agreement(&two, 3).is_some());
    }

    #[test]
    fn only_the_trusted_vote() {
        let mut three = claims(&[(0.0, 1.0), (0.1, 1.0), (9.0, 1.0)]);
        three[2].trusted = true;
        let found = agreement(&three, 3).expect("one of one");
        assert_eq!((found.votes, found.holds(&three[0])), (1, false));
    }

    #[test]
    fn a_liar_within_the_others_claims_does_not_shrink_the_hull() {
        let with = |intervals: &[(f64, f64)], silent| {
            majority_hull(&claims(intervals), silent).map(|hull| (hull.low_s, hull.high_s))
        };
        let ends = |intervals: &[(f64, f64)]| with(intervals, 0);
        assert_eq!(with(&[(0.0, 1.0), (0.9, 0.01)], 1), Some((-1.0, 1.0)));
        assert_eq!(ends(&[(0.0, 1.0), (0.1, 1.5), (0.2, 2.0), (0.9, 0.01)]), Some((-1.0, 1.0)));
        assert_eq!(ends(&[(0.0, 1.0)]), Some((-1.0, 1.0)));
        assert_eq!(ends(&[(0.0, 1.0), (5.0, 1.0)]), None);
        assert_eq!(ends(&[]), None);
    }

    #[test]
    fn touching_intervals_overlap() {
        assert!(agreement(&claims(&[(0.0, 1.0), (2.0, 1.0)]), 2).is_some());
    }
}
