//! The results: every run, the summary over all rounds, and the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::contestant::Contestant;
use super::lab::Cores;
use super::trial::{Trial, us};
use super::{CompareError, Options};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::statistics::Summary;

/// Our own contestants, and what they are measured against.
const OURS: [&str; 3] = ["native", "generic", "userspace"];
const NATIVE: &str = "native";
const REFLECTOR: &str = "reflector";

/// All results, written as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    command: String,
    machine: Machine,
    cores: Cores,
    /// What ran on each core.
    placement: [String; 2],
    rounds: u32,
    duration_s: f64,
    common_rate: f64,
    loss: f64,
    left_out: f64,
    clients: u32,
    contestants: BTreeMap<&'static str, Entry>,
    /// Contestants that did not take part, and the reason.
    skipped: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Entry {
    version: String,
    note: &'static str,
    runs: Vec<Trial>,
    summary: Option<Digest>,
}

/// Summary over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Digest {
    highest_rate: Summary,
    /// What limited the rate in most rounds.
    limit: String,
    /// Ratio to the bare reflector of the same round.
    of_reflector: Option<Summary>,
    answers_per_core_s: Option<Summary>,
    /// Ratio of our program in the driver to this contestant in the same round.
    native_by_this: Option<Summary>,
    p50_us: Summary,
    p99_us: Summary,
    /// Offset of its time at half of its highest rate, in microseconds.
    offset_us: Option<Summary>,
    common_core_percent: Summary,
    common_loss_percent: Summary,
}

