//! The NTP Pool, as an operator meets it: its monitor's check, the score it publishes, its proof of ownership.

mod check;
mod http;
mod plot;
pub mod probe;
mod published;
pub mod score;
mod verify;

use clap::Subcommand;

use crate::error::Result;

/// `pool ...`.
#[derive(Subcommand, Debug)]
pub(crate) enum PoolCommand {
    /// Check servers as the pool's monitor does, and forecast their score
    Check(check::Arguments),
    /// Show the score that the pool has published for a server
    Score(published::Arguments),
    /// Show how to prove that a server is yours, or with --now do it from this host
    Verify(verify::Arguments),
}

/// Does it.
pub(crate) fn run(command: &PoolCommand) -> Result<()> {
    match command {
        PoolCommand::Check(arguments) => check::run(arguments),
        PoolCommand::Score(arguments) => published::run(arguments),
        PoolCommand::Verify(arguments) => verify::run(arguments),
    }
}
