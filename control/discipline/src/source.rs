//! One upstream: its poll schedule, its path, its latest samples, and its standing in the selection.

use super::aging::{Aging, PHI, any_clock};
use super::intersection::Claim;
use super::leap::Leap;
use super::observation::{Gaussian, Observation, Prior};
use super::path::{Path, RouteState};
use super::poll::PollSchedule;
use super::time::{LocalTime, ns_to_s};

/// What the formats of root delay and root dispersion round away, in s.
const ROUNDING_S: f64 = 30e-6;

/// Number of samples that are kept to begin an estimate from.
const KEPT: usize = 8;
/// Number of the latest samples that make a claim.
const CLAIMING: usize = 2;
/// Standard deviation of the variation of the server's own error from sample to sample, as a share of the
/// root distance.
const NOISE_SHARE: f64 = 0.5;
/// Factor on the sum of two samples' distances by which both may be wrong: between them the local clock may
/// have jumped by as much as they leave open.
const UNSEEN: f64 = 2.0;
/// How long an anchor is used as the later one, in s.
const ANCHOR_S: f64 = 3600.0;
/// How long an anchor can be replaced by a far better sample, in s.
const SETTLING_S: f64 = 600.0;
/// Samples closer together than this say nothing about the frequency, in s.
const LEAST_ARM_S: f64 = 1.0;
/// Standard deviation of a path's bias as a share of the round trip to the primary source, before anything
/// else is known. The bias can be at most half of the round trip.
const BIAS_SHARE: f64 = 0.05;
/// Standard deviation of a server's own error as a share of the largest error that it states.
const SERVER_SHARE: f64 = 0.5;

/// How one upstream should be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceConfig {
    /// Shortest interval between requests, as a power of two in s.
    pub min_poll: u8,
    /// Longest interval between requests, as a power of two in s.
    pub max_poll: u8,
    /// Whether first contact may be a burst: at most eight requests, the first ones 2 s apart.
    pub iburst: bool,
    /// While this source is selected, only preferred ones are followed.
    pub prefer: bool,
    /// Only trusted sources vote on what is true; the others must agree with them.
    pub trust: bool,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { min_poll: 6, max_poll: 10, iburst: true, prefer: false, trust: false }
    }
}

/// One measurement, after the client has checked that it is a valid answer to its own request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Local time in the middle of the exchange.
    pub at: LocalTime,
    /// UTC in ns since 1970, minus local time: the two mean differences of RFC 5905, section 8.
    pub offset_ns: i64,
    /// Round trip without the server's residence time, in s.
    pub delay_s: f64,
    /// Error from the resolution of the two clocks, in s.
    pub dispersion_s: f64,
    /// The answer's root delay: round trip from the server to its reference clock, in s.
    pub root_delay_s: f64,
    /// The answer's root dispersion: the rest of the server's own error, in s.
    pub root_dispersion_s: f64,
    /// The answer's stratum, 1 to 15.
    pub stratum: u8,
    /// The leap second that the answer announces.
    pub leap: Leap,
}

/// The standing of a source in the selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There was no valid answer to the last eight requests.
    Unreachable,
    /// It has forbidden further requests (DENY or RSTR kiss).
    Denied,
    /// It answers, but the answers cannot be used: it is not synchronised, or it is synchronised to this
    /// host.
    Unfit,
    /// It is no longer configured.
    Retired,
    /// It has too few samples yet.
    Waiting,
    /// Its root distance is too large.
    Distant,
    /// There is no majority that agrees.
    NoMajority,
    /// The majority agrees on a time outside the range that this source claims.
    Falseticker,
    /// It agrees with the majority, but a preferred source is followed.
    Backup,
    /// It is followed.
    Selected,
}

impl Standing {
    /// Returns the reason in words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "no valid answer to the last eight requests",
            Self::Retired => "no longer configured",
            Self::Denied => "the server forbade further requests",
            Self::Unfit => {
                "its latest answer cannot be used: it is not synchronised, or synchronised to this host"
            }
            Self::Waiting => "too few samples yet",
            Self::Distant => "its root distance is above the limit",
            Self::NoMajority => "no majority of sources agrees on the time",
            Self::Falseticker => "the majority agrees on a time outside of its error bounds",
            Self::Backup => "agrees with the majority; a preferred source is followed",
            Self::Selected => "agrees with the majority and is followed",
        }
    }
}

/// What is kept of a sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    pub(super) at: LocalTime,
    pub(super) offset_ns: i64,
    pub(super) delay_s: f64,
    pub(super) dispersion_s: f64,
    /// The largest error of the server, as it stated at the time.
    pub(super) root_s: f64,
}

