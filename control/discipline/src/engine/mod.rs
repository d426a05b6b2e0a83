//! The discipline as a daemon uses it: it says which requests are due, takes in samples, and returns a line.

mod apply_leap;
mod bound;
mod selection;
mod surprise;
mod update;

use crate::aging::{Aging, PHI};
use crate::ensemble::Ensemble;
use crate::leap::{Leap, LeapList};
use crate::line::{ClockLine, LINE_VALID_S};
use crate::observation::Gaussian;
use crate::source::{Sample, Source, SourceConfig, Standing};
use crate::time::{LocalTime, s_to_ns};
use apply_leap::LEAP_QUIET_S;
use bound::Consensus;
use surprise::Doubt;

/// Frequency error of a clock that was never measured, one standard deviation, in s/s.
const UNKNOWN_FREQUENCY: Gaussian = Gaussian { mean: 0.0, variance: 200e-6 * 200e-6 };
/// Frequency error of most clocks.
const USUAL_FREQUENCY: Gaussian = Gaussian { mean: 0.0, variance: 50e-6 * 50e-6 };
/// Probability that a clock is not one of these, and that a frequency from an earlier run is wrong.
const UNUSUAL: f64 = 0.1;
const WRONG_FILE: f64 = 0.01;
/// Smallest uncertainty of a frequency from an earlier run, one standard deviation, in s/s: the temperature
/// may have changed, or the file may come from another machine.
const LEAST_SKEW: f64 = 10e-6;
/// Largest frequency error of an oscillator that a kernel can discipline, in s/s. A larger value is ignored.
const MOST_FREQUENCY: f64 = 500e-6;
/// A line is usually renewed within this time, in s.
const SOON_S: f64 = 30.0;
/// Longest time until an answer, in s.
const ANSWER_S: f64 = 2.0;
/// Delays and dispersions from here on are nonsense, in s: the range of NTP's short format ends here.
const MOST_S: f64 = 65_536.0;

/// Settings that hold for all sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Smallest number of sources that must agree. By default it is two if three or more are configured,
    /// otherwise one.
    pub min_sources: Option<usize>,
    /// Largest root distance of a source that may take part, in s.
    pub max_distance_s: f64,
    /// At start-up a majority is counted of all configured sources. When this many seconds have passed since
    /// the first answer and each source has been asked, it is counted of those that have answered.
    pub patience_s: f64,
    /// The leap seconds that are known for certain.
    pub leap_list: Option<LeapList>,
    /// Makes the times of this client's requests differ from those of others.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_sources: None, max_distance_s: 1.5, patience_s: 20.0, leap_list: None, seed: 1 }
    }
}

/// What is known about the local clock's frequency from an earlier run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// True seconds per local second, minus one.
    pub frequency: f64,
    /// Standard deviation of the frequency.
    pub skew: f64,
    /// How fast it wandered, in s/s per square root of a second, if that was learnt.
    pub wander: Option<f64>,
}

/// The state of one source, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceReport {
    /// Its standing in the selection.
    pub standing: Standing,
    /// Reach register of the last eight requests, with the latest in the lowest bit: 1 means answered.
    pub reach: u8,
    /// The current poll interval as a power of two, in s.
    pub poll_log2: u8,
    /// The shortest recent round trip, in s.
    pub delay_s: Option<f64>,
    /// Mean queueing delay in one direction, in s.
    pub jitter_s: Option<f64>,
    /// Its offset relative to the estimate, in s: by how much it would correct that.
    pub offset_s: Option<f64>,
    /// The part of the offset that is attributed to asymmetry of its path, with its standard deviation, in s.
    pub bias_s: Option<Gaussian>,
    /// The latest sample.
    pub latest: Option<Sample>,
}

/// The discipline of one clock by some sources. A source is named by its index: its place in the list given
/// to [`Discipline::new`], or what [`Discipline::add`] returned.
#[derive(Debug, Clone)]
pub struct Discipline {
    config: Config,
    sources: Vec<Source>,
    /// Until when a majority at start-up is one of all sources.
    patience_ends: Option<LocalTime>,
    /// UTC minus local time to which internal offsets are relative, so that a double is exact to the ns.
    origin_ns: i64,
    /// What is known about the frequency while there is no estimate.
    frequency: Gaussian,
    /// What is known about the frequency of any local clock, as it is steered now.
    unknown: Gaussian,
    /// What is known about it instead after a jump, before which it was known well.
    since_jump: Option<Gaussian>,
    /// Probability that this is wrong, until a sample has confirmed it.
    hearsay: Option<f64>,
    /// How fast the clock wandered in an earlier run.
    expected_wander: Option<f64>,
    ensemble: Option<Ensemble>,
    /// What a majority last agreed on.
    consensus: Option<Consensus>,
    /// When the local clock was last found to have jumped.
    jumped_at: Option<LocalTime>,
    doubt: Option<Doubt>,
    /// Since when the sources are split about the estimate: no majority holds it possible, and none excludes
    /// it.
    split_since: Option<LocalTime>,
    /// Number of estimates that were begun.
    estimates: u32,
    leap: Leap,
    /// When the last leap second was taken.
    leapt_at: Option<LocalTime>,
}

