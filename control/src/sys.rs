//! All of control's unsafe code: kernel structures for maps, and adjtimex.
#![expect(unsafe_code, reason = "the one module that may")]

use responder::Policy;
use responder::ServedTable;
use responder::clock::WORDS;
use responder::layout::{Counters, Grant, INTERFACES, SLOTS, Spent, State};
use responder::limiter::WAYS;

/// A value that goes into or comes out of a map as its bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `repr(C)`, integers only, the 32-bit ones in pairs before the 64-bit ones, so no padding (the
// assertion below counts the bytes), and every bit pattern is a value.
unsafe impl aya::Pod for Plain<State> {}
const _: () = assert!(
    size_of::<State>()
        == 8 + 4
            + 4
            + 4 * INTERFACES
            + size_of::<[[u64; WORDS]; SLOTS]>()
            + size_of::<[ServedTable; SLOTS]>()
            + size_of::<Policy>()
);
// SAFETY: an array of `repr(C)` pairs of 64-bit integers: no padding, every bit pattern is a value.
unsafe impl aya::Pod for Plain<Counters> {}

// SAFETY: an array of 64-bit integers.
unsafe impl aya::Pod for Plain<[u64; WAYS]> {}

// SAFETY: `repr(C)` of 64-bit integers.
unsafe impl aya::Pod for Plain<Spent> {}
// SAFETY: likewise.
unsafe impl aya::Pod for Plain<Grant> {}

/// The kernel's clock discipline, as adjtimex(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjtimex {
    /// The `TIME_*` state that the call returned.
    pub state: i32,
    /// The `STA_*` bits.
    pub status: i32,
    /// Maximum error in microseconds; grows by 500 ppm until the clock's keeper sets it again.
    pub max_error_us: i64,
    /// Estimated error in microseconds.
    pub estimated_error_us: i64,
    /// Frequency correction in parts in 10^6 with 16 bits of fraction.
    pub frequency_scaled_ppm: i64,
    /// TAI - UTC in seconds, 0 if the kernel was not told.
    pub tai_offset_s: i32,
}

/// Reads the kernel's clock discipline; changes nothing.
///
/// # Errors
///
/// The kernel's, which has none for a reading call.
pub fn adjtimex() -> std::io::Result<Adjtimex> {
    // SAFETY: a structure of integers, for which zeros are values; no mode bits means "read".
    let mut buffer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure of the type that the call fills in.
    let state = unsafe { libc::adjtimex(&raw mut buffer) };
    if state < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(Adjtimex {
        state,
        status: buffer.status,
        max_error_us: buffer.maxerror,
        estimated_error_us: buffer.esterror,
        frequency_scaled_ppm: buffer.freq,
        tai_offset_s: buffer.tai,
    })
}
