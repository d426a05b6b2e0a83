//! What must hold in any weather, over random scenarios.
//!
//! Network, oscillator, servers, claims and faults are drawn by seed, always so that the truthful servers are a
//! majority of those configured and of those that can be heard at any time. Truthful is a server whose clock is
//! off by no more than `root delay / 2 + root dispersion` of its own answers. Then true time lies in the
//! interval of each of its samples, and a client can know how wrong it may be. It is checked each second that
//!
//! - the error is within the line's bound. This is not asked for while a jump of the local clock cannot be seen
//!   yet: from the jump until all truthful servers that can be heard were heard twice after it, or a majority
//!   of all that can be heard if the jump is wider than what their samples leave open. From then on a client
//!   has what it takes to know better;
//! - there is a line, once nothing has happened for so long that each server was asked several times;
//! - every figure is finite; and over the whole run, that no server is asked more often than is polite.
//!
//! `PROPERTY_CASES=1000000 cargo test -p discipline --test simulation property` runs more cases,
//! `PROPERTY_SEED=42 PROPERTY_CASES=1` a certain one. A failure is described with the fewest servers and faults
//! that still show it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use discipline::{Config, Discipline, LocalTime, Sample};

use crate::cases::{Case, draw};
use crate::clients::PrivateLine;
use crate::exempt::Exempt;
use crate::world::{Client, Reading, START_S, run};

/// As many as run within a minute on two processors.
const CASES: u64 = 6000;
/// Failures that are listed, those that are made simpler, and the different ones of these that are described.
const LISTED: usize = 10;
const SIMPLIFIED: usize = 100;
const DESCRIBED: usize = 12;
/// What rounding to whole ns may add, s.
const ROUNDING_S: f64 = 3e-9;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OutsideOfBound,
    NoLineAtFirst,
    NoLineAgain,
    NotFinite,
    Impolite,
    Panic,
}

#[derive(Clone, Debug)]
struct Failure {
    kind: Kind,
    at_s: f64,
    by: String,
}

/// What is counted of a client from outside.
#[derive(Default)]
struct Log {
    requests: Vec<u32>,
    samples: Samples,
    keep_samples: bool,
}

/// A client whose requests and samples are logged.
struct Watched {
    client: Box<dyn Client>,
    log: Rc<RefCell<Log>>,
}

impl Client for Watched {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.client.next_wakeup()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        let due = self.client.due(now);
        let mut log = self.log.borrow_mut();
        for &server in &due {
            log.requests[server] += 1;
        }
        due
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        let mut log = self.log.borrow_mut();
        if log.keep_samples {
            log.samples.push((server, *sample));
        }
        drop(log);
        self.client.sample(server, sample);
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        self.client.reading(now)
    }

    fn publish(&mut self, now: LocalTime) -> f64 {
        self.client.publish(now)
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.client.time_lost(now);
    }
}

/// Runs one case, with the discipline or another client, and returns the first thing that went wrong.
fn check(
    case: &Case,
    client: &mut dyn FnMut(LocalTime) -> Box<dyn Client>,
    log: &Rc<RefCell<Log>>,
) -> Option<Failure> {
    log.borrow_mut().requests = vec![0; case.members.len()];
    let servers = case.servers();
    let mut watched = |now: LocalTime| -> Box<dyn Client> {
        Box::new(Watched { client: client(now), log: Rc::clone(log) })
    };
    let mut failure: Option<Failure> = None;
    let mut exempt = Exempt::default();
    let changes = case.changes();
    let patience_s = case.patience_s();
    let (mut next_change, mut quiet_since_s, mut ever) = (0, START_S, false);
    run(&case.oscillator, &servers, &mut watched, case.seed, case.end_s, |second| {
        if failure.is_some() {
            return;
        }
        while changes.get(next_change).is_some_and(|&at_s| at_s <= second.at_s) {
            quiet_since_s = changes[next_change].max(START_S);
            next_change += 1;
        }
        let open = exempt.open(case, second);
        let fail = |kind, by| Some(Failure { kind, at_s: second.at_s, by });
        let Some((error_s, reading)) = second.seen else {
            let late_s = second.at_s - quiet_since_s - patience_s;
            if late_s > 0.0 && case.majority_passes(second.at_s) {
                let kind = if ever { Kind::NoLineAgain } else { Kind::NoLineAtFirst };
                failure = fail(kind, format!("no line for {patience_s:.0} s after the last change"));
            }
            return;
        };
        ever = true;
        if !(error_s.is_finite() && reading.bound_s.is_finite() && reading.frequency.is_finite()) {
            failure = fail(Kind::NotFinite, format!("error {error_s}, {reading:?}"));
        } else if error_s.abs() > reading.bound_s + ROUNDING_S && !open {
            let by = format!(
                "error {:.1} us, bound {:.1} us (x {:.2})",
                error_s * 1e6,
                reading.bound_s * 1e6,
                error_s.abs() / reading.bound_s
            );
            failure = fail(Kind::OutsideOfBound, by);
        }
    });
    failure.or_else(|| impolite(case, &log.borrow().requests))
}

