//! The simulated world: one oscillator, the networks and servers around it, in discrete events.
//!
//! True time is counted in s from the start of the simulation. The oscillator's frequency error changes each
//! whole second, `y = base + sum of wander * N(0, 1)`, plus a given course over time; a network delays each
//! packet, each way, by `base + jitter * Exp(1)`, with a heavier tail where the scenario has one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use discipline::{Leap, LocalTime, Sample};

use crate::random::Random;

pub(crate) const HOUR_S: f64 = 3600.0;
/// When events happen, where a scenario has one.
pub(crate) const EVENT_S: f64 = 12.0 * HOUR_S;
/// When the client starts.
pub(crate) const START_S: f64 = 30.0;
/// UTC at true time 0, in ns since 1970: 30 December 2016, so that 48 h later a month, and year, ends.
pub(crate) const UTC_AT_ZERO_NS: i64 = 1_483_056_000 * 1_000_000_000;

/// The client's oscillator.
#[derive(Clone)]
pub(crate) struct Oscillator {
    /// Base frequency error, s/s.
    pub(crate) base: f64,
    /// Random walk of frequency, s/s per square root of a second.
    pub(crate) wander: f64,
    /// Clock error at true time 0, s.
    pub(crate) offset_s: f64,
    /// Frequency error on top as a function of true time, s/s.
    pub(crate) course: fn(f64) -> f64,
    /// The clock stands still from the first to the second true time, s.
    pub(crate) suspended: Option<(f64, f64)>,
}

/// What a server gets wrong.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Its clock is off by so many s.
    Offset(f64),
    /// From a true time on its clock gains so many s/s.
    Drift(f64, f64),
    /// Between two true times its clock is off by so many s.
    OffsetBetween(f64, f64, f64),
}

/// One server and the way to it.
#[derive(Clone)]
pub(crate) struct Server {
    /// One-way base delays there and back, s.
    pub(crate) there_s: f64,
    pub(crate) back_s: f64,
    /// Mean of the exponential part, s.
    pub(crate) jitter_s: f64,
    /// One packet in twenty is delayed by another 10 ms * Exp(1).
    pub(crate) heavy_tail: bool,
    /// Probability to lose a packet.
    pub(crate) loss: f64,
    pub(crate) fault: Fault,
    /// Extra delay there and back, from a true time on, s.
    pub(crate) reroute: Option<(f64, f64, f64)>,
    /// No packet passes between these true times, s.
    pub(crate) dead: Option<(f64, f64)>,
    /// A leap second is inserted at this true time, announced a day ahead.
    pub(crate) leap_s: Option<f64>,
    /// Standard deviation of what its timestamps are off by, s: noise that no round trip shows.
    pub(crate) noise_s: f64,
    /// It announces a leap second that nobody else knows of.
    pub(crate) false_leap: bool,
}

impl Server {
    fn delay_s(&self, base_s: f64, random: &mut Random) -> f64 {
        let tail_s =
            if self.heavy_tail && random.uniform() <= 0.05 { 0.010 * random.exponential() } else { 0.0 };
        base_s + self.jitter_s * random.exponential() + tail_s
    }

    fn lost(&self, at_s: f64, random: &mut Random) -> bool {
        let lost = random.uniform() <= self.loss;
        lost || self.dead.is_some_and(|(from_s, to_s)| (from_s..to_s).contains(&at_s))
    }

    fn error_s(&self, at_s: f64) -> f64 {
        let fault_s = match self.fault {
            Fault::Offset(off_s) => off_s,
            Fault::Drift(from_s, rate) if at_s > from_s => rate * (at_s - from_s),
            Fault::OffsetBetween(from_s, to_s, off_s) if (from_s..to_s).contains(&at_s) => off_s,
            _ => 0.0,
        };
        fault_s + leap_shift_s(self.leap_s, at_s)
    }

    fn leap(&self, at_s: f64) -> Leap {
        let near = |leap_s: f64| (leap_s - 86_400.0..leap_s).contains(&at_s);
        if self.false_leap || self.leap_s.is_some_and(near) { Leap::Insert } else { Leap::None }
    }
}

/// What an inserted leap second has done to UTC.
pub(crate) fn leap_shift_s(leap_s: Option<f64>, at_s: f64) -> f64 {
    if leap_s.is_some_and(|leap_s| at_s >= leap_s) { -1.0 } else { 0.0 }
}

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
    fn jumped(&mut self, now: LocalTime);
}

/// A client's opinion.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// UTC in ns since 1970.
    pub(crate) utc_ns: i64,
    /// Its error is no larger, s.
    pub(crate) bound_s: f64,
    /// True seconds a local second, minus one.
    pub(crate) frequency: f64,
}

/// What is seen each whole second of true time.
pub(crate) struct Second {
    pub(crate) at_s: f64,
    /// Error in s and opinion, where there is one.
    pub(crate) seen: Option<(f64, Reading)>,
    /// Error of the client's frequency, s/s.
    pub(crate) frequency_error: f64,
    /// Requests sent since the last second.
    pub(crate) requests: u32,
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
    let mut random = Random::new(seed);
    let mut walk = 0.0;
    let mut clock =
        Clock { true_s: 0.0, local_s: oscillator.offset_s, rate: oscillator.base, correction: 0.0 };
    let mut queue: BinaryHeap<Reverse<Answer>> = BinaryHeap::new();
    let mut subject: Option<Box<dyn Client>> = None;
    let (mut order, mut requests, mut first_answer) = (0_u64, 0_u32, None);
    let leap_s = servers.first().and_then(|server| server.leap_s);

