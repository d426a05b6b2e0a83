//! Any page of scores: see `testlab::checks::score_page`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        checks::score_page(text);
    }
});
