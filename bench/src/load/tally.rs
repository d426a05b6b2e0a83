//! Counters of what became of a step's requests.

use std::time::Duration;

use bench_ebpf::load_token::{Fault, MAX_REQUESTS, Malformation, Token};
use hdrhistogram::Histogram;

use super::loss_windows::LossWindows;

/// The longest round trip that is recorded exactly; longer ones count as this.
const LONGEST_NS: u64 = 60_000_000_000;

/// Counts and distributions of one worker, or of all workers together.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests that went out.
    pub(crate) sent: u64,
    /// Those requests that went out more than [`super::LATE_NS`] behind the schedule.
    pub(crate) sent_late: u64,
    /// Requests that were due and never went out.
    pub(crate) unsent: u64,
    /// Requests that went out and must not be answered; they are not counted in `sent`.
    pub(crate) malformed: u64,
    /// Right answers that came in time.
    pub(crate) answered: u64,
    /// Answers that came after the timeout.
    pub(crate) late: u64,
    /// Kisses-o'-death.
    pub(crate) kisses: u64,
    /// Second answers to the same request.
    pub(crate) duplicates: u64,
    /// Wrong answers, by [`Fault`].
    pub(crate) faults: [u64; Fault::ALL.len()],
    /// Requests that got anything back, right or wrong.
    pub(crate) matched: u64,
    /// Answers that reached this host and found no room in the generator's buffers.
    pub(crate) dropped_here: u64,
    /// Requests to which "port unreachable" came back.
    pub(crate) refused: u64,
    /// Nanoseconds from sending a request to its right answer.
    pub(crate) round_trip: Histogram<u64>,
    /// Nanoseconds from the server's receive to its transmit timestamp.
    pub(crate) residence: Histogram<u64>,
    /// Nanoseconds by which the server's clock is ahead of ours, where both are the same clock.
    pub(crate) offset: Moments,
    /// When requests failed.
    pub(crate) loss_windows: LossWindows,
    /// How long requests were sent, if that was cut short by an interruption.
    pub(crate) cut_after: Option<Duration>,
}

/// Returns an empty histogram of times in ns, with three significant digits. All of these can be added.
pub(crate) fn round_trips() -> Histogram<u64> {
    // The arguments are constants within the limits of the crate, so this cannot fail.
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and digits are within limits")
}

impl Tally {
    /// Makes the counters of a step with this duration.
    pub(crate) fn over(duration: Duration) -> Self {
        Self {
            sent: 0,
            sent_late: 0,
            unsent: 0,
            malformed: 0,
            answered: 0,
            late: 0,
            kisses: 0,
            duplicates: 0,
            faults: [0; Fault::ALL.len()],
            matched: 0,
            dropped_here: 0,
            refused: 0,
            round_trip: round_trips(),
            residence: round_trips(),
            offset: Moments::default(),
            loss_windows: LossWindows::over(duration),
            cut_after: None,
        }
    }

    /// Returns the number of requests that had no answer before the timeout.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.matched)
    }

    /// Returns the number of answers to requests that must not be answered.
    pub(crate) fn answered_malformed(&self) -> u64 {
        Malformation::ALL
            .iter()
            .map(|malformation| self.faults[Fault::answered(*malformation) as usize])
            .sum()
    }

    /// Returns the number of wrong answers of all kinds.
    pub(crate) fn invalid(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Counts a right answer that came this long after the start.
    pub(crate) fn answer(&mut self, token: Token, now_ns: u64) {
        self.answered += 1;
        self.round_trip.saturating_record((now_ns - token.sent_ns).max(1));
        self.loss_windows.answered_at(token.sent_ns);
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// Adds the counters of another worker.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_late += other.sent_late;
        self.unsent += other.unsent;
        self.malformed += other.malformed;
        self.answered += other.answered;
        self.late += other.late;
        self.kisses += other.kisses;
        self.duplicates += other.duplicates;
        for (count, more) in self.faults.iter_mut().zip(other.faults) {
            *count += more;
        }
        self.matched += other.matched;
        self.dropped_here += other.dropped_here;
        self.refused += other.refused;
        self.round_trip.add(&other.round_trip).expect("the same bounds");
        self.residence.add(&other.residence).expect("the same bounds");
        self.offset.add(&other.offset);
        self.loss_windows.add(&other.loss_windows);
        self.cut_after = self.cut_after.max(other.cut_after);
    }
}

/// Minimum, mean and maximum of signed values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    count: u64,
    sum: f64,
    least: f64,
    greatest: f64,
}

impl Moments {
    pub(crate) fn record(&mut self, value: f64) {
        self.add(&Self { count: 1, sum: value, least: value, greatest: value });
    }

    /// Makes moments of values of which only number and sum are known; each is taken to be their mean.
    #[expect(clippy::cast_precision_loss, reason = "a mean of fewer than 2^52 values")]
    pub(crate) fn of_sum(count: u64, sum: f64) -> Self {
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        Self { count, sum, least: mean, greatest: mean }
    }

    fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let first = self.count == 0;
        self.least = if first { other.least } else { self.least.min(other.least) };
        self.greatest = if first { other.greatest } else { self.greatest.max(other.greatest) };
        self.count += other.count;
        self.sum += other.sum;
    }

    /// Returns minimum, mean and maximum, or `None` if there are no values.
    #[expect(clippy::cast_precision_loss, reason = "a mean of fewer than 2^52 values")]
    pub(crate) fn summary(&self) -> Option<(f64, f64, f64)> {
        (self.count > 0).then(|| (self.least, self.sum / self.count as f64, self.greatest))
    }
}

/// One bit per request: whether something has come back to it.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// Marks a request. Returns `false` if it was marked before.
    pub(crate) fn mark(&mut self, sequence: u64) -> bool {
        let Ok(word) = usize::try_from(sequence % MAX_REQUESTS / 64) else { return false };
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_marked_once() {
        let mut seen = Seen::default();
        assert!(seen.mark(0) && seen.mark(1000) && seen.mark(64) && seen.mark(63));
        assert!(!seen.mark(1000) && !seen.mark(0));
    }

    #[test]
    fn moments_of_parts_are_those_of_the_whole() {
        let (mut left, mut right, mut whole) = (Moments::default(), Moments::default(), Moments::default());
        for value in [-3.0, 5.0] {
            left.record(value);
            whole.record(value);
        }
        right.record(7.0);
        whole.record(7.0);
        left.add(&right);
        assert_eq!(left.summary(), whole.summary());
        assert_eq!(left.summary(), Some((-3.0, 3.0, 7.0)));
        assert_eq!(Moments::default().summary(), None);
    }
}
