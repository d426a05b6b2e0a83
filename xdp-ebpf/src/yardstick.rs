//! Programs that the server is measured against and tried with: the least that XDP can do, the least that an
//! answer can be, the means to run a program on the same frame again and again, and a flood.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the target has atomic instructions, but no fetch_add in core")]

mod frame;

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use responder::checksum::Sum;
use responder::{Packet as _, ethernet};

/// Words that `rearm` writes, and a frame has to have: an IPv6 request is 110 bytes long.
const WORDS: usize = 14;
/// The same in bytes.
const FRAME: usize = WORDS * 8;

/// The frame that each run starts from.
#[btf_map]
static YS_FRAME: Array<[u64; WORDS], 1> = Array::new();

/// How often `rearm` has run.
#[btf_map]
static YS_RUNS: Array<u64, 1> = Array::new();

/// The program under measurement, as entry 0.
#[btf_map]
static YS_MEASURED: ProgramArray<1> = ProgramArray::new();

/// What `flood` sends: interface, 2^-16 ns from one frame to the next, the moments of `CLOCK_MONOTONIC` from which on
/// and until which, and 1 for another source each time.
#[btf_map]
static YS_FLOOD: Array<[u64; 5], 1> = Array::new();

/// The least a program can do.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The least an answer can be: MAC addresses, IPv4 addresses and UDP ports swapped, without a look at what
/// they are. Swapping changes no checksum.
#[xdp]
fn reflect(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let Some(bytes) = frame.bytes_mut::<42>(0) else {
        return XDP_ABORTED;
    };
    // The two addresses are one word and so are the two ports: a rotation by half of it swaps them.
    if let Some(addresses) = bytes[26..].first_chunk_mut() {
        *addresses = u64::from_ne_bytes(*addresses).rotate_left(32).to_ne_bytes();
    }
    if let Some(ports) = bytes[34..].first_chunk_mut() {
        *ports = u32::from_ne_bytes(*ports).rotate_left(16).to_ne_bytes();
    }
    ethernet::turn_round(&mut frame);
    XDP_TX
}

/// Writes the frame anew and goes on to the program under measurement. `BPF_PROG_TEST_RUN` with a repeat
/// count feeds a program its own output: an answered request would be measured once and its answer, which
/// is no request, ever after.
#[xdp]
fn rearm(context: XdpContext) -> u32 {
    write_anew(&context, false)
}

/// The same with another IPv6 source each time: six bytes behind the first two of the address. IPv6 headers
/// have no checksum, and of UDP's nobody asks.
#[xdp]
fn rearm_scattered(context: XdpContext) -> u32 {
    write_anew(&context, true)
}

#[inline(always)]
fn write_anew(context: &XdpContext, scattered: bool) -> u32 {
    let mut frame = Frame::new(context);
    let (Some(original), Some(runs), Some(bytes)) =
        (YS_FRAME.get_ptr(0), YS_RUNS.get_ptr_mut(0), frame.bytes_mut::<FRAME>(0))
    else {
        return XDP_ABORTED;
    };
    for (index, bytes) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: the map's value has as many words as the frame has chunks. Volatile, because the compiler
        // would make a call of memcpy out of the loop, which copies byte by byte.
        *bytes = unsafe { core::ptr::read_volatile(original.cast::<u64>().add(index)) }.to_ne_bytes();
    }
    if scattered {
        // SAFETY: an aligned map value, read as a whole.
        let run = unsafe { core::ptr::read_volatile(runs) };
        let random = run.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).to_ne_bytes();
        if let (Some(source), Some(random)) = (bytes[24..].first_chunk_mut::<6>(), random.first_chunk()) {
            *source = *random;
        }
    }
    // SAFETY: an aligned map value, only ever changed by this instruction. It is atomic for what an atomic
    // instruction does besides: it waits until the frame is in the cache. The program under measurement
    // must not find its frame halfway in the store buffer, where no driver leaves one, nor start on its
    // work while the copy is still at it, for then the difference of two runs would not be its cost.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(runs, 1) };
    // SAFETY: the context is this program's own; without an entry the call falls through.
    unsafe { YS_MEASURED.tail_call(context, 0) };
    XDP_ABORTED
}

/// Makes a live frame the next one of a flood if one is due, and sends it; drops it if none is.
#[xdp]
fn flood(context: XdpContext) -> u32 {
    let (Some(plan), Some(original), Some(runs)) = (YS_FLOOD.get(0), YS_FRAME.get(0), YS_RUNS.get_ptr_mut(0))
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
                // 11.0.0.0 to 74.255.255.255: none of them is a lab's, or no host's.
                bytes[26..30].copy_from_slice(&[11 + (a & 63), b, c, d]);
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

/// Writes all of a frame: it comes back from the last round as the server left it.
#[inline(always)]
fn write_whole<const LENGTH: usize>(bytes: &mut [u8; LENGTH], original: &[u64; WORDS]) {
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    let mut written = 0;
    for chunk in chunks {
        // SAFETY: a frame has no more words than the map's value. Volatile against a call of memcpy, which copies
        // byte by byte.
        *chunk = unsafe { core::ptr::read_volatile(original.as_ptr().add(written)) }.to_ne_bytes();
        written += 1;
    }
    // SAFETY: as above; there is a last word wherever there is a rest.
    let last = unsafe { core::ptr::read_volatile(original.as_ptr().add(written)) }.to_ne_bytes();
    for (byte, last) in rest.iter_mut().zip(last) {
        *byte = last;
    }
}

/// Cannot be reached: the verifier would refuse the loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
