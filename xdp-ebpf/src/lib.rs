//! The compiled eBPF program, for the code that loads it.
//!
//! The program itself is this package's binary `pooltime.rs`, built for the eBPF target by build.rs: it answers NTP
//! requests by giving `responder::respond` the frame, the maps and the clock. For that target, this library is what
//! the program shares with those of the bench.
#![cfg_attr(target_arch = "bpf", no_std)]

#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod word;

#[cfg(target_arch = "bpf")]
pub use frame::Frame;
#[cfg(target_arch = "bpf")]
pub use word::Word;

/// The ELF object of the NTP server; its program is `responder::layout::PROGRAM`.
#[cfg(not(target_arch = "bpf"))]
pub static POOLTIME: &[u8] = {
    /// Bytes aligned as the headers of an ELF file require.
    #[repr(C, align(8))]
    struct Aligned<T: ?Sized>(T);

    static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pooltime")));
    &BYTES.0
};
