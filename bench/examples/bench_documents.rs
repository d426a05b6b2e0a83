//! Writes the man pages and the shells' completions of `pooltime-bench`: `bench_documents DIRECTORY`. For the package.

#[path = "../../control/examples/documents/write.rs"]
mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    write::run(bench::definition())
}
