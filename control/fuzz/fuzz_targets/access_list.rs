//! Any access list: see `testlab::checks::access_list`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        checks::access_list(text);
    }
});
