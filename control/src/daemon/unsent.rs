//! Which share of the answers a driver does not send. An XDP program hands its answers to the driver (`XDP_TX`) and does
//! not learn what becomes of them, so it counts all of them as answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use responder::verdict::Action;

use crate::status::{Interface, total};

/// A share is one of at least this time and of so many answers.
const LEAST: Duration = Duration::from_secs(10);
const LEAST_ANSWERS: u64 = 20;

/// Counters of a moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    answers: u64,
    unsent: u64,
}

/// The shares of all interfaces, by index.
#[derive(Debug, Default)]
pub(super) struct UnsentShares(BTreeMap<u32, Share>);

#[derive(Clone, Copy, Debug)]
struct Share {
    begun: Moment,
    latest: Option<f64>,
}

impl UnsentShares {
    /// Adds the shares to a status, and takes in its counters.
    pub(super) fn add_to(&mut self, interfaces: &mut [Interface], at: Instant) {
        self.0.retain(|index, _| interfaces.iter().any(|interface| interface.index == *index));
        for interface in interfaces {
            // Drivers without counters of their own for this count such frames among those that they dropped.
            let unsent = interface.xdp_transmit_errors.unwrap_or(interface.driver.transmit_dropped);
            let now = Moment { at, answers: total(&interface.counters, Action::Transmit), unsent };
            let share = self.0.entry(interface.index).or_insert(Share { begun: now, latest: None });
            share.take(now);
            interface.unsent_share = share.latest;
        }
    }
}

impl Share {
    #[expect(clippy::cast_precision_loss, reason = "a share, for showing")]
    fn take(&mut self, now: Moment) {
        let answers = now.answers.saturating_sub(self.begun.answers);
        if now.at.duration_since(self.begun.at) < LEAST || answers < LEAST_ANSWERS {
            return;
        }
        let unsent = now.unsent.saturating_sub(self.begun.unsent);
        *self = Self { begun: now, latest: Some((unsent as f64 / answers as f64).min(1.0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn the_share_is_that_of_the_latest_answers() {
        let mut shares = UnsentShares::default();
        let start = Instant::now();
        let mut interfaces = sample().interfaces;
        interfaces.truncate(1);
        interfaces[0].xdp_transmit_errors = Some(7);
        let mut after = |seconds, answers, unsent| {
            interfaces[0].counters[0].packets += answers;
            *interfaces[0].xdp_transmit_errors.as_mut().unwrap() += unsent;
            shares.add_to(&mut interfaces, start + Duration::from_secs(seconds));
            interfaces[0].unsent_share
        };
        assert_eq!(after(0, 0, 0), None);
        assert_eq!(after(5, 200, 200), None, "not yet");
        assert_eq!(after(10, 0, 0), Some(1.0));
        assert_eq!(after(20, 10, 10), Some(1.0), "too few to say more");
        assert_eq!(after(30, 990, 0), Some(0.01));
        assert_eq!(after(40, 500, 0), Some(0.0));
    }
}
