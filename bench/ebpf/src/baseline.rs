//! Programs that the server is measured against and tested with: the least that XDP can do, the least that an
//! answer can be, the means to run a program on the same frame again and again, and a flood.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "the target has atomic instructions, but no fetch_add in core")]

mod object;

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use bench_ebpf::alternation::Turns;
use responder::checksum::Sum;
use responder::limiter::{Buckets, Class, Decision, Policy, Source, WAYS, decide};
use responder::{Packet as _, ethernet};
use xdp_ebpf::{Frame, Word};

/// Number of 64-bit words that `rearm` writes. A frame must have as many: an IPv6 request is 110 bytes long.
const WORDS: usize = 14;
/// Length of that frame in bytes.
const FRAME: usize = WORDS * 8;

/// The frame that each run starts from.
#[btf_map]
static BL_FRAME: Array<[u64; WORDS], 1> = Array::new();

/// Number of runs of `flood`.
#[btf_map]
static BL_RUNS: Array<u64, 1> = Array::new();

/// How often each CPU has gone on to a program under measurement, and whose turn it is.
#[btf_map]
static BL_TURNS: PerCpuArray<Turns, 1> = PerCpuArray::new();

/// Entry 0 is the program under measurement, entry 1 the one that takes turns with it.
#[btf_map]
static BL_MEASURED: ProgramArray<2> = ProgramArray::new();

/// Number of sources that a limiter on its own has room for: as many as the server's by default.
const SOURCES: usize = 1 << 16;

/// The kernel's own table of sources, for `lru`.
#[btf_map]
static BL_LRU: LruHashMap<u64, u64, SOURCES> = LruHashMap::new();

/// The server's table of sources, for `table`.
#[btf_map]
static BL_TABLE: Array<[u64; WAYS], { SOURCES / WAYS }> = Array::new();

/// What `flood` sends: the interface, the interval between frames in units of 2^-16 ns, the first and the
/// last moment on `CLOCK_MONOTONIC`, and 1 if each frame has another source.
#[btf_map]
static BL_FLOOD: Array<[u64; 5], 1> = Array::new();

/// The first bytes of the random addresses that an IPv4 flood comes from. No host of a lab has such an
/// address.
const FLOOD_IPV4: core::ops::RangeInclusive<u8> = 11..=74;
/// The first two bytes of IPv6 addresses; the frame that `flood` is given must have them.
const FLOOD_IPV6: [u8; 2] = [0x20, 0x01];

/// The least that a program can do.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The least that an answer can be: it swaps MAC addresses, IPv4 addresses and UDP ports without looking at
/// them. Swapping changes no checksum.
#[xdp]
fn reflect(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let Some(bytes) = frame.bytes_mut::<42>(0) else {
        return XDP_ABORTED;
    };
    // The two addresses form one word and so do the two ports: rotating it by half its width swaps them.
    if let Some(addresses) = bytes[26..].first_chunk_mut() {
        *addresses = u64::from_ne_bytes(*addresses).rotate_left(32).to_ne_bytes();
    }
    if let Some(ports) = bytes[34..].first_chunk_mut() {
        *ports = u32::from_ne_bytes(*ports).rotate_left(16).to_ne_bytes();
    }
    ethernet::turn_round(&mut frame);
    XDP_TX
}

/// The policy of the limiters on their own: a limit that is never reached.
const POLICY: Policy = Policy {
    key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0],
    set_mask: (SOURCES / WAYS - 1) as u32,
    ..Policy::OFF
};
const RATE: u32 = 10_000;
const BURST: u32 = 36_000_000;

/// A limiter on its own that uses the kernel's LRU hash: a token bucket for each IPv6 source.
#[xdp]
fn lru(context: XdpContext) -> u32 {
    const INTERVAL_NS: u64 = 1_000_000_000 / RATE as u64;
    const WINDOW_NS: u64 = INTERVAL_NS * BURST as u64;
    let Some(source) = source(&context) else {
        return XDP_ABORTED;
    };
    // SAFETY: the helper takes nothing.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let source = u64::from_ne_bytes(source);
    let Some(bucket) = BL_LRU.get_ptr_mut(source) else {
        return if BL_LRU.insert(source, now_ns + INTERVAL_NS, 0).is_ok() { XDP_TX } else { XDP_ABORTED };
    };
    // SAFETY: a map value, aligned to eight bytes; other CPUs may write it, but always as a whole.
    let full_ns = unsafe { core::ptr::read_volatile(bucket) };
    let full_ns = if full_ns > now_ns { full_ns } else { now_ns } + INTERVAL_NS;
    if full_ns > now_ns + WINDOW_NS {
        return XDP_DROP;
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(bucket, full_ns) };
    XDP_TX
}

