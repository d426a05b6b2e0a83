//! The maps that the eBPF program and the daemon share.
//!
//! | map | type | entries |
//! |---|---|---|
//! | [`STATE`] | array | one [`State`]: which slot of the next two is in force |
//! | [`CLOCK`] | array | two slots of [`crate::clock::WORDS`] words |
//! | [`SERVED`] | array | two slots of [`crate::ServedTable`] |
//! | [`COUNTERS`] | per-CPU array | for each interface the [`Counters`] |
//!
//! The daemon writes the slot that is not in force and then flips the index in `STATE`. A reader runs in
//! softirq for less than a microsecond and flips of one map are at least [`FLIP_INTERVAL_MS`] apart, so it
//! would have to be held up for that long between its reading of the index and of the slot to meet a
//! half-written one. A virtual CPU may be: for that the clock's sequence number is read before and after
//! the rest of the slot.

use crate::verdict;

/// Goes up with every change to a map's layout or to the meaning of what is in it.
pub const VERSION: u32 = 1;
/// The first word of [`State`]: "PTXD" and [`VERSION`].
pub const MAGIC: u64 = 0x5054_5844_0000_0000 | VERSION as u64;

/// Name of the map of one [`State`].
pub const STATE: &str = "PT_STATE";
/// Name of the map of clock slots.
pub const CLOCK: &str = "PT_CLOCK";
/// Name of the map of address tables.
pub const SERVED: &str = "PT_SERVED";
/// Name of the map of counters.
pub const COUNTERS: &str = "PT_COUNTERS";
/// Name of the program.
pub const PROGRAM: &str = "pooltime_xdp";
/// Name of the program's constant that says under which interface it counts.
pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";

/// Slots of a map that is written by halves.
pub const SLOTS: usize = 2;
/// The most interfaces a server is attached to.
pub const INTERFACES: usize = 8;
/// Flips of a map are at least this far apart.
pub const FLIP_INTERVAL_MS: u64 = 10;

/// Which slots are in force, and who uses the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// [`MAGIC`].
    pub magic: u64,
    /// The clock slot in force, modulo [`SLOTS`].
    pub clock: u32,
    /// The address table in force, modulo [`SLOTS`].
    pub served: u32,
    /// For each of [`COUNTERS`]' entries the index of the interface that counts in it, 0 if none.
    pub interfaces: [u32; INTERFACES],
}

/// Packets and bytes of one counter. Bytes are those of frames as the program sees them, from the Ethernet
/// header on; an answer is as long as its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All counters of an interface, by [`crate::Outcome::counter`].
pub type Counters = [Count; verdict::COUNTERS];
