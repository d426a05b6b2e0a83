//! From what was observed of the clock to both answering paths.

use responder::ClockState;
use tracing::{info, warn};

use crate::error::Result;
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;
use crate::sys::kernel_clock::monotonic_ns;
use crate::timekeeping::line_state;
use crate::timekeeping::rate_watch::RateChange;
use crate::timekeeping::system_clock::{Observation, Unsynchronised};

/// A change of the clock's rate that is not worth a publication of its own, in s/s.
const LEAST_CHANGE: f64 = 1e-6;

/// Publishes what is observed, and tells of changes.
#[derive(Default)]
pub struct Publisher {
    /// The line that an earlier daemon left behind, while it is the best there is.
    inherited: Option<ClockState>,
    last: Option<Observation>,
    steps: u64,
}

impl Publisher {
    /// With what the program goes by now: it stays in force until there is something to publish, so that a restart
    /// does not make a synchronised server say that it is not.
    #[must_use]
    pub fn inheriting(line: ClockState) -> Self {
        Self { inherited: Some(line), ..Self::default() }
    }

    /// Publishes once, to the program and to the sockets.
    ///
    /// # Errors
    ///
    /// The map cannot be written. What was published last stays in force until its horizon.
    pub fn publish(
        &mut self,
        observation: Observation,
        datapath: &mut Datapath,
        sockets: &Shared,
    ) -> Result<()> {
        self.inherited = still_best(self.inherited, &observation, monotonic_ns()?);
        let observation = if let Some(state) = self.inherited {
            Observation { state, unsynchronised: None, stepped_ns: None }
        } else {
            datapath.publish_clock(&observation.state)?;
            observation
        };
        sockets.publish_clock(observation.state);
        self.tell(&observation);
        self.last = Some(observation);
        Ok(())
    }

    /// Publishes what was published last anew, for a clock whose rate is about to change by `change` (s/s): the error
    /// bound grows by as much until the next publication. Does nothing where the change is lost in what the bound grows
    /// by anyway.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn allow_for(&self, change: f64, datapath: &mut Datapath, sockets: &Shared) -> Result<()> {
        let Some(state) = self.inherited.or_else(|| self.state()) else { return Ok(()) };
        if change.abs() < LEAST_CHANGE {
            return Ok(());
        }
        let state = line_state::allowing_for(state, change);
        datapath.publish_clock(&state)?;
        sockets.publish_clock(state);
        Ok(())
    }

    /// Takes note that the rate of the clock has changed. A line that was inherited is put on the new rate.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn rate_changed(&mut self, change: &RateChange, datapath: &mut Datapath) -> Result<()> {
        let Some(line) = self.inherited else { return Ok(()) };
        let line = line_state::retuned(line, change.at.as_ns().cast_unsigned(), change.rate);
        self.inherited = Some(line);
        datapath.publish_clock(&line)
    }

    /// What was published last.
    #[must_use]
    pub fn state(&self) -> Option<ClockState> {
        self.last.map(|observation| observation.state)
    }

    /// The clock that is served: that of an earlier daemon while it is the best there is.
    #[must_use]
    pub fn served(&self) -> Option<ClockState> {
        self.inherited.or_else(|| self.state())
    }

    /// Whether the line of an earlier daemon is served.
    #[must_use]
    pub const fn is_inheriting(&self) -> bool {
        self.inherited.is_some()
    }

    /// Why it is not synchronised, if it is not.
    #[must_use]
    pub fn unsynchronised(&self) -> Option<Unsynchronised> {
        self.last.and_then(|observation| observation.unsynchronised)
    }

    /// Steps noticed so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Logs changes, and only those.
    fn tell(&mut self, observation: &Observation) {
        if let Some(step_ns) = observation.stepped_ns {
            self.steps += 1;
            warn!("the system clock was stepped by {step_ns} ns; answers follow it");
        }
        let before = self.last.map(|last| last.unsynchronised);
        if before != Some(observation.unsynchronised) {
            if let Some(reason) = observation.unsynchronised {
                warn!("not synchronised: {}", reason.explain());
            } else {
                info!("synchronised, stratum {}", observation.state.stratum);
            }
        }
    }
}

/// A line that was inherited, as long as it is good, and upstreams have not been heard that could say better. Any other
/// reason not to be synchronised ends it: somebody knows that the time is not good.
fn still_best(inherited: Option<ClockState>, observation: &Observation, now_ns: u64) -> Option<ClockState> {
    let is_too_early = observation.unsynchronised == Some(Unsynchronised::NoAgreement);
    inherited.filter(|line| is_too_early && line.is_synchronised_at(now_ns))
}

#[cfg(test)]
mod tests {
    use responder::clock::WORDS;
    use responder::message::LEAP_UNSYNCHRONISED;

    use super::*;

    const HORIZON_NS: u64 = 1_000;

    fn observed(unsynchronised: Option<Unsynchronised>) -> Observation {
        Observation { state: ClockState::from_words([0; WORDS]), unsynchronised, stepped_ns: None }
    }

    #[test]
    fn an_inherited_line_serves_until_its_horizon_or_until_more_is_known() {
        let zeros = ClockState::from_words([0; WORDS]);
        let line = Some(ClockState { stratum: 2, horizon_ns: HORIZON_NS, ..zeros });
        let early = observed(Some(Unsynchronised::NoAgreement));
        assert_eq!(still_best(line, &early, HORIZON_NS), line);
        assert_eq!(still_best(line, &early, HORIZON_NS + 1), None, "past its horizon");
        assert_eq!(still_best(line, &observed(None), 0), None, "the upstreams agree");
        assert_eq!(
            still_best(line, &observed(Some(Unsynchronised::Kernel)), 0),
            None,
            "the clock is known to be bad"
        );
        let unsynchronised = line.map(|line| ClockState { leap: LEAP_UNSYNCHRONISED, ..line });
        assert_eq!(still_best(unsynchronised, &early, 0), None, "it never was good");
    }
}
