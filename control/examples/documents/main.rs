//! `documents DIRECTORY` writes the man pages and shell completions of `pooltime-xdp`, for the package.

mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    write::run(control::cli::definition())
}
