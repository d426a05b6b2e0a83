//! What became of one step's requests, in the form of the results.

use std::collections::BTreeMap;
use std::time::Duration;

use bench_ebpf::load_token::Fault;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::loss_windows::LossWindows;
use super::tally::Tally;

/// A schedule counts as kept if at least this fraction of the requests was sent.
pub(super) const KEPT: f64 = 0.995;

/// What became of one step's requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Step {
    /// Requests per second that were due.
    pub(crate) rate: f64,
    /// Requests per second that were sent.
    pub(crate) sent_rate: f64,
    pub(crate) sent: u64,
    /// Requests sent more than 1 ms behind the schedule.
    pub(crate) sent_late: u64,
    /// Requests that were due and not sent.
    pub(crate) unsent: u64,
    /// Requests that were sent and must not be answered; they are not counted in `sent`.
    pub(crate) malformed: u64,
    /// Those requests that were answered nevertheless.
    pub(crate) answered_malformed: u64,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    /// Answers that came after the timeout; their requests also count as lost.
    pub(crate) late: u64,
    pub(crate) invalid: u64,
    pub(crate) kisses: u64,
    pub(crate) duplicates: u64,
    /// Answers that this host dropped because its buffers were full. Their requests also count as lost, but
    /// not by the server.
    pub(crate) dropped_here: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) round_trip_ns: Percentiles,
    /// Time from the server's receive to its transmit timestamp.
    pub(crate) residence_ns: Percentiles,
    /// How far the server's clock is ahead, where it should be the same clock.
    pub(crate) offset_ns: Option<Offset>,
    /// Counts of round trips by powers of two: those below 2^n ns.
    pub(crate) histogram: Vec<Bucket>,
    #[serde(rename = "course")]
    pub(crate) loss_windows: LossWindows,
    /// Round trips by quantile, from 0 to 1, in steps that get finer towards 1.
    #[serde(default)]
    pub(crate) quantiles: Vec<Quantile>,
    /// Counts of round trips in finer classes than `histogram` has: four for each power of two.
    #[serde(default)]
    pub(crate) classes: Vec<Bucket>,
}

/// A round trip that a share of the answers does not exceed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Quantile {
    pub(crate) quantile: f64,
    pub(crate) ns: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Offset {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Bucket {
    pub(crate) below_ns: u64,
    pub(crate) count: u64,
}

impl Step {
    pub(super) fn new(rate: f64, duration: Duration, tally: &Tally) -> Self {
        let named = |fault: &Fault| (fault.label().to_owned(), tally.faults[*fault as usize]);
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
        let sent_rate = (tally.sent + tally.malformed) as f64
            / tally.cut_after.unwrap_or(duration).as_secs_f64().max(1e-3);
        Self {
            rate,
            sent_rate,
            sent: tally.sent,
            sent_late: tally.sent_late,
            unsent: tally.unsent,
            malformed: tally.malformed,
            answered_malformed: tally.answered_malformed(),
            answered: tally.answered,
            lost: tally.lost(),
            late: tally.late,
            invalid: tally.invalid(),
            kisses: tally.kisses,
            duplicates: tally.duplicates,
            dropped_here: tally.dropped_here,
            faults: Fault::ALL.iter().map(named).filter(|(_, count)| *count > 0).collect(),
            round_trip_ns: Percentiles::of(&tally.round_trip),
            residence_ns: Percentiles::of(&tally.residence),
            offset_ns: tally.offset.summary().map(|(min, mean, max)| Offset { min, mean, max }),
            histogram: buckets(&tally.round_trip),
            loss_windows: tally.loss_windows.clone(),
            quantiles: quantiles(&tally.round_trip),
            classes: classes(&tally.round_trip),
        }
    }

    /// Whether the server has refused requests because of a limit, so that the step says nothing about what it can serve.
    pub(super) fn was_limited(&self) -> bool {
        self.kisses > 0 && self.answered < self.sent
    }

    /// Returns lost requests as a fraction of those sent.
    pub(crate) fn loss_fraction(&self) -> f64 {
        fraction(self.lost, self.sent)
    }

    /// Returns failed requests as a fraction of those sent: lost, answered wrongly, refused, or answered
    /// although they must not be. The worst part of the time can be left out.
    pub(crate) fn failure_fraction(&self, left_out: f64) -> f64 {
        let malformed = fraction(self.answered_malformed, self.sent + self.malformed);
        let others = if left_out > 0.0 {
            self.loss_windows.failure_fraction(left_out)
        } else {
            fraction(self.sent.saturating_sub(self.answered), self.sent)
        };
        malformed + others
    }

    /// Whether the generator sent what was due.
    pub(super) fn kept_rate(&self) -> bool {
        let sent = self.sent + self.malformed;
        fraction(sent, sent + self.unsent) >= KEPT
    }
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            mean: histogram.mean(),
            deviation: histogram.stdev(),
        }
    }
}

fn buckets(histogram: &Histogram<u64>) -> Vec<Bucket> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in histogram.iter_recorded() {
        let below_ns = (entry.value_iterated_to() + 1).next_power_of_two();
        *counts.entry(below_ns).or_default() += entry.count_at_value();
    }
    counts.into_iter().map(|(below_ns, count)| Bucket { below_ns, count }).collect()
}

/// Returns the quantiles of the percentile curve: five for each halving of the distance to 1.
fn quantiles(histogram: &Histogram<u64>) -> Vec<Quantile> {
    let mut quantiles: Vec<Quantile> = Vec::new();
    if histogram.is_empty() {
        return quantiles;
    }
    for entry in histogram.iter_quantiles(5) {
        // What arithmetic has left behind the sixth digit that is not a nine says nothing.
        let quantile = (entry.quantile_iterated_to() * 1e9).round() / 1e9;
        quantiles.push(Quantile { quantile, ns: entry.value_iterated_to().min(histogram.max()) });
        if quantile >= 1.0 {
            break;
        }
    }
    quantiles
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "classes of ns"
)]
fn classes(histogram: &Histogram<u64>) -> Vec<Bucket> {
    const CLASSES: f64 = 4.0;
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in histogram.iter_recorded() {
        let class = ((entry.value_iterated_to().max(1) as f64).log2() * CLASSES).floor() + 1.0;
        *counts.entry((class / CLASSES).exp2().round() as u64).or_default() += entry.count_at_value();
    }
    counts.into_iter().map(|(below_ns, count)| Bucket { below_ns, count }).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
pub(super) fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
