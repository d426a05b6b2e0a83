//! When to ask a source next, and why not sooner.
//!
//! # First contact
//!
//! With `iburst` a source gets at most eight requests: two seconds apart until four were answered or all
//! are spent; the remaining ones follow after 4, 8 and 16 s. Four answers give the time. The frequency needs
//! a longer arm and not more samples, so this gains more from the same eight packets that ntpd would send
//! within 14 s. A burst is never repeated, except for half of it after a suspend: a source that was lost and
//! is back is asked at the normal interval.
//!
//! # Afterwards
//!
//! The interval is a power of two within `minpoll..=maxpoll`, 64 s to 1024 s by default. A sample is worth
//! its packet if the clock would otherwise be more uncertain than anyone can use: by more than a share of the
//! round trip, whose asymmetry is unknown anyway. So the interval grows while the uncertainty just before the
//! next but one sample would still be below that, and shrinks when it is above that before the next one. A
//! source whose samples hardly move the estimate, because a nearer one provides more, is asked only often
//! enough to remain a witness. A little is added to each interval at random, so that clients that started
//! together drift apart.

use super::time::LocalTime;

/// Number of requests at first contact.
const BURST_REQUESTS: u8 = 8;
/// Number of answers after which the remaining burst is spread.
const BURST_ANSWERS: u8 = 4;
const BURST_INTERVAL_S: f64 = 2.0;

/// The longest interval for a source that is only a witness and for one that does not answer: a fault shows
/// within some of these intervals.
const WITNESS_POLL: u8 = 8;
/// A source whose sample removes less than this share of the uncertainty is only a witness.
const WITNESS_GAIN: f64 = 0.01;
/// Number of unanswered requests after which a source counts as lost. It is then asked less often, and
/// eagerly when it is back.
const LOST_AFTER: u8 = 8;
/// Number of consecutive wishes for a longer interval after which it is granted.
const PATIENCE: u8 = 4;
/// Largest random addition to an interval, as a share of it.
const SPREAD: f64 = 1.0 / 32.0;
/// Number of requests that may be made ahead of time when something contradicts the estimate: half a first
/// contact. Each is made up for by an interval of twice the length.
const MOST_AHEAD: u8 = 4;
/// The longest minimum interval that RATE kisses can lead to.
const SLOWEST_POLL: u8 = 17;

/// The value of further samples: what the estimate would lose by waiting, as of the latest sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SampleValue {
    /// Uncertainty of the offset after one current interval, in s.
    pub(super) after_one_s: f64,
    /// Uncertainty of the offset after two current intervals, in s.
    pub(super) after_two_s: f64,
    /// Uncertainty that is good enough, in s.
    pub(super) enough_s: f64,
    /// Share of the variance that this sample removed, 0 to 1.
    pub(super) gain: f64,
}

impl SampleValue {
    /// The value of a sample of a source that is not followed: it only shows that the source is still there.
    pub(super) const NOTHING: Self = Self { after_one_s: 0.0, after_two_s: 0.0, enough_s: 0.0, gain: 0.0 };
}

/// The poll schedule of one source.
#[derive(Debug, Clone)]
pub(super) struct PollSchedule {
    min_poll: u8,
    max_poll: u8,
    poll: u8,
    next: LocalTime,
    iburst: bool,
    burst_requests_left: u8,
    burst_answers: u8,
    mean_gain: f64,
    slower_wishes: u8,
    unanswered: u8,
    noise: u64,
    /// Number of requests made or granted ahead of time that have not been made up for.
    ahead: u8,
    /// Whether the current interval is long to make up for one of them.
    making_up: bool,
    /// Number of requests granted ahead of time that are still to be made.
    urgent: u8,
}

impl PollSchedule {
    /// Makes a schedule within 2^`min_poll`..=2^`max_poll` seconds that begins at `start`. `seed` makes the
    /// intervals of different clients differ.
    #[must_use]
    pub(super) fn new(min_poll: u8, max_poll: u8, iburst: bool, start: LocalTime, seed: u64) -> Self {
        Self {
            min_poll,
            max_poll: max_poll.max(min_poll),
            poll: min_poll,
            next: start,
            iburst,
            burst_requests_left: if iburst { BURST_REQUESTS } else { 0 },
            burst_answers: 0,
            mean_gain: 1.0,
            slower_wishes: 0,
            unanswered: 0,
            noise: seed | 1,
            ahead: 0,
            making_up: false,
            urgent: 0,
        }
    }

    /// Returns when the next request is due.
    #[must_use]
    pub(super) fn next(&self) -> LocalTime {
        self.next
    }

