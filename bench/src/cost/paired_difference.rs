//! Turns times into costs. Two things are compared only when they ran next to each other.
//!
//! The time for writing the frame is subtracted within each round, so that a slow round is slow on both
//! sides of the difference. That is enough for rows that are far apart. What a row costs more than the plain
//! one is smaller than the changes in the machine's speed from one row to the next. Therefore those two take
//! turns of a fraction of a millisecond, and the difference is that of neighbouring turns. A round's result
//! is the median of its differences: something else that takes the CPU for a while makes a few of them very
//! large or very small, and would distort a mean.

use super::subjects::{Method, PASS, REARMED_PASS, Subject};
use crate::statistics::Summary;
use bench_ebpf::alternation::Pair;

/// The cost of a row compared with the plain one in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Comparison {
    /// Additional nanoseconds per run.
    pub(super) more_ns: f64,
    /// Nanoseconds per run of the plain row, including the time for writing the frame.
    pub(super) plain_ns: f64,
}

impl Comparison {
    /// Compares from turns on each CPU and with each copy of the program, in which the plain row has the
    /// first turn. The result is the mean of their medians, or `None` if there are none.
    pub(super) fn of(runs: &[Vec<Pair>]) -> Option<Self> {
        let mean_of_medians = |ns: fn(&Pair) -> f64| {
            let medians = runs.iter().map(|pairs| {
                let values: Vec<f64> = pairs.iter().map(ns).collect();
                Some(Summary::of(&values)?.median)
            });
            let medians: Vec<f64> = medians.collect::<Option<_>>()?;
            #[expect(clippy::cast_precision_loss, reason = "CPUs and copies")]
            let number = medians.len() as f64;
            (!medians.is_empty()).then(|| medians.iter().sum::<f64>() / number)
        };
        Some(Self {
            more_ns: mean_of_medians(|pair| pair.second_ns - pair.first_ns)?,
            plain_ns: mean_of_medians(|pair| pair.first_ns)?,
        })
    }
}

/// Nanoseconds per run, by subject and round.
#[derive(Debug)]
pub(super) struct Times {
    rows: Vec<Vec<f64>>,
    /// Comparisons of the rows that have a plain one.
    comparisons: Vec<Vec<Comparison>>,
}

impl Times {
    /// Makes an empty table for this number of subjects.
    pub(super) fn new(subjects: usize) -> Self {
        Self { rows: vec![Vec::new(); subjects], comparisons: vec![Vec::new(); subjects] }
    }

    /// Adds a subject's time in the next round.
    pub(super) fn add(&mut self, subject: usize, ns: f64) {
        self.rows[subject].push(ns);
    }

    /// Adds the comparison with the plain row in the same round.
    pub(super) fn add_comparison(&mut self, subject: usize, comparison: Comparison) {
        self.comparisons[subject].push(comparison);
    }

    /// Returns the cost of a subject in each round.
    pub(super) fn costs(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        let times = &self.rows[subject];
        if subjects[subject].method == Method::Direct {
            return times.clone();
        }
        times.iter().zip(self.rearming(subjects)).map(|(time, rearming)| time - rearming).collect()
    }

    /// Returns the time for writing the frame in each round.
    pub(super) fn rearming(&self, subjects: &[Subject]) -> Vec<f64> {
        let (pass, rearmed_pass) = (self.of(subjects, PASS), self.of(subjects, REARMED_PASS));
        rearmed_pass.iter().zip(pass).map(|(rearmed, pass)| rearmed - pass).collect()
    }

    /// Returns the cost as a multiple of what `XDP_PASS` took in the same round.
    pub(super) fn ratios(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        let costs = self.costs(subjects, subject);
        costs.iter().zip(self.of(subjects, PASS)).map(|(cost, pass)| cost / pass).collect()
    }

    /// Returns what a subject costs more than its plain row in each round.
    pub(super) fn more(&self, subject: usize) -> Vec<f64> {
        self.comparisons[subject].iter().map(|comparison| comparison.more_ns).collect()
    }

    /// Returns that difference as a multiple of what `XDP_PASS` took in the same round.
    pub(super) fn more_ratios(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        self.more(subject).iter().zip(self.of(subjects, PASS)).map(|(more, pass)| more / pass).collect()
    }

    /// Returns the cost as a multiple of the plain row's cost in each round.
    pub(super) fn times_plain(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        let times = |(comparison, rearming): (&Comparison, f64)| {
            1.0 + comparison.more_ns / (comparison.plain_ns - rearming)
        };
        self.comparisons[subject].iter().zip(self.rearming(subjects)).map(times).collect()
    }

    fn of(&self, subjects: &[Subject], name: &str) -> &[f64] {
        let index = subjects.iter().position(|subject| subject.name == name);
        index.map_or(&[], |index| &self.rows[index])
    }
}

#[cfg(test)]
mod tests {
    use super::super::subjects::all;
    use super::*;

