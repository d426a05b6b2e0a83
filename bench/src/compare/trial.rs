//! One contestant's turn in one round.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::account::Account;
use super::awake::Awake;
use super::contestant::Contestant;
use super::lab::{CLIENTS, Lab, SERVER};
use super::{CompareError, Interrupt, Options};
use crate::failure::Failure;
use crate::load::{Results, Step};

/// A server that does not answer by then never will.
const START: Duration = Duration::from_secs(12);
/// How long a load may go on after Ctrl-C.
const POLL: Duration = Duration::from_millis(10);
/// Steps of the search for the highest rate: shorter than the others, for there are many.
const SEARCH_STEP: Duration = Duration::from_millis(400);
/// The search begins here: no server worth the name takes less.
const SEARCH_FROM: f64 = 10_000.0;
/// Part of its highest rate at which a server's use of the CPU is measured: below, it would be idle at times and
/// the cost of waking up would be in the figure; above, requests would be lost that have cost something.
const NEAR: f64 = 0.9;
/// And its latency.
const HALF: f64 = 0.5;

/// What is the same for all.
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

    /// How long a turn takes, as found by doing it.
    pub(super) fn estimate(&self) -> Duration {
        let around = Duration::from_secs(1);
        Duration::from_secs(4)
            + (SEARCH_STEP + Duration::from_millis(300)) * 14
            + (self.duration + around) * 3
    }
}

/// What was found out in one turn.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trial {
    pub(super) highest: Highest,
    /// At nine tenths of that.
    pub(super) near: Loaded,
    /// At half of it.
    pub(super) half: Loaded,
    /// At the same rate for all.
    pub(super) common: Loaded,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Highest {
    /// Requests a second.
    pub(super) rate: f64,
    /// `server`, `generator`, or `range`, where more was not tried.
    pub(super) limit: String,
    steps: Vec<Step>,
}

/// A load, and what it took of the server's core.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loaded {
    /// Seconds of the server's core, whatever ran there.
    pub(super) core_s: f64,
    /// Nothing where the account came to nothing, as it may if the server had other work before the load.
    pub(super) answers_per_core_s: Option<f64>,
    duration_s: f64,
    pub(super) step: Step,
}

impl Loaded {
    /// How long the load lasted.
    pub(super) fn seconds(&self) -> f64 {
        self.duration_s
    }
}

impl Trial {
    /// In a line.
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

/// Lets a contestant have its turn. `known` is its highest rate of another round: the search begins nearby.
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
    let _awake = Awake::keep(bench.lab.cores.server)?;
    let account = Account::open(bench.lab)?;
    let first = known.map_or(SEARCH_FROM, |known| (known / 2.0).max(SEARCH_FROM));
    let found = bench.find_max(first)?;
    let Some(rate) = found.highest_rate else {
        return Err(running.failed(&format!("loses too much even at {SEARCH_FROM} requests/s")));
    };
    let highest = Highest { rate, limit: found.limit.unwrap_or_default(), steps: found.steps };
    Ok(Trial {
        half: bench.load(&account, rate * HALF)?,
        near: bench.load(&account, rate * NEAR)?,
        common: bench.load(&account, terms.common_rate)?,
        highest,
    })
}

/// This program, called for a load from the lab's client.
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
            self.interrupt.check()?;
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

    fn load(&self, account: &Account<'_>, rate: f64) -> Result<Loaded, Failure> {
        let mark = account.mark();
        let results = self.call(&["load"], &format!("{rate:.0}"), self.terms.duration)?;
        let core_s = account.had_since(mark, self.terms.duration);
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
        // Round-robin, not FIFO: the generator never sleeps, and its own process has to end it.
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
        if !output.status.success() {
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
        // Not a pipe: nobody reads until the end.
        call.stdout(File::create(&path).map_err(file)?).stderr(Stdio::piped());
        let mut process = call.spawn().map_err(Failure::Output)?;
        while process.try_wait().map_err(Failure::Output)?.is_none() {
            if let Err(interrupted) = self.interrupt.check() {
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

/// Microseconds.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
