//! Any sequence of requests to the table of known sources: see `testinput::known_checks::known`.
//!
//! The input is eight bytes for the first moment, and three bytes for each request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testinput::known_checks;

fuzz_target!(|input: &[u8]| {
    if let Some((header, requests)) = input.split_first_chunk() {
        known_checks::known(*header, requests);
    }
});
