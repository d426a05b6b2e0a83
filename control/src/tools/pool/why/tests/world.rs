//! A day of a server and its monitors: what these log, what the server reports, and what was really the matter.

use std::collections::BTreeSet;

use testinput::random::Random;

use super::super::causes::is_bad;
use super::super::matching::Entry;
use crate::status::probes::{
    Course, Fate, Minute, ProbeRounds, ProbeSource, Round, RoundRequest, Span, What,
};

/// When the daemon started.
pub(super) const START_S: f64 = 1_790_000_000.0;
pub(super) const DAY_S: f64 = 86_400.0;
/// The logs begin earlier than the daemon.
const LOGS_BEGIN_S: f64 = START_S - 7_200.0;
/// A monitor waits so long for an answer, and so long before the next request.
const TIMEOUT_S: f64 = 3.0;
const PAUSE_S: f64 = 2.0;
/// Of a check that is logged late, it cannot be said to the second when it was.
const NEAR_S: f64 = 170.0;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    LossIn,
    LossOut,
    Limiter,
    Kiss,
    Budget,
    List,
    Ring,
    Gate,
    Offset,
    Link,
    Firewall,
    /// None that is injected.
    Other,
}

impl Fault {
    pub(super) const ALL: [Self; 11] = [
        Self::LossIn,
        Self::LossOut,
        Self::Limiter,
        Self::Kiss,
        Self::Budget,
        Self::List,
        Self::Ring,
        Self::Gate,
        Self::Offset,
        Self::Link,
        Self::Firewall,
    ];

    /// Whether it concerns one monitor, or all of the family.
    const fn is_of_one(self) -> bool {
        matches!(self, Self::LossIn | Self::LossOut | Self::Limiter | Self::Kiss | Self::List)
    }
}

/// A fault with its time and its monitor.
#[derive(Clone, Debug)]
struct Active {
    fault: Fault,
    from_s: f64,
    to_s: f64,
    monitor: Option<u32>,
    offset_s: f64,
}

/// A line of a log that took points, and what was the matter with its requests.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) monitor: u32,
    pub(super) at_unix_s: f64,
    /// When the check was, by this server's clock.
    pub(super) check_s: f64,
    /// Whether the reports of some of its requests were lost, and those of others not.
    pub(super) is_half_reported: bool,
    pub(super) faults: BTreeSet<Fault>,
    /// What else was the matter shortly before or after.
    pub(super) near: BTreeSet<Fault>,
}

/// All of it.
pub(super) struct World {
    pub(super) rounds: ProbeRounds,
    pub(super) course: Course,
    pub(super) entries: Vec<Entry>,
    pub(super) truths: Vec<Truth>,
}

struct Monitor {
    id: u32,
    is_ipv4: bool,
    period_s: f64,
    skew_s: f64,
    round_trip_s: f64,
    first_s: f64,
    late_percent: u64,
}

/// A check that was made.
struct Made {
    check_s: f64,
    /// When it ended.
    now_s: f64,
    step: f64,
    offset_s: Option<f64>,
    faults: BTreeSet<Fault>,
    /// The requests that are reported.
    requests: Vec<(f64, Fate)>,
}

impl World {
    /// Makes a day with these faults at the same time. The scores are those of IPv4.
    pub(super) fn new(seed: u64, faults: &[Fault]) -> Self {
        let mut random = Random::new(seed);
        let monitors = monitors(&mut random);
        let mut world = Self {
            rounds: ProbeRounds {
                since_unix_s: START_S,
                until_unix_s: START_S + DAY_S,
                ..ProbeRounds::default()
            },
            course: Course { since_unix_s: START_S, ..Course::default() },
            entries: Vec::new(),
            truths: Vec::new(),
        };
        let active = activate(faults, &monitors, &mut random);
        world.write_course(&active, &mut random);
        for monitor in &monitors {
            world.play(monitor, &active, &mut random);
        }
        if faults.is_empty() {
            world.add_harmless_spans(&mut random);
        }
        world.add_strangers(&active, &mut random);
        // The page has the lines in no order that can be relied on.
        for index in (1..world.entries.len()).rev() {
            world.entries.swap(index, random.index(index + 1));
        }
        world
    }

