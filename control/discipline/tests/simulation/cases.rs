//! Random scenarios for what must hold in any weather, and how to make them simpler.

use std::fmt;

use discipline::{Drift, SourceConfig};
use testinput::random::Random;

use crate::network::{Path, Queue, Recurring, Reroute, Tail};
use crate::oscillator::{Course, Jump, Oscillator};
use crate::server::{Claims, Fault, Server};
use crate::units::PPM;
use crate::world::START_S;

/// No sooner does anything happen, s.
const EVENTS_FROM_S: f64 = 60.0;

/// A jump that nearly every sample shows, s.
const LARGE_JUMP_S: f64 = 2.0;

/// A server that may be asked.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) server: Server,
    /// Whether its clock is within what it claims at all times.
    pub(crate) truthful: bool,
}

/// A scenario drawn by seed.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) oscillator: Oscillator,
    pub(crate) members: Vec<Member>,
    pub(crate) source: SourceConfig,
    pub(crate) drift: Option<Drift>,
    pub(crate) end_s: f64,
}

impl Member {
    /// Hardly any sample's interval is wider than this to either side, s.
    pub(crate) fn width_s(&self) -> f64 {
        let (path, claims) = (&self.server.path, &self.server.claims);
        let reroutes: f64 = path.reroutes.iter().map(|more| more.there_s.abs() + more.back_s.abs()).sum();
        let recurring: f64 = path.recurring.iter().map(|more| more.there_s + more.back_s).sum();
        let queues_s = path.jitter_s + path.tail.map_or(0.0, |tail| tail.mean_s);
        0.5 * (path.there_s + path.back_s + reroutes + recurring + claims.root_delay_s)
            + 15.0 * queues_s
            + claims.dispersion_s(86_400.0)
            + 2.0 * self.server.resolution_s
    }
}

impl Case {
    pub(crate) fn servers(&self) -> Vec<Server> {
        self.members.iter().map(|member| member.server.clone()).collect()
    }

    pub(crate) fn shortest_poll_s(&self) -> f64 {
        f64::from(self.source.min_poll).exp2()
    }

    /// Whether the truthful servers that can be heard are a majority of those configured.
    pub(crate) fn majority_passes(&self, at_s: f64) -> bool {
        let heard =
            self.members.iter().filter(|member| member.truthful && member.server.path.passes(at_s)).count();
        heard * 2 > self.members.len()
    }

    /// Within so many seconds after a change each server has been asked several times: twice at the longest
    /// interval, since a change has to be noticed first, and eight times at the interval for servers that are
    /// lost or only witnesses.
    pub(crate) fn patience_s(&self) -> f64 {
        let longest_s = f64::from(self.source.max_poll).exp2();
        2.1 * longest_s + 8.5 * f64::from(self.source.min_poll.max(8)).exp2()
    }

    /// When something changes, in order, s.
    pub(crate) fn changes(&self) -> Vec<f64> {
        let mut changes: Vec<f64> = self.oscillator.jumps.iter().map(Jump::ends_s).collect();
        changes.extend(self.oscillator.suspended.iter().map(|&(_, to_s)| to_s));
        for member in &self.members {
            let path = &member.server.path;
            changes.extend(path.outages.iter().flat_map(|&(from_s, to_s)| [from_s, to_s]));
            changes.extend(path.reroutes.iter().map(|reroute| reroute.at_s));
            for fault in &member.server.faults {
                match *fault {
                    Fault::Drift(from_s, _) => changes.push(from_s),
                    Fault::OffsetBetween(from_s, to_s, _) => changes.extend([from_s, to_s]),
                    Fault::Offset(_) | Fault::Sine { .. } | Fault::Walk { .. } => {}
                }
            }
        }
        changes.retain(|at_s| at_s.is_finite());
        changes.sort_by(f64::total_cmp);
        changes
    }

    /// How often a client may believe at most that its clock has jumped: it cannot always tell that from what
    /// else changes.
    pub(crate) fn reasons_to_begin_anew(&self) -> f64 {
        let recurring = self.members.iter().flat_map(|member| &member.server.path.recurring);
        let recurring =
            recurring.map(|recurring| 2.0 * (self.end_s / recurring.period_s).ceil()).sum::<f64>();
        1.0 + self.changes().len() as f64 + recurring
    }

