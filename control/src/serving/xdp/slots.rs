//! The interfaces' places in the counters.

use responder::layout::{self, Count, INTERFACES};
use responder::verdict;

use super::{Datapath, map_error};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::Interface;
use crate::sys::Plain;

/// A place in the counters, which the program of an interface is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    number: u32,
    is_new: bool,
}

impl Slot {
    pub(super) const fn number(self) -> u32 {
        self.number
    }

    /// Whether it was taken just now, and is to be freed if the interface is not attached.
    #[must_use]
    pub const fn is_new(self) -> bool {
        self.is_new
    }
}

impl Datapath {
    /// Gives the interface's place; a place that is taken anew starts at zero.
    ///
    /// # Errors
    ///
    /// All places are taken, or the kernel's, for a write to a map.
    pub fn take_slot(&mut self, interface: &Interface) -> Result<Slot> {
        if let Some(number) = self.slot_of(interface.index) {
            return Ok(Slot { number, is_new: false });
        }
        let number = self.slot_of(0).ok_or_else(|| {
            Error::new(
                Code::Unavailable,
                format_args!(
                    "{} would be interface number {}; a server supports {INTERFACES}",
                    interface.name,
                    INTERFACES + 1
                ),
            )
            .remedy("detach one, or run a second instance: `--instance NAME`")
        })?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(file, error)| Error::because(Code::Os, format_args!("cannot read {file}"))(error))?;
        let zeros =
            aya::maps::PerCpuValues::try_from(vec![Plain([Count::default(); verdict::COUNTERS]); cpus])
                .map_err(Error::because(Code::Software, "counters"))?;
        self.counters_map.set(number, zeros, 0).map_err(map_error(layout::COUNTERS))?;
        self.state.interfaces[number as usize] = interface.index;
        self.write_state()?;
        Ok(Slot { number, is_new: true })
    }

    /// Frees the place of an interface that the program is off.
    ///
    /// # Errors
    ///
    /// The kernel's, for a write to a map.
    pub fn free_slot(&mut self, interface: u32) -> Result<()> {
        for index in &mut self.state.interfaces {
            if *index == interface {
                *index = 0;
            }
        }
        self.write_state()
    }

    pub(super) fn slot_of(&self, interface: u32) -> Option<u32> {
        let slot = self.state.interfaces.iter().position(|index| *index == interface)?;
        u32::try_from(slot).ok()
    }
}