/// Eight requests at first, half as many for each reason to begin anew, and one each shortest interval.
fn impolite(case: &Case, requests: &[u32]) -> Option<Failure> {
    let most =
        8.0 + 4.0 * case.reasons_to_begin_anew() + (case.end_s - START_S) / case.shortest_poll_s() + 1.0;
    let (server, &asked) = requests.iter().enumerate().max_by_key(|(_, requests)| **requests)?;
    (f64::from(asked) > most).then(|| Failure {
        kind: Kind::Impolite,
        at_s: case.end_s,
        by: format!("{asked} requests to server {server}, {most:.0} at most"),
    })
}

pub(crate) fn discipline(case: &Case, now: LocalTime) -> Box<dyn Client> {
    let config = Config { seed: case.seed, ..Config::default() };
    let sources = vec![case.source; case.members.len()];
    Box::new(PrivateLine::new(Discipline::new(config, &sources, now, case.drift)))
}

fn check_discipline(case: &Case) -> Option<Failure> {
    let checked = AssertUnwindSafe(|| {
        check(case, &mut |now| discipline(case, now), &Rc::new(RefCell::new(Log::default())))
    });
    catch_unwind(checked).unwrap_or_else(|_| {
        Some(Failure { kind: Kind::Panic, at_s: 0.0, by: String::from("the discipline panics") })
    })
}

