//! The schedule: when requests are due. It does not depend on answers: a slow server does not slow it down,
//! and what is sent behind the schedule is counted as late.

use std::time::Duration;

use bench_ebpf::load_token::Spike;

use super::plan::Spacing;

/// Due times of one worker's requests, in nanoseconds from the start of a step.
#[derive(Debug)]
pub(crate) struct Schedule {
    spacing: Spacing,
    interval_ns: f64,
    next_ns: f64,
    end_ns: f64,
    spike: Spike,
    random: fastrand::Rng,
}

impl Schedule {
    /// Makes the schedule of one of `workers` that share `rate` requests per second evenly.
    pub(crate) fn new(rate: f64, spacing: Spacing, duration: Duration, worker: u32, workers: u32) -> Self {
        let interval_ns = 1e9 * f64::from(workers) / rate;
        Self {
            spacing,
            interval_ns,
            // The requests of the workers fall between each other.
            next_ns: interval_ns * f64::from(worker) / f64::from(workers),
            end_ns: duration.as_secs_f64() * 1e9,
            spike: Spike::default(),
            random: fastrand::Rng::new(),
        }
    }

    /// Adds a time in which the rate is higher.
    pub(crate) fn with(self, spike: Spike) -> Self {
        Self { spike, ..self }
    }

    /// Returns when the next request is due, or `None` after the last one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to minutes in nanoseconds"
    )]
    pub(crate) fn due_ns(&self) -> Option<u64> {
        (self.next_ns < self.end_ns).then_some(self.next_ns as u64)
    }

    /// Advances to the next request.
    #[expect(clippy::cast_precision_loss, reason = "a factor with 8 bits of fraction")]
    pub(crate) fn advance(&mut self) {
        let factor = self.due_ns().map_or(1.0, |due_ns| self.spike.factor(due_ns) as f64 / 256.0);
        let interval_ns = self.interval_ns / factor;
        self.next_ns += match self.spacing {
            Spacing::Even => interval_ns,
            // 1 - u is never zero.
            Spacing::Poisson => -(1.0 - self.random.f64()).ln() * interval_ns,
        };
    }

    /// Skips all remaining requests and returns their number.
    pub(crate) fn give_up(&mut self) -> u64 {
        let mut left = 0;
        while self.due_ns().is_some() {
            self.advance();
            left += 1;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(mut schedule: Schedule) -> u64 {
        schedule.give_up()
    }

    #[test]
    fn workers_together_send_the_rate() {
        let second = Duration::from_secs(1);
        let total: u64 =
            (0..3).map(|worker| count(Schedule::new(1000.0, Spacing::Even, second, worker, 3))).sum();
        assert_eq!(total, 1000);
    }

    #[test]
    fn poisson_intervals_have_the_rate_as_their_mean() {
        let sent = count(Schedule::new(100_000.0, Spacing::Poisson, Duration::from_secs(1), 0, 1));
        // The range is five standard deviations.
        assert!((98_419..101_581).contains(&sent), "{sent}");
    }

    #[test]
    fn a_spike_has_as_many_requests_as_its_factor_says() {
        let spike =
            Spike { start_ns: 250_000_000, end_ns: 500_000_000, gone_ns: 500_000_000, extra: 9 * 256 };
        let schedule = Schedule::new(1000.0, Spacing::Even, Duration::from_secs(1), 0, 1).with(spike);
        assert!((3249..=3251).contains(&count(schedule)));
    }

    #[test]
    fn workers_take_turns() {
        let first = |worker| Schedule::new(1000.0, Spacing::Even, Duration::from_secs(1), worker, 2).due_ns();
        assert_eq!((first(0), first(1)), (Some(0), Some(1_000_000)));
    }
}