    /// Lets a monitor make its checks.
    fn play(&mut self, monitor: &Monitor, active: &[Active], random: &mut Random) {
        let mut rounds = Vec::new();
        let mut check_s = monitor.first_s;
        while check_s < START_S + DAY_S - 200.0 {
            let mine: Vec<_> = active
                .iter()
                .filter(|one| monitor.is_ipv4 || matches!(one.fault, Fault::Gate | Fault::Link))
                .filter(|one| one.monitor.is_none_or(|id| id == monitor.id))
                .collect();
            self.check(monitor, check_s, &mine, &mut rounds, random);
            check_s += monitor.period_s * (0.8 + 0.4 * random.uniform());
        }
        rounds.retain(|round: &Round| round.at_unix_s >= START_S);
        self.rounds.sources.push(ProbeSource {
            source: if monitor.is_ipv4 {
                format!("192.0.2.{}", monitor.id)
            } else {
                format!("2001:db8:{}::/64", monitor.id)
            },
            family: if monitor.is_ipv4 { "ipv4" } else { "ipv6" }.into(),
            since_unix_s: START_S,
            rounds,
        });
    }

    fn check(
        &mut self,
        monitor: &Monitor,
        check_s: f64,
        active: &[&Active],
        rounds: &mut Vec<Round>,
        random: &mut Random,
    ) {
        let at = |fault: Fault, now_s: f64| {
            active.iter().find(|one| one.fault == fault && (one.from_s..=one.to_s).contains(&now_s))
        };
        let mut requests: Vec<(f64, Fate)> = Vec::new();
        let (mut now_s, mut step, mut offset_s) = (check_s, -5.0, None);
        let mut faults = BTreeSet::new();
        // A network loses a packet now and then, which takes no points.
        let noise = random.chance(6).then(|| (random.below(3), random.chance(50)));
        for number in 0..3 {
            let sent_s = now_s;
            now_s += TIMEOUT_S + PAUSE_S;
            let lost_on_the_way = noise.filter(|(request, _)| *request == number).map(|(_, is_in)| is_in);
            let stops = |fault: &Fault| at(*fault, sent_s).is_some();
            let stopped: Vec<_> =
                [Fault::Firewall, Fault::Link, Fault::LossIn].into_iter().filter(stops).collect();
            if !stopped.is_empty() {
                // Behind what stops everything, one that stops one monitor makes no difference.
                let all = stopped.len() > 1;
                faults.extend(stopped.into_iter().filter(|fault| !all || *fault != Fault::LossIn));
                continue;
            }
            if lost_on_the_way == Some(true) {
                continue;
            }
            let (fate, fault) = if at(Fault::List, sent_s).is_some() {
                (Fate::Denied, Some(Fault::List))
            } else if at(Fault::Limiter, sent_s).is_some() {
                (Fate::Limited, Some(Fault::Limiter))
            } else if at(Fault::Kiss, sent_s).is_some() {
                (Fate::KissRate, Some(Fault::Kiss))
            } else if at(Fault::Budget, sent_s).is_some() {
                (Fate::OverBudget, Some(Fault::Budget))
            } else if at(Fault::Gate, sent_s).is_some() {
                (Fate::Unsynchronised, Some(Fault::Gate))
            } else {
                (Fate::Answered, None)
            };
            if at(Fault::Ring, sent_s).is_none() {
                requests.push((sent_s, fate));
            }
            faults.extend(fault);
            if matches!(fate, Fate::Denied | Fate::Limited | Fate::OverBudget)
                || lost_on_the_way == Some(false)
            {
                continue;
            }
            // What overflows the ring loses answers, too.
            if let Some(fault) =
                [Fault::LossOut, Fault::Ring].into_iter().find(|fault| at(*fault, sent_s).is_some())
            {
                faults.insert(fault);
                continue;
            }
            now_s = sent_s + monitor.round_trip_s + PAUSE_S;
            match fate {
                Fate::KissRate => step = -3.5,
                Fate::Unsynchronised => step = -2.0,
                _ => {
                    let jitter_s = (0.003 * random.normal()).clamp(-0.012, 0.012);
                    let fault = at(Fault::Offset, sent_s);
                    offset_s = Some(jitter_s + fault.map_or(0.0, |fault| fault.offset_s));
                    step = 1.0;
                    continue;
                }
            }
            break;
        }
        if let Some(offset_s) = offset_s {
            step = offset_step(offset_s);
            faults.retain(|fault| *fault == Fault::Offset);
            if is_bad(step) {
                faults.insert(Fault::Offset);
            }
        }
        if let Some((first_s, _)) = requests.first().copied() {
            #[expect(clippy::cast_possible_truncation, reason = "some seconds")]
            let request =
                |(at_s, fate): &(f64, Fate)| RoundRequest { after_s: (at_s - first_s) as f32, fate: *fate };
            let arrives_s = first_s + monitor.round_trip_s / 2.0;
            rounds.push(Round { at_unix_s: arrives_s, requests: requests.iter().map(request).collect() });
        }
        let made = Made { check_s, now_s, step, offset_s, faults, requests };
        self.log(monitor, active, made, random);
    }

