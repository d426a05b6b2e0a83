//! The compiled eBPF programs of the bench, for the code that loads them.
//!
//! The programs themselves are this package's binaries, which build.rs builds for the eBPF target:
//! - `baseline.rs` has the programs that the bench measures the server against;
//! - `generator.rs` has the programs with which the bench sends requests and checks answers in the kernel.
//!
//! [`load_token`] and [`alternation`] are what the bench and its programs must agree on.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod alternation;
pub mod load_token;

#[cfg(not(target_arch = "bpf"))]
mod objects {
    /// Bytes aligned as the headers of an ELF file require.
    #[repr(C, align(8))]
    struct Aligned<T: ?Sized>(T);

    static BASELINE_BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/baseline")));
    static GENERATOR_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/generator")));

    /// The ELF object of the baseline programs.
    pub static BASELINE: &[u8] = &BASELINE_BYTES.0;
    /// The ELF object of the load generator.
    pub static GENERATOR: &[u8] = &GENERATOR_BYTES.0;
}

#[cfg(not(target_arch = "bpf"))]
pub use objects::{BASELINE, GENERATOR};