    /// Whether the truthful are a majority of all configured, and at any time of those that can be heard.
    fn is_fair(&self) -> bool {
        let truthful = self.members.iter().filter(|member| member.truthful).count();
        let mut edges = vec![0.0];
        for member in &self.members {
            edges.extend(member.server.path.outages.iter().flat_map(|&(from_s, to_s)| [from_s, to_s]));
        }
        truthful * 2 > self.members.len()
            && self.jumps_can_be_seen()
            && edges.iter().all(|&at_s| {
                let heard = self.members.iter().filter(|member| member.server.path.passes(at_s));
                let (truthful, liars): (Vec<&Member>, Vec<&Member>) =
                    heard.partition(|member| member.truthful);
                truthful.len() > liars.len() || liars.is_empty()
            })
    }

    /// Whether the truthful servers can be heard around each jump. A client that holds on to the narrow interval
    /// of a server that is lost cannot see a jump within the wider ones of the others.
    fn jumps_can_be_seen(&self) -> bool {
        let around_s = 3.0 * f64::from(self.source.max_poll.max(8)).exp2();
        let small = self.oscillator.jumps.iter().filter(|jump| jump.step_s.abs() < LARGE_JUMP_S);
        let times: Vec<f64> = small.map(|jump| jump.at_s).collect();
        let truthful = self.members.iter().filter(|member| member.truthful);
        truthful.flat_map(|member| &member.server.path.outages).all(|&(from_s, to_s)| {
            times.iter().all(|&at_s| from_s > at_s + around_s || to_s + around_s < at_s)
        })
    }

    /// All cases that are simpler by one server, fault or property.
    pub(crate) fn simpler(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for index in 0..self.members.len() {
            all.extend(self.without(|case| {
                case.members.remove(index);
            }));
        }
        for index in 0..self.oscillator.jumps.len() {
            all.extend(self.without(|case| {
                case.oscillator.jumps.remove(index);
            }));
        }
        for index in 0..self.oscillator.suspended.len() {
            all.extend(self.without(|case| {
                case.oscillator.suspended.remove(index);
            }));
        }
        for index in 0..self.members.len() {
            let path = &self.members[index].server.path;
            for outage in 0..path.outages.len() {
                all.extend(self.without(|case| {
                    case.members[index].server.path.outages.remove(outage);
                }));
            }
            // Each second one takes back what the first one did, so one without the other may go below zero.
            if !path.reroutes.is_empty() {
                all.extend(self.without(|case| case.members[index].server.path.reroutes.clear()));
            }
            if !path.recurring.is_empty() {
                all.extend(self.without(|case| case.members[index].server.path.recurring.clear()));
            }
            if path.tail.is_some() {
                all.extend(self.without(|case| case.members[index].server.path.tail = None));
            }
            if path.loss > 0.0 {
                all.extend(self.without(|case| case.members[index].server.path.loss = 0.0));
            }
            if path.queue != Queue::Exponential {
                all.extend(self.without(|case| case.members[index].server.path.queue = Queue::Exponential));
            }
            if self.members[index].truthful && !self.members[index].server.faults.is_empty() {
                all.extend(self.without(|case| case.members[index].server.faults.clear()));
            }
        }
        if self.drift.is_some() {
            all.extend(self.without(|case| case.drift = None));
        }
        if !self.oscillator.courses.is_empty() {
            all.extend(self.without(|case| case.oscillator.courses.clear()));
        }
        if self.oscillator.wander > 1e-9 {
            all.extend(self.without(|case| case.oscillator.wander = 1e-9));
        }
        if self.oscillator.jumps.iter().any(|jump| jump.frequency != 0.0) {
            all.extend(self.without(|case| {
                case.oscillator.jumps.iter_mut().for_each(|jump| jump.frequency = 0.0);
            }));
        }
        all
    }

    fn without(&self, simplify: impl Fn(&mut Self)) -> Option<Self> {
        let mut case = self.clone();
        simplify(&mut case);
        (!case.members.is_empty() && case.is_fair()).then_some(case)
    }

