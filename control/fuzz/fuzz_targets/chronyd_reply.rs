//! Any reply of chronyd: see `testlab::checks::chronyd_reply`.
//!
//! The input is the request's sequence number and the reply.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((sequence, packet)) = input.split_first_chunk() {
        checks::chronyd_reply(packet, u32::from_be_bytes(*sequence));
    }
});
