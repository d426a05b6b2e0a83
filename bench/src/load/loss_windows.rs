//! Losses of a step by window of the time in which its requests were sent. A machine that stood still for
//! some milliseconds loses as many requests as a server that is always a little too slow, but in fewer
//! windows.

use std::time::Duration;

use bench_ebpf::load_token::{WINDOWS, window, window_shift};
use serde::{Deserialize, Serialize};

use super::clock::nanos;

/// Requests and right answers by window; see the module.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct LossWindows {
    window_ns: u64,
    /// Requests sent in each window.
    sent: Vec<u64>,
    /// Those requests of each window that were answered right.
    answered: Vec<u64>,
}

impl LossWindows {
    /// Makes the windows of a step with this duration.
    pub(crate) fn over(duration: Duration) -> Self {
        Self { window_ns: 1 << window_shift(nanos(duration)), sent: Vec::new(), answered: Vec::new() }
    }

    /// Counts a request that was sent this long after the start.
    pub(crate) fn sent_at(&mut self, ns: u64) {
        let window = self.window(ns);
        count(&mut self.sent, window, 1);
    }

    /// Counts the right answer to a request that was sent this long after the start.
    pub(crate) fn answered_at(&mut self, ns: u64) {
        let window = self.window(ns);
        count(&mut self.answered, window, 1);
    }

    /// Takes back requests that did not go out, the latest first.
    pub(crate) fn unsend(&mut self, mut requests: u64) {
        for sent in self.sent.iter_mut().rev() {
            let here = requests.min(*sent);
            *sent -= here;
            requests -= here;
        }
    }

    /// Adds counts from elsewhere, by window.
    pub(crate) fn count(&mut self, sent: &[u64], answered: &[u64]) {
        for (counts, more) in [(&mut self.sent, sent), (&mut self.answered, answered)] {
            for (window, more) in more.iter().enumerate().filter(|(_, more)| **more > 0) {
                count(counts, window, *more);
            }
        }
    }

    /// Adds the counts of another worker.
    pub(crate) fn add(&mut self, other: &Self) {
        self.count(&other.sent, &other.answered);
    }

    /// Returns the length of a window in milliseconds.
    pub(crate) fn window_ms(&self) -> f64 {
        Duration::from_nanos(self.window_ns).as_secs_f64() * 1e3
    }

    /// Returns the number of windows in which requests were sent, and the number of those in which not all
    /// were answered right.
    pub(crate) fn windows(&self) -> (usize, usize) {
        let windows = self.failures();
        (windows.len(), windows.iter().filter(|(_, failed)| *failed > 0).count())
    }

    /// Returns the fraction of requests sent that had no right answer. The worst windows are left out, up to
    /// a fraction `left_out` of all windows.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts below 2^52, and a part of 1024"
    )]
    pub(crate) fn failure_fraction(&self, left_out: f64) -> f64 {
        let mut windows = self.failures();
        windows.sort_unstable_by_key(|(_, failed)| std::cmp::Reverse(*failed));
        let kept = &windows[(windows.len() as f64 * left_out) as usize..];
        let (sent, failed) = kept.iter().fold((0, 0), |sum, window| (sum.0 + window.0, sum.1 + window.1));
        if sent == 0 { 0.0 } else { failed as f64 / sent as f64 }
    }

    /// Returns what was sent and what was answered right, in requests per second, by the middle of the window in s. Windows
    /// are put together so that there are at most so many.
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    pub(crate) fn course(&self, most: usize) -> Vec<(f64, f64, f64)> {
        let together = self.sent.len().div_ceil(most.max(1)).max(1);
        let seconds = Duration::from_nanos(self.window_ns).as_secs_f64();
        let sum = |counts: &[u64], from: usize| counts.iter().skip(from).take(together).sum::<u64>() as f64;
        let windows = (0..self.sent.len()).step_by(together);
        // The last one may be only partly within the step.
        let whole = windows.filter(|from| from + together <= self.sent.len().saturating_sub(1).max(1));
        whole
            .map(|from| {
                let time = (from as f64 + together as f64 / 2.0) * seconds;
                let rate = |counts: &[u64]| sum(counts, from) / (together as f64 * seconds);
                (time, rate(&self.sent), rate(&self.answered))
            })
            .collect()
    }

    /// Returns requests sent and requests without a right answer for each window.
    fn failures(&self) -> Vec<(u64, u64)> {
        let answered = self.answered.iter().copied().chain(std::iter::repeat(0));
        let windows = self.sent.iter().zip(answered).filter(|(sent, _)| **sent > 0);
        windows.map(|(sent, answered)| (*sent, sent.saturating_sub(answered))).collect()
    }

    fn window(&self, ns: u64) -> usize {
        window(ns, self.window_ns.trailing_zeros().into())
    }
}