impl Recent {
    /// Returns the largest possible error of the offset at the time of the measurement.
    pub(super) fn distance_s(&self) -> f64 {
        self.delay_s / 2.0 + self.dispersion_s + self.root_s
    }

    /// Whether both samples can be true.
    fn agrees_with(&self, later: &Self, aging: Aging) -> bool {
        let age_s = later.at.seconds_since(self.at);
        let moved_s = ns_to_s(later.offset_ns.saturating_sub(self.offset_ns)) - aging.rate * age_s;
        moved_s.abs() <= later.distance_s() + self.distance_s() + aging.growth * age_s.abs()
    }
}

/// The latest samples of a source that contradict the estimate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlier {
    /// When the first of the consecutive ones came.
    pub(super) since: LocalTime,
    /// How far the latest one is from what was expected, in s.
    pub(super) by_s: f64,
    /// How far it may be from that by chance, in s.
    pub(super) tolerance_s: f64,
    /// The largest possible error of the estimate if the sample is right, in s.
    pub(super) far_s: f64,
    /// Whether the source's claim excludes the estimate.
    pub(super) impossible: bool,
    /// Number of consecutive samples that agree with each other.
    pub(super) alike: u32,
    /// Number of consecutive samples that contradict the estimate, whether they agree or not.
    pub(super) in_a_row: u32,
}

impl Outlier {
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        (self.by_s - other.by_s).abs() <= self.tolerance_s + other.tolerance_s
            && (self.by_s > 0.0) == (other.by_s > 0.0)
    }
}

/// The state kept of one upstream.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) config: SourceConfig,
    pub(super) schedule: PollSchedule,
    pub(super) path: Path,
    pub(super) standing: Standing,
    /// Whether it has a bias in the ensemble.
    pub(super) admitted: bool,
    /// What the ensemble expects of it.
    pub(super) expected: Prior,
    /// The latest samples, if they contradict the estimate.
    pub(super) outlier: Option<Outlier>,
    /// When a sample was last as expected, and the smallest jump that it would have shown, in s.
    pub(super) confirmed: Option<(LocalTime, f64)>,
    /// Why its latest answer could not be used.
    pub(super) unfit: Option<Standing>,
    /// Why it must never be asked again: it is denied or retired.
    pub(super) closed: Option<Standing>,
    pub(super) reach: u8,
    pub(super) recent: Vec<Recent>,
    /// Samples from long ago, the older one first, from which the frequency is derived.
    pub(super) anchors: [Option<Recent>; 2],
    pub(super) latest: Option<Sample>,
}

impl Source {
    pub(super) fn new(config: SourceConfig, start: LocalTime, seed: u64) -> Self {
        Self {
            config,
            schedule: PollSchedule::new(config.min_poll, config.max_poll, config.iburst, start, seed),
            path: Path::default(),
            standing: Standing::Waiting,
            admitted: false,
            expected: Prior { bias_s2: 0.0, noise_s2: 0.0 },
            outlier: None,
            confirmed: None,
            unfit: None,
            closed: None,
            reach: 0,
            recent: Vec::with_capacity(KEPT),
            anchors: [None; 2],
            latest: None,
        }
    }

    pub(super) fn asked(&mut self, now: LocalTime) {
        self.reach <<= 1;
        self.schedule.asked(now);
    }

    /// Whether an answer may narrow the bound. A server that runs free states an error that grows by PHI of RFC 5905: its
    /// answers still measure our own clock. An error that grows faster is that of a server that follows one that knows
    /// less and less, and that may be us.
    pub(super) fn is_news(&self, sample: &Sample) -> bool {
        let root_s = |sample: &Sample| sample.root_delay_s / 2.0 + sample.root_dispersion_s;
        self.latest.is_none_or(|latest| {
            root_s(sample) <= root_s(&latest) + PHI * sample.at.seconds_since(latest.at).max(0.0) + ROUNDING_S
        })
    }

