//! The simulated world: one oscillator, the networks and servers around it, in discrete events.
//!
//! True time is counted in s from the start of the simulation. The oscillator's frequency error changes each
//! whole second, `y = base + sum of wander * N(0, 1)`, plus given courses over time; a network delays each
//! packet, each way, by `base + jitter * Exp(1)` or as else its queue is distributed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use discipline::{LocalTime, Sample};
use testinput::random::Random;

use crate::oscillator::Oscillator;
use crate::server::{Served, Server, Serving, leap_shift_s};

pub(crate) const HOUR_S: f64 = 3600.0;
/// When events happen, where a scenario has one.
pub(crate) const EVENT_S: f64 = 12.0 * HOUR_S;
/// When the client starts.
pub(crate) const START_S: f64 = 30.0;
/// UTC at true time 0, in ns since 1970: 30 December 2016, so that 48 h later a month, and year, ends.
pub(crate) const UTC_AT_ZERO_NS: i64 = 1_483_056_000 * 1_000_000_000;

/// What is under test: it asks servers, gets samples, and has an opinion of the time.
pub(crate) trait Client {
    /// When it wants to be asked what is due.
    fn next_wakeup(&self) -> Option<LocalTime>;
    /// Servers to ask now.
    fn due(&mut self, now: LocalTime) -> Vec<usize>;
    /// A server answered.
    fn sample(&mut self, server: usize, sample: &Sample);
    /// What it says the time is.
    fn reading(&self, now: LocalTime) -> Option<Reading>;
    /// It publishes, and steers its clock where it does so. Returns the correction of its clock's rate.
    fn publish(&mut self, now: LocalTime) -> f64;
    /// The clock stood still.
    fn time_lost(&mut self, now: LocalTime);
}

/// A client's opinion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// UTC in ns since 1970.
    pub(crate) utc_ns: i64,
    /// Its error is no larger, s.
    pub(crate) bound_s: f64,
    /// True seconds a local second, minus one.
    pub(crate) frequency: f64,
}

/// What is seen each whole second of true time.
pub(crate) struct Second<'run> {
    pub(crate) at_s: f64,
    /// The local clock.
    pub(crate) local: LocalTime,
    /// Error in s and opinion, where there is one.
    pub(crate) seen: Option<(f64, Reading)>,
    /// Error of the client's frequency, s/s.
    pub(crate) frequency_error: f64,
    /// Requests sent since the last second.
    pub(crate) requests: u32,
    /// Samples of each server so far.
    pub(crate) samples: &'run [u32],
}

struct Answer {
    arrives_s: f64,
    server: usize,
    sample: Sample,
    order: u64,
    sent_local_s: f64,
    server_utc_ns: f64,
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Answer {}
impl PartialOrd for Answer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Answer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.arrives_s.total_cmp(&other.arrives_s).then(self.order.cmp(&other.order))
    }
}

/// The client's clock, carried forward from event to event.
struct Clock {
    true_s: f64,
    local_s: f64,
    rate: f64,
    correction: f64,
}

impl Clock {
    fn speed(&self) -> f64 {
        (1.0 + self.rate) * (1.0 + self.correction)
    }

    fn advance_to(&mut self, true_s: f64) {
        self.local_s += (true_s - self.true_s) * self.speed();
        self.true_s = true_s;
    }

    fn now(&self) -> LocalTime {
        local_time(self.local_s)
    }

    fn true_at(&self, local: LocalTime) -> f64 {
        self.true_s + (local.as_ns() as f64 / 1e9 - self.local_s).max(0.0) / self.speed()
    }
}

fn local_time(local_s: f64) -> LocalTime {
    LocalTime::from_ns((local_s * 1e9).round() as i64)
}

/// Publishing is done at least so often, s.
const PUBLISH_EVERY_S: u64 = 16;

