//! Writes the man pages and the shells' completions of `pooltime-xdp`: `documents DIRECTORY`. For the package.

mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    write::run(control::cli::definition())
}
