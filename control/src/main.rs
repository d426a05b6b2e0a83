//! `pooltime-xdp`: see `control::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::cli::run()
}
