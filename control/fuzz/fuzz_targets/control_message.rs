//! Any control message: see `testlab::checks::control_message`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::control_message(input));