/// Runs a client until `end_s` of true time and shows each second to `watch`. Also tells when it was first
/// synchronised: seconds since its start, and its error then.
pub(crate) fn run(
    oscillator: &Oscillator,
    servers: &[Server],
    client: &mut dyn FnMut(LocalTime) -> Box<dyn Client>,
    seed: u64,
    end_s: f64,
    mut watch: impl FnMut(&Second),
) -> Option<(f64, f64)> {
    let mut walk = 0.0;
    let clock = Clock { true_s: 0.0, local_s: oscillator.offset_s, rate: oscillator.base, correction: 0.0 };
    let mut world = World {
        servers,
        leap_s: servers.first().and_then(|server| server.leap_s),
        random: Random::new(seed),
        serving: (0..servers.len()).map(|index| Serving::new(seed, index)).collect(),
        mirrored: servers.iter().any(|server| server.mirrors_from_s.is_finite()),
        clock,
        queue: BinaryHeap::new(),
        order: 0,
        requests: 0,
        samples: vec![0; servers.len()],
        first_answer: None,
    };
    let mut subject: Option<Box<dyn Client>> = None;
    let mut stands_until_s = 0.0;

    for second in 0..end_s as u64 {
        let (begin_s, next_s) = (second as f64, (second + 1) as f64);
        walk += oscillator.wander * world.random.normal();
        if let Some(jump) = oscillator.jump(begin_s) {
            walk += jump.frequency;
            world.clock.local_s += jump.step_s.max(0.0);
            stands_until_s = jump.ends_s();
            // An exchange over a jump measures nothing; let it be lost.
            world.queue.clear();
        }
        world.clock.rate = oscillator.base + walk + oscillator.course(begin_s);
        if oscillator.sleeps(begin_s) || next_s <= stands_until_s {
            world.clock.true_s = next_s;
            world.queue.clear();
            continue;
        }
        world.clock.true_s = world.clock.true_s.max(stands_until_s);
        if begin_s >= START_S && subject.is_none() {
            subject = Some(client(world.clock.now()));
        }
        let Some(subject) = &mut subject else {
            world.clock.advance_to(next_s);
            continue;
        };
        if oscillator.wakes(begin_s) {
            subject.time_lost(world.clock.now());
        }
        world.live(subject.as_mut(), next_s);
        if (second + 1) % PUBLISH_EVERY_S == 0 {
            world.clock.correction = subject.publish(world.clock.now());
        }
        let opinion = world.opinion(subject.as_ref());
        let true_rate = 1.0 / world.clock.speed() - 1.0;
        watch(&Second {
            at_s: next_s,
            local: world.clock.now(),
            seen: opinion,
            frequency_error: opinion.map_or(0.0, |(_, reading)| reading.frequency - true_rate),
            requests: world.requests,
            samples: &world.samples,
        });
        world.requests = 0;
    }
    world.first_answer
}

/// Everything around the client during a run.
struct World<'run> {
    servers: &'run [Server],
    leap_s: Option<f64>,
    random: Random,
    serving: Vec<Serving>,
    /// Whether any server looks at the client.
    mirrored: bool,
    clock: Clock,
    queue: BinaryHeap<Reverse<Answer>>,
    order: u64,
    requests: u32,
    samples: Vec<u32>,
    first_answer: Option<(f64, f64)>,
}