impl Results {
    pub(super) fn new(options: &Options, cores: Cores) -> Self {
        Self {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: Machine::describe(),
            cores,
            placement: [
                format!("CPU {}: the server, and all that the kernel does for it", cores.server),
                format!("CPU {}: the generator, and its end of the link", cores.generator),
            ],
            rounds: options.rounds,
            duration_s: options.duration.as_secs_f64(),
            common_rate: options.common_rate,
            loss: options.loss,
            left_out: options.left_out,
            clients: options.clients,
            contestants: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    pub(super) fn skip(&mut self, name: &'static str, reason: String) {
        self.skipped.insert(name, reason);
    }

    pub(super) fn is_skipped(&self, name: &str) -> bool {
        self.skipped.contains_key(name)
    }

    pub(super) fn add(&mut self, contestant: &Contestant, trial: Trial) {
        let entry = self.contestants.entry(contestant.name()).or_insert_with(|| Entry {
            version: contestant.version(),
            note: contestant.note(),
            runs: Vec::new(),
            summary: None,
        });
        entry.runs.push(trial);
    }

    /// Computes the summaries.
    pub(super) fn conclude(&mut self) -> Result<(), CompareError> {
        if self.contestants.is_empty() {
            let reasons: Vec<String> =
                self.skipped.iter().map(|(name, reason)| format!("  {name}: {reason}")).collect();
            return Err(CompareError::Nobody(reasons.join("\n")));
        }
        let of = |name| self.contestants.get(name).map(|entry| entry.runs.clone()).unwrap_or_default();
        let (native, reflector) = (of(NATIVE), of(REFLECTOR));
        for entry in self.contestants.values_mut() {
            entry.summary = digest(&entry.runs, &native, &reflector);
        }
        Ok(())
    }

    /// Prints the table, and writes the table and the raw runs.
    pub(super) fn publish(&self, options: &Options) -> Result<(), Failure> {
        let table = self.table();
        // A reader that has gone away (`| head`) is no error: the files are written all the same.
        let _nobody_reads = writeln!(std::io::stdout(), "{table}");
        let Some(directory) = &options.results else {
            return Ok(());
        };
        let json =
            serde_json::to_string(self).map_err(|error| Failure::Output(std::io::Error::other(error)))?;
        write(directory, "compare.json", &json)?;
        write(directory, "compare.md", &table)
    }

    fn table(&self) -> String {
        let mut text = format!(
            "`{}`\n\n{}, {} CPUs, Linux {}. {}. {}. {} rounds; {} clients, evenly spaced requests, at most {} % \
             without a right answer in all but the worst {} % of the time. Medians, and behind them half of the \
             interquartile range.\n\n\
             | server | requests/s at most | limited by | of the reflector's | answers per core second | native's are \
             | p50 at half | p99 at half | time off | core at {}/s | lost there |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
            self.command,
            self.machine.processor,
            self.machine.cpus,
            self.machine.kernel,
            self.placement[0],
            self.placement[1],
            self.rounds,
            self.clients,
            self.loss * 100.0,
            self.left_out * 100.0,
            self.common_rate
        );
        let ours = OURS.iter().chain([&REFLECTOR]).filter_map(|name| self.contestants.get_key_value(name));
        let others = self.contestants.iter().filter(|(name, _)| !OURS.contains(name) && **name != REFLECTOR);
        for (name, entry) in ours.chain(others) {
            if let Some(digest) = &entry.summary {
                text += &row(name, entry, digest);
            }
        }
        for (name, reason) in &self.skipped {
            let _infallible = write!(text, "\nNot compared: {name}: {reason}.");
        }
        for aim in self.aims() {
            let _infallible = write!(text, "\n- {aim}");
        }
        text + "\n"
    }

    /// Returns what the server is built to reach, and whether it did.
    fn aims(&self) -> Vec<String> {
        let digest = |name: &str| self.contestants.get(name).and_then(|entry| entry.summary.as_ref());
        let Some(native) = digest(NATIVE) else {
            return Vec::new();
        };
        let said = |met: bool| if met { "met" } else { "not met" };
        let mut aims = Vec::new();
        if let Some(ratio) = native.of_reflector {
            let met = said(ratio.median >= 0.9);
            aims.push(format!(
                "{met}: at least 90 % of the bare reflector's rate: {:.0} %; at nine tenths of its own, {}",
                ratio.median * 100.0,
                self.lost_near_the_highest_rate()
            ));
        }
        let others = || {
            let entries =
                self.contestants.iter().filter(|(name, _)| !OURS.contains(name) && **name != REFLECTOR);
            entries.filter_map(|(name, entry)| Some((*name, entry.summary.as_ref()?)))
        };
        let least = others().filter_map(|(name, digest)| Some((name, digest.native_by_this?.median)));
        if let Some((name, ratio)) = least.min_by(|(_, one), (_, other)| one.total_cmp(other)) {
            let met = said(ratio >= 10.0);
            aims.push(format!("{met}: at least 10 times the answers per core second of the best other: {ratio:.1} times {name}'s"));
        }
        if let Some((name, best)) =
            others().min_by(|(_, one), (_, other)| one.p99_us.median.total_cmp(&other.p99_us.median))
        {
            let met = said(native.p99_us.median < best.p99_us.median);
            aims.push(format!(
                "{met}: p99 below every other's, at half of each one's highest rate: {:.0} us, the next is {name}'s with {:.0} us",
                native.p99_us.median, best.p99_us.median
            ));
        }
        aims
    }

    /// Returns what our contestants lost, over all rounds.
    fn lost_near_the_highest_rate(&self) -> String {
        let runs = self.contestants.get(NATIVE).map(|entry| entry.runs.as_slice()).unwrap_or_default();
        let steps = || runs.iter().map(|run| &run.near.step);
        let (sent, lost): (u64, u64) =
            (steps().map(|step| step.sent).sum(), steps().map(|step| step.lost).sum());
        let windows = steps()
            .map(|step| step.loss_windows.windows())
            .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        format!(
            "{lost} of {sent} requests were lost, all in {} of {} parts of the time",
            windows.1, windows.0
        )
    }
}

fn row(name: &str, entry: &Entry, digest: &Digest) -> String {
    let percent = |summary: Option<Summary>| {
        summary.map_or_else(String::new, |it| format!("{:.0} % ± {:.0}", it.median * 100.0, it.spread * 50.0))
    };
    let with = |summary: &Summary, digits: usize| {
        format!("{:.digits$} ± {:.digits$}", summary.median, summary.spread / 2.0)
    };
    format!(
        "| {name} ({}{}) | {} | {} | {} | {} | {} | {} us | {} us | {} | {} % | {} % |\n",
        entry.version,
        entry.note,
        with(&digest.highest_rate, 0),
        digest.limit,
        percent(digest.of_reflector),
        digest.answers_per_core_s.map_or_else(String::new, |answers| with(&answers, 0)),
        digest.native_by_this.map_or_else(String::new, |ratio| format!("{} x", with(&ratio, 1))),
        with(&digest.p50_us, 0),
        with(&digest.p99_us, 0),
        digest.offset_us.map_or_else(String::new, |offset| format!("{:.1} us", offset.median)),
        with(&digest.common_core_percent, 0),
        with(&digest.common_loss_percent, 3),
    )
}

fn digest(runs: &[Trial], native: &[Trial], reflector: &[Trial]) -> Option<Digest> {
    let of = |value: &dyn Fn(&Trial) -> f64| Summary::of(&runs.iter().map(value).collect::<Vec<_>>());
    let of_reflector: Vec<f64> =
        runs.iter().zip(reflector).map(|(this, other)| this.highest.rate / other.highest.rate).collect();
    let answers: Vec<f64> = runs.iter().filter_map(|run| run.near.answers_per_core_s).collect();
    let native_by_this: Vec<f64> = runs
        .iter()
        .zip(native)
        .filter_map(|(this, other)| Some(other.near.answers_per_core_s? / this.near.answers_per_core_s?))
        .collect();
    let offsets: Vec<f64> = runs.iter().filter_map(|run| Some(run.half.step.offset_ns?.mean / 1e3)).collect();
    Some(Digest {
        highest_rate: of(&|run| run.highest.rate)?,
        limit: most_common(runs.iter().map(|run| run.highest.limit.as_str())),
        of_reflector: Summary::of(&of_reflector),
        answers_per_core_s: Summary::of(&answers),
        native_by_this: Summary::of(&native_by_this),
        p50_us: of(&|run| us(run.half.step.round_trip_ns.p50))?,
        p99_us: of(&|run| us(run.half.step.round_trip_ns.p99))?,
        offset_us: Summary::of(&offsets),
        common_core_percent: of(&|run| 100.0 * run.common.core_s / run.common.seconds())?,
        common_loss_percent: of(&|run| 100.0 * run.common.step.loss_fraction())?,
    })
}

fn most_common<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(word, _)| word.into())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = directory.join(name);
    let failure = |reason| Failure::File { path: path.clone(), reason };
    fs::create_dir_all(directory).map_err(failure)?;
    fs::write(&path, text).map_err(failure)
}