fn count(counts: &mut Vec<u64>, window: usize, more: u64) {
    if window < WINDOWS {
        if window >= counts.len() {
            counts.resize(window + 1, 0);
        }
        counts[window] += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 1 << 23;

    /// Makes twenty windows with a thousand requests each, of which some windows lose some.
    fn windows(lost: &[(u64, u64)]) -> LossWindows {
        let mut windows = LossWindows::over(Duration::from_nanos(20 * WINDOW));
        for window in 0..20 {
            let lost = lost.iter().find(|(in_window, _)| *in_window == window).map_or(0, |(_, lost)| *lost);
            for request in 0..1000 {
                windows.sent_at(window * WINDOW + request);
                if request >= lost {
                    windows.answered_at(window * WINDOW + request);
                }
            }
        }
        windows
    }

    #[test]
    fn a_burst_of_losses_is_left_out_and_a_steady_loss_is_not() {
        let burst = windows(&[(7, 900), (8, 100)]);
        assert_eq!(burst.windows(), (20, 2));
        assert!((burst.failure_fraction(0.0) - 0.05).abs() < 1e-9);
        assert!(burst.failure_fraction(0.1).abs() < 1e-9);
        assert!((burst.failure_fraction(0.05) - 100.0 / 19_000.0).abs() < 1e-9);
        let steady = windows(&(0..20).map(|window| (window, 50)).collect::<Vec<_>>());
        assert_eq!(steady.windows(), (20, 20));
        assert!((steady.failure_fraction(0.1) - 0.05).abs() < 1e-9);
    }

    #[test]
    fn workers_add_up_and_what_did_not_go_out_is_taken_back() {
        let (mut one, other) = (windows(&[(3, 10)]), windows(&[(3, 20)]));
        one.add(&other);
        assert!((one.failure_fraction(0.0) - 30.0 / 40_000.0).abs() < 1e-9);
        one.unsend(3000);
        assert_eq!(one.windows(), (19, 1));
    }

    #[test]
    fn the_course_has_rates_by_time_in_as_many_points_as_fit() {
        let windows = windows(&[(0, 500), (1, 500)]);
        let course = windows.course(10);
        assert_eq!(course.len(), 9, "the last one may be cut: {course:?}");
        let seconds = Duration::from_nanos(WINDOW).as_secs_f64();
        let (time, sent, answered) = course[0];
        assert!((time - seconds).abs() < 1e-9 && (sent - 1000.0 / seconds).abs() < 1e-6, "{course:?}");
        assert!((answered - 500.0 / seconds).abs() < 1e-6, "{course:?}");
        assert_eq!(course[1].1.total_cmp(&course[1].2), std::cmp::Ordering::Equal);
    }

    #[test]
    fn nothing_sent_is_no_failure() {
        let nothing = LossWindows::over(Duration::from_mins(10));
        assert_eq!((nothing.windows(), nothing.failure_fraction(0.0)), ((0, 0), 0.0));
    }
}
