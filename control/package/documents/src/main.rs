//! Writes what is made of definitions in the code: `documents DIRECTORY` for the package, and `documents --update` what is
//! in the repository.
//!
//! The package gets the man pages and the shells' completions of `pooltime-xdp` and `pooltime-bench`, made from the
//! definitions of their command lines, and the manual's page and the JSON schema of the configuration. In the repository
//! are the configuration file that is shipped, and the tables of keys in `docs/configure.md`.

mod configuration;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// The configuration file that is shipped.
const SHIPPED: &str = "control/package/pooltime-xdp.toml";
/// The document with the tables of keys.
const TABLES: &str = "docs/configure.md";

fn main() -> ExitCode {
    let Some(argument) = std::env::args_os().nth(1) else {
        eprintln!("usage: documents DIRECTORY, or documents --update");
        return ExitCode::from(64);
    };
    let written = match argument.to_str() {
        Some("--update") => update(),
        _ => write_all(Path::new(&argument)),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("documents: {}: {error}", argument.display());
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns the files of the repository that are made here, with what they have to contain.
fn made() -> io::Result<Vec<(PathBuf, String)>> {
    let tables = root().join(TABLES);
    let document = configuration::with_tables(&fs::read_to_string(&tables)?).map_err(io::Error::other)?;
    Ok(vec![(root().join(SHIPPED), configuration::shipped()), (tables, document)])
}

fn update() -> io::Result<()> {
    made()?.iter().try_for_each(|(path, text)| fs::write(path, text))
}

fn write_all(directory: &Path) -> io::Result<()> {
    for definition in [control::cli::definition(), bench::definition()] {
        write(definition, directory)?;
    }
    fs::write(directory.join("pooltime-xdp.toml.5"), configuration::manual())?;
    let schema = Path::new(control::config::SCHEMA_PATH).file_name().unwrap_or(OsStr::new("schema.json"));
    fs::write(directory.join(schema), format!("{:#}\n", control::config::schema()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_repository_is_what_the_definition_makes() {
        for (path, made) in made().unwrap() {
            let found = fs::read_to_string(&path).unwrap();
            assert!(
                found == made,
                "{} is not what the definition of the keys makes; rewrite it with: cargo run -p documents -- --update",
                path.canonicalize().unwrap().display()
            );
        }
    }
}