    fn index(subjects: &[Subject], name: &str) -> usize {
        subjects.iter().position(|subject| subject.name == name).unwrap()
    }

    const PLAIN_NS: f64 = 120.0;
    const MORE_NS: f64 = 3.0;

    /// Makes pairs of turns in which each turn is slower than it should be by this much.
    fn comparison(noise_ns: impl Fn(usize) -> f64) -> Comparison {
        let pair = |index: usize| {
            let [before, after] = [noise_ns(2 * index), noise_ns(2 * index + 1)];
            let [first, second] = if index.is_multiple_of(2) { [before, after] } else { [after, before] };
            Pair { first_ns: PLAIN_NS + first, second_ns: PLAIN_NS + MORE_NS + second }
        };
        Comparison::of(&[(0..32).map(pair).collect()]).unwrap()
    }

    #[test]
    fn noise_that_lasts_longer_than_a_turn_cancels() {
        // A slow spell begins and ends in the middle of a pair.
        let spell = comparison(|turn| if (11..40).contains(&turn) { 80.0 } else { 0.0 });
        assert!((spell.more_ns - MORE_NS).abs() < 1e-9, "{spell:?}");
        // The machine becomes slower all the time; pairs of neighbours have opposite orders.
        #[expect(clippy::cast_precision_loss, reason = "turns")]
        let drift = comparison(|turn| turn as f64 * 0.5);
        assert!((drift.more_ns - MORE_NS).abs() < 1e-9, "{drift:?}");
    }

    #[test]
    fn a_few_turns_that_something_else_had_the_cpu_in_move_nothing() {
        for fast in [0.0, -60.0] {
            let outliers = comparison(|turn| match turn % 16 {
                3 => 5_000.0,
                9 => fast,
                _ => 0.0,
            });
            assert!((outliers.more_ns - MORE_NS).abs() < 1e-9, "{outliers:?}");
            assert!((outliers.plain_ns - PLAIN_NS).abs() < 1e-9, "{outliers:?}");
        }
    }

    #[test]
    fn noise_in_each_turn_moves_the_difference_to_neither_side() {
        let mut seed = 1_u64;
        let mut mean = 0.0;
        for _ in 0..1_000 {
            let noise: Vec<f64> = (0..64)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // The noise is never negative, and large now and then.
                    let chance = f64::from((seed >> 40) as u32) / f64::from(1 << 24);
                    20.0 * chance.powi(8)
                })
                .collect();
            mean += comparison(|turn| noise[turn]).more_ns / 1_000.0;
        }
        assert!((mean - MORE_NS).abs() < 0.05, "{mean}");
    }

    #[test]
    fn of_several_cpus_or_copies_it_is_the_mean() {
        let pair = |second_ns| vec![Pair { first_ns: PLAIN_NS, second_ns }; 3];
        let comparison = Comparison::of(&[pair(PLAIN_NS + 2.0), pair(PLAIN_NS + 4.0)]);
        assert_eq!(comparison, Some(Comparison { more_ns: 3.0, plain_ns: PLAIN_NS }));
        assert_eq!(Comparison::of(&[]), None);
        assert_eq!(Comparison::of(&[Vec::new()]), None);
    }

    #[test]
    fn writing_the_frame_is_no_part_of_what_is_multiplied() {
        let subjects = all(false);
        let mut times = Times::new(subjects.len());
        let row = index(&subjects, "limiter, one source, IPv4");
        times.add(index(&subjects, PASS), 20.0);
        times.add(index(&subjects, REARMED_PASS), 60.0);
        times.add_comparison(row, Comparison { more_ns: 4.0, plain_ns: 120.0 });
        assert_eq!(times.more(row), [4.0]);
        assert_eq!(times.more_ratios(&subjects, row), [0.2]);
        assert_eq!(times.times_plain(&subjects, row), [1.05]);
    }

    #[test]
    fn noise_that_a_round_adds_to_all_rows_cancels() {
        let subjects = all(false);
        let mut times = Times::new(subjects.len());
        for noise in [0.0, 7.0, 3.5] {
            times.add(index(&subjects, PASS), 28.0);
            times.add(index(&subjects, REARMED_PASS), 50.0 + noise);
            times.add(index(&subjects, "answer, IPv4"), 110.0 + noise);
        }
        let answer = index(&subjects, "answer, IPv4");
        assert_eq!(times.costs(&subjects, answer), [88.0; 3]);
        assert_eq!(times.ratios(&subjects, answer), [88.0 / 28.0; 3]);
    }

    #[test]
    fn a_direct_row_costs_what_it_takes() {
        let subjects = all(false);
        let mut times = Times::new(subjects.len());
        let row = index(&subjects, "parse and pass, TCP, IPv4");
        times.add(index(&subjects, PASS), 20.0);
        times.add(index(&subjects, REARMED_PASS), 50.0);
        times.add(row, 25.0);
        assert_eq!(times.costs(&subjects, row), [25.0]);
        assert_eq!(times.ratios(&subjects, row), [1.25]);
    }
}
