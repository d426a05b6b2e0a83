//! The clock discipline: from samples of several upstreams to a line of time with an error bound.

mod ensemble;
mod leap;
mod path;
mod poll;
mod select;
mod source;
mod steer;
mod time;

pub use ensemble::{Ensemble, Normal, Observation};
pub use leap::{Leap, LeapList, LeapListError};
pub use path::{Path, Reading};
pub use select::{Agreement, Claim, agreement};
pub use source::{Sample, SourceConfig, Standing};
pub use steer::{Action, Panic, SteerConfig, steer};
pub use time::{LocalTime, ns_to_s, s_to_ns};

use poll::Worth;
use source::{Recent, Source};

/// Standard deviations of the estimate that the error bound covers.
const BOUND_SIGMAS: f64 = 5.0;
/// With so many samples it covers twice as many.
const FEW_SAMPLES: f64 = 2.0;
/// Standard deviation of a path's bias as a share of its round trip, before anything else is known. Half of
/// the round trip is the most that it can be.
const BIAS_SHARE: f64 = 0.05;
/// Frequency error of a clock never measured, one standard deviation, in s/s.
const UNKNOWN_FREQUENCY: f64 = 50e-6;
/// Squared standard deviations beyond which a sample contradicts the estimate.
const SURPRISE: f64 = 25.0;
/// Samples that a source needs to be believed at start-up, and that all of them need together.
const ENOUGH_EACH: usize = 2;
const ENOUGH_TOGETHER: usize = 3;
/// Uncertainty that is good enough: this share of the reference's round trip, and not less than that.
const ENOUGH_SHARE: f64 = 0.005;
const ENOUGH_S: f64 = 5e-6;
const NS_PER_S: i64 = 1_000_000_000;
/// A published line's bound holds for so long, in s.
const LINE_VALID_S: f64 = 3600.0;
/// Growth of the bound that is never fallen below, in s/s.
const LEAST_GROWTH: f64 = 1e-8;
/// Delays and dispersions from here on are nonsense, in s: NTP's short format ends here.
const MOST_S: f64 = 65_536.0;
/// Samples this near to a leap second are dropped: the servers do not agree on what to call the second.
const LEAP_QUIET_S: f64 = 5.0;
/// A leap second is announced to clients this long ahead, in s.
const LEAP_ANNOUNCED_S: f64 = 86_400.0;

/// What holds for all sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Fewest sources that must agree.
    pub min_sources: usize,
    /// Largest root distance of a source that may take part, in s.
    pub max_distance_s: f64,
    /// At start-up a majority is counted of all configured sources; after so many seconds, of those heard.
    pub patience_s: f64,
    /// The leap seconds that are known for certain.
    pub leap_list: Option<LeapList>,
    /// Makes this client's request times unlike another's.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_sources: 1, max_distance_s: 1.5, patience_s: 20.0, leap_list: None, seed: 1 }
    }
}

/// What is known of the local clock's frequency from an earlier run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// True seconds a local second, minus one.
    pub frequency: f64,
    /// Its standard deviation.
    pub skew: f64,
}

/// Time as a line through the local clock, with the error that it may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// The local time that the rest is given for.
    pub at: LocalTime,
    /// UTC in ns since 1970, minus local time, at `at`.
    pub offset_ns: i64,
    /// True seconds a local second, minus one.
    pub frequency: f64,
    /// Standard deviation of the frequency.
    pub skew: f64,
    /// The source that the bound is counted from.
    pub reference: usize,
    /// One more than the reference's stratum.
    pub stratum: u8,
    /// The leap second to announce.
    pub leap: Leap,
    /// Round trip to the primary source, in s.
    pub root_delay_s: f64,
    /// The rest of the error bound at `at`, in s.
    pub root_dispersion_s: f64,
    /// Growth of the dispersion, in s/s; holds for [`Line::valid_s`].
    pub dispersion_rate: f64,
}

impl Line {
    /// For how long the bound holds without a new line, in s.
    #[must_use]
    pub const fn valid_s(&self) -> f64 {
        LINE_VALID_S
    }

    /// UTC in ns since 1970 at local time `now`.
    #[must_use]
    pub fn utc_ns(&self, now: LocalTime) -> i64 {
        let drifted_ns = s_to_ns(now.seconds_since(self.at) * self.frequency);
        now.as_ns().saturating_add(self.offset_ns).saturating_add(drifted_ns)
    }

