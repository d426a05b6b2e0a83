//! Any list of leap seconds, asked of any time: see `testlab::checks::leap_list`.
//!
//! The input is the time in seconds since 1970, and the list.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((time, list)) = input.split_first_chunk()
        && let Ok(text) = std::str::from_utf8(list)
    {
        checks::leap_list(text, i64::from_be_bytes(*time));
    }
});