    /// The kinds of faults in it, for counting.
    pub(crate) fn kinds_of_faults(&self) -> Vec<&'static str> {
        let any = |has: fn(&Member) -> bool| self.members.iter().any(has);
        let recurs = |what: fn(&Recurring) -> bool| {
            self.members.iter().flat_map(|member| &member.server.path.recurring).any(what)
        };
        let wrong_drift =
            self.drift.is_some_and(|drift| (drift.frequency + self.oscillator.base).abs() > 5.0 * drift.skew);
        [
            ("one source", self.members.len() == 1),
            ("liar", any(|member| !member.truthful)),
            ("server error", any(|member| member.truthful && !member.server.faults.is_empty())),
            ("claims", any(|member| member.truthful && member.server.claims.dispersion_s(0.0) > 0.0)),
            ("coarse timestamps", any(|member| member.server.resolution_s >= 1e-3)),
            ("jump", !self.oscillator.jumps.is_empty()),
            ("suspend", !self.oscillator.suspended.is_empty()),
            ("outage", any(|member| !member.server.path.outages.is_empty())),
            ("reroute", any(|member| !member.server.path.reroutes.is_empty())),
            ("bufferbloat", recurs(|recurring| recurring.loss == 0.0)),
            ("bursts of loss", recurs(|recurring| recurring.loss > 0.0)),
            ("heavy tail", any(|member| member.server.path.tail.is_some())),
            ("Gaussian", any(|member| matches!(member.server.path.queue, Queue::Gaussian { .. }))),
            ("wrong drift file", wrong_drift),
            ("base above 100 ppm", self.oscillator.base.abs() > 100.0 * PPM),
            ("ramps", !self.oscillator.courses.is_empty()),
            ("wander above 1e-8", self.oscillator.wander > 1e-8),
            ("loss", any(|member| member.server.path.loss > 0.0)),
        ]
        .into_iter()
        .filter_map(|(name, present)| present.then_some(name))
        .collect()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let (clock, source) = (&self.oscillator, &self.source);
        writeln!(
            out,
            "  {:.0} s; clock {:+.2} ppm, wander {:.1e}, {:+.3} s off; poll {}..{}, iburst {}",
            self.end_s,
            clock.base / PPM,
            clock.wander,
            clock.offset_s,
            source.min_poll,
            source.max_poll,
            source.iburst
        )?;
        if let Some(drift) = self.drift {
            writeln!(
                out,
                "  drift file {:+.3} ppm, skew {:.3} ppm",
                drift.frequency / PPM,
                drift.skew / PPM
            )?;
        }
        for course in &clock.courses {
            writeln!(out, "  {course:?}")?;
        }
        for jump in &clock.jumps {
            writeln!(
                out,
                "  jump at {:.0} s by {:+.6} s and {:+.2} ppm",
                jump.at_s,
                jump.step_s,
                jump.frequency / PPM
            )?;
        }
        for (from_s, to_s) in &clock.suspended {
            writeln!(out, "  suspended from {from_s:.0} to {to_s:.0} s")?;
        }
        for (index, member) in self.members.iter().enumerate() {
            let (server, path) = (&member.server, &member.server.path);
            write!(
                out,
                "  server {index}{}: {:.3}/{:.3} ms, {:?} {:.1} us",
                if member.truthful { "" } else { " LIES" },
                path.there_s * 1e3,
                path.back_s * 1e3,
                path.queue,
                path.jitter_s * 1e6
            )?;
            if let Some(tail) = path.tail {
                write!(out, ", {:.0} % + {:.1} ms", tail.share * 100.0, tail.mean_s * 1e3)?;
            }
            if path.loss > 0.0 {
                write!(out, ", loss {:.3}", path.loss)?;
            }
            write!(
                out,
                "; claims {:.3} / 2 + {:.3} ms, resolution {:.1e} s",
                server.claims.root_delay_s * 1e3,
                server.claims.root_dispersion_s * 1e3,
                server.resolution_s
            )?;
            if server.claims.source_lost_s.is_finite() {
                write!(out, ", source lost at {:.0} s", server.claims.source_lost_s)?;
            }
            writeln!(out)?;
            for fault in &server.faults {
                writeln!(out, "    {fault:?}")?;
            }
            for reroute in &path.reroutes {
                writeln!(out, "    {reroute:?}")?;
            }
            for recurring in &path.recurring {
                writeln!(out, "    {recurring:?}")?;
            }
            for (from_s, to_s) in &path.outages {
                writeln!(out, "    silent from {from_s:.0} to {to_s:.0} s")?;
            }
        }
        Ok(())
    }
}

/// Draws from wide distributions.
struct Lot {
    random: Random,
}

impl Lot {
    fn chance(&mut self, share: f64) -> bool {
        self.random.uniform() <= share
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.random.uniform()
    }

    /// Each order of magnitude is as likely as another.
    fn magnitude(&mut self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.random.uniform())
    }

    fn sign(&mut self) -> f64 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    fn whole(&mut self, least: u8, most: u8) -> u8 {
        least + (self.random.uniform() * f64::from(most - least + 1)).ceil() as u8 - 1
    }
}