    /// The most that [`Line::utc_ns`] may be wrong at `now`, in s.
    #[must_use]
    pub fn bound_s(&self, now: LocalTime) -> f64 {
        let grown_s = self.dispersion_rate * now.seconds_since(self.at).max(0.0);
        self.root_delay_s / 2.0 + self.root_dispersion_s + grown_s
    }

    /// The local time at which the bound reaches `limit_s`, or holds no longer.
    #[must_use]
    pub fn horizon(&self, limit_s: f64) -> LocalTime {
        let room_s = limit_s - self.bound_s(self.at);
        self.at.plus_seconds((room_s / self.dispersion_rate).clamp(0.0, LINE_VALID_S))
    }
}

/// What can be said of one source, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// What the others make of it.
    pub standing: Standing,
    /// The last eight requests, the latest in the lowest bit: 1 where answered.
    pub reach: u8,
    /// The present interval as a power of two, in s.
    pub poll_log2: u8,
    /// The shortest round trip of late, in s.
    pub delay_s: Option<f64>,
    /// Mean queueing delay in one direction, in s.
    pub jitter_s: Option<f64>,
    /// How far the source's claim is from the estimate, in s: what it would have the clock corrected by.
    pub offset_s: Option<f64>,
    /// What of this is taken for asymmetry of its path, with its standard deviation, in s.
    pub bias_s: Option<Normal>,
    /// The latest sample.
    pub latest: Option<Sample>,
}

/// The discipline of one clock over a fixed list of sources.
#[derive(Debug, Clone)]
pub struct Discipline {
    config: Config,
    sources: Vec<Source>,
    /// Until then a majority at start-up is one of all sources.
    patience_ends: Option<LocalTime>,
    /// UTC minus local time that offsets inside are relative to, so that a double holds them to the ns.
    origin_ns: i64,
    frequency: Normal,
    ensemble: Option<Ensemble>,
    leap: Leap,
}

impl Discipline {
    /// Begins at `now` with nothing known but, perhaps, the frequency.
    #[must_use]
    pub fn new(config: Config, sources: &[SourceConfig], now: LocalTime, drift: Option<Drift>) -> Self {
        let frequency =
            drift.map_or(Normal { mean: 0.0, variance: UNKNOWN_FREQUENCY * UNKNOWN_FREQUENCY }, |drift| {
                Normal { mean: drift.frequency, variance: drift.skew * drift.skew }
            });
        let mut discipline = Self {
            config,
            sources: Vec::with_capacity(sources.len()),
            patience_ends: None,
            origin_ns: 0,
            frequency,
            ensemble: None,
            leap: Leap::None,
        };
        for source in sources {
            discipline.add(*source, now);
        }
        discipline.be_patient(now);
        discipline
    }

    /// Adds a source, to be asked from `now` on, and returns its index. The others go on undisturbed.
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

    /// Takes a source out of the configuration. Its index may be given to another one.
    pub fn retire(&mut self, index: usize) {
        self.close(index, Standing::Retired);
    }

