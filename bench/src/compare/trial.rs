//! One contestant's turn in one round.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::contestant::Contestant;
use super::cpu_time::CpuTime;
use super::keep_cpu_awake::AwakeCpu;
use super::lab::{CLIENTS, Lab, SERVER};
use super::{CompareError, Options, go_on};
use crate::failure::{Failure, MISSED};
use crate::interrupt::Interrupt;
use crate::load::{Results, Step};

/// Deadline for the first answer of a server that has been started.
const START: Duration = Duration::from_secs(12);
/// How long a load may go on after Ctrl-C.
const POLL: Duration = Duration::from_millis(10);
/// Duration of a search step for the highest rate. It is shorter than other loads because there are many
/// steps.
const SEARCH_STEP: Duration = Duration::from_millis(400);
/// First rate of the search, which any usable server sustains.
const SEARCH_FROM: f64 = 10_000.0;
/// Fraction of its highest rate at which a server's use of the CPU is measured. At a lower rate it would be
/// idle at times, and the cost of waking up would be included; at a higher one it would lose requests that
/// have cost something.
const NEAR: f64 = 0.9;
/// Fraction of its highest rate at which the round trip is measured.
const HALF: f64 = 0.5;

/// What is the same for all contestants.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    duration: Duration,
    common_rate: f64,
    loss: f64,
    left_out: f64,
    clients: u32,
    at_most: f64,
}

impl Terms {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            duration: options.duration,
            common_rate: options.common_rate,
            loss: options.loss,
            left_out: options.left_out,
            clients: options.clients,
            at_most: options.at_most.max(SEARCH_FROM),
        }
    }

    /// Estimates how long a turn takes, from experience.
    pub(super) fn estimate(&self) -> Duration {
        let around = Duration::from_secs(1);
        Duration::from_secs(4)
            + (SEARCH_STEP + Duration::from_millis(300)) * 14
            + (self.duration + around) * 3
    }
}

/// The results of one turn.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trial {
    pub(super) highest: Highest,
    /// The load at nine tenths of the highest rate.
    pub(super) near: Loaded,
    /// The load at half of the highest rate.
    pub(super) half: Loaded,
    /// The load at the rate that is common to all contestants.
    pub(super) common: Loaded,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Highest {
    /// Requests per second.
    pub(super) rate: f64,
    /// What limited the rate: `server`, `generator`, or `range` if no higher rate was tried.
    pub(super) limit: String,
    steps: Vec<Step>,
}

/// A load, and what it took of the server's core.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loaded {
    /// Seconds of the server's core, whatever ran there.
    pub(super) core_s: f64,
    /// Answers per second of the server's core. `None` if no CPU time was counted, as can happen if the
    /// server was busy with other work before the load.
    pub(super) answers_per_core_s: Option<f64>,
    duration_s: f64,
    pub(super) step: Step,
}

impl Loaded {
    /// Returns how long the load lasted.
    pub(super) fn seconds(&self) -> f64 {
        self.duration_s
    }
}

impl Trial {
    /// Returns the results as one line.
    pub(super) fn line(&self, name: &str) -> String {
        let answers = self.near.answers_per_core_s.map_or_else(|| "?".into(), |it| format!("{it:.0}"));
        format!(
            "{name:<10} {:>9.0}/s ({}), {answers:>9} answers/core s, p99 {:.0} us at half of it",
            self.highest.rate,
            self.highest.limit,
            us(self.half.step.round_trip_ns.p99)
        )
    }
}

/// Runs one contestant's turn. `known` is its highest rate in another round, near which the search begins.
pub(super) fn run(
    lab: &Lab,
    contestant: &Contestant,
    terms: &Terms,
    known: Option<f64>,
    interrupt: &Interrupt,
) -> Result<Trial, Failure> {
    let mut running = contestant.start(lab)?;
    let bench = Bench { lab: running.lab, contestant, terms, interrupt };
    if !bench.answers_within(START)? {
        return Err(running.failed("does not answer"));
    }
    let _awake = AwakeCpu::keep(bench.lab.cores.server)?;
    let cpu_time = CpuTime::open(bench.lab)?;
    let first = known.map_or(SEARCH_FROM, |known| (known / 2.0).max(SEARCH_FROM));
    let found = bench.find_max(first)?;
    let Some(rate) = found.highest_rate else {
        return Err(running.failed(&format!("loses too much even at {SEARCH_FROM} requests/s")));
    };
    let highest = Highest { rate, limit: found.limit.unwrap_or_default(), steps: found.steps };
    Ok(Trial {
        half: bench.load(&cpu_time, rate * HALF)?,
        near: bench.load(&cpu_time, rate * NEAR)?,
        common: bench.load(&cpu_time, terms.common_rate)?,
        highest,
    })
}