impl World<'_> {
    /// Lets everything happen that happens before `next_s`.
    fn live(&mut self, subject: &mut dyn Client, next_s: f64) {
        loop {
            let wakes_s = subject.next_wakeup().map_or(f64::INFINITY, |local| self.clock.true_at(local));
            let arrival_s = self.queue.peek().map_or(f64::INFINITY, |answer| answer.0.arrives_s);
            let event_s = wakes_s.min(arrival_s);
            if event_s >= next_s {
                break;
            }
            self.clock.advance_to(event_s.max(self.clock.true_s));
            if arrival_s <= wakes_s {
                let Some(Reverse(answer)) = self.queue.pop() else { break };
                self.samples[answer.server] += 1;
                subject.sample(answer.server, &finish(&answer, &self.clock));
            } else {
                // Rounding to whole ns must not make a wake-up come before its time.
                let now = self.clock.now();
                let now = subject.next_wakeup().map_or(now, |wakeup| wakeup.max(now));
                for server in subject.due(now) {
                    self.requests += 1;
                    self.order += 1;
                    let seen = self.seen_by_servers(subject);
                    let answer = self.ask(server, seen);
                    self.queue.extend(answer.map(Reverse));
                }
            }
            self.clock.correction = subject.publish(self.clock.now());
            if self.first_answer.is_none() {
                let opinion = self.opinion(subject);
                self.first_answer = opinion.map(|(error_s, _)| (self.clock.true_s - START_S, error_s));
            }
        }
        self.clock.advance_to(next_s);
    }

    /// The client's error, s, and what it says.
    fn opinion(&self, subject: &dyn Client) -> Option<(f64, Reading)> {
        let reading = subject.reading(self.clock.now())?;
        Some((error_s(&reading, self.clock.true_s, self.leap_s), reading))
    }

    /// What a server that follows the client sees of it.
    fn seen_by_servers(&self, subject: &dyn Client) -> Option<Served> {
        let (error_s, reading) = self.mirrored.then(|| self.opinion(subject)).flatten()?;
        Some(Served { at_s: self.clock.true_s, error_s, bound_s: reading.bound_s })
    }

    fn ask(&mut self, index: usize, seen: Option<Served>) -> Option<Answer> {
        let (server, random) = (&self.servers[index], &mut self.random);
        let sent_s = self.clock.true_s;
        let (there_s, back_s) = server.path.bases_s(sent_s);
        // Drawn in any case, so that one change in a scenario does not reshuffle all of it.
        let there_s = server.path.delay_s(there_s, random);
        let back_s = server.path.delay_s(back_s, random);
        let lost = server.path.lost(sent_s, random) | server.path.lost(sent_s + there_s, random);
        let noise = if server.noise_s > 0.0 { random.normal() } else { 0.0 };
        let says = self.serving[index].answer(server, sent_s + there_s, seen, noise)?;
        let sample = Sample {
            at: self.clock.now(),
            offset_ns: 0,
            delay_s: 0.0,
            dispersion_s: server.resolution_s,
            root_delay_s: says.root_delay_s,
            root_dispersion_s: says.root_dispersion_s,
            stratum: says.stratum,
            leap: says.leap,
        };
        (!lost).then_some(Answer {
            arrives_s: sent_s + there_s + back_s,
            server: index,
            sample,
            order: self.order,
            sent_local_s: self.clock.local_s,
            server_utc_ns: says.time_s * 1e9,
        })
    }
}

fn error_s(reading: &Reading, true_s: f64, leap_s: Option<f64>) -> f64 {
    let utc_s = true_s + leap_shift_s(leap_s, true_s);
    (reading.utc_ns - UTC_AT_ZERO_NS) as f64 / 1e9 - utc_s
}

/// What the client's clock may be wrong by while an exchange lasts, s/s: a client allows for that.
const ALLOWED: f64 = 15e-6;

fn finish(answer: &Answer, clock: &Clock) -> Sample {
    let middle_s = f64::midpoint(answer.sent_local_s, clock.local_s);
    let delay_s = clock.local_s - answer.sent_local_s;
    let resolution_s = answer.sample.dispersion_s;
    Sample {
        at: local_time(middle_s),
        offset_ns: UTC_AT_ZERO_NS + (answer.server_utc_ns - middle_s * 1e9).round() as i64,
        // As in the daemon, where the server says how coarse its clock is.
        delay_s: delay_s.max(resolution_s),
        dispersion_s: if resolution_s > 0.0 { resolution_s + ALLOWED * delay_s } else { 0.0 },
        ..answer.sample
    }
}
