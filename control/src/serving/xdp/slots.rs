//! The slots of the interfaces in the map of counters.

use responder::layout::{self, Count, INTERFACES};
use responder::{StationTable, verdict};

use super::{Datapath, map_error};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::Interface;
use crate::sys::Plain;

/// The slot in which the program of an interface counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    number: u32,
    is_new: bool,
}

impl Slot {
    pub(super) const fn number(self) -> u32 {
        self.number
    }

    /// Whether it was taken just now. If so, it has to be freed if attaching fails.
    #[must_use]
    pub const fn is_new(self) -> bool {
        self.is_new
    }
}

impl Datapath {
    /// Returns the slot of an interface. If it has none yet, it takes a free one, and its counters start at zero.
    ///
    /// # Errors
    ///
    /// All slots are taken, or the map cannot be written.
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
        self.state.head.interfaces[number as usize] = interface.index;
        self.place_stations();
        self.write_state()?;
        Ok(Slot { number, is_new: true })
    }

    /// Frees the slot of an interface from which the program was detached.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn free_slot(&mut self, interface: u32) -> Result<()> {
        for index in &mut self.state.head.interfaces {
            if *index == interface {
                *index = 0;
            }
        }
        self.place_stations();
        self.write_state()
    }

    /// Puts the stations of each interface where its program looks. Returns whether that changes anything.
    pub(super) fn place_stations(&mut self) -> bool {
        let mut changed = false;
        for (index, place) in self.state.head.interfaces.iter().zip(&mut self.state.stations) {
            let stations = self.stations.get(index).unwrap_or(&StationTable::EMPTY);
            changed |= place != stations;
            *place = *stations;
        }
        changed
    }

    pub(super) fn slot_of(&self, interface: u32) -> Option<u32> {
        let slot = self.state.head.interfaces.iter().position(|index| *index == interface)?;
        u32::try_from(slot).ok()
    }
}