/// The scenario of a seed.
pub(crate) fn draw(seed: u64) -> Case {
    let mut lot = Lot { random: Random::new(seed ^ 0x5eed_0fca_5e5a_11ed) };
    // Mostly short: an hour and a half on average.
    let end_s = (1800.0 * 12.0_f64.powf(lot.random.uniform().powf(1.5))).round();
    let count = if lot.chance(0.25) { 1 } else { usize::from(lot.whole(2, 9)) };
    let liars = if lot.chance(0.5) { lot.between(0.0, count.div_ceil(2) as f64) as usize } else { 0 };
    let liars = liars.min(count.div_ceil(2) - 1);
    let oscillator = oscillator(&mut lot, end_s);
    let min_poll = if lot.chance(0.6) { 6 } else { lot.whole(4, 8) };
    let max_poll = if lot.chance(0.5) { 10 } else { lot.whole(min_poll, 10) };
    let source = SourceConfig { min_poll, max_poll, iburst: !lot.chance(0.1), ..SourceConfig::default() };
    let drift = drift(&mut lot, &oscillator);
    let bloat = lot.chance(0.1).then(|| bloat(&mut lot));
    // Whole kinds are absent from many cases, so that failures tell what they need.
    let (errors, coarse) = (lot.chance(0.5), lot.chance(0.3));
    let (tails, reroutes, losses) = (lot.chance(0.4), lot.chance(0.3), lot.chance(0.5));
    let most_loss = if liars > 0 { 0.03 } else { 0.3 };
    let mut members: Vec<Member> = (0..count)
        .map(|_| {
            let mut path = path(&mut lot, end_s, most_loss, bloat);
            path.tail = path.tail.filter(|_| tails);
            if !reroutes {
                path.reroutes.clear();
            }
            if !losses {
                path.loss = 0.0;
            }
            let (faults, claims) =
                if errors { truthful(&mut lot, end_s) } else { (Vec::new(), Claims::NONE) };
            let resolution_s = if coarse { resolution_s(&mut lot) } else { 1e-8 };
            Member {
                server: Server { path, faults, claims, resolution_s, ..Server::new(0.0, 0.0) },
                truthful: true,
            }
        })
        .collect();
    // Where somebody lies, a truthful server must not be silent by chance for long.
    if liars == 0 && lot.chance(0.1) {
        for member in &mut members {
            member.server.path.recurring.push(bursts(&mut lot));
        }
    }
    let together = lot.chance(0.5).then(|| lie(&mut lot, end_s));
    for _ in 0..liars {
        let honest: Vec<usize> = (0..count).filter(|&index| members[index].truthful).collect();
        let chosen = honest[(lot.random.uniform() * honest.len() as f64).ceil() as usize - 1];
        let lie = together.unwrap_or_else(|| lie(&mut lot, end_s));
        let (root_delay_s, root_dispersion_s) = (0.0, lot.magnitude(1e-6, 0.1));
        let server = &mut members[chosen].server;
        server.faults = vec![lie];
        server.claims = Claims { root_delay_s, root_dispersion_s, ..Claims::NONE };
        members[chosen].truthful = false;
    }
    let mut case = Case { seed, oscillator, members, source, drift, end_s };
    outages(&mut lot, &mut case);
    case
}

fn oscillator(lot: &mut Lot, end_s: f64) -> Oscillator {
    let base =
        if lot.chance(0.7) { 20.0 * PPM * lot.random.normal() } else { lot.between(-500.0, 500.0) * PPM };
    let wander = if lot.chance(0.1) { 0.0 } else { lot.magnitude(1e-10, 1e-7) };
    let offset_s = lot.sign() * lot.magnitude(1e-3, 1e3) + 2e3;
    let mut courses = Vec::new();
    if lot.chance(0.15) {
        courses.push(Course::Sine {
            amplitude: lot.magnitude(0.01, 1.0) * PPM,
            period_s: lot.magnitude(900.0, 86_400.0),
        });
    }
    if lot.chance(0.15) {
        let rise_s = lot.between(300.0, 3600.0);
        courses.push(Course::Triangle {
            from_s: lot.between(0.0, end_s),
            rise_s,
            height: lot.sign() * lot.magnitude(0.05, 2.0) * PPM,
            period_s: rise_s * lot.between(2.0, 24.0),
        });
    }
    let mut suspended = Vec::new();
    if lot.chance(0.1) {
        let from_s = lot.between(EVENTS_FROM_S, 0.8 * end_s).round();
        suspended.push((from_s, (from_s + lot.magnitude(2.0, 3600.0)).round()));
    }
    let mut jumps = Vec::new();
    let count = if lot.chance(0.25) { lot.whole(1, 2) } else { 0 };
    for _ in 0..count {
        let jump = Jump {
            at_s: lot.between(EVENTS_FROM_S, end_s).round(),
            step_s: lot.sign() * lot.magnitude(1e-3, 10.0),
            frequency: if lot.chance(0.3) { lot.sign() * lot.magnitude(0.1, 15.0) * PPM } else { 0.0 },
        };
        let asleep = suspended.iter().any(|&(from_s, to_s)| (from_s - 15.0..to_s + 1.0).contains(&jump.at_s));
        let again = jumps.iter().any(|other: &Jump| (other.at_s - jump.at_s).abs() < 15.0);
        if !asleep && !again {
            jumps.push(jump);
        }
    }
    Oscillator { base, wander, offset_s, courses, suspended, jumps }
}

