//! `config`: checks configuration files, shows the values that hold, and prints the schema.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::config::{Config, DEFAULT_PATH, Shown, schema};
use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::output::{print_json, print_line, print_versioned_json, write_table};

#[derive(Subcommand, Debug)]
pub(super) enum ConfigCommand {
    /// Validate a configuration file and the files beside it, in FILE.d
    Check {
        /// Configuration file [default: /etc/pooltime-xdp.toml, if it exists]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show all values that hold, each with the file and line that it is from
    Show {
        /// Configuration file [default: /etc/pooltime-xdp.toml, if it exists]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of configuration files, for editors
    Schema,
}

pub(super) fn run(command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check { file } => check(file.as_deref()),
        ConfigCommand::Show { file, json } => {
            let shown = Shown::of(&Config::load(file.as_deref())?)?;
            if *json { print_versioned_json(&shown) } else { write_table(&shown.to_toml()) }
        }
        ConfigCommand::Schema => print_json(&schema()),
    }
}

fn check(file: Option<&Path>) -> Result<()> {
    let config = Config::load_on(file, &OwnAddresses::of_this_host()?)?;
    let main = file.unwrap_or(DEFAULT_PATH.as_ref());
    for warning in config.all_warnings(&config.entries()?)? {
        eprintln!("pooltime-xdp: {}: warning: {warning}", main.display());
        if let Some(remedy) = warning.remedy() {
            eprintln!("  {remedy}");
        }
    }
    if config.origin.files().next().is_none() {
        print_line(format_args!("{}: OK, there is none: the defaults hold", main.display()))?;
    } else if !config.origin.files().any(|read| read == main) {
        print_line(format_args!("{}: OK, there is none, only what is beside it:", main.display()))?;
    }
    config.origin.files().try_for_each(|read| print_line(format_args!("{}: OK", read.display())))
}
