//! Any properties of systemd-timesyncd: see `checks::timesyncd_properties`.
#![no_main]

#[path = "../../tests/hostile/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        checks::timesyncd_properties(text);
    }
});