    for second in 0..end_s as u64 {
        let (begin_s, next_s) = (second as f64, (second + 1) as f64);
        walk += oscillator.wander * random.normal();
        clock.rate = oscillator.base + walk + (oscillator.course)(begin_s);
        let asleep = oscillator.suspended.is_some_and(|(from_s, to_s)| (from_s..to_s).contains(&begin_s));
        if asleep {
            clock.true_s = next_s;
            queue.clear();
            continue;
        }
        if begin_s >= START_S && subject.is_none() {
            subject = Some(client(clock.now()));
        }
        let Some(subject) = &mut subject else {
            clock.advance_to(next_s);
            continue;
        };
        if oscillator.suspended.is_some_and(|(_, to_s)| to_s == begin_s) {
            subject.jumped(clock.now());
        }
        loop {
            let wakes_s = subject.next_wakeup().map_or(f64::INFINITY, |local| clock.true_at(local));
            let arrival_s = queue.peek().map_or(f64::INFINITY, |answer| answer.0.arrives_s);
            let event_s = wakes_s.min(arrival_s);
            if event_s >= next_s {
                break;
            }
            clock.advance_to(event_s.max(clock.true_s));
            if arrival_s <= wakes_s {
                let Some(Reverse(answer)) = queue.pop() else { break };
                let sample = finish(&answer, &clock);
                subject.sample(answer.server, &sample);
            } else {
                // Rounding to whole ns must not make a wake-up come before its time.
                let now = subject.next_wakeup().map_or(clock.now(), |wakeup| wakeup.max(clock.now()));
                for server in subject.due(now) {
                    requests += 1;
                    order += 1;
                    queue.extend(ask(servers, server, &clock, order, &mut random).map(Reverse));
                }
            }
            clock.correction = subject.publish(clock.now());
            if first_answer.is_none() {
                first_answer = subject
                    .reading(clock.now())
                    .map(|reading| (clock.true_s - START_S, error_s(&reading, clock.true_s, leap_s)));
            }
        }
        clock.advance_to(next_s);
        if (second + 1) % PUBLISH_EVERY_S == 0 {
            clock.correction = subject.publish(clock.now());
        }
        let opinion =
            subject.reading(clock.now()).map(|reading| (error_s(&reading, clock.true_s, leap_s), reading));
        let true_rate = 1.0 / clock.speed() - 1.0;
        let frequency_error = opinion.map_or(0.0, |(_, reading)| reading.frequency - true_rate);
        watch(&Second { at_s: next_s, seen: opinion, frequency_error, requests });
        requests = 0;
    }
    first_answer
}

fn error_s(reading: &Reading, true_s: f64, leap_s: Option<f64>) -> f64 {
    let utc_s = true_s + leap_shift_s(leap_s, true_s);
    (reading.utc_ns - UTC_AT_ZERO_NS) as f64 / 1e9 - utc_s
}

fn ask(servers: &[Server], index: usize, clock: &Clock, order: u64, random: &mut Random) -> Option<Answer> {
    let server = &servers[index];
    let (mut there_s, mut back_s) = (server.there_s, server.back_s);
    if let Some((_, more_there_s, more_back_s)) = server.reroute.filter(|reroute| clock.true_s >= reroute.0) {
        there_s += more_there_s;
        back_s += more_back_s;
    }
    // Drawn in any case, so that one change in a scenario does not reshuffle all of it.
    let there_s = server.delay_s(there_s, random);
    let back_s = server.delay_s(back_s, random);
    let lost = server.lost(clock.true_s, random) | server.lost(clock.true_s + there_s, random);
    let at_server_s = clock.true_s + there_s;
    let arrives_s = at_server_s + back_s;
    let sample = Sample {
        at: clock.now(),
        offset_ns: 0,
        delay_s: 0.0,
        dispersion_s: 0.0,
        root_delay_s: 0.0,
        // A server owns up to its noise.
        root_dispersion_s: 5.0 * server.noise_s,
        stratum: 1,
        leap: server.leap(at_server_s),
    };
    let noise_s = if server.noise_s > 0.0 { server.noise_s * random.normal() } else { 0.0 };
    let server_utc_ns = (at_server_s + server.error_s(at_server_s) + noise_s) * 1e9;
    (!lost).then_some(Answer {
        arrives_s,
        server: index,
        sample,
        order,
        sent_local_s: clock.local_s,
        server_utc_ns,
    })
}

fn finish(answer: &Answer, clock: &Clock) -> Sample {
    let middle_s = f64::midpoint(answer.sent_local_s, clock.local_s);
    Sample {
        at: local_time(middle_s),
        offset_ns: UTC_AT_ZERO_NS + (answer.server_utc_ns - middle_s * 1e9).round() as i64,
        delay_s: clock.local_s - answer.sent_local_s,
        ..answer.sample
    }
}
