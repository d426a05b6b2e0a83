//! The NTP Pool from an operator's view: the monitor's check, the published score, and the proof of
//! ownership.

mod check;
mod http;
pub mod monitor_check;
mod plot;
mod published;
pub mod score;
mod verify;

use clap::Subcommand;

use crate::error::Result;
use crate::sys::unprivileged;

/// Commands of `pool`.
#[derive(Subcommand, Debug)]
pub(crate) enum PoolCommand {
    /// Check servers as the pool's monitor does, and forecast their score
    Check(check::CheckArguments),
    /// Show the score that the pool has published for a server
    Score(published::ScoreArguments),
    /// Show how to prove that a server is yours, or with --now do it from this host
    Verify(verify::VerifyArguments),
}

/// Reads the page of scores that the pool publishes. Returns the score that decides, if it has one.
///
/// # Errors
///
/// The text is not such a page.
pub fn published_score(page: &str) -> Result<Option<f64>> {
    let published = published::Published::parse(page)?;
    Ok(published.main().map(|monitor| monitor.score))
}

/// Runs the command. All of it can be done by anybody, and the largest parser of what comes from the network is in it: TLS.
pub(crate) fn run(command: &PoolCommand) -> Result<()> {
    if let Err(error) = unprivileged::give_up_root() {
        eprintln!("pooltime-xdp: warning: {error}");
    }
    match command {
        PoolCommand::Check(arguments) => check::run(arguments),
        PoolCommand::Score(arguments) => published::run(arguments),
        PoolCommand::Verify(arguments) => verify::run(arguments),
    }
}