/// The fewest servers and faults that still fail in the same way.
fn shrink(case: Case, failure: Failure) -> (Case, Failure) {
    let (mut case, mut failure) = (case, failure);
    'smaller: loop {
        for candidate in case.simpler() {
            if let Some(still) = check_discipline(&candidate).filter(|still| still.kind == failure.kind) {
                (case, failure) = (candidate, still);
                continue 'smaller;
            }
        }
        return (case, failure);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// All failures by seed.
fn failures(first: u64, cases: u64) -> BTreeMap<u64, Failure> {
    let next = AtomicU64::new(first);
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(cases) {
                        return;
                    }
                    if let Some(failure) = check_discipline(&draw(seed)) {
                        found.lock().expect("no thread panics").insert(seed, failure);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics")
}

/// Failures of one kind.
#[derive(Default)]
struct Tally {
    count: u64,
    /// By the faults in the scenario, and by the only fault in it.
    present: BTreeMap<&'static str, u64>,
    alone: BTreeMap<&'static str, u64>,
    seeds: Vec<u64>,
}

/// How often each kind failed, and with which faults; then single failures.
fn summary(failures: &BTreeMap<u64, Failure>, first: u64, cases: u64) -> String {
    let mut text = format!("{} of {cases} cases fail\n", failures.len());
    let mut drawn: BTreeMap<&'static str, u64> = BTreeMap::new();
    for fault in (first..first.saturating_add(cases)).flat_map(|seed| draw(seed).kinds_of_faults()) {
        *drawn.entry(fault).or_default() += 1;
    }
    let mut kinds: BTreeMap<Kind, Tally> = BTreeMap::new();
    for (&seed, failure) in failures {
        let tally = kinds.entry(failure.kind).or_default();
        let present = draw(seed).kinds_of_faults();
        tally.count += 1;
        if let [alone] = present[..] {
            *tally.alone.entry(alone).or_default() += 1;
        } else if present.is_empty() {
            *tally.alone.entry("nothing").or_default() += 1;
        }
        for fault in present {
            *tally.present.entry(fault).or_default() += 1;
        }
        if tally.seeds.len() < LISTED {
            tally.seeds.push(seed);
        }
    }
    for (kind, tally) in &kinds {
        let mut present: Vec<_> = tally.present.iter().collect();
        present.sort_by_key(|&(fault, count)| std::cmp::Reverse(count * 1000 / drawn[*fault]));
        let present: Vec<String> =
            present.iter().map(|(fault, count)| format!("{fault} {count} of {}", drawn[*fault])).collect();
        let _ = writeln!(text, "{kind:?}: {}; seeds {:?}", tally.count, tally.seeds);
        let _ = writeln!(text, "  with {}", present.join(", "));
        let _ = writeln!(text, "  with nothing else but {:?}", tally.alone);
    }
    for (&seed, failure) in failures.iter().take(LISTED) {
        let _ = writeln!(text, "seed {seed}: {:?} at {:.0} s: {}", failure.kind, failure.at_s, failure.by);
    }
    text.push_str(&simplified(failures));
    text
}

/// What the first failures need, made as simple as they still fail, and one description for each such need.
fn simplified(failures: &BTreeMap<u64, Failure>) -> String {
    let mut needs: BTreeMap<(Kind, Vec<&'static str>), (u64, String)> = BTreeMap::new();
    for (&seed, failure) in failures.iter().take(SIMPLIFIED) {
        let (case, failure) = shrink(draw(seed), failure.clone());
        let need = needs.entry((failure.kind, case.kinds_of_faults())).or_default();
        need.0 += 1;
        if need.1.is_empty() {
            need.1 = format!(
                "PROPERTY_SEED={seed} PROPERTY_CASES=1, as simple as it still fails:\n{case}at {:.0} s: {}\n",
                failure.at_s, failure.by
            );
        }
    }
    let mut needs: Vec<_> = needs.into_iter().collect();
    needs.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let mut text =
        format!("\nThe first {} made as simple as they still fail:\n", failures.len().min(SIMPLIFIED));
    for ((kind, faults), (count, _)) in &needs {
        let _ = writeln!(text, "  {count} {kind:?} with {}", faults.join(", "));
    }
    for ((kind, _), (_, description)) in needs.iter().take(DESCRIBED) {
        let _ = write!(text, "\n{kind:?}, {description}");
    }
    text
}

#[test]
fn property_the_bound_holds_and_the_time_comes_back_in_any_weather() {
    let (first, cases) = (number("PROPERTY_SEED", 1), number("PROPERTY_CASES", CASES));
    let began = Instant::now();
    let failures = failures(first, cases);
    println!("{cases} cases in {:.1} s", began.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{}", summary(&failures, first, cases));
}

// That the checks themselves are right: what is said of true time is true, and what is wrong is caught.

/// Local and true time, s.
type Seconds = Vec<(LocalTime, f64)>;
/// Samples and their servers.
type Samples = Vec<(usize, Sample)>;

/// Local and true time at whole seconds, and the samples between them.
fn seconds_and_samples(case: &Case) -> (Seconds, Samples) {
    let log = Rc::new(RefCell::new(Log { keep_samples: true, ..Log::default() }));
    log.borrow_mut().requests = vec![0; case.members.len()];
    let mut watched = |now: LocalTime| -> Box<dyn Client> {
        Box::new(Watched { client: discipline(case, now), log: Rc::clone(&log) })
    };
    let mut seconds = Vec::new();
    run(&case.oscillator, &case.servers(), &mut watched, case.seed, case.end_s, |second| {
        seconds.push((second.local, second.at_s));
    });
    let samples = std::mem::take(&mut log.borrow_mut().samples);
    (seconds, samples)
}

#[test]
fn oracle_true_time_is_in_the_interval_of_every_truthful_sample() {
    let (mut checked, mut liars_caught) = (0, 0);
    for case in (1..=300).map(draw) {
        let (seconds, samples) = seconds_and_samples(&case);
        for (server, sample) in samples {
            let after = seconds.partition_point(|(local, _)| *local < sample.at);
            let (Some(&(from, from_s)), Some(&(to, to_s))) =
                (seconds.get(after.wrapping_sub(1)), seconds.get(after))
            else {
                continue;
            };
            if to_s - from_s > 1.5 || case.oscillator.jump(from_s).is_some() {
                continue;
            }
            let true_s = from_s + (to_s - from_s) * sample.at.seconds_since(from) / to.seconds_since(from);
            let said_ns = sample.offset_ns - crate::world::UTC_AT_ZERO_NS + sample.at.as_ns();
            let off_s = (said_ns as f64 / 1e9 - true_s).abs();
            let claim_s = f64::midpoint(sample.delay_s, sample.root_delay_s)
                + sample.dispersion_s
                + sample.root_dispersion_s
                + ROUNDING_S;
            if case.members[server].truthful {
                checked += 1;
                assert!(
                    off_s <= claim_s,
                    "{case}server {server} at {true_s}: off by {off_s}, claims {claim_s}"
                );
            } else if off_s > claim_s {
                liars_caught += 1;
            }
        }
    }
    assert!(checked > 10_000 && liars_caught > 1000, "{checked}, {liars_caught}");
}

/// Keeps the latest sample of each server and serves the middle of what a majority of those not lost holds
/// possible, where a clock may be up to `TOLERANCE` fast or slow: crude, but never wrong.
struct Cautious {
    next: LocalTime,
    latest: Vec<Option<Sample>>,
    /// When each was last heard, whatever became of its sample.
    heard: Vec<LocalTime>,
    /// What is served is off by this, s, and the bound claimed instead of the true one.
    lie: Option<(f64, f64)>,
}

/// 500 ppm, what ramps, jumps and wander add, and what a liar may drift: not every one shows at once.
const TOLERANCE: f64 = 800e-6;
/// A server that is silent for so long is lost, s.
const LOST_S: f64 = 2600.0;

/// Offset, ns, and half of the width, s, of what a sample holds possible at `now`.
fn interval(sample: &Sample, now: LocalTime) -> (f64, f64) {
    let within_s = f64::midpoint(sample.delay_s, sample.root_delay_s)
        + sample.dispersion_s
        + sample.root_dispersion_s
        + TOLERANCE * now.seconds_since(sample.at);
    ((sample.offset_ns - crate::world::UTC_AT_ZERO_NS) as f64, within_s)
}

impl Cautious {
    fn new(servers: usize, now: LocalTime) -> Self {
        Self { next: now, latest: vec![None; servers], heard: vec![now; servers], lie: None }
    }

    /// What a majority holds possible: UTC minus local time, ns.
    fn hull_ns(&self, now: LocalTime) -> Option<(f64, f64)> {
        let mut edges: Vec<(f64, bool)> = Vec::with_capacity(2 * self.latest.len());
        for sample in self.latest.iter().flatten() {
            let (offset_ns, within_s) = interval(sample, now);
            edges.extend([(offset_ns - within_s * 1e9, true), (offset_ns + within_s * 1e9, false)]);
        }
        edges.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Whoever is not lost but has said nothing that counts may hold anything possible.
        let here = |heard: &LocalTime| now.seconds_since(*heard) < LOST_S;
        let voters = self.heard.iter().filter(|heard| here(heard)).count();
        let silent =
            self.heard.iter().zip(&self.latest).filter(|(heard, latest)| here(heard) && latest.is_none());
        let majority = (voters / 2 + 1).checked_sub(silent.count()).filter(|&majority| majority > 0)?;
        let (mut depth, mut hull) = (0, None);
        for (edge_ns, begins) in edges {
            if begins {
                depth += 1;
                if depth == majority {
                    hull = Some((hull.map_or(edge_ns, |(low_ns, _)| low_ns), edge_ns));
                }
            } else {
                if depth == majority {
                    hull = hull.map(|(low_ns, _)| (low_ns, edge_ns));
                }
                depth -= 1;
            }
        }
        hull
    }
}

impl Client for Cautious {
    fn next_wakeup(&self) -> Option<LocalTime> {
        Some(self.next)
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.next = now.plus_seconds(256.0);
        (0..self.latest.len()).collect()
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        self.heard[server] = sample.at;
        let contradicts = self.latest[server].is_some_and(|before| {
            let (old_ns, old_width_s) = interval(&before, sample.at);
            let (new_ns, new_width_s) = interval(sample, sample.at);
            (old_ns - new_ns).abs() > (old_width_s + new_width_s) * 1e9
        });
        if contradicts {
            // The clock has jumped, or the server has.
            self.latest.fill(None);
        }
        self.latest[server] = Some(*sample);
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        let (low_ns, high_ns) = self.hull_ns(now)?;
        let (off_s, claimed_s) = self.lie.unwrap_or((0.0, (high_ns - low_ns) / 2e9 + 1e-9));
        let middle_ns = f64::midpoint(low_ns, high_ns) + off_s * 1e9;
        let utc_ns = crate::world::UTC_AT_ZERO_NS + now.as_ns() + middle_ns.round() as i64;
        Some(Reading { utc_ns, bound_s: claimed_s, frequency: 0.0 })
    }

    fn publish(&mut self, _: LocalTime) -> f64 {
        0.0
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.next = now;
        self.latest.fill(None);
        self.heard.fill(now);
    }
}

fn check_cautious(case: &Case, lie: Option<(f64, f64)>) -> Option<Failure> {
    let servers = case.members.len();
    let mut client = |now| -> Box<dyn Client> { Box::new(Cautious { lie, ..Cautious::new(servers, now) }) };
    check(case, &mut client, &Rc::new(RefCell::new(Log::default())))
}

#[test]
fn oracle_a_client_that_trusts_nothing_but_majorities_passes() {
    for case in (1..=number("ORACLE_CASES", 2000)).map(draw) {
        let failure = check_cautious(&case, None);
        // It asks each 256 s, whatever is configured.
        let failure = failure.filter(|failure| failure.kind != Kind::Impolite);
        assert!(failure.is_none(), "seed {}\n{case}{failure:?}", case.seed);
    }
}

#[test]
fn oracle_a_client_that_claims_too_much_is_caught() {
    let caught = (1..=100)
        .filter(|&seed| {
            let failure = check_cautious(&draw(seed), Some((1e-3, 1e-4)));
            failure.is_some_and(|failure| failure.kind == Kind::OutsideOfBound)
        })
        .count();
    assert!(caught >= 95, "{caught} of 100");
}

/// Serves what it knew before the jump for good.
struct Stubborn(Cautious, u32);

impl Client for Stubborn {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.0.next_wakeup()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.0.due(now)
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        self.1 += 1;
        if self.1 == 1 {
            self.0.sample(server, sample);
        }
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        self.0.reading(now)
    }

    fn publish(&mut self, _: LocalTime) -> f64 {
        0.0
    }

    fn time_lost(&mut self, _: LocalTime) {}
}

#[test]
fn oracle_what_a_jump_exempts_ends_with_the_second_sample_after_it() {
    let mut case = draw(1);
    case.members.truncate(1);
    case.members[0].truthful = true;
    case.members[0].server = crate::server::Server::new(0.001, 1e-6);
    case.oscillator.suspended.clear();
    case.oscillator.jumps = vec![crate::oscillator::Jump { at_s: 1000.0, step_s: 10.0, frequency: 0.0 }];
    case.end_s = 3600.0;
    let mut client = |now| -> Box<dyn Client> { Box::new(Stubborn(Cautious::new(1, now), 0)) };
    let failure = check(&case, &mut client, &Rc::new(RefCell::new(Log::default()))).expect("it is wrong");
    assert_eq!(failure.kind, Kind::OutsideOfBound);
    // It asks each 256 s.
    assert!((1256.0..1513.0).contains(&failure.at_s), "{failure:?}");
}

/// Asks too often, or never has a line.
struct Careless(Cautious);

impl Client for Careless {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.0.next_wakeup()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        let due = self.0.due(now);
        self.0.next = now.plus_seconds(2.0);
        due
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        self.0.sample(server, sample);
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        self.0.reading(now).filter(|_| self.0.lie.is_none())
    }

    fn publish(&mut self, _: LocalTime) -> f64 {
        0.0
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.0.time_lost(now);
    }
}

#[test]
fn oracle_a_client_that_asks_too_often_or_never_answers_is_caught() {
    let mut case = draw(1);
    case.members.truncate(1);
    case.members[0].truthful = true;
    case.members[0].server = crate::server::Server::new(0.001, 1e-6);
    case.end_s = 6.0 * crate::world::HOUR_S;
    for (lie, kind) in [(None, Kind::Impolite), (Some((0.0, 0.0)), Kind::NoLineAtFirst)] {
        let mut client =
            |now| -> Box<dyn Client> { Box::new(Careless(Cautious { lie, ..Cautious::new(1, now) })) };
        let failure = check(&case, &mut client, &Rc::new(RefCell::new(Log::default())));
        assert_eq!(failure.map(|failure| failure.kind), Some(kind));
    }
}