/// This program, called on the lab's client host to put on a load.
struct Bench<'a> {
    lab: &'a Lab,
    contestant: &'a Contestant,
    terms: &'a Terms,
    interrupt: &'a Interrupt,
}

impl Bench<'_> {
    fn answers_within(&self, time: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            go_on(self.interrupt)?;
            let answered = self.call(&["load"], "500", Duration::from_millis(100));
            if answered.is_ok_and(|results| results.steps.iter().any(|step| step.answered > 0)) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }

    fn find_max(&self, first: f64) -> Result<Results, Failure> {
        let Terms { loss, left_out, .. } = self.terms;
        let rates = format!("{first:.0}..{:.0}", self.terms.at_most);
        self.call(
            &["find-max", "--loss", &loss.to_string(), "--leave-out", &left_out.to_string()],
            &rates,
            SEARCH_STEP.min(self.terms.duration),
        )
    }

    fn load(&self, cpu_time: &CpuTime<'_>, rate: f64) -> Result<Loaded, Failure> {
        let mark = cpu_time.mark();
        let results = self.call(&["load"], &format!("{rate:.0}"), self.terms.duration)?;
        let core_s = cpu_time.had_since(mark, self.terms.duration);
        let Some(step) = results.steps.into_iter().next() else {
            return Err(unreadable("they contain no step"));
        };
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
        let answers_per_core_s = (core_s > 0.0).then(|| step.answered as f64 / core_s);
        Ok(Loaded { core_s, answers_per_core_s, duration_s: self.terms.duration.as_secs_f64(), step })
    }

    fn call(&self, command: &[&str], rate: &str, duration: Duration) -> Result<Results, Failure> {
        let own = std::env::current_exe().map_err(Failure::Output)?;
        let mut call = self.lab.on("client", "taskset");
        // Round-robin, not FIFO: the generator never sleeps, and its own process must be able to end it.
        call.args(["-c", &self.lab.cores.generator.to_string(), "chrt", "--rr", "1"]).arg(own).args(command);
        call.args([SERVER, "--generator", "live", "--json", "--shared-clock", "--warm-up", "0s"]);
        call.args([
            "--timeout",
            "200ms",
            "--rate",
            rate,
            "--duration",
            &format!("{}s", duration.as_secs_f64()),
        ]);
        call.args(["--source-net", CLIENTS, "--clients", &self.terms.clients.to_string()]);
        if self.contestant.echoes() {
            call.arg("--echo");
        }
        if let Some(versions) = self.contestant.versions() {
            call.args(["--versions", versions]);
        }
        if self.contestant.unsynchronised() {
            call.arg("--accept-unsynchronised");
        }
        let output = self.finish(call)?;
        if !output.status.success() && output.status.code() != Some(MISSED.into()) {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(CompareError::Lab { what: "a load".into(), reason }.into());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| unreadable(&error.to_string()))
    }
}

impl Bench<'_> {
    /// Waits for a process, unless this one is interrupted.
    fn finish(&self, mut call: Command) -> Result<Output, Failure> {
        let path = self.lab.directory.join("results");
        let file = |reason| Failure::File { path: path.clone(), reason };
        // The output goes to a file and not to a pipe, because nothing reads it before the end.
        call.stdout(File::create(&path).map_err(file)?).stderr(Stdio::piped());
        let mut process = call.spawn().map_err(Failure::Output)?;
        while process.try_wait().map_err(Failure::Output)?.is_none() {
            if let Err(interrupted) = go_on(self.interrupt) {
                let _ended_already = process.kill();
                let _ended = process.wait();
                return Err(interrupted.into());
            }
            thread::sleep(POLL);
        }
        let mut output = process.wait_with_output().map_err(Failure::Output)?;
        output.stdout = fs::read(&path).map_err(file)?;
        Ok(output)
    }
}

fn unreadable(reason: &str) -> Failure {
    CompareError::Lab { what: "the results of a load".into(), reason: reason.into() }.into()
}

/// Converts nanoseconds to microseconds.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
