//! What is measured of a run in fair weather, the statistics of errors in any weather, and medians over seeds.

use discipline::{Discipline, LocalTime};

use crate::clients::{PrivateLine, Steered};
use crate::scenarios::{Loop, Scenario};
use crate::world::{Client, HOUR_S, START_S, UTC_AT_ZERO_NS, run};

/// Polls count once the client has settled.
const SETTLED_S: f64 = 4.0 * HOUR_S;

/// Errors of a run, second by second.
#[derive(Default)]
pub(crate) struct Errors {
    sizes_s: Vec<f64>,
    square_s2: f64,
    bounds_s: f64,
}

impl Errors {
    /// One second's error, and the bound that the line has then.
    pub(crate) fn enter(&mut self, error_s: f64, bound_s: f64) {
        self.sizes_s.push(error_s.abs());
        self.square_s2 += error_s * error_s;
        self.bounds_s += bound_s;
    }

    /// All are infinite if there was no second with an error, but for the bound.
    pub(crate) fn statistics(mut self) -> ErrorStatistics {
        self.sizes_s.sort_by(f64::total_cmp);
        let size_us = |size_s: Option<&f64>| size_s.map_or(f64::INFINITY, |size_s| size_s * 1e6);
        let count = self.sizes_s.len().max(1) as f64;
        ErrorStatistics {
            rms_us: if self.sizes_s.is_empty() {
                f64::INFINITY
            } else {
                (self.square_s2 / count).sqrt() * 1e6
            },
            p99_us: size_us(self.sizes_s.get(self.sizes_s.len() * 99 / 100)),
            max_us: size_us(self.sizes_s.last()),
            bound_us: self.bounds_s / count * 1e6,
        }
    }
}

/// What the errors of a run come to.
pub(crate) struct ErrorStatistics {
    pub(crate) rms_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// Mean of the bounds.
    pub(crate) bound_us: f64,
}

/// The median of a figure over the runs.
pub(crate) fn median_of<R>(runs: &[R], figure: impl Fn(&R) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// The figures of one run, or their medians.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) poll_s: f64,
    pub(crate) answer_s: f64,
    /// Error at the first answer.
    pub(crate) answer_us: f64,
    /// Bound at the first answer.
    pub(crate) answer_bound_us: f64,
    pub(crate) sync_s: f64,
    pub(crate) rms_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    pub(crate) frequency_ppm: f64,
    pub(crate) bound_us: f64,
    pub(crate) violations: f64,
    pub(crate) back_s: f64,
}

/// Runs a scenario once, with the client that it asks for.
pub(crate) fn measure(scenario: &Scenario, seed: u64) -> Figures {
    let sources = vec![scenario.sources; scenario.servers.len()];
    let mut config = scenario.config.clone();
    config.seed = seed;
    let mode = scenario.mode;
    let mut client = move |now: LocalTime| -> Box<dyn Client> {
        let discipline = Discipline::new(config.clone(), &sources, now, None);
        match mode {
            Loop::PrivateLine => Box::new(PrivateLine::new(discipline)),
            // The time of day is the local clock's, right but for its error.
            Loop::Steered => Box::new(Steered::new(discipline, UTC_AT_ZERO_NS)),
        }
    };
    measure_client(scenario, &mut client, seed)
}

/// Runs a scenario once with any client.
pub(crate) fn measure_client(
    scenario: &Scenario,
    client: &mut dyn FnMut(LocalTime) -> Box<dyn Client>,
    seed: u64,
) -> Figures {
    let (from_s, end_s) = scenario.window_s;
    let mut account = Errors::default();
    let (mut frequency_square, mut count) = (0.0, 0.0_f64);
    let (mut violations, mut requests, mut settled_s) = (0.0, 0.0, 0.0);
    let (mut last_late_s, mut last_away_s) = (START_S, scenario.back_from_s);
    let mut first_bound_s = None;
    let first = run(&scenario.oscillator, &scenario.servers, client, seed, end_s, |second| {
        if scenario.servers[0].leap_s == Some(second.at_s) {
            // At this very instant a clock off by 1 us says the other second.
            return;
        }
        let off_s = second.seen.map_or(f64::INFINITY, |(error_s, _)| error_s.abs());
        if off_s >= scenario.threshold_s && second.at_s <= SETTLED_S.min(end_s) {
            last_late_s = second.at_s;
        }
        if scenario.back_from_s.is_some_and(|from_s| second.at_s >= from_s) && off_s >= 1e-3 {
            last_away_s = Some(second.at_s);
        }
        if second.at_s > SETTLED_S {
            requests += f64::from(second.requests);
            settled_s += 1.0;
        }
        let Some((error_s, reading)) = second.seen else {
            return;
        };
        first_bound_s = first_bound_s.or(Some(reading.bound_s));
        if error_s.abs() > reading.bound_s {
            violations += 1.0;
        }
        if second.at_s >= from_s {
            account.enter(error_s, reading.bound_s);
            frequency_square += second.frequency_error * second.frequency_error;
            count += 1.0;
        }
    });
    let errors = account.statistics();
    let sources = scenario.servers.len() as f64;
    let (answer_s, answer_error_s) = first.unwrap_or((f64::INFINITY, f64::INFINITY));
    Figures {
        poll_s: settled_s * sources / requests,
        answer_s,
        answer_us: answer_error_s.abs() * 1e6,
        answer_bound_us: first_bound_s.unwrap_or(f64::INFINITY) * 1e6,
        sync_s: last_late_s - START_S,
        rms_us: errors.rms_us,
        p99_us: errors.p99_us,
        max_us: errors.max_us,
        frequency_ppm: (frequency_square / count.max(1.0)).sqrt() * 1e6,
        bound_us: errors.bound_us,
        violations,
        back_s: last_away_s.map_or(f64::NAN, |at_s| at_s - scenario.back_from_s.unwrap_or(at_s)),
    }
}

/// Figure by figure the median over the runs; of the violations the sum.
pub(crate) fn median(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median_of(runs, figure);
    Figures {
        poll_s: of(|run| run.poll_s),
        answer_s: of(|run| run.answer_s),
        answer_us: of(|run| run.answer_us),
        answer_bound_us: of(|run| run.answer_bound_us),
        sync_s: of(|run| run.sync_s),
        rms_us: of(|run| run.rms_us),
        p99_us: of(|run| run.p99_us),
        max_us: of(|run| run.max_us),
        frequency_ppm: of(|run| run.frequency_ppm),
        bound_us: of(|run| run.bound_us),
        violations: runs.iter().map(|run| run.violations).sum(),
        back_s: of(|run| run.back_s),
    }
}

/// The greatest of a figure over the runs.
pub(crate) fn greatest(runs: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    runs.iter().map(figure).fold(0.0, f64::max)
}
