//! What an operator does before and beside serving: as the command line does it.

mod doctor;
mod double;
mod hardship;
mod import;
mod pool;

use std::process::Command;

use testlab::{Output, pooltime_xdp};

// Of sysexits.h.
const EX_USAGE: i32 = 64;
const EX_NOINPUT: i32 = 66;
const EX_UNAVAILABLE: i32 = 69;
const EX_CONFIG: i32 = 78;

fn pooltime(arguments: &[&str]) -> Output {
    Output::of(Command::new(pooltime_xdp()).args(arguments))
}
