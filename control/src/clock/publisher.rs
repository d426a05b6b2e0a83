//! From what was observed of the clock to both answering paths.

use responder::ClockState;
use tracing::{info, warn};

use super::system::{Observation, Unsynchronised};
use crate::datapath::Datapath;
use crate::error::Result;
use crate::socket::Shared;

/// Publishes what is observed, and tells of changes.
#[derive(Default)]
pub struct Publisher {
    last: Option<Observation>,
    steps: u64,
}

impl Publisher {
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
        datapath.publish_clock(&observation.state)?;
        sockets.publish_clock(observation.state);
        self.tell(&observation);
        self.last = Some(observation);
        Ok(())
    }

    /// What was published last.
    #[must_use]
    pub fn state(&self) -> Option<ClockState> {
        self.last.map(|observation| observation.state)
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
