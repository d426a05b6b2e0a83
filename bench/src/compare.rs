//! `pooltime-bench compare`: the server compared with every other NTP server that is found, one after the
//! other on the same link, on the same cores and under the same load.
//!
//! Two hosts of `scripts/lab` share a link. Everything on the server side runs on one core, everything that
//! makes the load on the other. Each round goes through all contestants in another order, so that a temporary
//! disturbance of the machine does not hit one of them alone.

mod contestant;
mod cpu_time;
mod keep_cpu_awake;
mod lab;
mod results;
mod trial;

use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{Failure, INTERRUPTED, UNAVAILABLE, USAGE};
use crate::interrupt::Interrupt;
use crate::programs::require_privileges;
use crate::progress::{Progress, say};
use contestant::{Contestant, Found};
use lab::{Cores, Lab};
use results::Results;
use trial::Terms;

/// A server's program that is not in one of the usual places.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    path: PathBuf,
}

impl std::str::FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = contestant::programs().join(", ");
        let (name, path) = text.split_once('=').ok_or_else(|| format!("{text} is not NAME=PATH"))?;
        if !contestant::programs().contains(&name) {
            return Err(format!("{name} is not one of the servers that can be started: {known}"));
        }
        Ok(Self { name: name.into(), path: path.into() })
    }
}

/// The options of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) duration: Duration,
    /// The common rate at which all servers are measured.
    pub(crate) common_rate: f64,
    pub(crate) loss: f64,
    /// The share of the time that is left out, the worst of it, wherever loss matters.
    pub(crate) left_out: f64,
    pub(crate) clients: u32,
    /// The highest rate that is tried.
    pub(crate) at_most: f64,
    /// Interval at which each end of the link is polled.
    pub(crate) poll: Duration,
    pub(crate) server_core: Option<usize>,
    pub(crate) generator_core: Option<usize>,
    pub(crate) servers: Vec<Named>,
    pub(crate) only: Vec<String>,
    /// Directory to which results are written.
    pub(crate) results: Option<PathBuf>,
    /// The script that makes labs, if it is not the one that is built in.
    pub(crate) lab: Option<PathBuf>,
}

/// What prevents a comparison.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(
        "a comparison needs two CPUs, one for the servers and one for the load, and this process may use {0}"
    )]
    Cores(String),

    #[error("the lab: {what}: {reason}")]
    Lab { what: String, reason: String },

    #[error("none of the servers could be started:\n{0}")]
    Nobody(String),

    #[error("{0} is not a known server: --only takes {known}", known = contestant::names().join(", "))]
    Unknown(String),

    #[error("{name} {what}:\n{log}")]
    Contestant { name: &'static str, what: String, log: String },

    #[error("interrupted; the lab is removed and nothing is written")]
    Interrupted,
}

impl From<CompareError> for Failure {
    fn from(error: CompareError) -> Self {
        let exit_code = match error {
            CompareError::Interrupted => INTERRUPTED,
            CompareError::Unknown(_) => USAGE,
            CompareError::Cores(_)
            | CompareError::Lab { .. }
            | CompareError::Nobody(_)
            | CompareError::Contestant { .. } => UNAVAILABLE,
        };
        Self::own(error, exit_code)
    }
}

/// Fails if the command was interrupted.
fn go_on(interrupt: &Interrupt) -> Result<(), CompareError> {
    if interrupt.is_heard() { Err(CompareError::Interrupted) } else { Ok(()) }
}

/// Runs the comparison, prints a table and writes the results.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    require_privileges()?;
    if let Some(unknown) = options.only.iter().find(|name| !contestant::names().contains(&name.as_str())) {
        return Err(CompareError::Unknown(unknown.clone()).into());
    }
    let interrupt = Interrupt::listen()?;
    let cores = Cores::choose(options.server_core, options.generator_core)?;
    let found: Vec<Found> = contestant::find(&options.servers)
        .into_iter()
        .filter(|found| options.only.is_empty() || options.only.iter().any(|name| name == found.name()))
        .collect();
    if let Some(lab) = options.lab.as_ref().filter(|lab| !lab.exists()) {
        let what = lab.display().to_string();
        let reason = "it does not exist; without --lab the script that is built in is used".into();
        return Err(CompareError::Lab { what, reason }.into());
    }
    let mut results = Results::new(options, cores);
    let mut contestants = Vec::new();
    for found in found {
        match found {
            Found::Here(contestant) => contestants.push(contestant),
            Found::Missing { name, reason } => results.skip(name, reason),
        }
    }
    let estimate = announce(options, &contestants);
    let progress = Progress::over(estimate, false);
    progress.tell("creating the lab".into());
    let lab = Lab::up(options.lab.as_deref(), cores, options.poll)?;
    let terms = Terms::of(options);
    let mut known = vec![None; contestants.len()];
    for round in 0..options.rounds {
        for index in order(contestants.len(), round) {
            let Some(contestant) = contestants.get(index).filter(|it| !results.is_skipped(it.name())) else {
                continue;
            };
            go_on(&interrupt)?;
            progress.tell(format!("round {} of {}: {}", round + 1, options.rounds, contestant.name()));
            let trial = trial::run(&lab, contestant, &terms, known[index], &interrupt);
            // If Ctrl-C ended the process, the server did not fail.
            go_on(&interrupt)?;
            match trial {
                Ok(trial) => {
                    known[index] = Some(trial.highest.rate);
                    let line = trial.line(contestant.name());
                    progress.aside(|| say(format_args!("round {}: {line}", round + 1)));
                    results.add(contestant, trial);
                }
                Err(failure) => {
                    let Some(CompareError::Contestant { name, what, log }) = failure.as_own() else {
                        return Err(failure);
                    };
                    progress.aside(|| say(format_args!("round {}: {name} {what}", round + 1)));
                    results.skip(
                        name,
                        format!("{what}: {}", log.lines().last().unwrap_or_default().trim_end_matches('.')),
                    );
                }
            }
        }
    }
    drop((lab, progress));
    results.conclude()?;
    results.publish(options)
}

/// Returns the order of a round; each round begins with another contestant.
fn order(contestants: usize, round: u32) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or(0);
    (0..contestants).map(move |index| (index + first) % contestants)
}

/// Prints what will run and how long it will take.
fn announce(options: &Options, contestants: &[Contestant]) -> Duration {
    let names: Vec<&str> = contestants.iter().map(Contestant::name).collect();
    let trials = options.rounds * u32::try_from(contestants.len()).unwrap_or(u32::MAX);
    let estimate = Terms::of(options).estimate().saturating_mul(trials);
    say(format_args!(
        "comparing {} in {} rounds: about {} min {} s",
        names.join(", "),
        options.rounds,
        estimate.as_secs() / 60,
        estimate.as_secs() % 60
    ));
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_has_its_turn_in_every_round_and_another_one_begins() {
        assert_eq!(order(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(order(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(order(0, 5).count(), 0);
    }

    #[test]
    fn a_server_is_named_with_its_path() {
        assert!("rsntp=/usr/bin/rsntp".parse::<Named>().is_ok());
        assert!("rsntp".parse::<Named>().is_err());
        assert!("w32time=/bin/true".parse::<Named>().unwrap_err().contains("chronyd"));
    }
}
