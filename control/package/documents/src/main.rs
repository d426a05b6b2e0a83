//! Writes the man pages and the shells' completions of `pooltime-xdp` and `pooltime-bench`: `documents DIRECTORY DATE`. For
//! the package; the date, as in 2026-11-30, is that of its sources. What the command lines define stands there; examples, files and exit statuses are added here.

mod bench_manual;
mod manual;
mod server_manual;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use manual::Manual;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [directory, date] = &arguments[..] else {
        eprintln!("usage: documents DIRECTORY DATE");
        return ExitCode::from(64);
    };
    let directory = Path::new(directory);
    for (definition, manual) in programs() {
        if let Err(error) = write(definition, &manual, date, directory) {
            eprintln!("documents: {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Both programs, and what their manuals say beside the command lines.
fn programs() -> [(Command, Manual); 2] {
    [(control::cli::definition(), server_manual::MANUAL), (bench::definition(), bench_manual::MANUAL)]
}

fn write(definition: Command, manual: &Manual, date: &str, directory: &Path) -> io::Result<()> {
    let mut definition = without_help(definition);
    manual.write(&definition, date, directory)?;
    let program = definition.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut definition, &program, directory)?;
    }
    Ok(())
}

/// Nobody wants a manual's page on `help`, nor on `help help`.
fn without_help(definition: Command) -> Command {
    definition.disable_help_subcommand(true).mut_subcommands(without_help)
}
