//! Programs that the bench measures the server against: the least that XDP can do, the least that an
//! answer can be, and the means to run a program on the same frame again and again.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the target has atomic instructions, but no fetch_add in core")]

mod frame;

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
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

/// Cannot be reached: the verifier would refuse the loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
