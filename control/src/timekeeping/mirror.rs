//! `source = "system"` on a kernel's clock: the readings, and what the local daemon said last.

use super::system_clock::{LocalDaemon, Observation, SystemClock};
use crate::config::ClockConfig;
use crate::error::Result;
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::{KernelClock, precision};

/// Mirrors a kernel's clock.
pub struct Mirror<K> {
    kernel: K,
    system: SystemClock,
    local_daemon: Option<LocalDaemon>,
    last_kernel: Option<Adjtimex>,
}

impl<K: KernelClock> Mirror<K> {
    /// Of this clock, which has not been read yet.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn new(kernel: K) -> Result<Self> {
        Ok(Self { kernel, system: SystemClock::new(precision()?), local_daemon: None, last_kernel: None })
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
    pub fn frequency_ppm(&self) -> Option<f64> {
        self.last_kernel.map(|kernel| kernel.frequency_scaled_ppm as f64 / 65_536.0)
    }

    /// What there is to serve now.
    ///
    /// # Errors
    ///
    /// The clock cannot be read.
    pub fn observe(&mut self, config: &ClockConfig) -> Result<Observation> {
        let kernel = self.kernel.discipline()?;
        let sample = self.kernel.sample()?;
        self.last_kernel = Some(kernel);
        Ok(self.system.observe(&sample, &kernel, self.local_daemon.as_ref(), config))
    }
}
