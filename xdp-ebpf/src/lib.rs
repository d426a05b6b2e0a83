//! The compiled eBPF programs, for whoever loads them.
//!
//! The programs themselves are this package's binaries, built for the eBPF target by build.rs:
//! - `pooltime.rs` answers NTP requests: it gives `responder::respond` the frame, the maps and the clock;
//! - `yardstick.rs` has the programs that the bench measures it against;
//! - `generator.rs` has the programs by which the bench sends requests and checks answers in the kernel.
//!
//! [`probe`] and [`turns`] are what the bench and its programs have to agree on.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod probe;
pub mod turns;

#[cfg(not(target_arch = "bpf"))]
mod objects {
    /// Bytes aligned as an ELF file's headers want them.
    #[repr(C, align(8))]
    struct Aligned<T: ?Sized>(T);

    static POOLTIME_BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pooltime")));
    static YARDSTICK_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/yardstick")));

    static GENERATOR_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/generator")));

    /// The ELF object of the NTP server; its program is `responder::layout::PROGRAM`.
    pub static POOLTIME: &[u8] = &POOLTIME_BYTES.0;
    /// The ELF object of the yardstick programs.
    pub static YARDSTICK: &[u8] = &YARDSTICK_BYTES.0;
    /// The ELF object of the load generator.
    pub static GENERATOR: &[u8] = &GENERATOR_BYTES.0;
}

#[cfg(not(target_arch = "bpf"))]
pub use objects::{GENERATOR, POOLTIME, YARDSTICK};
