//! Sources of time: each is a [`Source`] of the [`super::timekeeper::Timekeeper`].
//!
//! A source communicates with its servers or devices outside the daemon's loop and never steers anything.
//! What it has received waits inside it until the timekeeper takes it in. Measurements go to the
//! [`Discipline`], under the indices that the source has added there.

pub mod ntp;
pub mod system;

use std::task::{Context, Poll};
use std::time::Instant;

use crate::config::{ClockConfig, Config};
use crate::discipline::{Discipline, LocalTime};
use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources::Peer;
use crate::sys::kernel_clock::KernelClock;
use crate::timekeeping::system_clock::Observation;

/// A source of time. Most sources need only some of the methods. A source that keeps the defaults is never
/// asked, never wakes the loop and does not depend on the host's addresses.
pub(super) trait Source {
    /// Puts a configuration in force. Members of the discipline that did not change are left undisturbed.
    fn configure(&mut self, _config: &Config, _discipline: &mut Discipline, _now: LocalTime) {}

    /// Takes in the addresses of this host, which are never asked.
    fn set_own_addresses(&mut self, _own: &OwnAddresses, _discipline: &mut Discipline, _now: LocalTime) {}

    /// Returns when it wants to be asked for a reason of its own, independent of the discipline's schedule.
    fn next_wakeup(&self) -> Option<Instant> {
        None
    }

    /// Asks those of its members that are due; `due` has their indices in the discipline.
    fn ask(&mut self, _due: &[usize]) {}

    /// Takes note that the machine's clocks have lost time: it was suspended, or stood still.
    fn time_lost(&mut self) {}

    /// Whether something has arrived for [`Source::take_in`]. Wakes the task when something does.
    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Handles what has arrived.
    fn take_in(&mut self, discipline: &mut Discipline, now: LocalTime);

    /// Reads what must be read whenever the clocks are read.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn look(&mut self, _kernel: &dyn KernelClock) -> Result<()> {
        Ok(())
    }

    /// Returns the clock that another daemon keeps and that this source mirrors, as of the last look.
    fn mirror(&mut self, _config: &ClockConfig) -> Option<Mirrored> {
        None
    }

    /// Returns the reference ID with which answers name the member with this index.
    fn reference_id(&self, _index: usize) -> Option<u32> {
        None
    }

    /// Returns what is known about its members without the discipline, each with its index there.
    fn view(&self, _now: LocalTime) -> Vec<(Option<usize>, Peer)> {
        Vec::new()
    }
}

/// A clock that is mirrored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mirrored {
    /// The state to serve.
    pub(super) observation: Observation,
    /// What its keeper still has to correct.
    pub(super) correction: Correction,
}

/// How the keeper of a mirrored clock corrects it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correction {
    /// The remaining offset in seconds; positive if the clock is slow.
    pub offset_s: Option<f64>,
    /// How much faster the keeper lets the clock run, in ppm.
    pub frequency_ppm: f64,
}
