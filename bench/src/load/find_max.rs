//! The search for the highest rate with an acceptable loss.

use std::fmt;

use super::plan::Rates;
use super::step::Step;

/// Largest number of steps; it determines the rate to 2 %.
pub(super) const MOST_STEPS: u32 = 24;
/// Largest number of tries per step.
pub(super) const TRIES: u32 = 2;
/// The search ends when the lowest rate that is too high is within this factor of the highest that is not.
const CLOSE: f64 = 1.02;
/// A generator that sends less than this fraction of what is due has reached its limit.
const SENT: f64 = 0.9;

/// How many requests may fail at a rate that a server sustains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// Acceptable loss as a fraction of all requests.
    pub(crate) loss: f64,
    /// The fraction of a step's windows that do not count, the worst ones. When a hypervisor takes a virtual
    /// machine's CPU away for some milliseconds, that says nothing about the server.
    pub(crate) left_out: f64,
}

impl Allowed {
    fn is_exceeded_by(self, step: &Step) -> bool {
        step.failure_fraction(self.left_out) > self.loss
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, left_out } = self;
        write!(formatter, "at most {} % lost", loss * 100.0)?;
        if *left_out > 0.0 {
            write!(formatter, " in all but the worst {} % of the time", left_out * 100.0)?;
        }
        Ok(())
    }
}

/// Doubles the rate until it is too high, then bisects the range.
pub(super) struct Search {
    limit: f64,
    allowed: Allowed,
    next: f64,
    steps: u32,
    /// The highest rate that was served, and the lowest that was not.
    good: Option<f64>,
    bad: Option<f64>,
    /// The lowest rate that the generator could not send.
    unsendable: Option<f64>,
    /// The highest rate that was really sent and served. It can be lower than `good`, because a generator may
    /// fall a little behind what is due.
    served: Option<f64>,
    /// The lowest rate at which the server refused requests because of a limit.
    limited: Option<f64>,
}

impl Search {
    /// Begins at the lower rate and never exceeds the upper one.
    pub(super) fn new(rates: Rates, allowed: Allowed) -> Self {
        let next = rates.steps(f64::INFINITY).first().copied().unwrap_or(1.0);
        Self {
            limit: rates.last(),
            allowed,
            next,
            steps: 0,
            good: None,
            bad: None,
            unsendable: None,
            served: None,
            limited: None,
        }
    }

    /// Returns the rate to try next, or `None` when the search is over.
    pub(super) fn next_rate(&mut self) -> Option<f64> {
        self.steps += 1;
        // Lower rates would lead to the rate of the limit, which is no secret of the server.
        if self.steps > MOST_STEPS || (self.limited.is_some() && self.good.is_none()) {
            return None;
        }
        let upper = match (self.bad, self.unsendable) {
            (Some(bad), Some(unsendable)) => Some(bad.min(unsendable)),
            (bad, unsendable) => bad.or(unsendable),
        };
        self.next = match (self.good, upper) {
            (None, None) => self.next,
            (None, Some(upper)) => upper / 2.0,
            (Some(good), None) if good >= self.limit => return None,
            (Some(good), None) => (good * 2.0).min(self.limit),
            (Some(good), Some(upper)) if upper / good <= CLOSE => return None,
            (Some(good), Some(upper)) => (good * upper).sqrt(),
        };
        (self.next >= 1.0).then_some(self.next)
    }

    /// Records the result of a step.
    pub(super) fn learn(&mut self, rate: f64, step: &Step) {
        let lower = |known: Option<f64>| Some(known.map_or(rate, |known| known.min(rate)));
        if self.allowed.is_exceeded_by(step) {
            self.bad = lower(self.bad);
            if step.was_limited() {
                self.limited = lower(self.limited);
            }
        } else if step.sent_rate < rate * SENT {
            // This step says nothing about the server at this rate.
            self.unsendable = lower(self.unsendable);
        } else {
            let higher = |known: Option<f64>, rate: f64| Some(known.map_or(rate, |known| known.max(rate)));
            self.good = higher(self.good, rate);
            self.served = higher(self.served, step.sent_rate.min(rate));
        }
    }