impl Discipline {
    /// Begins at `now` without any knowledge but, perhaps, that of the frequency.
    #[must_use]
    pub fn new(config: Config, sources: &[SourceConfig], now: LocalTime, drift: Option<Drift>) -> Self {
        let drift = drift.filter(|drift| drift.frequency.abs() <= MOST_FREQUENCY);
        let frequency = drift.map_or(USUAL_FREQUENCY, |drift| {
            let skew = drift.skew.max(LEAST_SKEW);
            Gaussian { mean: drift.frequency, variance: skew * skew }
        });
        let mut discipline = Self {
            config,
            sources: Vec::with_capacity(sources.len()),
            patience_ends: None,
            origin_ns: 0,
            frequency,
            unknown: UNKNOWN_FREQUENCY,
            since_jump: None,
            hearsay: Some(if drift.is_some() { WRONG_FILE } else { UNUSUAL }),
            expected_wander: drift.and_then(|drift| drift.wander),
            ensemble: None,
            consensus: None,
            jumped_at: None,
            doubt: None,
            split_since: None,
            estimates: 0,
            leap: Leap::None,
            leapt_at: None,
        };
        for source in sources {
            discipline.add(*source, now);
        }
        discipline
    }

    /// Adds a source, to be asked from `now` on, and returns its index. The others are left undisturbed.
    pub fn add(&mut self, source: SourceConfig, now: LocalTime) -> usize {
        let seed = &mut self.config.seed;
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let source = Source::new(source, now, *seed);
        let free = self.sources.iter().position(|old| old.closed == Some(Standing::Retired));
        if let Some(index) = free {
            self.sources[index] = source;
            return index;
        }
        self.sources.push(source);
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.grow();
        }
        self.sources.len() - 1
    }

    /// Removes a source. Its index may be given to another one.
    pub fn retire(&mut self, index: usize) {
        self.close(index, Standing::Retired);
    }

    /// Returns when to call [`Discipline::due`] next: a request, a leap second or a decision is due then.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<LocalTime> {
        let requests =
            self.sources.iter().filter(|source| source.closed.is_none()).map(|source| source.schedule.next());
        requests.chain(self.leap_instant()).chain(self.patience_ends).min()
    }

    /// Takes note that it is `now`. A leap second that has come is taken, so that the line is not one of before it.
    pub fn advance(&mut self, now: LocalTime) {
        self.take_leap(now);
    }

    /// Returns the sources to ask at `now`. Each counts as asked.
    pub fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.advance(now);
        let due: Vec<usize> = (0..self.sources.len())
            .filter(|&index| {
                self.sources[index].closed.is_none() && self.sources[index].schedule.next() <= now
            })
            .collect();
        let bound_s = self.bound_s(now);
        for &index in &due {
            self.sources[index].asked(now);
        }
        let patience_ended = self.patience_ends.is_some_and(|end| end <= now);
        if patience_ended {
            self.patience_ends = None;
        }
        if patience_ended || !due.is_empty() {
            self.select(now, bound_s);
        }
        due
    }

    /// Takes in a sample.
    ///
    /// It is ignored if its delay is negative or not a number, or if the source is closed.
    pub fn sample(&mut self, index: usize, sample: &Sample) {
        let now = sample.at;
        let possible = [sample.delay_s, sample.dispersion_s, sample.root_delay_s, sample.root_dispersion_s]
            .iter()
            .all(|&value| (0.0..MOST_S).contains(&value));
        if !possible || self.sources[index].closed.is_some() {
            return;
        }
        self.advance(now);
        if self.leap_instant().is_some_and(|leap| leap.seconds_since(now).abs() < LEAP_QUIET_S) {
            return;
        }
        if self.ensemble.is_none() && self.sources.iter().all(|source| source.recent.is_empty()) {
            self.be_patient(now);
        }
        // A server that knows less and less has nothing to tell: perhaps it follows us.
        let is_news = self.sources[index].is_news(sample);
        let bound_s = if is_news { None } else { self.bound_s(now) };
        let aging = self.aging(index, now);
        let floor_s = self.sources[index].path.floor_s();
        let any_rate = self.any_rate();
        let (recent, route) = self.sources[index].record(sample, aging, any_rate);
        let estimates = self.estimates;
        self.reconsider_bias(index, &recent, route, floor_s);
        if self.estimates == estimates {
            self.check_for_surprise(index, &recent, route);
        }
        self.select(now, bound_s);
        // An estimate that begins just now already contains this sample.
        let known = self.ensemble.is_some() && self.estimates == estimates;
        let sample_value = if known { self.follow(index, &recent, route) } else { None };
        self.sources[index].schedule.answered(sample_value);
    }

    /// Takes in a RATE kiss: the server wants fewer requests.
    pub fn slow_down(&mut self, index: usize, now: LocalTime) {
        self.sources[index].schedule.slow_down(now);
    }

    /// Takes in a DENY or RSTR kiss: the server wants no requests.
    pub fn deny(&mut self, index: usize) {
        self.close(index, Standing::Denied);
    }

    /// Takes in an answer that cannot be used, because the source is not synchronised or is synchronised to
    /// this host. The source has no vote until its next sample.
    pub fn unfit(&mut self, index: usize, now: LocalTime) {
        let bound_s = self.bound_s(now);
        let source = &mut self.sources[index];
        if source.closed.is_none() {
            source.forget();
            source.unfit = Some(Standing::Unfit);
            self.select(now, bound_s);
        }
    }

    /// Takes in that the local clock runs faster by `rate` (s/s) from `at` on, because somebody steers it.
    pub fn frequency_changed(&mut self, at: LocalTime, rate: f64) {
        let before = self.rate(at).mean;
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.change_frequency(at, rate);
        }
        self.frequency.mean = (1.0 + self.frequency.mean) / (1.0 + rate) - 1.0;
        for known in self.since_jump.iter_mut().chain([&mut self.unknown]) {
            known.mean = (1.0 + known.mean) / (1.0 + rate) - 1.0;
        }
        let slower = before - self.rate(at).mean;
        if let Some(consensus) = &mut self.consensus {
            consensus.change_frequency(at, rate);
        }
        for source in &mut self.sources {
            for recent in source.recent.iter_mut().chain(source.anchors.iter_mut().flatten()) {
                // The result is as if the clock had always run at the new rate and shown the same time at
                // `at`.
                let carried_ns = s_to_ns(slower * at.seconds_since(recent.at));
                recent.offset_ns = recent.offset_ns.saturating_add(carried_ns);
            }
        }
    }

    /// Takes in that the local clock did not count some time (a suspend, a stopped guest): everything but the
    /// frequency is void. There is no line until the sources have answered again.
    pub fn time_lost(&mut self, now: LocalTime) {
        if let Some(ensemble) = self.ensemble.take() {
            self.frequency = ensemble.frequency(now);
        }
        self.consensus = None;
        self.doubt = None;
        self.patience_ends = None;
        for source in &mut self.sources {
            source.forget();
            source.schedule.restart(now);
        }
    }

    /// Returns the line to publish at `now`, or `None` while the time is not known. [`Discipline::advance`] comes first.
    #[must_use]
    pub fn line(&self, now: LocalTime) -> Option<ClockLine> {
        let (ensemble, consensus) = (self.ensemble.as_ref()?, self.consensus.as_ref()?);
        let frequency = ensemble.frequency(now);
        // The estimate never leaves what the majority agrees on.
        let (low_s, high_s) = self.agreed_ends_s(now)?;
        let offset_s = ensemble.offset(now).mean.max(low_s).min(high_s);
        let reference = self.reference_with_bound(now, offset_s)?;
        // Claims widen at different rates, and which of them count changes: the bound may grow faster at
        // first.
        let mut dispersion_rate = PHI;
        for ahead_s in [SOON_S, LINE_VALID_S] {
            let later = now.plus_seconds(ahead_s);
            let offset_later_s = offset_s + frequency.mean * ahead_s;
            let grown_s = self.reference_with_bound(later, offset_later_s)?.dispersion_s
                - reference.dispersion_s
                + self.doubt_s(now)
                - self.doubt_s(later);
            dispersion_rate = dispersion_rate.max(grown_s / ahead_s);
        }
        Some(ClockLine {
            at: now,
            offset_ns: self.origin_ns.saturating_add(s_to_ns(offset_s)),
            frequency: frequency.mean,
            skew: frequency.sd(),
            reference: reference.index,
            updated: reference.updated,
            stratum: reference.stratum,
            leap: self.announced_leap(now),
            leap_at: self.leap_instant().or(self.leapt_at),
            root_delay_s: reference.root_delay_s,
            root_dispersion_s: reference.dispersion_s,
            dispersion_rate,
            of_configured_majority: consensus.of_configured,
        })
    }

    /// Returns the frequency to store for the next run, once it is known better than at the start of this
    /// one.
    #[must_use]
    pub fn drift(&self, now: LocalTime) -> Option<Drift> {
        let ensemble = self.ensemble.as_ref()?;
        let (frequency, wander) = (ensemble.frequency(now), Some(ensemble.wander()));
        (frequency.sd() < LEAST_SKEW).then_some(Drift {
            frequency: frequency.mean,
            skew: frequency.sd(),
            wander,
        })
    }

    /// Returns the uncertainty of the offset at `now`, one standard deviation, in s, and how fast the clock
    /// wanders, in s/s per square root of a second.
    #[must_use]
    pub fn uncertainty(&self, now: LocalTime) -> Option<(f64, f64)> {
        let ensemble = self.ensemble.as_ref()?;
        Some((ensemble.offset(now).sd(), ensemble.wander()))
    }

    /// Puts other settings in force, except the seed.
    pub fn configure(&mut self, config: Config) {
        self.config = Config { seed: self.config.seed, ..config };
    }

    /// Returns the state of a source at `now`.
    #[must_use]
    pub fn report(&self, index: usize, now: LocalTime) -> SourceReport {
        let source = &self.sources[index];
        let offset_s = self.ensemble.as_ref().and_then(|ensemble| {
            let claim = source.claim(index, now, self.origin_ns, self.aging(index, now))?;
            Some(claim.offset_s - ensemble.offset(now).mean)
        });
        SourceReport {
            standing: source.standing,
            reach: source.reach,
            poll_log2: source.schedule.poll_log2(),
            delay_s: source.latest.map(|_| source.path.floor_s()),
            jitter_s: source.latest.map(|_| source.path.one_way_excess_s()),
            offset_s,
            bias_s: self.ensemble.as_ref().filter(|_| source.admitted).map(|known| known.bias(index)),
            latest: source.latest,
        }
    }

    /// Gives the other sources a chance after the first one has answered, with at least one request each.
    fn be_patient(&mut self, now: LocalTime) {
        let asked_s = self
            .sources
            .iter()
            .filter(|source| source.closed.is_none())
            .map(|source| source.schedule.next().seconds_since(now) + ANSWER_S)
            .fold(self.config.patience_s, f64::max);
        self.patience_ends = Some(now.plus_seconds(asked_s));
    }

    fn selected(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sources.len()).filter(|&index| self.sources[index].standing == Standing::Selected)
    }

    /// Returns the local clock's frequency.
    fn rate(&self, now: LocalTime) -> Gaussian {
        self.ensemble.as_ref().map_or(self.frequency, |ensemble| ensemble.frequency(now))
    }

    /// Returns how the claims of a source are carried on.
    fn aging(&self, index: usize, now: LocalTime) -> Aging {
        self.aging_by(index, self.believed_rate(now))
    }

    /// Returns the frequency of the estimate, if there is one.
    fn believed_rate(&self, now: LocalTime) -> Option<f64> {
        self.ensemble.as_ref().map(|ensemble| ensemble.frequency(now).mean)
    }

    /// Works like [`Self::aging`], given [`Self::believed_rate`], which is the same for all sources.
    fn aging_by(&self, index: usize, believed: Option<f64>) -> Aging {
        let possible = self.sources[index].possible_frequencies();
        let believed = believed
            .unwrap_or_else(|| possible.map_or(self.unknown.mean, |(low, high)| f64::midpoint(low, high)));
        Aging::new(possible, self.any_rate(), believed)
    }

    /// Returns the frequency of the local clock before any sample of a source is used.
    fn any_rate(&self) -> Gaussian {
        self.since_jump.unwrap_or(self.unknown)
    }

    fn close(&mut self, index: usize, standing: Standing) {
        let source = &mut self.sources[index];
        source.closed = Some(standing);
        source.standing = standing;
        source.forget();
    }
}
