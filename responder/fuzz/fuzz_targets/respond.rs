//! Any frame, under any clock block: see `testinput::checks::respond`.
//!
//! The input is the clock block's words, the reading of `CLOCK_MONOTONIC`, and the frame.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use testinput::checks::{self, CLOCK};
use testinput::generator::{Generator, Target};

fuzz_target!(|input: &[u8]| {
    if let Some((clock, frame)) = input.split_first_chunk() {
        checks::respond(clock, frame);
    }
});

// Mutation alone would not hit upon a header with a right checksum: one input in sixteen has its frame
// replaced by a good request.
fuzz_mutator!(|input: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let request = Generator::new(seed.into(), Target::SERVER).request();
    let end = CLOCK + request.len();
    if !seed.is_multiple_of(16) || end > max_size {
        return fuzzer_mutate(input, size, max_size);
    }
    if size < CLOCK {
        input[size..CLOCK].fill(0);
    }
    input[CLOCK..end].copy_from_slice(&request);
    end
});