/// The server's limiter on its own, with IPv6 sources.
#[xdp]
fn table(context: XdpContext) -> u32 {
    let Some(class) = Class::new(RATE, BURST) else {
        return XDP_ABORTED;
    };
    let Some(source) = source(&context) else {
        return XDP_ABORTED;
    };
    let mut address = [0; 16];
    address[..8].copy_from_slice(&source);
    // SAFETY: the helper takes nothing.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match decide(&Table, &POLICY, class, Source::ipv6(address, &POLICY), now_ns, 0).decision {
        Decision::Answer => XDP_TX,
        _ => XDP_DROP,
    }
}

/// Returns the upper half of the IPv6 source address.
#[inline(always)]
fn source(context: &XdpContext) -> Option<[u8; 8]> {
    Frame::new(context).bytes::<8>(22).copied()
}

/// The server's table of sources, for `table`.
struct Table;

impl Buckets for Table {
    type Bucket = Word;

    #[inline(always)]
    fn set(&self, number: u32) -> Option<&[Word; WAYS]> {
        // SAFETY: a map value, aligned to eight bytes, that is never freed while the program is loaded; a
        // `Word` has the layout of a `u64`.
        BL_TABLE.get_ptr_mut(number).map(|set| unsafe { &*set.cast::<[Word; WAYS]>() })
    }
}

/// Writes the frame anew and goes on to the program under measurement. `BPF_PROG_TEST_RUN` with a repeat
/// count gives a program its own output: an answered request would be measured once, and from then on its
/// answer, which is not a request.
#[xdp]
fn rearm(context: XdpContext) -> u32 {
    write_anew(&context, Scatter::None)
}

/// Works like `rearm` and changes the IPv6 source each time: the six bytes behind the first two of the
/// address. IPv6 headers have no checksum, and nothing checks the one of UDP.
#[xdp]
fn rearm_scattered(context: XdpContext) -> u32 {
    write_anew(&context, Scatter::Ipv6)
}

/// Works like `rearm` and changes the IPv4 source each time: all of its bytes but the first. The header's
/// checksum stays right.
#[xdp]
fn rearm_scattered_ipv4(context: XdpContext) -> u32 {
    write_anew(&context, Scatter::Ipv4)
}

/// Which source changes with each run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scatter {
    None,
    Ipv4,
    Ipv6,
}

#[inline(always)]
fn write_anew(context: &XdpContext, scatter: Scatter) -> u32 {
    let mut frame = Frame::new(context);
    let (Some(original), Some(turns), Some(bytes)) =
        (BL_FRAME.get_ptr(0), BL_TURNS.get_ptr_mut(0), frame.bytes_mut::<FRAME>(0))
    else {
        return XDP_ABORTED;
    };
    // SAFETY: this CPU's map value, which nothing else touches while this program runs.
    let turns = unsafe { &mut *turns };
    let run = turns.runs;
    for (index, bytes) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: the map's value has as many words as the frame has chunks. The read is volatile because the
        // compiler would otherwise turn the loop into a call of memcpy, which copies byte by byte.
        *bytes = unsafe { core::ptr::read_volatile(original.cast::<u64>().add(index)) }.to_ne_bytes();
    }
    if scatter != Scatter::None {
        let random = run.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).to_ne_bytes();
        if scatter == Scatter::Ipv6 {
            bytes[24..30].copy_from_slice(&random[..6]);
        } else {
            // The checksum is updated by the difference: the old three bytes are taken out and the new ones
            // put in (RFC 1624).
            let old = Sum::ZERO.word([0, !bytes[27], !bytes[28], !bytes[29]]);
            let checksum =
                old.word([0, random[0], random[1], random[2]]).word([!bytes[24], !bytes[25], 0, 0]);
            let checksum = checksum.number(0xff00).checksum();
            bytes[24..26].copy_from_slice(&checksum);
            bytes[27..30].copy_from_slice(&random[..3]);
        }
    }
    // SAFETY: an aligned map value. The instruction is atomic for its side effect: it waits until the frame
    // is in the cache. The program under measurement must not find its frame halfway in the store buffer,
    // where no driver leaves one. Nor may it start while the copy still runs, for then the difference of two
    // runs would not be its cost.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(&raw mut turns.runs, 1) };
    if turns.is_due(run) {
        // SAFETY: the helper takes nothing.
        turns.note(unsafe { bpf_ktime_get_ns() });
    }
    // The kernel turns a tail call into a direct jump if its index is a constant.
    if turns.second == 0 {
        // SAFETY: the context is this program's own; without an entry the call falls through.
        unsafe { BL_MEASURED.tail_call(context, 0) };
        // SAFETY: it contains no instruction. It keeps the compiler from merging the two calls into one.
        unsafe { asm!("") };
    } else {
        // SAFETY: as above.
        unsafe { BL_MEASURED.tail_call(context, 1) };
    }
    XDP_ABORTED
}

