//! What a load has to come up to for its command to succeed.

use std::time::Duration;

use super::clock::nanos;
use super::profile::Profile;
use super::report::{LIMIT_ADVICE, short_time};
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

    /// Returns what the steps did not come up to. Without any threshold, a server that never answered is still no success,
    /// and neither is one whose limit was measured in place of the server. A profile may be made to meet limits, and
    /// `max_loss` says how much may be refused.
    pub(super) fn missed(self, steps: &[Step], profile: Profile) -> Vec<String> {
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
        let limited = steps.iter().find(|step| step.was_limited());
        if let Some(step) = limited.filter(|_| self.max_loss.is_none() && !profile.provokes_limits()) {
            missed.push(format!(
                "at {:.0}/s a rate limit of the server refused requests with kisses of death, so the figures are those of \
                 the limit and not of the server. {LIMIT_ADVICE}. If requests may be refused, --max-loss says how many",
                step.rate
            ));
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
        let missed = |thresholds: Thresholds, step| thresholds.missed(&[step], Profile::Normal);
        assert_eq!(missed(none, step(1000, 0)), Vec::<String>::new());
        assert_eq!(missed(none, step(10, 0)), Vec::<String>::new());
        assert!(missed(none, step(0, 0))[0].contains("did not answer"));
        assert_eq!(missed(none, step(0, 1000)), Vec::<String>::new(), "that is the generator's limit");
        let strict = Thresholds { max_loss: Some(0.01), max_p99: Some(Duration::from_millis(1)) };
        assert!(missed(strict, step(0, 1000))[0].contains("no request could be sent"));
        assert_eq!(missed(strict, step(980, 0)).len(), 2);
        assert_eq!(missed(strict, step(995, 0)).len(), 1);
        let wide = Thresholds { max_loss: Some(0.03), max_p99: Some(Duration::from_millis(3)) };
        assert_eq!(missed(wide, step(980, 0)), Vec::<String>::new());
    }

    #[test]
    fn a_limit_is_no_success_unless_refusals_were_asked_for() {
        let limited = || Step { kisses: 3, ..step(900, 0) };
        let none = Thresholds::default();
        let missed = none.missed(&[step(1000, 0), limited()], Profile::Normal);
        assert!(missed.len() == 1 && missed[0].contains("--unlimited"), "{missed:?}");
        assert_eq!(none.missed(&[limited()], Profile::Long(28)).len(), 1);
        for profile in [Profile::HotSource(0.3), Profile::Spoofed] {
            assert_eq!(none.missed(&[limited()], profile), Vec::<String>::new());
        }
        let half = Thresholds { max_loss: Some(0.5), ..none };
        assert_eq!(half.missed(&[limited()], Profile::Normal), Vec::<String>::new());
        let few = Thresholds { max_loss: Some(0.05), ..none };
        assert!(few.missed(&[limited()], Profile::Normal)[0].contains("--max-loss is 5 %"));
        let quick = Thresholds { max_p99: Some(Duration::from_secs(1)), ..none };
        assert_eq!(quick.missed(&[limited()], Profile::Normal).len(), 1);
    }
}
