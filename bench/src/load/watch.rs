//! What a step that is under way has in common with the rest of the command: that it may be interrupted, and what it has
//! measured so far, for somebody who watches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::report::short_time;
use super::tally::round_trips;
use crate::interrupt::Interrupt;

/// How often a worker tells what it has measured. Each time takes it some microseconds.
pub(super) const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    interrupt: Interrupt,
    /// `None` if nobody watches.
    seen: Option<Arc<Mutex<Seen>>>,
}

/// Round trips of a step so far, by worker.
#[derive(Debug)]
struct Seen {
    workers: Vec<Option<Histogram<u64>>>,
    /// When the rate was last calculated, and the number of answers then.
    before: (Instant, u64),
    per_second: f64,
}

impl Watch {
    /// Makes it for a command that can be interrupted. `is_watched`: whether what it tells is shown.
    pub(super) fn new(interrupt: Interrupt, is_watched: bool) -> Self {
        let nothing = || Seen { workers: Vec::new(), before: (Instant::now(), 0), per_second: 0.0 };
        Self { interrupt, seen: is_watched.then(|| Arc::new(Mutex::new(nothing()))) }
    }

    /// Whether the step is to end with what it has.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.is_heard()
    }

    /// Whether somebody watches, so that telling is worth its time.
    pub(super) fn is_watched(&self) -> bool {
        self.seen.is_some()
    }

    /// Forgets the step before.
    pub(super) fn begin(&self) {
        self.with(|seen| {
            *seen = Seen { workers: Vec::new(), before: (Instant::now(), 0), per_second: 0.0 };
        });
    }

    /// Takes the round trips that a worker has measured since the step began.
    pub(super) fn tell(&self, worker: usize, round_trip: &Histogram<u64>) {
        self.with(|seen| {
            if seen.workers.len() <= worker {
                seen.workers.resize(worker + 1, None);
            }
            seen.workers[worker] = Some(round_trip.clone());
        });
    }

    /// Describes the step so far: answers per second, and percentiles of their round trips. Empty before the first answer.
    #[expect(clippy::cast_precision_loss, reason = "a rate for showing")]
    pub(super) fn line(&self) -> String {
        let mut line = String::new();
        self.with(|seen| {
            let mut all = round_trips();
            for worker in seen.workers.iter().flatten() {
                all.add(worker).expect("the same bounds");
            }
            let (now, answers) = (Instant::now(), all.len());
            let passed = now.duration_since(seen.before.0);
            if passed >= TELL_INTERVAL {
                seen.per_second = answers.saturating_sub(seen.before.1) as f64 / passed.as_secs_f64();
                seen.before = (now, answers);
            }
            if answers > 0 {
                line = format!(
                    ", {:.0} answers/s, p50 {}, p99 {}",
                    seen.per_second,
                    short_time(all.value_at_quantile(0.5)),
                    short_time(all.value_at_quantile(0.99))
                );
            }
        });
        line
    }

    fn with(&self, act: impl FnOnce(&mut Seen)) {
        if let Some(seen) = &self.seen {
            act(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