fn drift(lot: &mut Lot, oscillator: &Oscillator) -> Option<Drift> {
    let wrong = lot.chance(0.15);
    let right = lot.chance(0.2);
    let frequency = 1.0 / (1.0 + oscillator.base) - 1.0;
    let off = if wrong { lot.sign() * lot.magnitude(1.0, 200.0) } else { 0.05 * lot.random.normal() };
    let skew = lot.magnitude(0.05, 1.0).max(if wrong { 0.0 } else { off.abs() / 2.0 });
    let wander = lot.chance(0.5).then_some(oscillator.wander.max(1e-10));
    (wrong || right).then_some(Drift { frequency: frequency + off * PPM, skew: skew * PPM, wander })
}

fn path(lot: &mut Lot, end_s: f64, most_loss: f64, bloat: Option<Recurring>) -> Path {
    let base_s = lot.magnitude(20e-6, 0.1);
    let asymmetry = if lot.chance(0.5) { lot.sign() * lot.magnitude(0.001, 0.9) } else { 0.0 };
    let mut path = Path::new(base_s, lot.magnitude(1e-6, 2.0 * base_s));
    path.there_s *= 1.0 + asymmetry;
    path.back_s *= 1.0 - asymmetry;
    path.queue = match lot.whole(1, 6) {
        1 => Queue::Gaussian { mean_sd: lot.between(1.0, 6.0) },
        2 => Queue::Uniform,
        _ => Queue::Exponential,
    };
    let least_s = path.there_s.min(path.back_s);
    if lot.chance(0.5) {
        path.tail = Some(Tail {
            share: lot.magnitude(0.005, 0.2),
            mean_s: lot.magnitude(0.001, 0.02).min(300.0 * least_s),
        });
    }
    if lot.chance(0.5) {
        path.loss = lot.magnitude(0.001, most_loss);
    }
    if lot.chance(0.3) {
        let (mut there_s, mut back_s, mut at_s) = (0.0, 0.0, lot.between(EVENTS_FROM_S, end_s));
        for _ in 0..lot.whole(1, 3) {
            // The sum of all is never shorter than half of the first route.
            let (to_there_s, to_back_s) =
                (path.there_s * lot.between(-0.5, 2.0), path.back_s * lot.between(-0.5, 2.0));
            let (to_there_s, to_back_s) = match lot.whole(1, 3) {
                1 => (to_there_s, back_s),
                2 => (there_s, to_back_s),
                _ => (to_there_s, to_back_s),
            };
            path.reroutes.push(Reroute { at_s, there_s: to_there_s - there_s, back_s: to_back_s - back_s });
            (there_s, back_s) = (to_there_s, to_back_s);
            at_s += lot.magnitude(30.0, 7200.0);
        }
    }
    if let Some(mut bloat) = bloat {
        // More than this is beyond what a clock 500 ppm off allows for within an exchange.
        bloat.there_s = bloat.there_s.min(300.0 * least_s);
        bloat.back_s = bloat.back_s.min(300.0 * least_s);
        path.recurring.push(bloat);
    }
    path
}

