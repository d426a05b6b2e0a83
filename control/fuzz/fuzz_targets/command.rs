//! Any line on the control socket: see `testlab::checks::command`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        checks::command(text);
    }
});
