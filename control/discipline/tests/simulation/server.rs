//! A server: the error of its clock, and what it claims.

use discipline::Leap;
use testinput::random::Random;

use crate::network::Path;

/// What the clock of a server whose own source is lost may gain, s/s, and claims that it may (RFC 5905's PHI).
const TOLERANCE: f64 = 15e-6;

/// What a server's clock is off by. Several add up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// By so many s.
    Offset(f64),
    /// From a true time on it gains so many s/s.
    Drift(f64, f64),
    /// Between two true times by so many s.
    OffsetBetween(f64, f64, f64),
    /// Back and forth by so many s.
    Sine { amplitude_s: f64, period_s: f64 },
    /// A random walk in s per square root of a second that turns round at `within_s`.
    Walk { per_root_s: f64, within_s: f64 },
}

impl Fault {
    fn error_s(self, at_s: f64) -> f64 {
        match self {
            Self::Offset(off_s) => off_s,
            Self::Drift(from_s, rate) if at_s > from_s => rate * (at_s - from_s),
            Self::OffsetBetween(from_s, to_s, off_s) if (from_s..to_s).contains(&at_s) => off_s,
            Self::Sine { amplitude_s, period_s } => {
                amplitude_s * (std::f64::consts::TAU * at_s / period_s).sin()
            }
            Self::Drift(..) | Self::OffsetBetween(..) | Self::Walk { .. } => 0.0,
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claims {
    pub(crate) root_delay_s: f64,
    pub(crate) root_dispersion_s: f64,
    /// Its source is lost from a true time on, and its dispersion grows.
    pub(crate) source_lost_s: f64,
    pub(crate) stratum: u8,
}

impl Claims {
    pub(crate) const NONE: Self =
        Self { root_delay_s: 0.0, root_dispersion_s: 0.0, source_lost_s: f64::INFINITY, stratum: 1 };

    /// Root dispersion at a true time, s.
    pub(crate) fn dispersion_s(&self, at_s: f64) -> f64 {
        self.root_dispersion_s + TOLERANCE * (at_s - self.source_lost_s).max(0.0)
    }
}

/// One server and the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) path: Path,
    pub(crate) faults: Vec<Fault>,
    pub(crate) claims: Claims,
    /// Its timestamps are truncated to this, s, and it says so.
    pub(crate) resolution_s: f64,
    /// A leap second is inserted at this true time, announced a day ahead.
    pub(crate) leap_s: Option<f64>,
    /// Standard deviation of what its timestamps are off by, s: noise that no round trip shows.
    pub(crate) noise_s: f64,
    /// It announces a leap second that nobody else knows of.
    pub(crate) false_leap: bool,
    /// From this true time on it has no other source than the client.
    pub(crate) mirrors_from_s: f64,
}

impl Server {
    pub(crate) fn new(base_s: f64, jitter_s: f64) -> Self {
        Self {
            path: Path::new(base_s, jitter_s),
            faults: Vec::new(),
            claims: Claims::NONE,
            resolution_s: 0.0,
            leap_s: None,
            noise_s: 0.0,
            false_leap: false,
            mirrors_from_s: f64::INFINITY,
        }
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

/// What a client served: its error and bound, s, at a true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) at_s: f64,
    pub(crate) error_s: f64,
    pub(crate) bound_s: f64,
}

/// What an answer says.
#[derive(Clone, Copy)]
pub(crate) struct Says {
    /// Its time, s of true time.
    pub(crate) time_s: f64,
    pub(crate) root_delay_s: f64,
    pub(crate) root_dispersion_s: f64,
    pub(crate) stratum: u8,
    pub(crate) leap: Leap,
}

/// The state of a server during a run.
pub(crate) struct Serving {
    /// Of its own, so that its walk reshuffles nothing else.
    random: Random,
    walk_s: f64,
    walked_to_s: f64,
    /// What it saw of the client when it last asked.
    seen: Option<Served>,
}

impl Serving {
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        let random = Random::new(seed ^ (index as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03));
        Self { random, walk_s: 0.0, walked_to_s: 0.0, seen: None }
    }

    /// What it answers at a true time, if it is synchronised. `client` is what it could see of the client,
    /// `noise` a normal number for its timestamp.
    pub(crate) fn answer(
        &mut self,
        server: &Server,
        at_s: f64,
        client: Option<Served>,
        noise: f64,
    ) -> Option<Says> {
        let walk_s = self.walk_s(server, at_s);
        let fault_s: f64 = server.faults.iter().map(|fault| fault.error_s(at_s)).sum();
        let mut says = Says {
            time_s: at_s + (fault_s + walk_s + leap_shift_s(server.leap_s, at_s)) + server.noise_s * noise,
            root_delay_s: server.claims.root_delay_s,
            // A server owns up to its noise.
            root_dispersion_s: server.claims.dispersion_s(at_s) + 5.0 * server.noise_s,
            stratum: server.claims.stratum,
            leap: server.leap(at_s),
        };
        if at_s >= server.mirrors_from_s {
            let seen = self.seen;
            self.seen = client.or(seen);
            let seen = seen?;
            let age_s = at_s - seen.at_s;
            says.time_s += seen.error_s;
            says.root_delay_s += server.path.there_s + server.path.back_s;
            says.root_dispersion_s += seen.bound_s + TOLERANCE * age_s;
        } else {
            self.seen = client;
        }
        if server.resolution_s > 0.0 {
            says.time_s = (says.time_s / server.resolution_s).floor() * server.resolution_s;
        }
        Some(says)
    }

    fn walk_s(&mut self, server: &Server, at_s: f64) -> f64 {
        let walk = server.faults.iter().find_map(|fault| match *fault {
            Fault::Walk { per_root_s, within_s } => Some((per_root_s, within_s)),
            _ => None,
        });
        if let Some((per_root_s, within_s)) = walk {
            let since_s = (at_s - self.walked_to_s).max(0.0);
            self.walk_s += per_root_s * since_s.sqrt() * self.random.normal();
            // Folded back at both ends.
            let folded_s = (self.walk_s + within_s).rem_euclid(4.0 * within_s);
            self.walk_s =
                if folded_s <= 2.0 * within_s { folded_s } else { 4.0 * within_s - folded_s } - within_s;
            self.walked_to_s = at_s;
        }
        self.walk_s
    }
}
