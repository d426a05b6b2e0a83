//! Which filter? A regression, a Kalman filter for each source, and the one filter that is used.
//!
//! All three weigh samples by the same model of the path and are asked every 64 s, so that only the
//! estimation differs. The first two estimate each source by itself and average the offsets, each weighed by
//! its variance and that of an unknown asymmetry.

use std::fmt::Write as _;

use discipline::{
    ClockLine, Ensemble, Gaussian, LocalTime, Observation, Path, Prior, Sample, ns_to_s, s_to_ns,
};

use crate::figures::{Figures, measure, measure_client, median};
use crate::regression::Regression;
use crate::scenarios::{self, Scenario};
use crate::world::{Client, Reading};

const POLL: u8 = 6;
const POLL_S: f64 = 64.0;
const BURST: usize = 8;
const BURST_INTERVAL_S: f64 = 2.0;
const BIAS_SHARE: f64 = 0.05;
const UNKNOWN_FREQUENCY: Gaussian = Gaussian { mean: 0.0, variance: 50e-6 * 50e-6 };

/// An estimate from one source's samples.
pub(crate) trait Filter {
    fn observe(&mut self, at: LocalTime, offset_s: f64, variance_s2: f64);
    fn offset(&self, at: LocalTime) -> Option<Gaussian>;
    fn frequency(&self, at: LocalTime) -> Option<Gaussian>;
}

/// The bank of Kalman filters, with one source in it.
#[derive(Default)]
struct Kalman {
    ensemble: Option<Ensemble>,
}

impl Filter for Kalman {
    fn observe(&mut self, at: LocalTime, offset_s: f64, variance_s2: f64) {
        let observation = Observation { source: 0, at, offset_s, variance_s2 };
        match &mut self.ensemble {
            Some(ensemble) => ensemble.observe(&observation, 1),
            None => {
                self.ensemble = Some(Ensemble::new(
                    1,
                    &observation,
                    Prior { bias_s2: 0.0, noise_s2: 0.0 },
                    UNKNOWN_FREQUENCY,
                ));
            }
        }
    }

    fn offset(&self, at: LocalTime) -> Option<Gaussian> {
        self.ensemble.as_ref().map(|ensemble| ensemble.offset(at))
    }

    fn frequency(&self, at: LocalTime) -> Option<Gaussian> {
        self.ensemble.as_ref().map(|ensemble| ensemble.frequency(at))
    }
}

struct Upstream {
    filter: Box<dyn Filter>,
    path: Path,
    asked: usize,
    next: LocalTime,
}

/// Estimates each source by itself, and averages.
struct Independent {
    upstreams: Vec<Upstream>,
    origin_ns: Option<i64>,
    line: Option<ClockLine>,
}

impl Independent {
    fn new(sources: usize, now: LocalTime, filter: fn() -> Box<dyn Filter>) -> Self {
        let upstream = || Upstream { filter: filter(), path: Path::default(), asked: 0, next: now };
        Self { upstreams: (0..sources).map(|_| upstream()).collect(), origin_ns: None, line: None }
    }

    fn combine(&self, now: LocalTime) -> Option<(f64, f64)> {
        let (mut weight, mut offset_s) = (0.0, 0.0);
        let (mut frequency_weight, mut frequency) = (0.0, 0.0);
        for upstream in &self.upstreams {
            let (Some(offset), Some(rate)) = (upstream.filter.offset(now), upstream.filter.frequency(now))
            else {
                continue;
            };
            let bias_s = BIAS_SHARE * upstream.path.floor_s();
            let share = 1.0 / (offset.variance + bias_s * bias_s);
            weight += share;
            offset_s += share * offset.mean;
            frequency_weight += 1.0 / rate.variance;
            frequency += rate.mean / rate.variance;
        }
        (weight > 0.0).then_some((offset_s / weight, frequency / frequency_weight))
    }
}

impl Client for Independent {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.upstreams.iter().map(|upstream| upstream.next).min()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        let due: Vec<usize> =
            (0..self.upstreams.len()).filter(|&index| self.upstreams[index].next <= now).collect();
        for &index in &due {
            let upstream = &mut self.upstreams[index];
            upstream.asked += 1;
            let wait_s = if upstream.asked < BURST { BURST_INTERVAL_S } else { POLL_S };
            upstream.next = now.plus_seconds(wait_s);
        }
        due
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        let origin_ns = *self.origin_ns.get_or_insert(sample.offset_ns);
        let upstream = &mut self.upstreams[server];
        upstream.path.observe(sample.delay_s);
        let variance_s2 = upstream.path.variance_s2(sample.delay_s);
        upstream.filter.observe(sample.at, ns_to_s(sample.offset_ns - origin_ns), variance_s2);
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        let line = self.line?;
        Some(Reading { utc_ns: line.utc_ns(now), bound_s: f64::INFINITY, frequency: line.frequency })
    }

    fn publish(&mut self, now: LocalTime) -> f64 {
        self.line = self.combine(now).map(|(offset_s, frequency)| ClockLine {
            leap_at: None,
            at: now,
            offset_ns: self.origin_ns.unwrap_or(0) + s_to_ns(offset_s),
            frequency,
            skew: 0.0,
            reference: 0,
            updated: now,
            stratum: 2,
            leap: discipline::Leap::None,
            root_delay_s: 0.0,
            root_dispersion_s: 0.0,
            dispersion_rate: 0.0,
            of_configured_majority: true,
        });
        0.0
    }

    fn time_lost(&mut self, _: LocalTime) {}
}

const HEADER: &str = "\
RMS of the time error in us and of the frequency error in ppm, 4 h to 24 h, every source asked each 64 s, median
over 8 seeds. regression: weighted, one for each source, window by a runs test. kalman: a bank of Kalman filters
for each source. ensemble: one bank over all sources and their biases, as used.

";

/// The table of the three.
pub(crate) fn render(seeds: u64) -> String {
    let mut text = String::from(HEADER);
    let _ = writeln!(
        text,
        "{:8} {:37} {:>10} {:>8} {:>10} {:>8} {:>10} {:>8}",
        "id", "conditions", "regression", "ppm", "kalman", "ppm", "ensemble", "ppm"
    );
    let compared = ["a", "b", "c", "d", "e", "e2", "f0_lan", "f8_lan", "f7_lan", "f7_wan", "o_sin", "l_d"];
    for mut scenario in scenarios::all().into_iter().filter(|scenario| compared.contains(&scenario.id)) {
        (scenario.sources.min_poll, scenario.sources.max_poll) = (POLL, POLL);
        let regression = independent(&scenario, seeds, || Box::new(Regression::default()));
        let kalman = independent(&scenario, seeds, || Box::new(Kalman::default()));
        let runs: Vec<Figures> = (1..=seeds).map(|seed| measure(&scenario, seed)).collect();
        let ensemble = median(&runs);
        let _ = write!(text, "{:8} {:37}", scenario.id, scenario.about);
        for figures in [regression, kalman, ensemble] {
            let _ = write!(text, " {:>10.1} {:>8.3}", figures.rms_us, figures.frequency_ppm);
        }
        text.push('\n');
    }
    text
}

fn independent(scenario: &Scenario, seeds: u64, filter: fn() -> Box<dyn Filter>) -> Figures {
    let sources = scenario.servers.len();
    let mut client = |now: LocalTime| -> Box<dyn Client> { Box::new(Independent::new(sources, now, filter)) };
    let runs: Vec<Figures> = (1..=seeds).map(|seed| measure_client(scenario, &mut client, seed)).collect();
    median(&runs)
}
