//! The NTP server in the NIC path: `responder::respond` between a frame and the maps.
#![no_std]
#![no_main]

mod frame;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use core::cell::UnsafeCell;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use responder::layout::{Counters, INTERFACES, LIST_ENTRIES, State};
use responder::limiter::{Bucket, Buckets, TABLE_ENTRIES, WAYS};
use responder::verdict::{Action, Outcome, Verdict};
use responder::{Access, ClockState, Packet as _, Policy, Published, ServedTable, Server};

#[btf_map]
static PT_STATE: Array<State, 1> = Array::new();

#[btf_map]
static PT_COUNTERS: PerCpuArray<Counters, INTERFACES> = PerCpuArray::new();

/// The loader makes it larger.
#[btf_map]
static PT_BUCKETS: Array<[u64; WAYS], { *TABLE_ENTRIES.start() as usize / WAYS }> = Array::new();

#[btf_map]
static PT_KISSES: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map]
static PT_LIST_IPV4: LpmTrie<[u8; 4], u32, LIST_ENTRIES> = LpmTrie::new();

#[btf_map]
static PT_LIST_IPV6: LpmTrie<[u8; 16], u32, LIST_ENTRIES> = LpmTrie::new();

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

    #[inline(always)]
    fn access_ipv4(&self, source: [u8; 4]) -> Access {
        access(PT_LIST_IPV4.get(&Key::new(32, source)))
    }

    #[inline(always)]
    fn access_ipv6(&self, source: [u8; 16]) -> Access {
        access(PT_LIST_IPV6.get(&Key::new(128, source)))
    }
}

#[inline(always)]
fn access(entry: Option<&u32>) -> Access {
    entry.map_or(Access::Ordinary, |value| Access::from_u32(*value))
}

/// A word of a map.
#[repr(transparent)]
struct Word(UnsafeCell<u64>);

impl Bucket for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: an aligned word in a map. Volatile, because other CPUs write it at any time: one load
        // instruction, whose value nothing is assumed about.
        unsafe { core::ptr::read_volatile(self.0.get()) }
    }

    #[inline(always)]
    fn store(&self, word: u64) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(self.0.get(), word) }
    }
}

impl Buckets for Host {
    type Bucket = Word;

    #[inline(always)]
    fn set(&self, number: u32) -> Option<&[Word; WAYS]> {
        // SAFETY: a map value, aligned to eight bytes, that is never freed while the program is loaded; a
        // `Word` has the layout of a `u64`.
        PT_BUCKETS.get_ptr_mut(number).map(|set| unsafe { &*set.cast::<[Word; WAYS]>() })
    }

    #[inline(always)]
    fn kisses(&self) -> Option<&Word> {
        // SAFETY: as above.
        PT_KISSES.get_ptr_mut(0).map(|bucket| unsafe { &*bucket.cast::<Word>() })
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

    #[inline(always)]
    fn policy(&self) -> &Policy {
        &self.0.policy
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