    /// When to call [`Discipline::due`] next: a request, a leap second or a decision is due then.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<LocalTime> {
        let requests =
            self.sources.iter().filter(|source| source.closed.is_none()).map(|source| source.pace.next());
        requests.chain(self.leap_instant()).chain(self.patience_ends).min()
    }

    /// The sources to ask at `now`. Each counts as asked.
    pub fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.take_leap(now);
        let due: Vec<usize> = (0..self.sources.len())
            .filter(|&index| self.sources[index].closed.is_none() && self.sources[index].pace.next() <= now)
            .collect();
        for &index in &due {
            self.sources[index].asked(now);
        }
        let patience_ended = self.patience_ends.is_some_and(|end| end <= now);
        if patience_ended {
            self.patience_ends = None;
        }
        if patience_ended || !due.is_empty() {
            self.judge(now);
        }
        due
    }

    /// Takes in a sample.
    ///
    /// One that cannot be is ignored: a delay that is negative or not a number, or a source that was closed.
    pub fn sample(&mut self, index: usize, sample: &Sample) {
        let now = sample.at;
        let possible = [sample.delay_s, sample.dispersion_s, sample.root_delay_s, sample.root_dispersion_s]
            .iter()
            .all(|&value| (0.0..MOST_S).contains(&value));
        if !possible || self.sources[index].closed.is_some() {
            return;
        }
        self.take_leap(now);
        if self.leap_instant().is_some_and(|leap| leap.seconds_since(now).abs() < LEAP_QUIET_S) {
            return;
        }
        let (recent, reading) = self.sources[index].record(sample);
        let known = self.ensemble.is_some();
        self.judge(now);
        // An estimate that begins just now has this sample in it already.
        let worth = if known { self.follow(index, &recent, reading) } else { None };
        self.sources[index].answered(worth);
    }

    /// The server wants fewer requests (RATE kiss).
    pub fn slow_down(&mut self, index: usize, now: LocalTime) {
        self.sources[index].pace.slow_down(now);
    }

    /// The server wants no requests (DENY or RSTR kiss).
    pub fn deny(&mut self, index: usize) {
        self.close(index, Standing::Denied);
    }

    /// The local clock runs faster by `rate` (s/s) from `at` on, because somebody steers it.
    pub fn retuned(&mut self, at: LocalTime, rate: f64) {
        let before = self.rate(at).mean;
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.retune(at, rate);
        }
        self.frequency.mean = (1.0 + self.frequency.mean) / (1.0 + rate) - 1.0;
        let slower = before - self.rate(at).mean;
        for source in &mut self.sources {
            for recent in &mut source.recent {
                // As if the clock had always run at the new rate and read the same at `at`.
                let carried_ns = s_to_ns(slower * at.seconds_since(recent.at));
                recent.offset_ns = recent.offset_ns.saturating_add(carried_ns);
            }
        }
    }

    /// The local clock did not count some time (suspend, a stopped guest): all but the frequency is void.
    /// There is no line until the sources have been heard anew.
    pub fn jumped(&mut self, now: LocalTime) {
        if let Some(ensemble) = self.ensemble.take() {
            self.frequency = ensemble.frequency(now);
        }
        self.be_patient(now);
        for source in &mut self.sources {
            source.forget();
            source.pace.restart(now);
        }
    }

    /// The line to publish at `now`, or nothing while the time is not known.
    #[must_use]
    pub fn line(&self, now: LocalTime) -> Option<Line> {
        let ensemble = self.ensemble.as_ref()?;
        let (reference, dispersion_s) = self.reference(ensemble, now)?;
        let latest = self.sources[reference].latest.as_ref()?;
        let later = now.plus_seconds(LINE_VALID_S);
        let growth = (self.dispersion_s(ensemble, reference, later) - dispersion_s) / LINE_VALID_S;
        let frequency = ensemble.frequency(now);
        Some(Line {
            at: now,
            offset_ns: self.origin_ns.saturating_add(s_to_ns(ensemble.offset(now).mean)),
            frequency: frequency.mean,
            skew: frequency.sd(),
            reference,
            stratum: latest.stratum.saturating_add(1),
            leap: self.announced_leap(now),
            root_delay_s: self.sources[reference].path.floor_s() + latest.root_delay_s,
            root_dispersion_s: dispersion_s,
            dispersion_rate: growth.max(LEAST_GROWTH),
        })
    }

    /// The frequency to keep for the next run, once it is better known than at the start of this one.
    #[must_use]
    pub fn drift(&self, now: LocalTime) -> Option<Drift> {
        let frequency = self.ensemble.as_ref()?.frequency(now);
        (frequency.sd() < 1e-6).then_some(Drift { frequency: frequency.mean, skew: frequency.sd() })
    }

    /// What can be said of a source at `now`.
    #[must_use]
    pub fn report(&self, index: usize, now: LocalTime) -> Report {
        let source = &self.sources[index];
        let offset_s = self.ensemble.as_ref().and_then(|ensemble| {
            let claim = source.claim(index, now, self.origin_ns, self.rate(now))?;
            Some(claim.offset_s - ensemble.offset(now).mean)
        });
        Report {
            standing: source.standing,
            reach: source.reach,
            poll_log2: source.pace.poll_log2(),
            delay_s: source.latest.map(|_| source.path.floor_s()),
            jitter_s: source.latest.map(|_| source.path.one_way_excess_s()),
            offset_s,
            bias_s: self.ensemble.as_ref().filter(|_| source.admitted).map(|known| known.bias(index)),
            latest: source.latest,
        }
    }

    /// Lets the estimate follow a sample of a selected source. Returns what the sample was worth.
    fn follow(&mut self, index: usize, recent: &Recent, reading: Reading) -> Option<Worth> {
        if self.sources[index].standing != Standing::Selected {
            return None;
        }
        let selected = self.selected().count();
        let ensemble = self.ensemble.as_mut()?;
        match reading {
            Reading::Usual => {}
            Reading::Held => return None,
            // Half of the change is what the bias can have moved by.
            Reading::Changed { by_s } => ensemble.release(index, by_s * by_s / 4.0),
        }
        let observation = self.sources[index].observation(index, recent, self.origin_ns);
        if !self.plausible(&observation, selected) {
            return None;
        }
        let ensemble = self.ensemble.as_mut()?;
        let (reference, _) = best_reference(&self.sources, ensemble, recent.at)?;
        let before = ensemble.apparent_offset(reference, recent.at);
        ensemble.observe(&observation, selected);
        let after = ensemble.apparent_offset(reference, recent.at);
        let interval_s = self.sources[index].pace.interval_s();
        let uncertain_s = |seconds| ensemble.apparent_offset(reference, recent.at.plus_seconds(seconds)).sd();
        Some(Worth {
            after_one_s: uncertain_s(interval_s),
            after_two_s: uncertain_s(2.0 * interval_s),
            enough_s: ENOUGH_S.max(ENOUGH_SHARE * self.sources[reference].path.floor_s()),
            gain: 1.0 - after.variance / before.variance,
        })
    }

    /// Looks at a sample that may contradict the estimate. A single one is left out, since nothing tells what
    /// it is evidence of. If most sources contradict, or the only one does so twice in a row, it was the clock; if
    /// one of several does so twice in a row, it was its path. What changed is freed in the estimate, and the
    /// sample may teach it. Returns whether to use the sample.
    fn plausible(&mut self, observation: &Observation, selected: usize) -> bool {
        let Some(ensemble) = &mut self.ensemble else {
            return false;
        };
        let innovation = ensemble.innovation(observation);
        let squared = innovation.mean * innovation.mean;
        let source = &mut self.sources[observation.source];
        if squared <= SURPRISE * innovation.variance {
            source.surprises = 0;
            return true;
        }
        source.surprises += 1;
        let again = source.surprises > 1;
        let interval_s = source.pace.interval_s();
        let surprised = self.sources.iter().filter(|source| source.surprises > 0).count();
        if surprised * 2 > selected && (again || surprised > 1) {
            ensemble.loosen(squared, squared / (interval_s * interval_s));
            for source in &mut self.sources {
                source.surprises = 0;
                let keep_from = source.recent.len().saturating_sub(1);
                source.recent.drain(..keep_from);
            }
            return true;
        }
        if again && selected > 1 {
            ensemble.release(observation.source, squared);
        }
        again
    }

    /// Decides anew which sources are followed.
    fn judge(&mut self, now: LocalTime) {
        if self.ensemble.is_none() {
            // Nothing is relative to it yet.
            self.origin_ns = self.sources.iter().find_map(Source::first_offset_ns).unwrap_or(0);
        }
        let rate = self.rate(now);
        let mut claims = Vec::with_capacity(self.sources.len());
        for index in 0..self.sources.len() {
            let claim = self.sources[index].claim(index, now, self.origin_ns, rate);
            match self.obstacle(index, claim.as_ref()) {
                Some(standing) => self.sources[index].standing = standing,
                None => claims.extend(claim),
            }
        }
        let patient = self.ensemble.is_none() && self.patience_ends.is_some();
        let voters = if patient { self.expected() } else { claims.len() };
        let agreed = agreement(&claims, voters).filter(|agreed| agreed.votes >= self.config.min_sources);
        let Some(agreed) = agreed else {
            for claim in &claims {
                self.sources[claim.source].standing = Standing::NoMajority;
            }
            return;
        };
        let agreed = self.kept_agreement(now, &claims).unwrap_or(agreed);
        let chosen: Vec<usize> =
            claims.iter().filter(|claim| agreed.holds(claim)).map(|claim| claim.source).collect();
        let preferred = chosen.iter().any(|&index| self.sources[index].config.prefer);
        for claim in &claims {
            let source = &mut self.sources[claim.source];
            source.standing = if !chosen.contains(&claim.source) {
                Standing::Falseticker
            } else if preferred && !source.config.prefer {
                Standing::Spare
            } else {
                Standing::Selected
            };
        }
        self.adopt(now, &agreed);
        self.settle_leap(now);
    }

    /// The estimate itself, as far as it is certain, where it lies within what a majority claims. Agreement is
    /// then measured against it: a source on its way out is noticed before it has left the overlap, and
    /// cannot move the overlap's edge. Where no majority holds it, the estimate is dropped, whatever it
    /// was derived from.
    fn kept_agreement(&mut self, now: LocalTime, claims: &[Claim]) -> Option<Agreement> {
        let ensemble = self.ensemble.as_ref()?;
        let offset = ensemble.offset(now);
        let slack_s = BOUND_SIGMAS * offset.sd();
        let mut kept = Agreement { low_s: offset.mean - slack_s, high_s: offset.mean + slack_s, votes: 0 };
        let trusted = claims.iter().any(|claim| claim.trusted);
        let voting: Vec<&Claim> = claims.iter().filter(|claim| claim.trusted || !trusted).collect();
        kept.votes = voting.iter().filter(|claim| kept.holds(claim)).count();
        if kept.votes * 2 > voting.len() {
            return Some(kept);
        }
        self.frequency = ensemble.frequency(now);
        self.frequency.variance += UNKNOWN_FREQUENCY * UNKNOWN_FREQUENCY;
        self.ensemble = None;
        None
    }

    /// Brings the estimate in line with the selection.
    fn adopt(&mut self, now: LocalTime, agreed: &Agreement) {
        if self.ensemble.is_none() {
            self.start(now, agreed);
        }
        let Some(ensemble) = &mut self.ensemble else {
            return;
        };
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.standing == Standing::Falseticker {
                // Whatever was known of its path is void when it comes back.
                source.admitted = false;
                source.surprises = 0;
            } else if source.standing == Standing::Selected && !source.admitted {
                source.admitted = true;
                ensemble.admit(index, BIAS_SHARE * source.path.floor_s());
            }
        }
    }

    /// Begins an estimate from all samples of the selected sources that fit what was agreed on.
    fn start(&mut self, now: LocalTime, agreed: &Agreement) {
        let selected: Vec<usize> = self.selected().collect();
        let rate = self.rate(now);
        let mut recents: Vec<(usize, Recent)> = Vec::new();
        for &index in &selected {
            let source = &self.sources[index];
            let fits =
                |recent: &&Recent| agreed.holds(&source.claim_of(recent, index, now, self.origin_ns, rate));
            recents.extend(source.recent.iter().filter(fits).map(|recent| (index, *recent)));
        }
        if recents.len() < ENOUGH_TOGETHER {
            return;
        }
        // Once more, from a source that is believed.
        self.origin_ns = recents[0].1.offset_ns;
        let mut observations: Vec<Observation> = recents
            .iter()
            .map(|(index, recent)| self.sources[*index].observation(*index, recent, self.origin_ns))
            .collect();
        observations.sort_by_key(|observation| observation.at);
        let bias_sd_s = |index: usize| BIAS_SHARE * self.sources[index].path.floor_s();
        let Some((first, rest)) = observations.split_first() else {
            return;
        };
        let mut ensemble = Ensemble::new(self.sources.len(), first, bias_sd_s(first.source), self.frequency);
        for &index in selected.iter().filter(|&&index| index != first.source) {
            ensemble.admit(index, bias_sd_s(index));
        }
        for observation in rest {
            ensemble.observe(observation, selected.len());
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.admitted = selected.contains(&index);
        }
        self.ensemble = Some(ensemble);
    }

    /// What keeps a source from having a say, if anything does.
    fn obstacle(&self, index: usize, claim: Option<&Claim>) -> Option<Standing> {
        let source = &self.sources[index];
        let enough = if source.pace.burst_over() { 1 } else { ENOUGH_EACH };
        if source.closed.is_some() {
            source.closed
        } else if source.recent.len() < enough {
            Some(if source.reach == 0 && source.pace.burst_over() {
                Standing::Unreachable
            } else {
                Standing::Waiting
            })
        } else if source.reach == 0 {
            Some(Standing::Unreachable)
        } else if claim.is_none_or(|claim| claim.distance_s > self.config.max_distance_s) {
            Some(Standing::Distant)
        } else {
            None
        }
    }

    fn be_patient(&mut self, now: LocalTime) {
        self.patience_ends = Some(now.plus_seconds(self.config.patience_s));
    }

    /// Sources that may still speak.
    fn expected(&self) -> usize {
        self.sources.iter().filter(|source| source.closed.is_none()).count()
    }

    fn selected(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sources.len()).filter(|&index| self.sources[index].standing == Standing::Selected)
    }

    /// The local clock's frequency.
    fn rate(&self, now: LocalTime) -> Normal {
        self.ensemble.as_ref().map_or(self.frequency, |ensemble| ensemble.frequency(now))
    }

    fn close(&mut self, index: usize, standing: Standing) {
        let source = &mut self.sources[index];
        source.closed = Some(standing);
        source.standing = standing;
        source.forget();
    }

    fn reference(&self, ensemble: &Ensemble, now: LocalTime) -> Option<(usize, f64)> {
        best_reference(&self.sources, ensemble, now)
    }

    fn dispersion_s(&self, ensemble: &Ensemble, reference: usize, now: LocalTime) -> f64 {
        dispersion_s(&self.sources[reference], ensemble, reference, now)
    }

    fn settle_leap(&mut self, now: LocalTime) {
        let announced: Vec<Leap> = self
            .selected()
            .filter_map(|index| self.sources[index].latest.map(|sample| sample.leap))
            .collect();
        let leap = leap::majority(&announced);
        let denied = self.utc_s(now).is_some_and(|utc_s| {
            self.config.leap_list.as_ref().is_some_and(|list| list.denies(leap, leap::month_end(utc_s)))
        });
        self.leap = if denied { Leap::None } else { leap };
    }

    fn utc_s(&self, now: LocalTime) -> Option<i64> {
        let offset_s = self.ensemble.as_ref()?.offset(now).mean;
        Some(self.utc_ns(now, offset_s).div_euclid(NS_PER_S))
    }

    fn utc_ns(&self, now: LocalTime, offset_s: f64) -> i64 {
        now.as_ns().saturating_add(self.origin_ns).saturating_add(s_to_ns(offset_s))
    }

    /// Local time of the announced leap second's end.
    fn leap_instant(&self) -> Option<LocalTime> {
        if self.leap == Leap::None {
            return None;
        }
        let ensemble = self.ensemble.as_ref()?;
        let at = self.sources.iter().filter_map(|source| source.latest.map(|latest| latest.at)).max()?;
        let offset = ensemble.offset(at);
        let utc_ns = self.utc_ns(at, offset.mean);
        let end_ns = leap::month_end(utc_ns.div_euclid(NS_PER_S)).saturating_mul(NS_PER_S);
        // An inserted second repeats the month's last label, a deleted one skips it.
        let ahead_s = ns_to_s(end_ns.saturating_sub(utc_ns)) - self.leap.shift_s().max(0.0);
        Some(at.plus_seconds(ahead_s / (1.0 + ensemble.frequency(at).mean)))
    }

    fn announced_leap(&self, now: LocalTime) -> Leap {
        match self.leap_instant() {
            Some(instant) if instant.seconds_since(now) <= LEAP_ANNOUNCED_S => self.leap,
            _ => Leap::None,
        }
    }

    fn take_leap(&mut self, now: LocalTime) {
        if self.leap_instant().is_none_or(|instant| now < instant) {
            return;
        }
        let shift_s = self.leap.shift_s();
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.shift(shift_s);
        }
        for source in &mut self.sources {
            for recent in &mut source.recent {
                recent.offset_ns = recent.offset_ns.saturating_add(s_to_ns(shift_s));
            }
            if let Some(latest) = &mut source.latest {
                latest.leap = Leap::None;
                latest.offset_ns = latest.offset_ns.saturating_add(s_to_ns(shift_s));
            }
        }
        self.leap = Leap::None;
    }
}

