//! Any properties of systemd-timesyncd: see `testlab::checks::timesyncd_properties`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        checks::timesyncd_properties(text);
    }
});
