//! The NTP server in the NIC path: `responder::respond` between a frame and the maps.
#![no_std]
#![no_main]

mod frame;

use core::cell::Cell;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use responder::layout::{Counters, INTERFACES, SLOTS, State};
use responder::verdict::{Action, Outcome, Verdict};
use responder::{ClockState, Packet as _, ServedTable, Server, clock};

#[btf_map]
static PT_STATE: Array<State, 1> = Array::new();

#[btf_map]
static PT_CLOCK: Array<[u64; clock::WORDS], SLOTS> = Array::new();

#[btf_map]
static PT_SERVED: Array<ServedTable, SLOTS> = Array::new();

#[btf_map]
static PT_COUNTERS: PerCpuArray<Counters, INTERFACES> = PerCpuArray::new();

/// Under which entry of the counters this instance counts. The loader sets it.
#[unsafe(no_mangle)]
static INTERFACE_SLOT: u32 = 0;

/// The entry point: see [`responder::respond`].
#[xdp]
fn pooltime_xdp(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let outcome = responder::respond(&mut frame, &Maps { state: Cell::new(None) });
    if outcome.verdict != Verdict::NotNtp {
        count(outcome, frame.length());
    }
    match outcome.verdict.action() {
        Action::Transmit => XDP_TX,
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
    }
}

/// The server's state, as control publishes it.
struct Maps {
    /// Looked up with the addresses: the clock is asked for after them.
    state: Cell<Option<&'static State>>,
}

impl Server for Maps {
    #[inline(always)]
    fn served(&self) -> Option<&ServedTable> {
        let state = PT_STATE.get(0)?;
        self.state.set(Some(state));
        PT_SERVED.get(state.served & (SLOTS as u32 - 1))
    }

    #[inline(always)]
    fn clock(&self) -> Option<ClockState> {
        let slot = PT_CLOCK.get_ptr(self.state.get()?.clock & (SLOTS as u32 - 1))?;
        let word = |index: usize| {
            // SAFETY: the map's value has WORDS words and `index` is below that. Volatile, because control
            // writes to the map while programs run: the sequence number has to be read twice.
            unsafe { core::ptr::read_volatile(slot.cast::<u64>().add(index)) }
        };
        let sequence = word(7);
        let words = [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
        (words[7] == sequence).then(|| ClockState::from_words(words))
    }

    #[inline(always)]
    fn monotonic_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and is allowed in XDP programs.
        unsafe { bpf_ktime_get_ns() }
    }
}

#[inline(always)]
fn count(outcome: Outcome, bytes: usize) {
    // SAFETY: a static of the object; volatile, because the loader changes it after the compiler has seen it.
    let interface = unsafe { core::ptr::read_volatile(&raw const INTERFACE_SLOT) };
    if let Some(counters) = PT_COUNTERS.get_ptr_mut(interface) {
        // SAFETY: the entry is this CPU's, and softirq does not interrupt itself; the index is below the
        // length of the array.
        let count = unsafe { &mut *counters.cast::<responder::layout::Count>().add(outcome.counter()) };
        count.packets = count.packets.wrapping_add(1);
        count.bytes = count.bytes.wrapping_add(bytes as u64);
    }
}

/// Cannot be reached: the verifier would refuse the loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_ktime_get_ns` is for GPL-compatible programs only before Linux 5.8; MIT is compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
