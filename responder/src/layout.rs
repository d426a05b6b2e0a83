//! The maps that the eBPF program and the daemon share.
//!
//! | map | type | entries |
//! |---|---|---|
//! | [`STATE`] | array | one [`State`]: clock, addresses and limits |
//! | [`COUNTERS`] | per-CPU array | for each interface the [`Counters`] |
//! | [`BUCKETS`] | array | the limiter's sets of [`crate::limiter::WAYS`] words; as many as the daemon says |
//! | [`SPENT`] | per-CPU array | one [`Spent`]: what the CPU has taken of what there is for it |
//! | [`GRANTS`] | per-CPU array | one [`Grant`]: what the daemon allows it |
//! | [`SAMPLES`] | ring buffer | [`crate::sample::Sample`], from the program to the daemon |
//! | [`BLOCKS_IPV4`] | array | a bit for each IPv4 /24 that [`LIST_IPV4`] says anything about |
//! | [`LIST_IPV4`], [`LIST_IPV6`] | LPM trie | [`crate::Access`] by source prefix |
//!
//! Clock and addresses stand in two slots each. The daemon writes the slot that is not in force and then
//! flips the index, by two updates of the whole value; the bytes that do not change are written anew with
//! what they are, which no reader can tell. A reader runs in softirq for less than a microsecond and flips
//! are at least [`FLIP_INTERVAL_MS`] apart, so it would have to be held up for that long between its reading
//! of the index and of the slot to meet a half-written one. A virtual CPU may be: for that the clock's
//! sequence number is read before and after the rest of the slot.
//!
//! The limits stand there once. Each of their words means something by itself, so that a reader who meets the
//! first of them new and the last of them old decides by a policy that is as good as either.
//!
//! One value and not a map for each, because every look-up costs a packet a nanosecond or two.

use crate::clock::WORDS;
use crate::limiter::Policy;
use crate::{ServedTable, verdict};

/// Goes up with every change to a map's layout or to the meaning of what is in it.
pub const VERSION: u32 = 5;
/// The first word of [`State`]: "PTXD" and [`VERSION`].
pub const MAGIC: u64 = 0x5054_5844_0000_0000 | VERSION as u64;

/// Name of the map of the one [`State`].
pub const STATE: &str = "PT_STATE";
/// Name of the map of counters.
pub const COUNTERS: &str = "PT_COUNTERS";
/// Name of the map of the limiter's buckets.
pub const BUCKETS: &str = "PT_BUCKETS";
/// Name of the map of what each CPU has spent.
pub const SPENT: &str = "PT_SPENT";
/// Name of the map of what each CPU may spend.
pub const GRANTS: &str = "PT_GRANTS";
/// Name of the ring buffer of samples.
pub const SAMPLES: &str = "PT_SAMPLES";
/// Bytes of the ring buffer: a power of two, and a multiple of the page size of any machine.
pub const SAMPLES_BYTES: usize = 1 << 16;
/// Name of the IPv4 access list.
pub const LIST_IPV4: &str = "PT_LIST_IPV4";
/// Name of the IPv6 access list.
pub const LIST_IPV6: &str = "PT_LIST_IPV6";
/// Name of the map of the /24s that the IPv4 access list is asked about.
pub const BLOCKS_IPV4: &str = "PT_BLOCKS_IPV4";
/// The most entries of an access list.
pub const LIST_ENTRIES: usize = 1 << 20;
/// Name of the program.
pub const PROGRAM: &str = "pooltime_xdp";
/// Name of the same program for frames in several buffers.
pub const PROGRAM_FRAGS: &str = "pooltime_frags";
/// Name of the program's constant that says under which interface it counts.
pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";

/// Slots of what is written while it is read.
pub const SLOTS: usize = 2;
/// The most interfaces a server is attached to.
pub const INTERFACES: usize = 8;
/// Flips are at least this far apart.
pub const FLIP_INTERVAL_MS: u64 = 10;

/// Everything that the daemon publishes.
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
    /// [`crate::ClockState::to_words`].
    pub clocks: [[u64; WORDS]; SLOTS],
    /// Address tables.
    pub tables: [ServedTable; SLOTS],
    /// Which sources are limited, and how.
    pub policy: Policy,
}

impl State {
    /// Nothing published: no address is served, and the clock is unsynchronised.
    pub const EMPTY: Self = Self {
        magic: MAGIC,
        clock: 0,
        served: 0,
        interfaces: [0; INTERFACES],
        clocks: [[0; WORDS]; SLOTS],
        tables: [ServedTable::EMPTY; SLOTS],
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
    /// Their bytes.
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
    /// What an answer costs by family, see [`crate::budget::Allowance::cost`].
    pub costs: [u64; 2],
    /// The number that [`Spent::samples`] may reach.
    pub samples: u64,
}
