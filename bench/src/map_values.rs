//! Values of the server's maps as the kernel takes them. This is the one place in the bench that promises
//! something about bytes in memory.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait: see the SAFETY lines")]

use aya::Pod;
use responder::Policy;
use responder::clock::WORDS;
use responder::layout::{FAMILIES, INTERFACES, OTHER, SLOTS, State};
use responder::{ServedTable, StationTable};

/// A value of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Value<T>(pub T);

// SAFETY: `repr(C)` of u64 and u32 in an order that leaves no padding; every bit pattern is valid.
unsafe impl Pod for Value<State> {}

// SAFETY: `repr(C)` with nothing but u64.
unsafe impl Pod for Value<bench_ebpf::load_token::Plan> {}

// SAFETY: as above.
unsafe impl Pod for Value<bench_ebpf::alternation::Turns> {}

const _: () = assert!(
    size_of::<State>()
        == 8 + 4
            + 4
            + 4 * INTERFACES
            + size_of::<[[u64; WORDS]; SLOTS]>()
            + 8 * OTHER
            + size_of::<[ServedTable; SLOTS]>()
            + size_of::<[StationTable; INTERFACES]>()
            + 8 * FAMILIES
            + size_of::<Policy>()
);