/// The source that bounds the error most tightly, and the dispersion counted from it.
fn best_reference(sources: &[Source], ensemble: &Ensemble, now: LocalTime) -> Option<(usize, f64)> {
    let bound_s = |index: usize, dispersion_s: f64| {
        let root_delay_s = sources[index].latest.map_or(0.0, |latest| latest.root_delay_s);
        f64::midpoint(sources[index].path.floor_s(), root_delay_s) + dispersion_s
    };
    (0..sources.len())
        .filter(|&index| sources[index].admitted)
        .map(|index| (index, dispersion_s(&sources[index], ensemble, index, now)))
        .min_by(|a, b| bound_s(a.0, a.1).total_cmp(&bound_s(b.0, b.1)))
}

/// The error that the round trip does not account for, in s. True time is within half a round trip of what
/// the source would read without queues; the estimate is off that by the bias it ascribes to the path, and
/// that reading itself is uncertain.
fn dispersion_s(source: &Source, ensemble: &Ensemble, index: usize, now: LocalTime) -> f64 {
    let server_s = source.latest.map_or(0.0, |latest| latest.root_dispersion_s + latest.dispersion_s);
    // A deviation estimated from few samples may be too small itself.
    let sigmas = BOUND_SIGMAS * (1.0 + FEW_SAMPLES / f64::from(source.path.samples().max(1)));
    ensemble.bias(index).mean.abs()
        + sigmas * ensemble.apparent_offset(index, now).sd()
        + source.path.one_way_excess_s()
        + server_s
}
