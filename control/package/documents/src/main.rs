//! Writes the man pages and the shells' completions of `pooltime-xdp` and `pooltime-bench`, made from the definitions of
//! their command lines: `documents DIRECTORY`. For the package.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: documents DIRECTORY");
        return ExitCode::from(64);
    };
    for definition in [control::cli::definition(), bench::definition()] {
        if let Err(error) = write(definition, &directory) {
            eprintln!("documents: {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn write(definition: Command, directory: &Path) -> io::Result<()> {
    let mut definition = without_help(definition);
    clap_mangen::generate_to(definition.clone(), directory)?;
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
