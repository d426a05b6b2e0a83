//! The NTP server in the NIC path: `responder::respond` between a frame and the maps.
#![no_std]
#![no_main]

mod frame;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use responder::layout::{Counters, INTERFACES, State};
use responder::verdict::{Action, Outcome, Verdict};
use responder::{ClockState, Packet as _, Published, ServedTable, Server};

#[btf_map]
static PT_STATE: Array<State, 1> = Array::new();

#[btf_map]
static PT_COUNTERS: PerCpuArray<Counters, INTERFACES> = PerCpuArray::new();

/// Under which entry of the counters this instance counts. The loader sets it.
#[unsafe(no_mangle)]
static INTERFACE_SLOT: u32 = 0;

/// The entry point: see [`responder::respond`].
#[xdp]
fn pooltime_xdp(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let outcome = responder::respond(&mut frame, &Host);
    if outcome.verdict != Verdict::NotNtp {
        count(outcome, frame.length());
    }
    match outcome.verdict.action() {
        Action::Transmit => XDP_TX,
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
    }
}

/// The host, for `responder`.
struct Host;

/// What control publishes, in the map.
struct Map(&'static State);

impl Server for Host {
    type Published<'a> = Map;

    #[inline(always)]
    fn published(&self) -> Option<Map> {
        PT_STATE.get(0).map(Map)
    }

    #[inline(always)]
    fn monotonic_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and is allowed in XDP programs.
        unsafe { bpf_ktime_get_ns() }
    }
}

impl Published for Map {
    #[inline(always)]
    fn served(&self) -> &ServedTable {
        let [first, second] = &self.0.tables;
        if self.0.served & 1 == 0 { first } else { second }
    }

    #[inline(always)]
    fn clock(&self) -> Option<ClockState> {
        let [first, second] = &self.0.clocks;
        let slot = if self.0.clock & 1 == 0 { first } else { second };
        let word = |index: usize| {
            // SAFETY: the slot has WORDS words and `index` is below that. Volatile, because control writes
            // to the map while programs run: the sequence number has to be read twice.
            unsafe { core::ptr::read_volatile(slot.as_ptr().add(index)) }
        };
        let sequence = word(7);
        let words = [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
        (words[7] == sequence).then(|| ClockState::from_words(words))
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
