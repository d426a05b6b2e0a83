//! Any answer of an upstream: see `testlab::checks::upstream_answer`.
//!
//! The input is the request's nonce, when it was sent and how long the answer took in ns, and the answer.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((nonce, input)) = input.split_first_chunk()
        && let Some((sent_ns, input)) = input.split_first_chunk()
        && let Some((elapsed_ns, packet)) = input.split_first_chunk()
    {
        let (sent_ns, elapsed_ns) = (i64::from_be_bytes(*sent_ns), u32::from_be_bytes(*elapsed_ns));
        checks::upstream_answer(packet, *nonce, sent_ns, elapsed_ns);
    }
});
