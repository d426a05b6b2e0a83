//! `pooltime-xdp`: see `control::command`.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::command::run()
}
