//! What became of the requests of a step.

use std::time::Duration;

use bench_ebpf::load_token::{Fault, Flaw, MAX_REQUESTS, Token};
use hdrhistogram::Histogram;

use super::course::Course;

/// The longest round trip that is told from a longer one.
const LONGEST_NS: u64 = 60_000_000_000;

/// Counts and distributions of one worker, or of all of them together.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests that went out.
    pub(crate) sent: u64,
    /// Of those: behind the schedule by more than [`super::LATE_NS`].
    pub(crate) sent_late: u64,
    /// Requests that were due and never went out.
    pub(crate) unsent: u64,
    /// Requests that went out and must not be answered; not among `sent`.
    pub(crate) malformed: u64,
    /// Right answers, in time.
    pub(crate) answered: u64,
    /// Answers to requests after the time-out.
    pub(crate) late: u64,
    /// Kisses-o'-death.
    pub(crate) kisses: u64,
    /// Second answers to the same request.
    pub(crate) duplicates: u64,
    /// Wrong answers, by [`Fault`].
    pub(crate) faults: [u64; Fault::ALL.len()],
    /// Requests that something came back to, right or wrong.
    pub(crate) matched: u64,
    /// Answers that had come to this host and found no room in the generator's own buffers.
    pub(crate) dropped_here: u64,
    /// "Port unreachable" came back.
    pub(crate) refused: u64,
    /// Nanoseconds from sending a request to its right answer.
    pub(crate) round_trip: Histogram<u64>,
    /// Nanoseconds from the server's receive to its transmit timestamp.
    pub(crate) residence: Histogram<u64>,
    /// Nanoseconds that the server's clock is ahead of ours, where both are the same clock.
    pub(crate) offset: Moments,
    /// When requests failed.
    pub(crate) course: Course,
}

impl Tally {
    /// Of a step that lasts so long.
    pub(crate) fn over(duration: Duration) -> Self {
        // Three digits, as far as they go: the arguments are constants within the crate's limits.
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and digits are within limits");
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
            round_trip: histogram(),
            residence: histogram(),
            offset: Moments::default(),
            course: Course::over(duration),
        }
    }

    /// Requests that nothing came back to, or only after the time-out.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.matched)
    }

    /// Answers to requests that must not be answered.
    pub(crate) fn answered_malformed(&self) -> u64 {
        Flaw::ALL.iter().map(|flaw| self.faults[Fault::answered(*flaw) as usize]).sum()
    }

    /// Wrong answers of all kinds.
    pub(crate) fn invalid(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Counts a right answer that came so long after the start.
    pub(crate) fn answer(&mut self, token: Token, now_ns: u64) {
        self.answered += 1;
        self.round_trip.saturating_record((now_ns - token.sent_ns).max(1));
        self.course.answered_at(token.sent_ns);
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// Adds another worker's.
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
        self.course.add(&other.course);
    }
}

/// Least, mean and greatest of signed values.
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

    /// Of values of which nothing but count and sum is known: each is taken for their mean.
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

    /// Least, mean, greatest; `None` of nothing.
    #[expect(clippy::cast_precision_loss, reason = "a mean of fewer than 2^52 values")]
    pub(crate) fn summary(&self) -> Option<(f64, f64, f64)> {
        (self.count > 0).then(|| (self.least, self.sum / self.count as f64, self.greatest))
    }
}

/// One bit for each request: whether something has come back to it.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// Marks a request; `false` if it was marked before.
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
