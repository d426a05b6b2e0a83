//! Upstreams that know little and say so, beside others that know the time: what they say is true of all of them,
//! and so must be what is served.

use super::*;

/// Exact and coarse ones.
const MIXES: [(usize, usize); 3] = [(2, 2), (1, 1), (2, 3)];
/// How far off, and what is claimed, in s.
const COARSE: [(f64, f64); 2] = [(0.05, 0.1), (0.5, 1.2)];

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn coarse_but_truthful_upstreams_do_not_make_the_time_wrong() {
    let mut plays = Vec::new();
    for (exact, coarse) in MIXES {
        for (error_s, root_dispersion_s) in COARSE {
            for coarse_first in [true, false] {
                let (kind, polls) =
                    if plays.len() % 4 < 2 { ("default", "") } else { ("short", SHORT_POLLS) };
                let first = if coarse_first { "coarse" } else { "exact" };
                let name = format!("{exact} exact, {coarse} {error_s} s off, {first} first, {kind} polls");
                let mut conducts = vec![Conduct::exact(); exact];
                conducts.extend(vec![Conduct::coarse(error_s, root_dispersion_s); coarse]);
                if coarse_first {
                    conducts.reverse();
                }
                plays.push((name, move || with_coarse(conducts, polls)));
            }
        }
    }
    side_by_side(plays);
}

fn with_coarse(conducts: Vec<Conduct>, polls: &str) {
    let lab = Lab::up(&[]);
    let (_running, addresses) = upstreams(&lab, conducts);
    let play = Play::begin(&lab, &config("", polls, &addresses));
    sleep(BURST);
    play.phase("all have been heard", 2 * POLL);
    play.end(|verdict| expect_near(&verdict.since("all have been heard")));
}
