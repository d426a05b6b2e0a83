//! The eBPF program and its maps in the kernel: loaded, pinned, replaced, written to and read.
//!
//! Everything is pinned in one directory of bpffs, so that it outlives the daemon: the maps under their names, the
//! link of each interface under its index. A daemon that starts finds them and replaces the program through the link,
//! which the kernel does between two packets. What is there may be of a build with another layout: see
//! [`predecessor`].

mod attach;
mod bpffs;
mod flips;
mod foreign;
mod grants;
mod known;
mod limits;
mod link;
mod maps;
mod notes;
mod open;
mod pins;
mod predecessor;
mod privileges;
mod refusal;
mod slots;
mod tags;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use responder::layout::{self, Count, Counters, FAMILIES, Grant, Spent, State};
use responder::limiter::WAYS;
use responder::{ClockState, ServedTable, StationTable, verdict};

pub(crate) use attach::slow_transmit;
pub use attach::{Attachment, Links, ModeRequest};
pub use foreign::{open_program, program_name};
pub use limits::{AccessMaps, Occupancy};
pub use open::{OpenError, remove_pins};
pub use pins::Pins;
pub use privileges::{MissingPrivileges, require_privileges};
pub(crate) use refusal::{Condition, conditions, hypervisor_offloads};
pub use slots::Slot;

use crate::error::Result;
use crate::sys::Plain;
use flips::Flips;
use maps::{MAPS, map_error, open_pinned};
use open::load_object;
use predecessor::Predecessor;

/// The maps of an instance, and what is attached.
pub struct Datapath {
    directory: PathBuf,
    state_map: Array<MapData, Plain<State>>,
    counters_map: PerCpuArray<MapData, Plain<Counters>>,
    buckets_map: Array<MapData, Plain<[u64; WAYS]>>,
    known: known::Known,
    spent_map: PerCpuArray<MapData, Plain<Spent>>,
    grants_map: PerCpuArray<MapData, Plain<Grant>>,
    samples_map: RingBuf<MapData>,
    state: Box<State>,
    clock_flips: Flips<ClockState>,
    table_flips: Flips<Box<ServedTable>>,
    /// The stations of interfaces by index, with a slot or without one yet.
    stations: BTreeMap<u32, StationTable>,
    links: Links,
    /// The state by which programs of another layout answer until they are replaced.
    predecessor: Option<Box<Predecessor>>,
}

impl Datapath {
    /// Publishes a clock line. The program answers by it from the next packet on.
    ///
    /// This never waits. A line that comes less than [`layout::FLIP_INTERVAL_MS`] ms after the last one is kept, and
    /// [`Datapath::publish_waiting`] publishes it at the time that [`Datapath::next_flip`] returns. A later line
    /// replaces one that is kept.
    ///
    /// # Errors
    ///
    /// The map cannot be written. The line is not kept then.
    pub fn publish_clock(&mut self, clock: &ClockState) -> Result<()> {
        self.clock_flips.put(*clock);
        self.publish_waiting()
    }

