//! `source = "system"` on a kernel's clock: the readings, and what the local daemon said last.

use super::system_clock::{LocalDaemon, Observation, SystemClock};
use crate::config::ClockConfig;
use crate::error::Result;
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::{KernelClock, Sample, precision};

/// Mirrors a kernel's clock.
pub struct Mirror<K> {
    kernel: K,
    system: SystemClock,
    local_daemon: Option<LocalDaemon>,
    /// As of the last look.
    kernel_state: Adjtimex,
    sample: Sample,
}

impl<K: KernelClock> Mirror<K> {
    /// Of this clock.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn new(kernel: K) -> Result<Self> {
        let (kernel_state, sample) = (kernel.discipline()?, kernel.sample()?);
        let system = SystemClock::new(precision()?);
        Ok(Self { kernel, system, local_daemon: None, kernel_state, sample })
    }

    /// What the local daemon said, or that it says nothing any more.
    pub fn set_local_daemon(&mut self, daemon: Option<LocalDaemon>) {
        self.local_daemon = daemon;
    }

    /// What the local daemon still has to correct, in seconds; positive if the clock is slow.
    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    pub fn offset_s(&self) -> Option<f64> {
        self.local_daemon.map(|daemon| daemon.reading.offset_ns as f64 / 1e9)
    }

    /// How much faster the kernel lets the clock run, in parts in 10^6.
    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    pub fn frequency_ppm(&self) -> f64 {
        self.kernel_state.frequency_scaled_ppm as f64 / 65_536.0
    }

    /// Reads the clock.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn look(&mut self) -> Result<()> {
        self.kernel_state = self.kernel.discipline()?;
        self.sample = self.kernel.sample()?;
        Ok(())
    }

    /// What there is to serve as of the last look.
    pub fn state(&mut self, config: &ClockConfig) -> Observation {
        self.system.observe(&self.sample, &self.kernel_state, self.local_daemon.as_ref(), config)
    }
}
