//! `pooltime-bench load` and `find-max`: open-loop load on any NTP server, with every answer checked.

mod answer_check;
mod clock;
mod find_max;
mod generator;
mod link;
mod loss_windows;
mod plan;
mod profile;
mod report;
mod schedule;
mod socket;
mod step;
mod tally;
mod target;
mod template;
mod thresholds;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{Failure, NO_HOST, UNAVAILABLE, USAGE};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
pub(crate) use find_max::Allowed;
pub(crate) use generator::{Generator, Kind};
pub(crate) use link::{Choices, Mac};
pub(crate) use plan::{Mix, Rates, SourcePorts, Spacing, duration, fraction, left_out, rate, time};
pub(crate) use profile::Profile;
pub(crate) use report::Format;
use report::LoadReport;
pub(crate) use report::folded_lines as folded;
use serde::Deserialize;
pub(crate) use step::Step;
pub(crate) use target::TargetError;
pub(crate) use template::{SourceNet, Sources};
pub(crate) use thresholds::Thresholds;
use watch::Watch;

/// A request that is further behind the schedule than this counts as sent late.
pub(crate) const LATE_NS: u64 = 1_000_000;

/// The options that both commands have in common.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(crate) struct Load {
    pub(crate) target: String,
    pub(crate) owned: bool,
    pub(crate) uncapped: bool,
    pub(crate) kind: Kind,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) timeout: Duration,
    /// Number of threads, each on a CPU of its own; one per CPU if not given.
    pub(crate) workers: Option<u32>,
    /// Number of sockets, and thus of source ports, per worker.
    pub(crate) sockets: u32,
    pub(crate) mix: Mix,
    pub(crate) spacing: Spacing,
    /// Addresses that requests come from, if they are not this host's own.
    pub(crate) sources: Option<Sources>,
    /// What is unusual about the requests.
    pub(crate) profile: Profile,
    /// Ports that requests come from, if they matter.
    pub(crate) source_ports: Option<SourcePorts>,
    /// What the command line says about the route to the server.
    pub(crate) way: Choices,
    /// The target sends requests back as they are.
    pub(crate) echo: bool,
    /// The server may say that it is not synchronised.
    pub(crate) lenient: bool,
    /// The server reads the same clock as this process, so its timestamps can be checked against that clock.
    pub(crate) shared_clock: bool,
    /// How far its timestamps may lie outside the time between sending and receiving.
    pub(crate) tolerance: Duration,
}

impl Load {
    /// Returns the options that only generators of whole frames can meet, if there are any.
    fn for_frames(&self) -> Option<&'static str> {
        if self.sources.is_some() {
            Some("--clients and --source-net")
        } else if self.way.are_made() {
            Some("--interface, --gateway and --next-hop")
        } else {
            None
        }
    }
}

/// Where results are written.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) html: Option<PathBuf>,
    /// The results as JSON, besides what is printed.
    pub(crate) json_file: Option<PathBuf>,
}

impl Output {
    /// Whether standard output is meant for a program.
    fn is_for_programs(&self) -> bool {
        self.format != Format::Table
    }
}

/// The part of the output of `--json` that other commands read.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Results {
    pub(crate) steps: Vec<Step>,
    pub(crate) highest_rate: Option<f64>,
    pub(crate) limit: Option<String>,
}

/// Why a load could not be run or had no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Target(#[from] TargetError),

    #[error("{0}")]
    Cap(String),

    #[error(
        "cannot send from port {port}: {reason}. Choose other --source-ports, or fewer --workers and --sockets"
    )]
    Port { port: u16, reason: std::io::Error },

    #[error("cannot send to {target}: {reason}. {advice}")]
    Unreachable { target: SocketAddr, reason: std::io::Error, advice: &'static str },

    #[error(
        "sockets send from this host's own addresses, and by the way that the kernel takes: other generators take \
         {0}, and need root"
    )]
    NotBySockets(&'static str),

    #[error(
        "nothing listens at {0}: \"port unreachable\" came back to every request. Is the server running, and is \
         this its port?"
    )]
    Refused(SocketAddr),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit_code = match error {
            LoadError::Target(TargetError::Public(_) | TargetError::PublicSources) | LoadError::Cap(_) => {
                USAGE
            }
            LoadError::Target(TargetError::Unknown { .. }) => NO_HOST,
            LoadError::Unreachable { .. }
            | LoadError::Refused(_)
            | LoadError::Port { .. }
            | LoadError::NotBySockets(_) => UNAVAILABLE,
        };
        Self::own(error, exit_code)
    }
}

/// Runs the load step by step and prints the results.
pub(crate) fn run(
    mut load: Load,
    rates: Rates,
    factor: f64,
    thresholds: Thresholds,
    output: &Output,
) -> Result<(), Failure> {
    let rates_of_steps = rates.steps(factor);
    let steps = u32::try_from(rates_of_steps.len()).unwrap_or(u32::MAX);
    let (mut generator, mut report) = open("load", &mut load, rates, steps, output)?;
    report.begin(output)?;
    let watch = watch(output)?;
    let progress = progress(load.duration * steps + load.warm_up, output, &watch);
    if let Some(first) = rates_of_steps.first().filter(|_| !load.warm_up.is_zero()) {
        progress.tell("warm-up".into());
        generator.step(*first, load.warm_up, &watch)?;
    }
    for (number, rate) in (1..).zip(rates_of_steps) {
        if watch.is_interrupted() {
            break;
        }
        progress.tell(format!("step {number} of {steps}: {rate:.0}/s"));
        let step = measure(generator.as_mut(), rate, &load, &watch)?;
        progress.aside(|| report.add(step, output))?;
    }
    drop(progress);
    let missed = thresholds.missed(report.steps(), load.profile);
    report.remark(missed.clone());
    report.end(output)?;
    end(&watch, &missed)
}

