//! A command line's man pages and completions, made from its definition.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// Writes them into the directory that is the program's argument.
pub(crate) fn run(definition: Command) -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: DIRECTORY to write into");
        return ExitCode::from(64);
    };
    match write(definition, &directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
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
