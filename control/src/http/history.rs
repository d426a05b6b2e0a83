//! The last hour for the plots on the page: in steps of ten seconds, in memory that does not grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use responder::verdict::Action;
use serde::Serialize;

use crate::status::{Status, total};
use crate::sys::process;

const STEP: Duration = Duration::from_secs(10);
/// Number of steps in an hour.
const STEPS: usize = 360;

/// Ten seconds of history.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Step {
    /// End of the step, in seconds since the Unix epoch.
    unix_s: f64,
    /// Answers with the time, per second.
    answered: f64,
    /// Packets that were refused or answered with a kiss of death, per second.
    refused: f64,
    /// Whether answers were synchronised at the end of the step.
    synchronised: bool,
    /// Error bound at the end of the step.
    error_bound_s: f64,
    /// Offset at the end of the step, if it is known.
    offset_s: Option<f64>,
}

/// The steps, oldest first.
#[derive(Debug, Default, Serialize)]
pub(super) struct History {
    steps: VecDeque<Step>,
    #[serde(skip)]
    begun: Option<(Instant, Totals)>,
}

#[derive(Clone, Copy, Debug)]
struct Totals {
    answered: u64,
    refused: u64,
}

impl Totals {
    fn of(status: &Status) -> Self {
        let (mut answered, mut refused) = (0, 0);
        for interface in &status.interfaces {
            let transmitted = total(&interface.counters, Action::Transmit);
            let kisses: u64 = interface
                .counters
                .iter()
                .filter(|counter| counter.verdict.starts_with("kiss_"))
                .map(|counter| counter.packets)
                .sum();
            answered += transmitted.saturating_sub(kisses);
            refused += total(&interface.counters, Action::Drop) + kisses;
        }
        Self { answered, refused }
    }
}

impl History {
    /// Takes in a status, about once per second.
    pub(super) fn add(&mut self, status: &Status, now: Instant) {
        let totals = Totals::of(status);
        let Some((begun, before)) = self.begun else {
            self.begun = Some((now, totals));
            return;
        };
        let elapsed = now.duration_since(begun);
        if elapsed < STEP {
            return;
        }
        self.begun = Some((now, totals));
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        // The counters of an interface disappear when it is detached.
        #[expect(clippy::cast_precision_loss, reason = "for showing")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        self.steps.push_back(Step {
            unix_s: process::unix_s(),
            answered: rate(totals.answered, before.answered),
            refused: rate(totals.refused, before.refused),
            synchronised: status.clock.synchronised,
            error_bound_s: status.clock.error_bound_s,
            offset_s: status.clock.offset_s,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        let mut status = sample();
        let start = Instant::now();
        for second in 0..5000 {
            status.interfaces[0].counters[0].packets += 100;
            status.interfaces[0].counters[1].packets += 3;
            history.add(&status, start + Duration::from_secs(second));
        }
        assert_eq!(history.steps.len(), STEPS);
        let last = history.steps.back().unwrap();
        assert!((last.answered - 100.0).abs() < 1e-9 && (last.refused - 3.0).abs() < 1e-9, "{last:?}");
    }

    #[test]
    fn counters_that_went_with_their_interface_make_no_rate() {
        let mut history = History::default();
        let mut status = sample();
        let start = Instant::now();
        history.add(&status, start);
        status.interfaces.clear();
        history.add(&status, start + STEP);
        assert!(history.steps[0].answered.abs() < f64::EPSILON);
    }
}