/// Searches for the highest rate at which no more requests fail than allowed.
pub(crate) fn find_max(
    mut load: Load,
    rates: Rates,
    allowed: Allowed,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(reason) = load.profile.unsearchable() {
        return Err(Failure::Usage(reason.into()));
    }
    let steps = find_max::MOST_STEPS * find_max::TRIES;
    let (mut generator, mut report) = open("find-max", &mut load, rates, steps, output)?;
    report.begin(output)?;
    let watch = watch(output)?;
    // Most searches take about half of the largest number of steps.
    let progress = progress(load.duration * find_max::MOST_STEPS / 2, output, &watch);
    let mut search = find_max::Search::new(rates, allowed);
    while let Some(rate) = search.next_rate().filter(|_| !watch.is_interrupted()) {
        progress.tell(format!("trying {rate:.0}/s"));
        let mut step = measure(generator.as_mut(), rate, &load, &watch)?;
        for _ in 1..find_max::TRIES {
            if search.is_doubtful(rate, &step) && !watch.is_interrupted() {
                progress.aside(|| report.add(step, output))?;
                step = measure(generator.as_mut(), rate, &load, &watch)?;
            }
        }
        // A step that was cut short decides nothing.
        if !watch.is_interrupted() {
            search.learn(rate, &step);
        }
        progress.aside(|| report.add(step, output))?;
    }
    drop(progress);
    let mut missed = Vec::new();
    if search.is_limited() {
        missed.push(format!(
            "a rate limit of the server refuses requests of {}. {}",
            report::sources(report.addresses()),
            report::LIMIT_ADVICE
        ));
    }
    report.conclude(&search);
    report.remark(missed.clone());
    report.end(output)?;
    end(&watch, &missed)
}

/// Hears interruptions from now on.
fn watch(output: &Output) -> Result<Watch, Failure> {
    Ok(Watch::new(Interrupt::listen_once()?, Progress::is_shown(output.is_for_programs())))
}

fn progress(time: Duration, output: &Output, watch: &Watch) -> Progress {
    let watch = watch.clone();
    Progress::with(time, output.is_for_programs(), move || watch.line())
}

/// Returns how the command ends: interrupted, without what was asked for, or well.
fn end(watch: &Watch, missed: &[String]) -> Result<(), Failure> {
    if watch.is_interrupted() {
        return Err(Failure::Interrupted);
    }
    if missed.is_empty() { Ok(()) } else { Err(Failure::Missed(missed.join("\n"))) }
}

/// Prepares a load of at most this many steps, if it is permitted.
fn open(
    command: &'static str,
    load: &mut Load,
    rates: Rates,
    steps: u32,
    output: &Output,
) -> Result<(Box<dyn Generator>, LoadReport), Failure> {
    let target = admit(load)?;
    let time = (load.duration + load.timeout).saturating_mul(steps) + load.warm_up;
    limit(load, rates.last() * load.profile.peak(), time)?;
    let generator = generator::open(target, load)?;
    let report = LoadReport::new(command, generator.as_ref(), load, output)?;
    Ok((generator, report))
}

fn measure(generator: &mut dyn Generator, rate: f64, load: &Load, watch: &Watch) -> Result<Step, Failure> {
    watch.begin();
    let tally = generator.step(rate, load.duration, watch)?;
    if tally.refused > 0 && tally.matched == 0 {
        return Err(LoadError::Refused(generator.target()).into());
    }
    Ok(Step::new(rate, load.duration, &tally))
}

/// Returns the address that the load goes to, if that is permitted.
fn admit(load: &mut Load) -> Result<SocketAddr, LoadError> {
    let target = target::resolve(&load.target)?;
    target::permit(target, load.owned)?;
    if load.sources.is_some_and(|sources| !sources.is_private()) && !load.owned {
        return Err(TargetError::PublicSources.into());
    }
    load.shared_clock |= target::shares_clock(target);
    Ok(target)
}

/// Refuses a load that is larger than anybody sends without meaning to.
fn limit(load: &Load, rate: f64, time: Duration) -> Result<(), LoadError> {
    if load.uncapped {
        return Ok(());
    }
    if rate > plan::RATE_CAP {
        let cap = plan::RATE_CAP;
        return Err(LoadError::Cap(format!(
            "{rate} requests/s is above the cap of {cap}: pass --uncapped to lift it"
        )));
    }
    if time > plan::TIME_CAP {
        let (time, cap) = (time.as_secs(), plan::TIME_CAP.as_secs());
        return Err(LoadError::Cap(format!(
            "all steps together may take {time} s, above the cap of {cap} s: take fewer or shorter steps, or \
             --uncapped"
        )));
    }
    Ok(())
}
