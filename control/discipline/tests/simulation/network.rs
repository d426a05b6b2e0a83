//! The way to a server: delays, losses, and how they change.

use testinput::random::Random;

/// How the queueing delay is distributed. `jitter_s` of the path is the scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Queue {
    /// Mean `jitter_s`.
    Exponential,
    /// Standard deviation `jitter_s`, and a mean of so many of them; never below 0.
    Gaussian { mean_sd: f64 },
    /// From 0 to twice `jitter_s`.
    Uniform,
}

/// A share of the packets is delayed by another `mean_s` * Exp(1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) share: f64,
    pub(crate) mean_s: f64,
}

/// Another route from a true time on: delays to add there and back, s. Several add up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reroute {
    pub(crate) at_s: f64,
    pub(crate) there_s: f64,
    pub(crate) back_s: f64,
}

/// What happens to the path for `for_s` of each period, beginning at `first_s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recurring {
    pub(crate) first_s: f64,
    pub(crate) for_s: f64,
    pub(crate) period_s: f64,
    /// Delays to add there and back, s.
    pub(crate) there_s: f64,
    pub(crate) back_s: f64,
    /// Share of the packets lost.
    pub(crate) loss: f64,
}

impl Recurring {
    fn active(&self, at_s: f64) -> bool {
        at_s >= self.first_s && (at_s - self.first_s) % self.period_s < self.for_s
    }
}

/// The way to a server and back.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// One-way base delays there and back, s.
    pub(crate) there_s: f64,
    pub(crate) back_s: f64,
    /// Scale of the queueing delay, s.
    pub(crate) jitter_s: f64,
    pub(crate) queue: Queue,
    pub(crate) tail: Option<Tail>,
    /// Probability to lose a packet.
    pub(crate) loss: f64,
    pub(crate) reroutes: Vec<Reroute>,
    pub(crate) recurring: Vec<Recurring>,
    /// No packet passes from the first to the second true time, s.
    pub(crate) outages: Vec<(f64, f64)>,
}

impl Path {
    pub(crate) fn new(base_s: f64, jitter_s: f64) -> Self {
        Self {
            there_s: base_s,
            back_s: base_s,
            jitter_s,
            queue: Queue::Exponential,
            tail: None,
            loss: 0.0,
            reroutes: Vec::new(),
            recurring: Vec::new(),
            outages: Vec::new(),
        }
    }

    /// Base delays there and back for a packet sent at a true time.
    pub(crate) fn bases_s(&self, at_s: f64) -> (f64, f64) {
        let (mut there_s, mut back_s) = (self.there_s, self.back_s);
        for reroute in self.reroutes.iter().filter(|reroute| at_s >= reroute.at_s) {
            there_s += reroute.there_s;
            back_s += reroute.back_s;
        }
        for recurring in self.recurring.iter().filter(|recurring| recurring.active(at_s)) {
            there_s += recurring.there_s;
            back_s += recurring.back_s;
        }
        (there_s, back_s)
    }

    /// What a packet takes.
    pub(crate) fn delay_s(&self, base_s: f64, random: &mut Random) -> f64 {
        let tail_s = match self.tail {
            Some(tail) if random.uniform() <= tail.share => tail.mean_s * random.exponential(),
            _ => 0.0,
        };
        let queue = match self.queue {
            Queue::Exponential => random.exponential(),
            Queue::Gaussian { mean_sd } => (mean_sd + random.normal()).max(0.0),
            Queue::Uniform => 2.0 * random.uniform(),
        };
        base_s + self.jitter_s * queue + tail_s
    }

    pub(crate) fn lost(&self, at_s: f64, random: &mut Random) -> bool {
        let active = self.recurring.iter().filter(|recurring| recurring.active(at_s));
        let loss = active.map(|recurring| recurring.loss).fold(self.loss, f64::max);
        random.uniform() <= loss || !self.passes(at_s)
    }

    /// Whether anything passes at a true time.
    pub(crate) fn passes(&self, at_s: f64) -> bool {
        !self.outages.iter().any(|&(from_s, to_s)| (from_s..to_s).contains(&at_s))
    }
}
