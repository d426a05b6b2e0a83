//! Where the time comes from: everything that tells it is a [`Source`] of the [`super::timekeeper::Timekeeper`].
//!
//! A source talks to its servers or devices beside the daemon's loop and never steers anything. What it has heard
//! waits inside it until the timekeeper takes it in; measurements go to the [`Discipline`], under the indices that the
//! source has added there.

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

/// A source of time. Most sources need only some of the methods: without the others they are never asked, never wake
/// the loop and do not depend on the host's addresses.
pub(super) trait Source {
    /// Puts a configuration in force. Members of the discipline that did not change go on undisturbed.
    fn configure(&mut self, _config: &Config, _discipline: &mut Discipline, _now: LocalTime) {}

    /// Takes note of the addresses of this host, which are never asked.
    fn set_own_addresses(&mut self, _own: &OwnAddresses, _discipline: &mut Discipline, _now: LocalTime) {}

    /// When it wants to be asked for a reason of its own, beside the discipline's schedule.
    fn next_wakeup(&self) -> Option<Instant> {
        None
    }

    /// Asks those of its members that the discipline wants to hear: their indices are in `due`.
    fn ask(&mut self, _due: &[usize]) {}

    /// Whether something has arrived that [`Source::take_in`] is to handle; wakes the task when it does.
    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Handles what has arrived.
    fn take_in(&mut self, discipline: &mut Discipline, now: LocalTime);

    /// Reads what has to be read at every look at the clocks.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn look(&mut self, _kernel: &dyn KernelClock) -> Result<()> {
        Ok(())
    }

    /// The clock that somebody else keeps and that this source mirrors, as of the last look: it is served as it is.
    fn mirror(&mut self, _config: &ClockConfig) -> Option<Mirrored> {
        None
    }

    /// How answers name the member with this index as their reference.
    fn reference_id(&self, _index: usize) -> Option<u32> {
        None
    }

    /// What is known of its members without the discipline, each with its index there.
    fn view(&self, _now: LocalTime) -> Vec<(Option<usize>, Peer)> {
        Vec::new()
    }
}

/// A clock that is mirrored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mirrored {
    /// What to serve.
    pub(super) observation: Observation,
    /// What its keeper still has to do to it.
    pub(super) correction: Correction,
}

/// What the keeper of a mirrored clock does to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correction {
    /// What it still has to correct, in seconds; positive if the clock is slow.
    pub offset_s: Option<f64>,
    /// How much faster it lets the clock run, in parts in 10^6.
    pub frequency_ppm: f64,
}
