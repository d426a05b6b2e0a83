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
//!
//! # Changing a layout
//!
//! A daemon of another build takes over from the one before it while the program answers, an older build from a newer
//! one, too. So each map has a format number of its own: [`VERSION`] is that of [`State`], and [`FORMATS`] has those
//! of the others. A number increases with every change to its map's layout or to the meaning of its content, and no
//! number is used twice. A map whose number stays is carried over, and one with a new number begins anew.
//!
//! [`Head`] never changes. It is what every build understands of every other one's [`State`].

use core::mem::offset_of;

use crate::budget::Cost;
use crate::clock::WORDS;
use crate::limiter::Policy;
use crate::{ServedTable, StationTable, verdict};

/// Format of [`State`].
pub const VERSION: u32 = if cfg!(feature = "other-layout") { 1000 + NUMBER } else { NUMBER };
const NUMBER: u32 = 8;
/// The upper half of the first word of every [`State`]: "PTXD".
const KIND: u64 = 0x5054_5844;
/// The first word of [`State`]: "PTXD" and [`VERSION`].
pub const MAGIC: u64 = KIND << 32 | VERSION as u64;

/// Formats of the other maps.
pub const FORMATS: [(&str, u32); 10] = [
    (COUNTERS, if cfg!(feature = "other-layout") { 1001 } else { 1 }),
    (BUCKETS, 1),
    (KNOWN, 1),
    (TRIES, 1),
    (SPENT, 1),
    (GRANTS, 1),
    (SAMPLES, 1),
    (BLOCKS_IPV4, 1),
    (LIST_IPV4, 1),
    (LIST_IPV6, 1),
];

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
/// Words of [`State`] that other builds do not have.
pub const OTHER: usize = if cfg!(feature = "other-layout") { 5 } else { 0 };

/// The beginning of [`State`], which every build understands whatever the format of the rest is: its layout and its
/// meaning never change, and neither do [`INTERFACES`], [`SLOTS`] and the layout of [`crate::ClockState::to_words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// "PTXD" and the format of the [`State`], the value [`MAGIC`] in that of this build. Zero before anything is
    /// published.
    pub magic: u64,
    /// Index of the clock slot in force, modulo [`SLOTS`].
    pub clock: u32,
    /// Index of the address table in force, modulo [`SLOTS`].
    pub served: u32,
    /// For each entry of [`COUNTERS`], the index of the interface that it counts for, 0 if none.
    pub interfaces: [u32; INTERFACES],
    /// The clock slots, in the layout of [`crate::ClockState::to_words`].
    pub clocks: [[u64; WORDS]; SLOTS],
}

impl Head {
    /// Before anything is published: the clock is unsynchronised.
    pub const EMPTY: Self =
        Self { magic: MAGIC, clock: 0, served: 0, interfaces: [0; INTERFACES], clocks: [[0; WORDS]; SLOTS] };

    /// Reads the head of a [`State`] of any format, or returns nothing if the value is too short for one or was not
    /// written by this server.
    #[must_use]
    pub fn of_any(state: &[u8]) -> Option<Self> {
        let magic = u64::from_ne_bytes(*state.first_chunk()?);
        let words = |at: usize| state.get(at..).unwrap_or_default().chunks_exact(size_of::<u64>());
        let halves = |at: usize| state.get(at..).unwrap_or_default().chunks_exact(size_of::<u32>());
        let half = |at| halves(at).next()?.try_into().map(u32::from_ne_bytes).ok();
        let mut head = Self {
            magic,
            clock: half(offset_of!(Self, clock))?,
            served: half(offset_of!(Self, served))?,
            ..Self::EMPTY
        };
        let mut indices = halves(offset_of!(Self, interfaces));
        for index in &mut head.interfaces {
            *index = u32::from_ne_bytes(indices.next()?.try_into().ok()?);
        }
        let mut words = words(offset_of!(Self, clocks));
        for word in head.clocks.iter_mut().flatten() {
            *word = u64::from_ne_bytes(words.next()?.try_into().ok()?);
        }
        (magic == 0 || magic >> 32 == KIND).then_some(head)
    }