    /// Publishes the stations of interfaces, by index, if they have changed. They are in force at once.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn publish_stations(&mut self, stations: BTreeMap<u32, StationTable>) -> Result<()> {
        self.stations = stations;
        if self.place_stations() { self.write_state() } else { Ok(()) }
    }

    /// Publishes the addresses that are answered for, if they have changed. Like [`Datapath::publish_clock`], this
    /// never waits.
    ///
    /// # Errors
    ///
    /// The map cannot be written. The table is not kept then.
    pub fn publish_served(&mut self, table: &ServedTable) -> Result<()> {
        let [first, second] = &self.state.tables;
        let in_force = if self.state.head.served & 1 == 0 { first } else { second };
        if in_force == table {
            self.table_flips.forget();
            return Ok(());
        }
        self.table_flips.put(Box::new(*table));
        self.publish_waiting()
    }

    /// Publishes until when nobody else is known to wait for what comes to port 123, by family, as
    /// [`State::port_ours_until_ns`] has it.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn publish_port_ours_until(&mut self, until_ns: [u64; FAMILIES]) -> Result<()> {
        if self.state.port_ours_until_ns == until_ns {
            return Ok(());
        }
        self.state.port_ours_until_ns = until_ns;
        self.write_state()
    }

    /// The addresses that are answered for: those in force, or those that are kept and will be.
    #[must_use]
    pub fn served(&self) -> &ServedTable {
        let [first, second] = &self.state.tables;
        let in_force = if self.state.head.served & 1 == 0 { first } else { second };
        self.table_flips.waiting().map_or(in_force, |kept| &**kept)
    }

    /// Publishes what was kept, as far as it is due.
    ///
    /// # Errors
    ///
    /// As [`Datapath::publish_clock`].
    pub fn publish_waiting(&mut self) -> Result<()> {
        let now = Instant::now();
        if let Some(clock) = self.clock_flips.take_due(now) {
            let [first, second] = &mut self.state.head.clocks;
            *(if self.state.head.clock & 1 == 0 { second } else { first }) = clock.to_words();
            self.write_and_flip(|state| &mut state.head.clock)?;
            if let Some(predecessor) = &mut self.predecessor {
                predecessor.publish_clock(clock.to_words())?;
            }
        }
        if let Some(table) = self.table_flips.take_due(now) {
            let [first, second] = &mut self.state.tables;
            *(if self.state.head.served & 1 == 0 { second } else { first }) = *table;
            self.write_and_flip(|state| &mut state.head.served)?;
        }
        Ok(())
    }

    /// Returns until when a line of the clock would be kept, or nothing if it would be in force at once.
    #[must_use]
    pub fn clock_blocked_until(&self) -> Option<Instant> {
        self.clock_flips.blocked_until(Instant::now())
    }

    /// Returns when [`Datapath::publish_waiting`] has something to publish, or nothing if nothing is kept.
    #[must_use]
    pub fn next_flip(&self) -> Option<Instant> {
        self.clock_flips.due().into_iter().chain(self.table_flips.due()).min()
    }

    /// Whether the addresses that were published last are in force, and not kept.
    #[must_use]
    pub fn serves_what_was_published(&self) -> bool {
        self.table_flips.due().is_none()
    }

    /// Takes note of what another thread or process has published since; for those that only look.
    ///
    /// # Errors
    ///
    /// The kernel's, for a read of a map.
    pub fn reread(&mut self) -> Result<()> {
        let Plain(state) = self.state_map.get(&0, 0).map_err(map_error(layout::STATE))?;
        *self.state = state;
        Ok(())
    }

    /// The clock line in force.
    #[must_use]
    pub fn clock(&self) -> ClockState {
        ClockState::from_words(self.state.head.line())
    }

    /// The counters of an interface, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's, for a read of a map.
    pub fn counters(&self, interface: u32) -> Result<Box<Counters>> {
        let mut sum = Box::new([Count::default(); verdict::COUNTERS]);
        let Some(slot) = self.slot_of(interface) else {
            return Ok(sum);
        };
        let per_cpu = self.counters_map.get(&slot, 0).map_err(map_error(layout::COUNTERS))?;
        for Plain(counters) in per_cpu.iter() {
            for (total, count) in sum.iter_mut().zip(counters) {
                total.packets = total.packets.wrapping_add(count.packets);
                total.bytes = total.bytes.wrapping_add(count.bytes);
            }
        }
        Ok(sum)
    }

    /// The kernel's number of the map of counters. Within a boot, no other map gets it.
    ///
    /// # Errors
    ///
    /// The map is not pinned any more.
    pub fn counters_id(&self) -> Result<u32> {
        let map = MapData::from_pin(maps::pin(&self.directory, layout::COUNTERS));
        Ok(map.and_then(|map| map.info()).map_err(map_error(layout::COUNTERS))?.id())
    }

    /// What each map costs in kernel memory, in bytes, as the kernel accounts for it. One that is not pinned any more is
    /// left out: somebody has removed it, and the server works without the pin.
    #[must_use]
    pub fn map_memory(&self) -> Vec<(&'static str, u64)> {
        MAPS.iter().filter_map(|(name, _)| Some((*name, maps::memory(&self.directory, name).ok()?))).collect()
    }

    /// The indices of the interfaces that have a place in the counters.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.state.head.interfaces.iter().copied().filter(|index| *index != 0)
    }

    /// The links that hold the instance's programs on interfaces.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Writes the slot that is not in force, and then the index that puts it in force. If the index cannot be written,
    /// the copy of it in this process is not changed either.
    fn write_and_flip(&mut self, index: fn(&mut State) -> &mut u32) -> Result<()> {
        self.write_state()?;
        *index(&mut self.state) ^= 1;
        self.write_state().inspect_err(|_| *index(&mut self.state) ^= 1)
    }

    fn write_state(&mut self) -> Result<()> {
        self.state_map.set(0, Plain(*self.state), 0).map_err(map_error(layout::STATE))
    }
}
