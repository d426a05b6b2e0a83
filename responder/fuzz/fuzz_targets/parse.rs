//! Any payload from a socket: see `testinput::checks::parse`.
//!
//! The input is the clock block's words, the reading of `CLOCK_MONOTONIC`, the source port and the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testinput::checks;

fuzz_target!(|input: &[u8]| {
    if let Some((clock, datagram)) = input.split_first_chunk()
        && let Some((source_port, payload)) = datagram.split_first_chunk()
    {
        checks::parse(clock, u16::from_be_bytes(*source_port), payload);
    }
});