    /// Whether a step failed and should be tried again: one failure may be caused by the machine, two are
    /// not.
    pub(super) fn is_doubtful(&self, rate: f64, step: &Step) -> bool {
        self.allowed.is_exceeded_by(step) || step.sent_rate < rate * SENT
    }

    /// Returns the highest rate that was served.
    pub(super) fn highest(&self) -> Option<f64> {
        self.served
    }

    /// Whether it was a limit of the server on its clients that ended the search.
    pub(super) fn is_limited(&self) -> bool {
        self.limited.is_some() && self.limited == self.bad
    }

    /// Returns what limited that rate: a limit of the server on its clients, the server itself, the generator, or the
    /// range of the search.
    pub(super) fn limit(&self) -> Option<&'static str> {
        if self.is_limited() {
            return Some("rate limit");
        }
        self.good?;
        Some(match (self.bad, self.unsendable) {
            (bad, Some(unsendable)) if bad.is_none_or(|bad| unsendable <= bad) => "generator",
            (Some(_), _) => "server",
            _ => "range",
        })
    }

    /// Describes the result in words.
    pub(super) fn conclusion(&self) -> String {
        if let Some(limited) = self.limited.filter(|_| self.is_limited()) {
            let served = self.served.map_or_else(
                || "no rate was served".into(),
                |good| format!("{good:.0} requests/s were served"),
            );
            return format!(
                "Not found: {served}, and at {limited:.0}/s a rate limit of the server refused requests with kisses of \
                 death. What the server can do was not measured."
            );
        }
        let Some(good) = self.served else {
            return format!("No rate that was tried had {} or answered wrongly.", self.allowed);
        };
        let reason = match (self.bad, self.unsendable) {
            (bad, Some(unsendable)) if bad.is_none_or(|bad| unsendable <= bad) => format!(
                "the generator could not send {unsendable:.0}/s: the server may sustain more than was found"
            ),
            (Some(bad), _) => format!("more were lost at {bad:.0}/s"),
            _ => "higher rates were not to be tried".into(),
        };
        format!("Highest rate with {}: {good:.0} requests/s; {reason}.", self.allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;
    use bench_ebpf::load_token::{Fault, Token};
    use std::time::Duration;

    const NOTHING_LEFT_OUT: Allowed = Allowed { loss: 0.001, left_out: 0.0 };

    /// Makes a step of one second in which a fraction of what was due is sent, and a fraction of that is
    /// lost.
    fn step(rate: f64, sent: f64, lost: f64) -> Step {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small")]
        let [due, sent, lost] = [rate, rate * sent, rate * sent * lost].map(|count| count.ceil() as u64);
        let mut tally = Tally::over(Duration::from_secs(1));
        (tally.sent, tally.matched, tally.answered, tally.unsent) =
            (sent, sent - lost, sent - lost, due - sent);
        Step::new(rate, Duration::from_secs(1), &tally)
    }

    fn search(serves: f64, sends: f64) -> Search {
        let mut search = Search::new("1000..2M".parse().unwrap(), NOTHING_LEFT_OUT);
        while let Some(rate) = search.next_rate() {
            let sent = if rate > sends { sends / rate } else { 1.0 };
            let lost = if rate > serves { 0.05 } else { 0.0 };
            search.learn(rate, &step(rate, sent, lost));
        }
        search
    }

    #[test]
    fn the_rate_that_a_server_takes_is_found_to_two_percent() {
        for serves in [1500.0, 87_654.0, 1.9e6] {
            let found = search(serves, f64::INFINITY).good.unwrap();
            assert!(found <= serves && found * 1.021 > serves, "{found} of {serves}");
        }
    }

    #[test]
    fn a_server_below_the_first_rate_is_found_too() {
        let found = search(90.0, f64::INFINITY).good.unwrap();
        assert!(found <= 90.0 && found > 80.0, "{found}");
    }

    #[test]
    fn a_generator_that_cannot_keep_up_is_not_taken_for_the_server() {
        let search = search(f64::INFINITY, 50_000.0);
        assert!(search.conclusion().contains("the generator could not send"), "{}", search.conclusion());
        assert_eq!(search.bad, None);
        assert_eq!(search.limit(), Some("generator"));
        // The requests that were sent were served.
        assert!((48_000.0..=50_001.0).contains(&search.highest().unwrap()), "{:?}", search.highest());
    }

    #[test]
    fn wrong_answers_are_no_better_than_lost_ones() {
        let mut search = Search::new("1000..4000".parse().unwrap(), NOTHING_LEFT_OUT);
        while let Some(rate) = search.next_rate() {
            let mut tally = Tally::over(Duration::from_secs(1));
            let wrong = if rate > 2000.0 { 2 } else { 0 };
            (tally.sent, tally.matched, tally.answered) = (1000, 1000, 1000 - wrong);
            search.learn(rate, &Step::new(rate, Duration::from_secs(1), &tally));
        }
        assert!(search.good.unwrap() <= 2000.0, "{:?}", search.good);
    }

    #[test]
    fn answers_to_malformed_requests_are_no_better_either() {
        let mut tally = Tally::over(Duration::from_secs(1));
        (tally.sent, tally.matched, tally.answered, tally.malformed) = (900, 900, 900, 100);
        assert!(!NOTHING_LEFT_OUT.is_exceeded_by(&Step::new(1000.0, Duration::from_secs(1), &tally)));
        tally.faults[Fault::ToChecksum as usize] = 25;
        let step = Step::new(1000.0, Duration::from_secs(1), &tally);
        assert!((step.failure_fraction(0.0) - 0.025).abs() < 1e-9);
        assert!(NOTHING_LEFT_OUT.is_exceeded_by(&step));
    }

    #[test]
    fn a_burst_of_losses_does_not_fail_a_rate_if_it_may_be_left_out() {
        let mut tally = Tally::over(Duration::from_secs(1));
        for sent_ms in 0..1000 {
            tally.sent += 1;
            tally.loss_windows.sent_at(sent_ms * 1_000_000);
            if !(400..420).contains(&sent_ms) {
                tally.matched += 1;
                tally.answer(Token { sequence: sent_ms, sent_ns: sent_ms * 1_000_000 }, 1_000_000_000);
            }
        }
        let step = Step::new(1000.0, Duration::from_secs(1), &tally);
        assert!(NOTHING_LEFT_OUT.is_exceeded_by(&step));
        assert!(!Allowed { left_out: 0.1, ..NOTHING_LEFT_OUT }.is_exceeded_by(&step));
    }

    #[test]
    fn a_rate_limit_is_not_taken_for_what_a_server_can_do() {
        let limited = |first: &str| {
            let mut search = Search::new(first.parse().unwrap(), NOTHING_LEFT_OUT);
            while let Some(rate) = search.next_rate() {
                let mut tally = Tally::over(Duration::from_secs(1));
                let answered = if rate > 16.0 { 16 } else { 1000 };
                (tally.sent, tally.matched, tally.answered) = (1000, 1000, answered);
                tally.kisses = 1000 - answered;
                search.learn(rate, &Step::new(rate, Duration::from_secs(1), &tally));
            }
            search
        };
        let refused = limited("1000..2M");
        assert!(refused.steps <= 2 && refused.highest().is_none(), "there is nothing to search");
        assert_eq!(refused.limit(), Some("rate limit"));
        assert!(refused.conclusion().contains("kisses of death"), "{}", refused.conclusion());
        let partly = limited("1..2M");
        assert!(partly.highest().is_some() && partly.is_limited());
        assert!(partly.conclusion().starts_with("Not found: "), "{}", partly.conclusion());
    }

    #[test]
    fn the_upper_rate_is_tried_and_not_exceeded() {
        let search = search(f64::INFINITY, f64::INFINITY);
        assert_eq!(search.good, Some(2e6));
        assert!(search.conclusion().contains("higher rates were not to be tried"));
    }
}
