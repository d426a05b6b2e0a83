//! The maps that the eBPF program and the daemon share.
//!
//! | map | type | entries |
//! |---|---|---|
//! | [`STATE`] | array | one [`State`]: clock, addresses, stations and limits |
//! | [`COUNTERS`] | per-CPU array | for each interface the [`Counters`] |
//! | [`BUCKETS`] | array | the limiter's sets of [`crate::limiter::WAYS`] words; as many as the daemon says |
//! | [`KNOWN`] | array | [`crate::known::SETS`] sets of [`crate::limiter::WAYS`] words: known sources |
//! | [`TRIES`] | array | as many, of the newcomers while the budget is short |
//! | [`SPENT`] | per-CPU array | one [`Spent`]: what the CPU has taken of what there is for it |
//! | [`GRANTS`] | per-CPU array | one [`Grant`]: what the daemon allows it |
//! | [`SAMPLES`] | ring buffer | [`crate::sample::Sample`], from the program to the daemon |
//! | [`BLOCKS_IPV4`] | array | a bit for each IPv4 /24 that [`LIST_IPV4`] says anything about |
//! | [`LIST_IPV4`], [`LIST_IPV6`] | LPM trie | [`crate::Access`] by source prefix |
//!
//! Clock and addresses have two slots each. The daemon writes the slot that is not in force and then flips the
//! index, with two updates of the whole value. Bytes that do not change are written again with the same
//! value, which no reader can notice. A reader runs in softirq for less than a microsecond, and flips are at
//! least [`FLIP_INTERVAL_MS`] apart. To see a half-written slot, a reader would have to be held up for that
//! long between reading the index and the slot. This can happen to a virtual CPU, so the clock's sequence
//! number is read before and after the rest of the slot.
//!
//! The limits exist once. Each of their words has a meaning by itself, so that a reader who sees the first
//! words new and the last ones old decides according to a policy that is as good as either. The same is true of the
//! stations, see [`crate::station`].
//!
//! It is one value and not a map for each, because every look-up costs a packet a nanosecond or two.

use crate::budget::Cost;
use crate::clock::WORDS;
use crate::limiter::Policy;
use crate::{ServedTable, StationTable, verdict};

/// Version of the layout. It increases with every change to a map's layout or to the meaning of its content.
pub const VERSION: u32 = 8;
/// The first word of [`State`]: "PTXD" and [`VERSION`].
pub const MAGIC: u64 = 0x5054_5844_0000_0000 | VERSION as u64;

/// Name of the map of the one [`State`].
pub const STATE: &str = "PT_STATE";
/// Name of the map of counters.
pub const COUNTERS: &str = "PT_COUNTERS";
/// Name of the map of the limiter's buckets.
pub const BUCKETS: &str = "PT_BUCKETS";
/// Name of the map of known sources.
pub const KNOWN: &str = "PT_KNOWN";
/// Name of the map of newcomers.
pub const TRIES: &str = "PT_TRIES";
/// Name of the map of what each CPU has spent.
pub const SPENT: &str = "PT_SPENT";
/// Name of the map of what each CPU may spend.
pub const GRANTS: &str = "PT_GRANTS";
/// Name of the ring buffer of samples.
pub const SAMPLES: &str = "PT_SAMPLES";
/// Size of the ring buffer: a power of two, and a multiple of the page size of any machine.
pub const SAMPLES_BYTES: usize = 1 << 16;
/// Name of the IPv4 access list.
pub const LIST_IPV4: &str = "PT_LIST_IPV4";
/// Name of the IPv6 access list.
pub const LIST_IPV6: &str = "PT_LIST_IPV6";
/// Name of the map of the /24s for which the IPv4 access list is asked.
pub const BLOCKS_IPV4: &str = "PT_BLOCKS_IPV4";
/// Largest number of entries in an access list.
pub const LIST_ENTRIES: usize = 1 << 20;
/// Name of the program.
pub const PROGRAM: &str = "pooltime_xdp";
/// Name of the same program for frames in several buffers.
pub const PROGRAM_FRAGS: &str = "pooltime_frags";
/// Name of the program's constant that selects the entry of the counters and of [`State::stations`].
pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";

/// Number of slots for values that are written while they are read.
pub const SLOTS: usize = 2;
/// Largest number of interfaces to which a server is attached: a power of two.
pub const INTERFACES: usize = 8;
/// Number of families.
pub const FAMILIES: usize = verdict::Family::ALL.len();
/// Shortest time between two flips.
pub const FLIP_INTERVAL_MS: u64 = 10;

/// Everything that the daemon publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// The value [`MAGIC`].
    pub magic: u64,
    /// Index of the clock slot in force, modulo [`SLOTS`].
    pub clock: u32,
    /// Index of the address table in force, modulo [`SLOTS`].
    pub served: u32,
    /// For each entry of [`COUNTERS`], the index of the interface that it counts for, 0 if none.
    pub interfaces: [u32; INTERFACES],
    /// The clock slots, in the layout of [`crate::ClockState::to_words`].
    pub clocks: [[u64; WORDS]; SLOTS],
    /// Address tables.
    pub tables: [ServedTable; SLOTS],
    /// The stations of the interface of each entry of [`COUNTERS`]. They exist once, like the limits.
    pub stations: [StationTable; INTERFACES],
    /// For each of [`crate::Family::ALL`], the moment of `CLOCK_MONOTONIC` until which no other process than the daemon
    /// is known to have port 123. The daemon moves it on as long as it looks. It passes soon after the daemon has ended, so
    /// that a time daemon that takes the port then receives what it waits for.
    pub port_ours_until_ns: [u64; FAMILIES],
    /// Which sources are limited, and how.
    pub policy: Policy,
}

impl State {
    /// The state before anything is published: no address is served, and the clock is unsynchronised.
    #[expect(clippy::large_stack_arrays, reason = "a constant, which is put on the heap where it is used")]
    pub const EMPTY: Self = Self {
        magic: MAGIC,
        clock: 0,
        served: 0,
        interfaces: [0; INTERFACES],
        clocks: [[0; WORDS]; SLOTS],
        tables: [ServedTable::EMPTY; SLOTS],
        stations: [StationTable::EMPTY; INTERFACES],
        port_ours_until_ns: [0; FAMILIES],
        policy: Policy::OFF,
    };
}

/// Packets and bytes of one counter. Bytes are those of frames as the program sees them, from the Ethernet
/// header on; an answer is as long as its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Number of frames.
    pub packets: u64,
    /// Number of bytes in these frames.
    pub bytes: u64,
}

/// All counters of an interface, by [`crate::Outcome::counter`].
pub type Counters = [Count; verdict::COUNTERS];

/// What a CPU has spent; only its program writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Spent {
    /// The bucket of the kisses of death, see [`crate::limiter`].
    pub kisses: u64,
    /// The bucket of answers, see [`crate::budget`].
    pub answers: u64,
    /// Samples reported since the map was made.
    pub samples: u64,
}

/// What a CPU may spend; only the daemon writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Grant {
    /// What an answer costs.
    pub cost: Cost,
    /// The value that [`Spent::samples`] may reach.
    pub samples: u64,
}
