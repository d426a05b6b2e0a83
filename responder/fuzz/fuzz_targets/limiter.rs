//! Any sequence of requests to the limiter: see `testinput::limit_checks::limiter`.
//!
//! The input is eight bytes of policy, and four bytes for each request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testinput::limit_checks;

fuzz_target!(|input: &[u8]| {
    if let Some((header, requests)) = input.split_first_chunk() {
        limit_checks::limiter(*header, requests);
    }
});
