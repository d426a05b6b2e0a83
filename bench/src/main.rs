//! The `pooltime-bench` command; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench::run(std::env::args_os())
}
