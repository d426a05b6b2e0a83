//! Any bytes on a connection to the HTTP listener: see `testlab::checks::http`.
#![no_main]

use testlab::checks;

libfuzzer_sys::fuzz_target!(|sent: &[u8]| checks::http(sent));
