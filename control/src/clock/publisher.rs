//! From the kernel's clock to both answering paths.

use responder::ClockState;
use tracing::{info, warn};

use super::kernel::{KernelClock, precision};
use super::system::{LocalDaemon, Observation, SystemClock, Unsynchronised};
use crate::config::ClockConfig;
use crate::datapath::Datapath;
use crate::error::Result;
use crate::socket::Shared;
use crate::sys::Adjtimex;

/// Observes the clock and publishes what it sees.
pub struct Publisher<K> {
    kernel: K,
    system: SystemClock,
    local_daemon: Option<LocalDaemon>,
    last: Option<Observation>,
    last_kernel: Option<Adjtimex>,
    steps: u64,
}

impl<K: KernelClock> Publisher<K> {
    /// A publisher of this clock, which has published nothing yet.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn new(kernel: K) -> Result<Self> {
        Ok(Self {
            kernel,
            system: SystemClock::new(precision()?),
            local_daemon: None,
            last: None,
            last_kernel: None,
            steps: 0,
        })
    }

    /// What the local daemon said, or that it says nothing any more.
    pub fn set_local_daemon(&mut self, daemon: Option<LocalDaemon>) {
        self.local_daemon = daemon;
    }

    /// Observes and publishes once, to the program and to the sockets.
    ///
    /// # Errors
    ///
    /// The clock cannot be read or the map cannot be written. What was published last stays in force until
    /// its horizon.
    pub fn publish(&mut self, config: &ClockConfig, datapath: &mut Datapath, sockets: &Shared) -> Result<()> {
        let kernel = self.kernel.discipline()?;
        let sample = self.kernel.sample()?;
        let observation = self.system.observe(&sample, &kernel, self.local_daemon.as_ref(), config);
        datapath.publish_clock(&observation.state)?;
        sockets.publish_clock(observation.state);
        self.tell(&observation);
        self.last = Some(observation);
        self.last_kernel = Some(kernel);
        Ok(())
    }

    /// What was published last.
    pub fn state(&self) -> Option<ClockState> {
        self.last.map(|observation| observation.state)
    }

    /// Why it is not synchronised, if it is not.
    pub fn unsynchronised(&self) -> Option<Unsynchronised> {
        self.last.and_then(|observation| observation.unsynchronised)
    }

    /// What the local daemon still has to correct, in seconds; positive if the clock is slow.
    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    pub fn offset_s(&self) -> Option<f64> {
        self.local_daemon.map(|daemon| daemon.reading.offset_ns as f64 / 1e9)
    }

    /// How much faster the kernel lets the clock run, in parts in 10^6.
    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    pub fn frequency_ppm(&self) -> Option<f64> {
        self.last_kernel.map(|kernel| kernel.frequency_scaled_ppm as f64 / 65_536.0)
    }

    /// Steps noticed so far.
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
