//! What a load has to come up to for its command to succeed.

use std::time::Duration;

use super::clock::nanos;
use super::report::short_time;
use super::step::Step;

/// The thresholds of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Thresholds {
    /// The largest acceptable share of requests that are lost, refused or answered wrongly.
    pub(crate) max_loss: Option<f64>,
    /// The longest acceptable 99th percentile of round trips.
    pub(crate) max_p99: Option<Duration>,
}

impl Thresholds {
    /// Whether there is any.
    const fn are_set(self) -> bool {
        self.max_loss.is_some() || self.max_p99.is_some()
    }

    /// Returns what the steps did not come up to. Without any threshold, a server that never answered is still no success.
    pub(super) fn missed(self, steps: &[Step]) -> Vec<String> {
        let mut missed = Vec::new();
        let sent: u64 = steps.iter().map(|step| step.sent).sum();
        let lost: u64 = steps.iter().map(|step| step.lost).sum();
        // A wrong answer does not find its request, which then counts as lost, but it has its own line in the results.
        let wrong: u64 = steps.iter().map(|step| step.invalid + step.kisses).sum();
        if self.are_set() && steps.iter().any(|step| step.sent == 0) {
            missed.push(
                "no request could be sent at one of the rates, so nothing is known of the server there"
                    .into(),
            );
        }
        if sent > 0 && lost == sent && wrong == 0 {
            missed.push("all requests were lost: the server did not answer one of them in time".into());
        }
        for step in steps.iter().filter(|step| step.sent > 0) {
            let failed = step.failure_fraction(0.0);
            if let Some(most) = self.max_loss.filter(|most| failed > *most) {
                missed.push(format!(
                    "at {:.0}/s {:.3} % of the requests were lost, refused or answered wrongly: --max-loss is {} %",
                    step.rate,
                    failed * 100.0,
                    most * 100.0
                ));
            }
            if let Some(most) = self.max_p99.filter(|most| step.round_trip_ns.p99 > nanos(*most)) {
                missed.push(format!(
                    "at {:.0}/s 99 % of the answers took up to {}: --max-p99 is {}",
                    step.rate,
                    short_time(step.round_trip_ns.p99),
                    short_time(nanos(most))
                ));
            }
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    fn step(answered: u64, unsent: u64) -> Step {
        let mut tally = Tally::over(Duration::from_secs(1));
        (tally.sent, tally.matched, tally.answered, tally.unsent) =
            (1000 - unsent, answered, answered, unsent);
        tally.round_trip.record_n(2_000_000, answered).unwrap();
        Step::new(1000.0, Duration::from_secs(1), &tally)
    }

    #[test]
    fn silence_is_no_success_and_the_rest_only_where_it_was_asked_for() {
        let none = Thresholds::default();
        assert_eq!(none.missed(&[step(1000, 0)]), Vec::<String>::new());
        assert_eq!(none.missed(&[step(10, 0)]), Vec::<String>::new());
        assert!(none.missed(&[step(0, 0)])[0].contains("did not answer"));
        assert_eq!(none.missed(&[step(0, 1000)]), Vec::<String>::new(), "that is the generator's limit");
        let strict = Thresholds { max_loss: Some(0.01), max_p99: Some(Duration::from_millis(1)) };
        assert!(strict.missed(&[step(0, 1000)])[0].contains("no request could be sent"));
        assert_eq!(strict.missed(&[step(980, 0)]).len(), 2);
        assert_eq!(strict.missed(&[step(995, 0)]).len(), 1);
        let wide = Thresholds { max_loss: Some(0.03), max_p99: Some(Duration::from_millis(3)) };
        assert_eq!(wide.missed(&[step(980, 0)]), Vec::<String>::new());
    }
}