/// Makes a live frame the next one of a flood if one is due and sends it; drops the frame if none is due.
#[xdp]
fn flood(context: XdpContext) -> u32 {
    let (Some(plan), Some(original), Some(runs)) = (BL_FLOOD.get(0), BL_FRAME.get(0), BL_RUNS.get_ptr_mut(0))
    else {
        return XDP_ABORTED;
    };
    let [interface, interval, start_ns, end_ns, scattered] = *plan;
    // SAFETY: an aligned map value that one generator at a time changes; the helper takes nothing.
    let (run, now_ns) = unsafe { (core::ptr::read_volatile(runs), bpf_ktime_get_ns()) };
    if now_ns >= end_ns || now_ns < start_ns.wrapping_add(run.wrapping_mul(interval) >> 16) {
        return XDP_DROP;
    }
    let scatter = if scattered == 0 { 0 } else { run.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) };
    let mut frame = Frame::new(&context);
    let ethertype = original[1].to_ne_bytes();
    let written = if [ethertype[4], ethertype[5]] == [0x08, 0x00] {
        frame.bytes_mut::<90>(0).map(|bytes| {
            write_whole(bytes, original);
            if scatter != 0 {
                let [_, a, b, c, d, ..] = scatter.to_be_bytes();
                bytes[26..30].copy_from_slice(&[FLOOD_IPV4.start() + (a & 63), b, c, d]);
            }
            let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            let sum = Sum::ZERO.word(word(14)).word(word(18)).word([bytes[22], bytes[23], 0, 0]);
            let checksum = sum.word(word(26)).word(word(30)).checksum();
            bytes[24..26].copy_from_slice(&checksum);
        })
    } else {
        frame.bytes_mut::<110>(0).map(|bytes| {
            write_whole(bytes, original);
            if scatter != 0 {
                let random = scatter.rotate_left(32).to_ne_bytes();
                bytes[24..30].copy_from_slice(&random[..6]);
            }
        })
    };
    if written.is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: as above.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(runs, 1) };
    // SAFETY: the helper takes plain numbers.
    unsafe { bpf_redirect(interface as u32, 0).cast_unsigned() as u32 }
}

/// Drops the answers to a flood's random sources, which no host waits for, before they cost more.
#[xdp]
fn sink(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    let for_nobody = match frame.bytes::<40>(0) {
        Some(bytes) if [bytes[12], bytes[13]] == [0x08, 0x00] => FLOOD_IPV4.contains(&bytes[30]),
        Some(bytes) if [bytes[12], bytes[13]] == [0x86, 0xdd] => [bytes[38], bytes[39]] == FLOOD_IPV6,
        _ => false,
    };
    if for_nobody { XDP_DROP } else { XDP_PASS }
}

/// Writes the whole frame, because it comes back from the last round as the server left it.
#[inline(always)]
fn write_whole<const LENGTH: usize>(bytes: &mut [u8; LENGTH], original: &[u64; WORDS]) {
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    let mut written = 0;
    for chunk in chunks {
        // SAFETY: a frame has no more words than the map's value. The read is volatile so that it does not
        // become a call of memcpy, which copies byte by byte.
        *chunk = unsafe { core::ptr::read_volatile(original.as_ptr().add(written)) }.to_ne_bytes();
        written += 1;
    }
    // SAFETY: as above; there is a last word wherever there is a remainder.
    let last = unsafe { core::ptr::read_volatile(original.as_ptr().add(written)) }.to_ne_bytes();
    for (byte, last) in rest.iter_mut().zip(last) {
        *byte = last;
    }
}