    /// Returns the current interval as a power of two, in s.
    #[must_use]
    pub(super) fn poll_log2(&self) -> u8 {
        self.poll
    }

    /// Returns the current interval in s.
    #[must_use]
    pub(super) fn interval_s(&self) -> f64 {
        f64::from(1_u32 << self.poll.min(SLOWEST_POLL))
    }

    /// Returns the shortest interval in s.
    #[must_use]
    pub(super) fn least_interval_s(&self) -> f64 {
        f64::from(1_u32 << self.min_poll.min(SLOWEST_POLL))
    }

    /// Whether the requests of first contact are spent.
    #[must_use]
    pub(super) fn burst_over(&self) -> bool {
        self.burst_requests_left == 0
    }

    /// Notes that a request goes out at `now`.
    pub(super) fn asked(&mut self, now: LocalTime) {
        self.burst_requests_left = self.burst_requests_left.saturating_sub(1);
        self.ahead = self.ahead.saturating_sub(u8::from(self.making_up));
        self.making_up = false;
        self.urgent = self.urgent.saturating_sub(1);
        self.unanswered = self.unanswered.saturating_add(1);
        if self.burst_over() && self.unanswered > LOST_AFTER && self.unanswered.is_multiple_of(LOST_AFTER) {
            self.poll = (self.poll + 1).min(WITNESS_POLL.max(self.poll)).min(self.max_poll);
        }
        let interval_s = if self.urgent > 0 {
            BURST_INTERVAL_S
        } else if self.burst_over() {
            self.interval_made_up_s() * (1.0 + SPREAD * self.chance())
        } else if self.burst_answers < BURST_ANSWERS {
            BURST_INTERVAL_S
        } else {
            BURST_INTERVAL_S * f64::from(1_u32 << (self.burst_answers - BURST_ANSWERS + 1).min(4))
        };
        self.next = now.plus_seconds(interval_s);
    }

    /// Notes that an answer came; `sample_value` is known once there is an estimate.
    pub(super) fn answered(&mut self, sample_value: Option<SampleValue>) {
        self.burst_answers = self.burst_answers.saturating_add(1);
        if self.unanswered > LOST_AFTER {
            self.poll = self.min_poll;
        }
        self.unanswered = 0;
        let Some(sample_value) = sample_value.filter(|_| self.burst_over()) else {
            return;
        };
        self.mean_gain += (sample_value.gain - self.mean_gain) / 16.0;
        let witness = self.mean_gain < WITNESS_GAIN;
        let slower =
            sample_value.after_two_s < sample_value.enough_s || (witness && self.poll < WITNESS_POLL);
        let faster = !witness && sample_value.after_one_s > sample_value.enough_s;
        if faster {
            self.slower_wishes = 0;
            self.poll = self.poll.saturating_sub(1).max(self.min_poll);
        } else if slower {
            self.slower_wishes += 1;
            if self.slower_wishes >= PATIENCE {
                self.slower_wishes = 0;
                self.poll = (self.poll + 1).min(self.max_poll);
            }
        } else {
            self.slower_wishes = 0;
        }
    }

    /// Asks now if that is allowed, because something contradicts the estimate.
    pub(super) fn ask_now(&mut self, now: LocalTime) {
        self.hurry(now, 1);
    }

    /// Asks again soon if that is allowed, because the source itself contradicts the estimate.
    pub(super) fn ask_again(&mut self, now: LocalTime) {
        self.hurry(now.plus_seconds(BURST_INTERVAL_S), 1);
    }

    /// Asks several times in a row as far as that is allowed, because the clock has jumped.
    pub(super) fn ask_often(&mut self, now: LocalTime, requests: u8) {
        self.poll = self.min_poll;
        self.slower_wishes = 0;
        self.hurry(now.plus_seconds(BURST_INTERVAL_S), requests);
    }

    /// Returns the current interval, longer if requests made ahead of time must be made up for.
    fn interval_made_up_s(&mut self) -> f64 {
        let (interval_s, least_s) = (self.interval_s(), self.least_interval_s());
        if self.ahead == 0 {
            return interval_s;
        }
        self.making_up = true;
        interval_s.max(2.0 * least_s)
    }

    /// Brings requests forward, as many as may be made ahead of time.
    fn hurry(&mut self, at: LocalTime, requests: u8) {
        let soon = at.plus_seconds(BURST_INTERVAL_S);
        if !self.burst_over() || (self.next <= soon && requests <= 1) {
            return;
        }
        let granted = requests.saturating_sub(self.urgent).min(MOST_AHEAD.saturating_sub(self.ahead));
        if granted == 0 {
            return;
        }
        self.ahead += granted;
        self.urgent += granted;
        self.making_up = false;
        self.next = self.next.min(at);
    }