    /// Writes the line of a check into the monitor's log.
    fn log(&mut self, monitor: &Monitor, active: &[&Active], made: Made, random: &mut Random) {
        let Made { check_s, now_s, step, offset_s, mut faults, requests } = made;
        let at = |fault: Fault, now_s: f64| {
            active.iter().any(|one| one.fault == fault && (one.from_s..=one.to_s).contains(&now_s))
        };
        let mut late_s = 3.0 * random.uniform();
        if random.chance(monitor.late_percent) {
            late_s += 20.0 + 80.0 * random.uniform();
        }
        let at_unix_s = (now_s + late_s + monitor.skew_s).floor();
        if !monitor.is_ipv4 {
            return;
        }
        if is_bad(step) {
            // What of a check is not reported cannot be known, if the monitor does not say it.
            let unreported = [check_s, now_s].map(|now_s| at(Fault::Ring, now_s));
            if unreported != [false; 2] && step < -4.5 && !faults.contains(&Fault::Link) {
                faults = [Fault::Ring].into();
            }
            // One lost request of three is no matter where the others were refused, and none where there was an answer.
            let lost = 3 - requests.len();
            let is_refused = requests.iter().any(|(_, fate)| fate.is_refusal());
            if lost == 1 && is_refused || step > -4.5 {
                faults.retain(|fault| !matches!(fault, Fault::Link | Fault::LossIn | Fault::Firewall));
            }
            // A firewall that lets a part of a check through has lost the rest of it.
            if !requests.is_empty() && faults.remove(&Fault::Firewall) {
                faults.insert(Fault::LossIn);
            }
            let near = |one: &&&Active| {
                matches!(one.fault, Fault::Link | Fault::Ring | Fault::Gate)
                    && (one.from_s - NEAR_S..=one.to_s + NEAR_S).contains(&check_s)
            };
            let near = active.iter().filter(near).map(|one| one.fault).collect();
            faults.retain(|fault| step < -4.5 || *fault != Fault::Ring);
            let is_half_reported = unreported[0] != unreported[1];
            let monitor = monitor.id;
            self.truths.push(Truth { monitor, at_unix_s, check_s, is_half_reported, faults, near });
            self.entries.push(Entry { at_unix_s, monitor, step, offset_s, error: None });
            return;
        }
        self.entries.push(Entry { at_unix_s, monitor: monitor.id, step, offset_s, error: None });
    }

    fn write_course(&mut self, active: &[Active], random: &mut Random) {
        let mut span = |from_unix_s: f64, to_unix_s: f64, what: What| {
            self.course.spans.push(Span { from_unix_s, to_unix_s, what });
        };
        for one in active {
            match one.fault {
                Fault::Gate => {
                    let reason = "no upstream answered".into();
                    span(one.from_s, one.to_s, What::Unsynchronised { reason });
                }
                Fault::Link => span(one.from_s, one.to_s, What::LinkDown { interface: "eth0".into() }),
                Fault::Ring => span(one.from_s, one.to_s, What::ReportsLost { number: random.below(3) }),
                _ => {}
            }
        }
        let is_correcting = random.chance(50);
        let mut at_unix_s = START_S;
        while at_unix_s < START_S + DAY_S {
            let off = active.iter().find(|one| {
                one.fault == Fault::Offset && (one.from_s - 60.0..=one.to_s).contains(&at_unix_s)
            });
            let noise = 0.001 * random.normal();
            let seen = off.map_or(noise, |off| noise - off.offset_s);
            self.course.minutes.push(Minute {
                at_unix_s,
                bound_s: Some(0.01 + noise.abs()),
                peer: Some("ntp1.example".into()),
                offset_s: Some(if is_correcting { seen } else { noise / 10.0 }),
                other: Some("ntp2.example".into()),
                other_offset_s: Some(seen),
                ..Minute::default()
            });
            at_unix_s += 60.0;
        }
    }