/// The line of the client is full now and then, in one direction.
fn bloat(lot: &mut Lot) -> Recurring {
    let period_s = lot.magnitude(60.0, 3600.0);
    let (there_s, back_s) = if lot.chance(0.5) { (0.0, 1.0) } else { (1.0, 0.0) };
    let more_s = lot.magnitude(0.005, 0.5);
    Recurring {
        first_s: if lot.chance(0.3) { 0.0 } else { lot.between(0.0, 3600.0) },
        for_s: period_s * lot.between(0.05, 0.5),
        period_s,
        there_s: there_s * more_s,
        back_s: back_s * more_s,
        loss: 0.0,
    }
}

/// Most packets are lost now and then.
fn bursts(lot: &mut Lot) -> Recurring {
    let period_s = lot.magnitude(300.0, 3600.0);
    Recurring {
        first_s: lot.between(0.0, 3600.0),
        for_s: period_s * lot.between(0.05, 0.25),
        period_s,
        there_s: 0.0,
        back_s: 0.0,
        loss: lot.between(0.5, 1.0),
    }
}

fn resolution_s(lot: &mut Lot) -> f64 {
    match lot.whole(1, 10) {
        1..=3 => 1e-3,
        4 => 1e-2,
        5..=7 => 1e-6,
        _ => 1e-8,
    }
}

/// An own error, and claims that cover it at all times.
fn truthful(lot: &mut Lot, end_s: f64) -> (Vec<Fault>, Claims) {
    let claims_s = lot.magnitude(10e-6, 0.3);
    let share = lot.random.uniform();
    let mut claims = Claims {
        root_delay_s: 2.0 * claims_s * share,
        root_dispersion_s: claims_s * (1.0 - share),
        source_lost_s: f64::INFINITY,
        stratum: 2,
    };
    let within_s = 0.99 * claims_s * lot.random.uniform().sqrt();
    let from_s = lot.between(0.0, end_s);
    let fault = match lot.whole(1, 10) {
        1..=4 => return (Vec::new(), if lot.chance(0.5) { Claims::NONE } else { claims }),
        5 | 6 => Fault::Offset(lot.sign() * within_s),
        7 => Fault::Sine { amplitude_s: within_s, period_s: lot.magnitude(300.0, 86_400.0) },
        8 => Fault::Walk { per_root_s: within_s / lot.magnitude(10.0, 100.0), within_s },
        9 => Fault::OffsetBetween(from_s, from_s + lot.magnitude(60.0, 7200.0), lot.sign() * within_s),
        _ => {
            claims.source_lost_s = from_s;
            Fault::Drift(from_s, lot.sign() * lot.magnitude(0.1, 14.9) * PPM)
        }
    };
    (vec![fault], claims)
}

/// What a liar's clock is off by: much or little, at once or later.
fn lie(lot: &mut Lot, end_s: f64) -> Fault {
    let off_s = lot.sign() * lot.magnitude(10e-6, 100.0);
    let from_s = lot.between(START_S, end_s);
    match lot.whole(1, 6) {
        1..=3 => Fault::Offset(off_s),
        4 => Fault::OffsetBetween(from_s, f64::INFINITY, off_s),
        5 => Fault::OffsetBetween(from_s, from_s + lot.magnitude(60.0, 3600.0), off_s),
        _ => Fault::Drift(from_s, lot.sign() * lot.magnitude(1.0, 200.0) * PPM),
    }
}

/// Servers that are silent for some time or vanish, and a network that is down. Nothing of that makes the liars
/// a majority, and a liar that has vanished does not come back: else those who come back first decide.
fn outages(lot: &mut Lot, case: &mut Case) {
    let end_s = case.end_s;
    let share = if lot.chance(0.35) { 0.35 } else { 0.0 };
    for index in 0..case.members.len() {
        if !lot.chance(share) {
            continue;
        }
        let from_s = if lot.chance(0.2) { 0.0 } else { lot.between(START_S, end_s) };
        let vanishes = !case.members[index].truthful || lot.chance(0.3);
        let to_s = if vanishes { f64::INFINITY } else { from_s + lot.magnitude(60.0, 7200.0) };
        case.members[index].server.path.outages.push((from_s, to_s));
        if !case.is_fair() {
            case.members[index].server.path.outages.clear();
        }
    }
    if lot.chance(0.08) && case.members.iter().all(|member| member.truthful) {
        let from_s = if lot.chance(0.3) { 0.0 } else { lot.between(START_S, end_s) };
        let to_s = from_s + lot.magnitude(60.0, 7200.0);
        let before = case.members.clone();
        for member in &mut case.members {
            member.server.path.outages.push((from_s, to_s));
        }
        if !case.is_fair() {
            case.members = before;
        }
    }
}