    /// Halves the rate of requests for good, because the server sent a RATE kiss.
    pub(super) fn slow_down(&mut self, now: LocalTime) {
        self.iburst = false;
        self.burst_requests_left = 0;
        self.urgent = 0;
        self.ahead = MOST_AHEAD;
        self.min_poll = (self.poll.max(self.min_poll) + 1).min(SLOWEST_POLL);
        self.max_poll = self.max_poll.max(self.min_poll);
        self.poll = self.min_poll;
        self.next = now.plus_seconds(self.interval_s());
    }

    /// Starts again with half a burst at once, as after a suspend.
    pub(super) fn restart(&mut self, now: LocalTime) {
        if self.iburst {
            self.burst_requests_left = BURST_REQUESTS / 2;
            self.burst_answers = 0;
        }
        self.poll = self.min_poll;
        self.slower_wishes = 0;
        self.next = now;
    }

    /// Returns a number spread evenly over 0..1 (xorshift; nothing here must be unguessable).
    fn chance(&mut self) -> f64 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        f64::from(u32::try_from(self.noise >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> LocalTime {
        LocalTime::from_ns(0).plus_seconds(seconds)
    }

    fn schedule() -> PollSchedule {
        PollSchedule::new(6, 10, true, at(0.0), 1)
    }

    /// Returns the seconds between requests that are all answered alike.
    fn intervals(schedule: &mut PollSchedule, count: usize, sample_value: Option<SampleValue>) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let now = schedule.next();
                schedule.asked(now);
                schedule.answered(sample_value);
                schedule.next().seconds_since(now)
            })
            .collect()
    }

    #[test]
    fn a_burst_is_eight_requests_and_spreads_once_four_are_answered() {
        let mut schedule = schedule();
        let intervals = intervals(&mut schedule, 9, None);
        assert_eq!(intervals[..7], [2.0, 2.0, 2.0, 2.0, 4.0, 8.0, 16.0]);
        assert!(intervals[7..].iter().all(|interval| (64.0..=66.0).contains(interval)));
    }

    #[test]
    fn a_sample_that_buys_nothing_is_asked_for_less_up_to_the_limit() {
        let nothing_lost = SampleValue { after_one_s: 1e-6, after_two_s: 1e-6, enough_s: 1e-5, gain: 0.5 };
        let mut schedule = schedule();
        intervals(&mut schedule, 60, Some(nothing_lost));
        assert_eq!(schedule.poll_log2(), 10);
        let much_lost = SampleValue { after_one_s: 1e-4, ..nothing_lost };
        intervals(&mut schedule, 10, Some(much_lost));
        assert_eq!(schedule.poll_log2(), 6);
    }

    #[test]
    fn a_witness_is_asked_every_few_minutes() {
        let mut schedule = schedule();
        intervals(&mut schedule, 200, Some(SampleValue::NOTHING));
        assert_eq!(schedule.poll_log2(), WITNESS_POLL);
    }

    #[test]
    fn requests_made_ahead_of_time_are_few_and_made_up_for() {
        let mut schedule = PollSchedule::new(6, 10, false, at(0.0), 1);
        let mut requests = 0;
        let mut now = at(0.0);
        while now < at(100_000.0) {
            now = schedule.next();
            schedule.asked(now);
            schedule.answered(None);
            // Every answer contradicts the estimate.
            schedule.ask_again(now);
            requests += 1;
        }
        assert!(f64::from(requests) <= 100_000.0 / 64.0 + 1.0 + f64::from(MOST_AHEAD), "{requests}");
        let mut schedule = PollSchedule::new(6, 10, false, at(0.0), 1);
        schedule.asked(at(0.0));
        schedule.ask_now(at(1.0));
        assert_eq!(schedule.next(), at(1.0));
        schedule.asked(at(1.0));
        assert!(schedule.next() >= at(129.0), "made up for");
    }

    #[test]
    fn a_silent_source_is_asked_less() {
        let mut schedule = schedule();
        for _ in 0..100 {
            let now = schedule.next();
            schedule.asked(now);
        }
        assert_eq!(schedule.poll_log2(), WITNESS_POLL);
        schedule.answered(None);
        assert_eq!(schedule.poll_log2(), 6);
    }

    #[test]
    fn each_rate_kiss_halves_the_pace_for_good() {
        let mut schedule = schedule();
        schedule.slow_down(at(0.0));
        schedule.slow_down(at(1.0));
        schedule.restart(at(2.0));
        assert_eq!(schedule.poll_log2(), 8);
        assert!(schedule.burst_over());
    }
}
