//! The NTP Pool from an operator's view: the monitor's check, the published score, and the proof of
//! ownership.

mod check;
mod http;
pub mod monitor_check;
mod plot;
mod published;
pub mod score;
mod score_log;
mod verify;
pub mod why;

use clap::Subcommand;

use crate::error::Result;
use crate::instance::Instance;
use crate::sys::unprivileged;
pub(crate) use why::Asking;

/// Commands of `pool`.
#[derive(Subcommand, Debug)]
pub(crate) enum PoolCommand {
    /// Check servers as the pool's monitor does, and forecast their score
    Check(check::CheckArguments),
    /// Show the score that the pool has published for a server
    Score(published::ScoreArguments),
    /// Show how to prove that a server is yours, or with --now do it from this host
    Verify(verify::VerifyArguments),
    /// Say why the score fell: what became of the monitors' probes here, beside the scores that are published
    Why(why::WhyArguments),
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

/// Runs the command. All of it can be done by anybody, and the largest parser of what comes from the network is in it:
/// TLS. The daemon, which root may ask, is asked before.
pub(crate) fn run(instance: &Instance, command: &PoolCommand, asking: &Asking) -> Result<()> {
    let known = match command {
        PoolCommand::Why(arguments) => Some(why::Known::of(instance, arguments, asking)?),
        _ => None,
    };
    if let Err(error) = unprivileged::give_up_root() {
        eprintln!("pooltime-xdp: warning: {error}");
    }
    match command {
        PoolCommand::Check(arguments) => check::run(arguments),
        PoolCommand::Score(arguments) => published::run(arguments),
        PoolCommand::Verify(arguments) => verify::run(arguments),
        PoolCommand::Why(arguments) => why::run(arguments, &known.unwrap_or_default()),
    }
}
