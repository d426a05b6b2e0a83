//! From times to costs: what writing the frame takes is subtracted within each round, so that a slow round
//! is slow on both sides of the difference.

use super::subjects::{Method, PASS, REARMED_PASS, Subject};

/// Nanoseconds for a run, by subject and round.
#[derive(Debug)]
pub(super) struct Times(Vec<Vec<f64>>);

impl Times {
    /// Of this many subjects.
    pub(super) fn new(subjects: usize) -> Self {
        Self(vec![Vec::new(); subjects])
    }

    /// Adds the next round's time.
    pub(super) fn add(&mut self, subject: usize, ns: f64) {
        self.0[subject].push(ns);
    }

    /// The cost of a subject, round by round.
    pub(super) fn costs(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        let times = &self.0[subject];
        if subjects[subject].method == Method::Direct {
            return times.clone();
        }
        times.iter().zip(self.rearming(subjects)).map(|(time, rearming)| time - rearming).collect()
    }

    /// What writing the frame takes, round by round.
    pub(super) fn rearming(&self, subjects: &[Subject]) -> Vec<f64> {
        let (pass, rearmed_pass) = (self.of(subjects, PASS), self.of(subjects, REARMED_PASS));
        rearmed_pass.iter().zip(pass).map(|(rearmed, pass)| rearmed - pass).collect()
    }

    /// The same as a multiple of what `XDP_PASS` took in the same round.
    pub(super) fn ratios(&self, subjects: &[Subject], subject: usize) -> Vec<f64> {
        let costs = self.costs(subjects, subject);
        costs.iter().zip(self.of(subjects, PASS)).map(|(cost, pass)| cost / pass).collect()
    }

    fn of(&self, subjects: &[Subject], name: &str) -> &[f64] {
        let index = subjects.iter().position(|subject| subject.name == name);
        index.map_or(&[], |index| &self.0[index])
    }
}

#[cfg(test)]
mod tests {
    use super::super::subjects::all;
    use super::*;

    fn index(subjects: &[Subject], name: &str) -> usize {
        subjects.iter().position(|subject| subject.name == name).unwrap()
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