    /// The format of the [`State`] that this is the head of; 0 before anything is published.
    #[must_use]
    pub const fn version(&self) -> u32 {
        (self.magic & 0xffff_ffff) as u32
    }

    /// The clock line in force, in the layout of [`crate::ClockState::to_words`].
    #[must_use]
    pub const fn line(&self) -> [u64; WORDS] {
        let [first, second] = self.clocks;
        if self.clock & 1 == 0 { first } else { second }
    }
}

/// Everything that the daemon publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// What never changes: whose this is, and the clock.
    pub head: Head,
    /// Only where another build is needed: everything after it is elsewhere.
    #[cfg(feature = "other-layout")]
    pub other: [u64; OTHER],
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
        head: Head::EMPTY,
        #[cfg(feature = "other-layout")]
        other: [0; OTHER],
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

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// Of a head as a build of another layout wrote it: [`Head`] written again, because it is a promise.
    fn written(magic: u64) -> Vec<u8> {
        let mut bytes = Vec::from(magic.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(4_u32.to_ne_bytes());
        (10..18_u32).for_each(|index| bytes.extend(index.to_ne_bytes()));
        (100..116_u64).for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn the_head_of_a_state_of_any_format_is_read() {
        let mut state = written(0x5054_5844_0000_1267);
        state.extend([9; 100]);
        let head = Head::of_any(&state).unwrap();
        assert_eq!((head.version(), head.clock, head.served), (0x1267, 3, 4));
        assert_eq!(head.interfaces, [10, 11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(head.line(), [108, 109, 110, 111, 112, 113, 114, 115]);
        assert_eq!(Head { clock: 2, ..head }.line(), [100, 101, 102, 103, 104, 105, 106, 107]);
        assert_eq!(offset_of!(State, head), 0);
        assert_eq!(size_of::<Head>(), written(0).len());
    }

    #[test]
    fn what_is_too_short_or_somebody_else_s_has_no_head() {
        let whole = written(MAGIC);
        assert!(Head::of_any(&whole).is_some());
        assert!(
            Head::of_any(&written(0)).is_some_and(|head| head.version() == 0),
            "nothing is published yet"
        );
        assert_eq!(Head::of_any(&written(MAGIC ^ 1 << 32)), None);
        for length in 0..whole.len() {
            assert_eq!(whole.get(..length).and_then(Head::of_any), None, "{length} bytes");
        }
    }

    /// Whoever has to change this test has to choose a new number, too: one that no earlier build has used.
    #[test]
    #[cfg(not(feature = "other-layout"))]
    fn a_map_whose_values_change_has_another_number() {
        let size = |name| match name {
            COUNTERS => size_of::<Counters>(),
            SPENT => size_of::<Spent>(),
            GRANTS => size_of::<Grant>(),
            BUCKETS | KNOWN | TRIES => size_of::<[u64; crate::limiter::WAYS]>(),
            SAMPLES => size_of::<crate::sample::Sample>(),
            BLOCKS_IPV4 => size_of::<[u64; crate::access::BLOCK_WORDS]>(),
            _ => size_of::<u32>(),
        };
        assert_eq!((VERSION, size_of::<State>()), (8, 45_488));
        assert_eq!(
            FORMATS.map(|(name, format)| (name, format, size(name))),
            [
                (COUNTERS, 1, 8192),
                (BUCKETS, 1, 32),
                (KNOWN, 1, 32),
                (TRIES, 1, 32),
                (SPENT, 1, 24),
                (GRANTS, 1, 24),
                (SAMPLES, 1, 40),
                (BLOCKS_IPV4, 1, 64),
                (LIST_IPV4, 1, 4),
                (LIST_IPV6, 1, 4),
            ]
        );
    }
}
