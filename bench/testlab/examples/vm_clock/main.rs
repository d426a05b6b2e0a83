//! The clock laboratory of `scripts/vm clock`: the daemon in a virtual machine whose clock is stepped, slewed, paused
//! and restored, beside a truth that the machine cannot touch: the host's clock.
//!
//! `vm_clock host` is on the host's end of the link. It speaks to QEMU's monitor and to the guest's shell, runs
//! upstreams that serve the host's time, and an oracle that checks every answer of the guest. It prints a row for each
//! play. `vm_clock guest` is in the guest.

mod agent;
mod daemons;
mod guest;
mod machine;
mod play;
mod probe;
mod qmp;
mod random;
mod report;
mod scenarios;
mod truth;

use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use machine::Machine;
use play::Play;
use random::Random;
use report::Row;
use scenarios::{SCENARIOS, Scenario};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A row speaks against the daemon under test.
const FAILED: u8 = 1;
/// The machine was lost: what is left needs another one.
const LOST: u8 = 3;
const USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "vm_clock")]
enum Arguments {
    /// Runs plays with a machine that is booting.
    Host(HostArguments),
    /// Runs in the guest.
    Guest {
        #[command(subcommand)]
        job: agent::Job,
    },
    /// Prints the scenarios and their magnitudes.
    List,
    /// Prints a table of rows that were made, in the order of the scenarios.
    Table {
        /// Files with rows.
        rows: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct HostArguments {
    /// QEMU's monitor, a socket.
    #[arg(long)]
    qmp: PathBuf,
    /// The machine's second serial line, a socket.
    #[arg(long)]
    line: PathBuf,
    /// A script that starts the machine, with more options of QEMU's as its arguments.
    #[arg(long)]
    start: PathBuf,
    /// A file for the state of a machine.
    #[arg(long)]
    store: PathBuf,
    /// Has the rows that were made, and gets those that are made.
    #[arg(long)]
    rows: PathBuf,
    /// Decides what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A directory that gets all that was recorded of each play, and what the daemon said.
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Only what a short run has.
    #[arg(long)]
    short: bool,
    /// Names of scenarios, with magnitudes of your own: `pause=10,60`. Without any, all.
    scenarios: Vec<String>,
}

fn main() -> ExitCode {
    let ended = match Arguments::parse() {
        Arguments::Guest { job } => agent::run(&job).map(|()| ExitCode::SUCCESS),
        Arguments::List => {
            for Scenario { name, magnitudes, unit, .. } in SCENARIOS {
                println!("{name}: {magnitudes:?} {unit}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Arguments::Table { rows } => table(&rows).map(|()| ExitCode::SUCCESS),
        Arguments::Host(arguments) => host(&arguments),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("vm_clock: {error}");
        ExitCode::from(LOST)
    })
}

/// A row that is to be made.
struct Wanted {
    scenario: &'static Scenario,
    magnitude: f64,
    daemon: daemons::Daemon,
}

impl Wanted {
    fn beginning(&self) -> String {
        Row::beginning(self.scenario.name, &self.scenario.magnitude(self.magnitude), self.daemon)
    }

    /// Apart from those of the other rows, whatever else is played.
    fn random(&self, seed: u64) -> Random {
        let mut hasher = DefaultHasher::new();
        (seed, self.beginning()).hash(&mut hasher);
        Random::new(hasher.finish())
    }
}

/// Prints the rows of these files: first those of the scenarios in their order, then those with other magnitudes.
fn table(files: &[PathBuf]) -> Result<()> {
    let mut rows = Vec::new();
    for file in files {
        rows.extend(fs::read_to_string(file)?.lines().map(str::to_owned));
    }
    let places: Vec<_> = wanted(&[], false)?.iter().map(Wanted::beginning).collect();
    rows.sort_by_key(|row| {
        places.iter().position(|beginning| row.starts_with(beginning)).unwrap_or(usize::MAX)
    });
    println!("{}", report::HEAD);
    for row in rows {
        println!("{row}");
    }
    Ok(())
}

fn host(arguments: &HostArguments) -> Result<ExitCode> {
    let wanted = match wanted(&arguments.scenarios, arguments.short) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("vm_clock: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let done = fs::read_to_string(&arguments.rows).unwrap_or_default();
    let is_done = |play: &Wanted| done.lines().any(|row| row.starts_with(&play.beginning()));
    let mut rows = OpenOptions::new().create(true).append(true).open(&arguments.rows)?;
    let HostArguments { qmp, line, start, store, .. } = arguments;
    let mut machine = Machine::boot(qmp, line, start, store)?;
    if done.is_empty() {
        println!("{}", report::HEAD);
    }
    let mut failures = 0;
    for play_of in wanted.into_iter().filter(|play| !is_done(play)) {
        machine.refresh()?;
        let random = play_of.random(arguments.seed);
        let Wanted { scenario, magnitude, daemon } = play_of;
        let played = play(&mut machine, scenario, magnitude, daemon, random);
        let named = scenario.magnitude(magnitude);
        let row = match &played {
            Ok(record) => Row::new(scenario.name, named, daemon, record),
            Err(error) => Row::failed(scenario.name, named, daemon, &error.to_string()),
        };
        if let (Some(directory), Ok(record)) = (&arguments.traces, &played) {
            let name = format!("{}.{magnitude}.{daemon:?}", scenario.name);
            fs::write(directory.join(name), format!("{}\n{}", report::Trace(record), record.log))?;
        }
        failures += usize::from(row.is_failure());
        println!("{row}");
        writeln!(rows, "{row}")?;
        if played.is_err() {
            return Ok(ExitCode::from(LOST));
        }
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn play(
    machine: &mut Machine,
    scenario: &Scenario,
    magnitude: f64,
    daemon: daemons::Daemon,
    random: Random,
) -> Result<play::Record> {
    let mut play = Play::begin(machine, daemon, scenario.truth, random)?;
    let played = (scenario.run)(&mut play, magnitude);
    match played.and_then(|()| play.end()) {
        Ok(record) if record.faults.is_empty() => Ok(record),
        Ok(record) => {
            eprintln!("{}", record.log);
            Ok(record)
        }
        Err(error) => Err(error),
    }
}

/// Which rows are asked for.
fn wanted(asked: &[String], short: bool) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    let mut add = |scenario: &'static Scenario, magnitudes: &[f64]| {
        for &magnitude in magnitudes {
            // The first one is the one under test.
            for &daemon in &scenario.daemons[..if short { 1 } else { scenario.daemons.len() }] {
                wanted.push(Wanted { scenario, magnitude, daemon });
            }
        }
    };
    for asked in asked {
        let (name, magnitudes) =
            asked.split_once('=').map_or((&**asked, None), |(name, list)| (name, Some(list)));
        let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        let scenario = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == name)
            .ok_or_else(|| format!("no scenario {name:?}; there are {}", names()))?;
        match magnitudes {
            None if short && !scenario.short.is_empty() => add(scenario, scenario.short),
            None => add(scenario, scenario.magnitudes),
            Some(list) => {
                let parsed: std::result::Result<Vec<f64>, _> = list.split(',').map(str::parse).collect();
                add(
                    scenario,
                    &parsed.map_err(|_| format!("{list:?} is no list of numbers, as in `{name}=1,2.5`"))?,
                );
            }
        }
    }
    if asked.is_empty() {
        for scenario in SCENARIOS {
            add(scenario, if short { scenario.short } else { scenario.magnitudes });
        }
    }
    Ok(wanted)
}