    /// Takes in a sample. `aging` carries on its earlier claims; `unknown` is the frequency of any local
    /// clock.
    pub(super) fn record(
        &mut self,
        sample: &Sample,
        aging: Aging,
        unknown: Gaussian,
    ) -> (Recent, RouteState) {
        let recent = Recent {
            at: sample.at,
            offset_ns: sample.offset_ns,
            delay_s: sample.delay_s,
            dispersion_s: sample.dispersion_s,
            root_s: sample.root_delay_s / 2.0 + sample.root_dispersion_s,
        };
        // The latest sample counts. Samples that cannot be true together with it are from before a change.
        self.recent.retain(|old| old.agrees_with(&recent, aging));
        self.anchors = self.anchors.map(|anchor| anchor.filter(|old| old.agrees_with(&recent, aging)));
        if self.recent.len() == KEPT {
            self.recent.remove(0);
        }
        self.recent.push(recent);
        let (slowest, fastest) = any_clock(unknown);
        if self.possible_frequencies().is_some_and(|(low, high)| low > fastest || high < slowest) {
            // No clock is that far off: it has jumped, by less than the samples leave open.
            self.recent = vec![recent];
            self.anchors = [None; 2];
        }
        self.drop_anchor(&recent);
        self.latest = Some(*sample);
        self.unfit = None;
        self.reach |= 1;
        (recent, self.path.observe(sample.delay_s))
    }

    /// Keeps the most certain sample of each of the last two spans of time.
    fn drop_anchor(&mut self, recent: &Recent) {
        let [_, latest] = self.anchors;
        match latest {
            Some(latest) if recent.at.seconds_since(latest.at) < ANCHOR_S => {
                let settling = recent.at.seconds_since(latest.at) < SETTLING_S;
                if settling && recent.distance_s() < latest.distance_s() / 2.0 {
                    self.anchors[1] = Some(*recent);
                }
            }
            latest => self.anchors = [latest, Some(*recent)],
        }
    }

    /// Returns the lowest and the highest frequency that its samples leave possible if it is truthful, in
    /// s/s.
    pub(super) fn possible_frequencies(&self) -> Option<(f64, f64)> {
        let last = self.recent.last()?;
        self.anchors
            .iter()
            .flatten()
            .chain(self.recent.first())
            .filter_map(|first| {
                let apart_s = last.at.seconds_since(first.at);
                let moved_s = ns_to_s(last.offset_ns.saturating_sub(first.offset_ns));
                let wrong_s = UNSEEN * (first.distance_s() + last.distance_s());
                (apart_s >= LEAST_ARM_S).then(|| (moved_s / apart_s, wrong_s / apart_s))
            })
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(mean, wrong)| (mean - wrong, mean + wrong))
    }

    /// Returns a sample as an observation, with the offset relative to `origin_ns`.
    pub(super) fn observation(&self, source: usize, recent: &Recent, origin_ns: i64) -> Observation {
        Observation {
            source,
            at: recent.at,
            offset_s: ns_to_s(recent.offset_ns.saturating_sub(origin_ns)),
            variance_s2: self.path.variance_s2(recent.delay_s) + recent.dispersion_s * recent.dispersion_s,
        }
    }

    /// Returns the oldest offset that is still known.
    pub(super) fn first_offset_ns(&self) -> Option<i64> {
        self.recent.first().map(|recent| recent.offset_ns)
    }

    /// Forgets all samples, because the local clock or the server has changed.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
        self.anchors = [None; 2];
        self.admitted = false;
        self.outlier = None;
    }

    /// Returns what is expected of it while only its path and its claims are known.
    pub(super) fn prior(&self) -> Prior {
        let (root_delay_s, root_dispersion_s) =
            self.latest.map_or((0.0, 0.0), |latest| (latest.root_delay_s, latest.root_dispersion_s));
        let path_s = BIAS_SHARE * (self.path.floor_s() + root_delay_s);
        let server_s = SERVER_SHARE * root_dispersion_s;
        let noise_s = NOISE_SHARE * (root_delay_s / 2.0 + root_dispersion_s);
        Prior { bias_s2: path_s * path_s + server_s * server_s, noise_s2: noise_s * noise_s }
    }

    /// Returns what the source claims at `now`, relative to `origin_ns`, from the one of its two latest
    /// samples that claims more. Earlier ones may be from before a jump that was too small to show.
    pub(super) fn claim(&self, source: usize, now: LocalTime, origin_ns: i64, aging: Aging) -> Option<Claim> {
        self.recent
            .iter()
            .rev()
            .take(CLAIMING)
            .map(|recent| self.claim_of(recent, source, now, origin_ns, aging))
            .min_by(|a, b| a.distance_s.total_cmp(&b.distance_s))
    }

    /// Returns what one of the latest samples claims.
    pub(super) fn claim_of(
        &self,
        recent: &Recent,
        source: usize,
        now: LocalTime,
        origin_ns: i64,
        aging: Aging,
    ) -> Claim {
        let age_s = now.seconds_since(recent.at).max(0.0);
        Claim {
            source,
            offset_s: ns_to_s(recent.offset_ns.saturating_sub(origin_ns)) + aging.rate * age_s,
            distance_s: recent.distance_s() + aging.growth * age_s,
            trusted: self.config.trust,
        }
    }
}