    /// What goes on at a well server, too, and takes no points because no check is lost by it.
    fn add_harmless_spans(&mut self, random: &mut Random) {
        for _ in 0..random.between(0, 200) {
            let from_unix_s = START_S + random.uniform() * DAY_S;
            let to_unix_s = from_unix_s + 3.0 * random.uniform();
            let what = match random.below(4) {
                0 => What::LinkDown { interface: "eth0".into() },
                1 => What::ReportsLost { number: random.below(50) },
                2 => What::DriverDrops { interface: "eth0".into(), number: 7 },
                _ => What::Unsynchronised { reason: "a leap second".into() },
            };
            self.course.spans.push(Span { from_unix_s, to_unix_s, what });
        }
    }

    /// Others who send the like of probes.
    fn add_strangers(&mut self, active: &[Active], random: &mut Random) {
        for number in 0..random.between(0, 12) {
            let mut rounds: Vec<_> = (0..random.between(1, 60))
                .map(|_| Round {
                    at_unix_s: START_S + random.uniform() * DAY_S,
                    requests: vec![RoundRequest { after_s: 0.0, fate: Fate::Answered }],
                })
                .collect();
            // What keeps monitors out, keeps them out as well.
            let is_out = |round: &Round| {
                let out = |one: &&Active| matches!(one.fault, Fault::Firewall | Fault::Ring | Fault::Link);
                let mut out = active.iter().filter(out);
                out.any(|one| (one.from_s..=one.to_s).contains(&round.at_unix_s))
            };
            rounds.retain(|round| !is_out(round));
            rounds.sort_by(|a, b| a.at_unix_s.total_cmp(&b.at_unix_s));
            self.rounds.sources.push(ProbeSource {
                source: format!("203.0.113.{number}"),
                family: if random.chance(50) { "ipv6" } else { "ipv4" }.into(),
                since_unix_s: START_S,
                rounds,
            });
        }
    }
}

fn monitors(random: &mut Random) -> Vec<Monitor> {
    let number = random.between(3, 14);
    let of_ipv6 = random.between(1, 4);
    (1..)
        .take(number + of_ipv6)
        .map(|id: u32| {
            let period_s = 240.0 + 900.0 * random.uniform();
            Monitor {
                id,
                is_ipv4: (id as usize) <= number,
                period_s,
                skew_s: 50.0 * random.uniform() - 25.0,
                round_trip_s: 0.01 + 0.25 * random.uniform(),
                first_s: LOGS_BEGIN_S + period_s * random.uniform(),
                late_percent: random.pick(&[0, 0, 3, 10]),
            }
        })
        .collect()
}

/// Places the faults, all at about the same time.
fn activate(faults: &[Fault], monitors: &[Monitor], random: &mut Random) -> Vec<Active> {
    let begun_s = START_S + 6.0 * 3_600.0 + 12.0 * 3_600.0 * random.uniform();
    let of_ipv4: Vec<_> = monitors.iter().filter(|monitor| monitor.is_ipv4).collect();
    let mut active = Vec::new();
    let first = random.index(of_ipv4.len());
    for (number, fault) in faults.iter().enumerate() {
        // Two faults of single monitors are those of two monitors.
        let monitor = fault.is_of_one().then(|| of_ipv4[(first + number) % of_ipv4.len()].id);
        let for_s = match fault {
            Fault::Link => 15.0 + 300.0 * random.uniform(),
            Fault::Gate => 12.0 + 1_500.0 * random.uniform(),
            // Any list may have been there from the beginning.
            Fault::List if random.chance(30) => 2.0 * DAY_S,
            Fault::Firewall => 3_600.0 * (1.0 + 6.0 * random.uniform()),
            _ => 3_600.0 * (0.4 + 2.0 * random.uniform()),
        };
        let from_s = if for_s > DAY_S { LOGS_BEGIN_S } else { begun_s };
        let size_s = 0.03 + 0.1 * random.uniform() * f64::from(u8::from(random.chance(30)));
        let offset_s = if random.chance(50) { size_s } else { -size_s };
        active.push(Active { fault: *fault, from_s, to_s: from_s + for_s, monitor, offset_s });
    }
    active
}

/// The pool's step for an offset.
fn offset_step(offset_s: f64) -> f64 {
    match offset_s.abs() {
        away if away > 0.1 => -2.308 * away + 0.731,
        away if away > 0.025 => (-6.667 * away + 1.167).min(1.0),
        _ => 1.0,
    }
}
