//! Programs that the bench measures the server against: the least that XDP can do, the least that an
//! answer can be, and the means to run a program on the same frame again and again.
#![no_std]
#![no_main]

mod frame;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frame::Frame;
use responder::Packet as _;

/// Bytes that `rearm` writes; the frames of a measurement are as long.
const FRAME: usize = 128;

/// The frame that each run starts from.
#[btf_map]
static YS_FRAME: Array<[u8; FRAME], 1> = Array::new();

/// The program under measurement, as entry 0.
#[btf_map]
static YS_MEASURED: ProgramArray<1> = ProgramArray::new();

/// The least a program can do.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The least an answer can be: addresses and ports swapped, without a look at what they are. Swapping
/// changes no checksum.
#[xdp]
fn reflect(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let Some(bytes) = frame.bytes_mut::<42>(0) else {
        return XDP_ABORTED;
    };
    for index in 0..6 {
        bytes.swap(index, index + 6);
    }
    for index in 26..30 {
        bytes.swap(index, index + 4);
    }
    for index in 34..36 {
        bytes.swap(index, index + 2);
    }
    XDP_TX
}

/// Writes the frame anew and goes on to the program under measurement. `BPF_PROG_TEST_RUN` with a repeat
/// count feeds a program its own output: an answered request would be measured once and its answer, which
/// is no request, ever after.
#[xdp]
fn rearm(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let (Some(original), Some(bytes)) = (YS_FRAME.get(0), frame.bytes_mut::<FRAME>(0)) else {
        return XDP_ABORTED;
    };
    *bytes = *original;
    // SAFETY: the context is this program's own; without an entry the call falls through.
    let _missing = unsafe { YS_MEASURED.tail_call(&context, 0) };
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
