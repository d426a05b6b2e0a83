//! The results of a load, step by step.

mod files;
mod page;
mod plot;
mod text;

use std::io::{self, Write};

use serde::Serialize;

use super::find_max::Search;
use super::generator::Generator;
use super::step::{KEPT, Percentiles, Step, fraction};
use super::{Load, Output, Sources};
use crate::failure::Failure;
use crate::machine::{Machine, utc};
use files::Files;
use text::folded;

/// Formats of the results on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    Table,
    /// All results as one object.
    Json,
    /// One line per step.
    Csv,
    /// The table of the program ntpperf, for scripts that read it.
    Ntpperf,
}

/// All steps, and the load that they belong to.
#[derive(Debug, Serialize)]
pub(super) struct LoadReport {
    command: &'static str,
    /// The command as it was typed.
    command_line: String,
    version: &'static str,
    /// When the load began, in UTC.
    date: String,
    machine: Machine,
    target: String,
    generator: String,
    profile: String,
    duration_s: f64,
    timeout_s: f64,
    /// Number of sources that requests come from.
    #[serde(skip)]
    clients: u32,
    /// Number of addresses that they come from, which is what servers limit by.
    #[serde(skip)]
    addresses: u32,
    steps: Vec<Step>,
    conclusion: Option<String>,
    /// In a search: the highest rate that was served, and what limited it.
    highest_rate: Option<f64>,
    limit: Option<&'static str>,
    /// What keeps the results from being what was asked for.
    remarks: Vec<String>,
    /// Where the results are written at the end.
    #[serde(skip)]
    files: Files,
}

impl LoadReport {
    /// Begins the report.
    ///
    /// # Errors
    ///
    /// A file of the results cannot be written. That is better known before the load than after it.
    pub(super) fn new(
        command: &'static str,
        generator: &dyn Generator,
        load: &Load,
        output: &Output,
    ) -> Result<Self, Failure> {
        Ok(Self {
            command,
            command_line: std::env::args().collect::<Vec<_>>().join(" "),
            version: version::TEXT.as_str(),
            date: utc(),
            machine: Machine::describe(),
            target: generator.target().to_string(),
            generator: generator.name(),
            profile: load.profile.to_string(),
            duration_s: load.duration.as_secs_f64(),
            timeout_s: load.timeout.as_secs_f64(),
            clients: generator.clients(),
            addresses: load.sources.map_or(1, Sources::clients),
            steps: Vec::new(),
            conclusion: None,
            highest_rate: None,
            limit: None,
            remarks: Vec::new(),
            files: Files::open(output)?,
        })
    }

    /// Prints what comes before the first step.
    pub(super) fn begin(&self, output: &Output) -> Result<(), Failure> {
        let mut to = io::stdout().lock();
        let written = match output.format {
            Format::Table => {
                let what = format!(
                    "{} by {}; profile {}; {} s a step, answers within {} s",
                    self.target, self.generator, self.profile, self.duration_s, self.timeout_s
                );
                writeln!(
                    to,
                    "{}\n\n{:>8} {:>10} {:>8} {:>7} {:>6} {:>7} {:>7} {:>7} {:>7}",
                    folded(&what, 0),
                    "rate",
                    "answered",
                    "lost",
                    "invalid",
                    "KoD",
                    "p50",
                    "p99",
                    "p99.9",
                    "max"
                )
            }
            Format::Csv => writeln!(
                to,
                "rate,sent_rate,sent,sent_late,unsent,answered,lost,late,invalid,kisses,duplicates,dropped_here,\
                 rtt_min_ns,rtt_p50_ns,rtt_p90_ns,rtt_p99_ns,rtt_p99_9_ns,rtt_max_ns,residence_p50_ns,\
                 residence_p99_ns,offset_mean_ns,malformed,window_ms,windows,windows_failed"
            ),
            Format::Ntpperf => writeln!(
                to,
                "               |          responses            |        response time (ns)\n\
                 rate   clients |  lost invalid   basic  xleave |    min    mean     max stddev"
            ),
            Format::Json => Ok(()),
        };
        written.map_err(Failure::Output)
    }

    /// Adds a step, and prints it if the format does not have to wait for the end.
    pub(super) fn add(&mut self, step: Step, output: &Output) -> Result<(), Failure> {
        let mut to = io::stdout().lock();
        let written = match output.format {
            Format::Table => write_row(&mut to, &step, self.addresses),
            Format::Csv => write_csv(&mut to, &step),
            Format::Ntpperf => write_ntpperf(&mut to, &step, self.clients),
            Format::Json => Ok(()),
        };
        self.steps.push(step);
        written.and_then(|()| to.flush()).map_err(Failure::Output)
    }

    pub(super) fn conclude(&mut self, search: &Search) {
        self.conclusion = Some(search.conclusion());
        self.highest_rate = search.highest();
        self.limit = search.limit();
    }

    /// Adds what keeps the results from being what was asked for.
    pub(super) fn remark(&mut self, remarks: Vec<String>) {
        self.remarks.extend(remarks);
    }

    /// Returns the steps so far.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the number of addresses that requests come from.
    pub(super) fn addresses(&self) -> u32 {
        self.addresses
    }

    /// Returns the step that is shown in detail: in a search the one at the highest rate that was served, else the last.
    fn shown_step(&self) -> Option<&Step> {
        let distance = |step: &&Step| (step.sent_rate - self.highest_rate.unwrap_or(f64::INFINITY)).abs();
        let nearest = self.steps.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.filter(|_| self.highest_rate.is_some()).or(self.steps.last())
    }

    /// Prints what comes after the last step, and writes the files.
    pub(super) fn end(&mut self, output: &Output) -> Result<(), Failure> {
        let mut to = io::stdout().lock();
        let json = || serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(io::Error::from);
        let written = match (output.format, &self.conclusion) {
            (Format::Json, _) => json().and_then(|text| to.write_all(text.as_bytes())),
            (Format::Table, Some(conclusion)) => writeln!(to, "\n{}", folded(conclusion, 0)),
            _ => Ok(()),
        };
        written.map_err(Failure::Output)?;
        let mut files = std::mem::take(&mut self.files);
        files.write(|| page::render(self), || serde_json::to_string_pretty(self).map_err(io::Error::from))
    }
}

/// Formats the share of lost requests. Where nothing was sent, nothing was lost, and nothing was served either.
fn loss(step: &Step) -> String {
    if step.sent == 0 { "-".into() } else { format!("{:.3} %", 100.0 * step.loss_fraction()) }
}

fn write_row(to: &mut impl Write, step: &Step, addresses: u32) -> io::Result<()> {
    let Percentiles { p50, p99, p99_9, max, .. } = step.round_trip_ns;
    writeln!(
        to,
        "{:>8.0} {:>10} {:>8} {:>7} {:>6} {:>7} {:>7} {:>7} {:>7}",
        step.rate,
        step.answered,
        loss(step).replace(' ', ""),
        step.invalid,
        step.kisses,
        short_time(p50),
        short_time(p99),
        short_time(p99_9),
        short_time(max),
    )?;
    notes(step, addresses).iter().try_for_each(|note| writeln!(to, "{}", folded(note, 9)))
}

/// Returns what has to be known about a step besides its figures.
fn notes(step: &Step, addresses: u32) -> Vec<String> {
    let mut notes: Vec<String> =
        step.faults.iter().map(|(name, count)| format!("{count} x invalid: {name}")).collect();
    if step.was_limited() {
        notes.push(format!(
            "{} kisses of death: a rate limit of the server refuses requests of {}. {}",
            step.kisses,
            sources(addresses),
            LIMIT_ADVICE
        ));
    }
    if step.sent > 0 && step.lost == step.sent && step.invalid + step.late == 0 {
        notes.push(
            "nothing came back at all. A firewall? On a veth link to a server with native XDP, this end needs an XDP \
             program too, if only one that passes everything"
                .into(),
        );
    }
    if step.late > 0 {
        notes.push(format!("{} answers came after the timeout, and count as lost", step.late));
    }
    let (windows, failed) = step.loss_windows.windows();
    if failed > 0 && failed * 2 <= windows {
        notes.push(format!(
            "all of them in {failed} of {windows} windows of {:.1} ms",
            step.loss_windows.window_ms()
        ));
    }
    if step.malformed > 0 {
        notes.push(format!("{} further requests that no server may answer", step.malformed));
    }
    if step.duplicates > 0 {
        notes.push(format!("{} duplicates, not counted as answers", step.duplicates));
    }
    if !step.kept_rate() {
        notes.push(format!(
            "the generator's limit, not the server's: {} requests were due but not sent, {:.0} were sent per second",
            step.unsent, step.sent_rate
        ));
    }
    if fraction(step.sent_late, step.sent) > 1.0 - KEPT {
        notes.push(format!("{} requests were sent more than 1 ms late", step.sent_late));
    }
    if step.dropped_here > 0 {
        notes.push(format!(
            "{} of the lost answers were dropped on this host because buffers were full",
            step.dropped_here
        ));
    }
    notes
}

/// What to do if a server limits its clients.
pub(super) const LIMIT_ADVICE: &str = "Send from more sources (--clients and --source-net, as root), or exempt this host on \
                                       the server: for pooltime-xdp, `pooltime-xdp allow ADDRESS --unlimited`";

/// Folds each line of a text for a terminal of 80 columns.
pub(crate) fn folded_lines(text: &str) -> String {
    text.lines().map(|line| folded(line, 0)).collect::<Vec<_>>().join("\n")
}

/// Names the sources of a load.
pub(super) fn sources(addresses: u32) -> String {
    if addresses == 1 { "its one source address".into() } else { format!("its {addresses} source addresses") }
}

fn write_csv(to: &mut impl Write, step: &Step) -> io::Result<()> {
    let Percentiles { min, p50, p90, p99, p99_9, max, .. } = step.round_trip_ns;
    let (windows, windows_failed) = step.loss_windows.windows();
    let offset = step.offset_ns.map(|offset| format!("{:.0}", offset.mean)).unwrap_or_default();
    writeln!(
        to,
        "{:.1},{:.1},{},{},{},{},{},{},{},{},{},{},{min},{p50},{p90},{p99},{p99_9},{max},{},{},{offset},{},{:.3},{windows},{windows_failed}",
        step.rate,
        step.sent_rate,
        step.sent,
        step.sent_late,
        step.unsent,
        step.answered,
        step.lost,
        step.late,
        step.invalid,
        step.kisses,
        step.duplicates,
        step.dropped_here,
        step.residence_ns.p50,
        step.residence_ns.p99,
        step.malformed,
        step.loss_windows.window_ms(),
    )
}

/// Writes columns as ntpperf prints them. It knows only lost requests and requests with one answer, even a
/// wrong one.
fn write_ntpperf(to: &mut impl Write, step: &Step, clients: u32) -> io::Result<()> {
    let percent = |count| 100.0 * fraction(count, step.sent);
    let Percentiles { min, max, mean, deviation, .. } = step.round_trip_ns;
    let invalid = (step.invalid + step.kisses).min(step.sent - step.answered.min(step.sent));
    let lost = step.sent.saturating_sub(invalid + step.answered);
    write!(
        to,
        "{:<8.0} {clients:>5} {:>6.2}% {:>6.2}% {:>6.2}% {:>6.2}%",
        step.rate,
        percent(lost),
        percent(invalid),
        percent(step.answered),
        0.0
    )?;
    if step.answered > 1 {
        write!(to, "  {min:>+7} {mean:>+7.0} {max:>+7} {deviation:>6.0}")?;
    }
    writeln!(to)
}

/// Formats a time with three digits and a unit; 0 means that there is none.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn short_time(ns: u64) -> String {
    match ns {
        // No answer came at once.
        0 => "-".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..100_000 => format!("{:.1}us", ns as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0}us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
        _ => format!("{:.1}s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bench_ebpf::load_token::Fault;

    use super::super::tally::Tally;
    use super::*;

    #[test]
    fn a_step_has_lines_of_at_most_80_columns_and_says_who_limited_it() {
        let mut tally = Tally::over(Duration::from_secs(1));
        (tally.sent, tally.matched, tally.answered, tally.kisses) = (12_345_678, 12_000_000, 11_000_000, 64);
        (tally.unsent, tally.late, tally.duplicates, tally.dropped_here) = (99_999_999, 1234, 12, 7);
        for fault in Fault::ALL {
            tally.fault(fault);
        }
        tally.round_trip.record_n(999_999_999, 11_000_000).unwrap();
        let mut rows = Vec::new();
        write_row(&mut rows, &Step::new(12_345_678.0, Duration::from_secs(1), &tally), 131_072).unwrap();
        let rows = String::from_utf8(rows).unwrap();
        assert!(rows.lines().all(|line| line.chars().count() <= text::WIDTH), "{rows}");
        let words = rows.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("64 kisses of death: a rate limit of the server refuses"), "{rows}");
        assert!(words.contains("allow ADDRESS --unlimited"), "{rows}");
        assert!(words.contains("1234 answers came after the timeout"), "{rows}");
    }

    #[test]
    fn what_was_never_sent_is_not_served_without_loss() {
        let mut tally = Tally::over(Duration::from_secs(1));
        tally.unsent = 1000;
        let mut rows = Vec::new();
        write_row(&mut rows, &Step::new(1000.0, Duration::from_secs(1), &tally), 1).unwrap();
        let rows = String::from_utf8(rows).unwrap();
        let words = rows.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!rows.contains('%') && words.contains("1000 requests were due but not sent"), "{rows}");
    }

    #[test]
    fn a_row_of_ntpperf_has_its_columns() {
        let mut tally = Tally::over(Duration::from_secs(1));
        (tally.sent, tally.matched, tally.answered) = (1000, 990, 980);
        tally.fault(Fault::Mode);
        tally.round_trip.record_n(5343, 980).unwrap();
        let mut row = Vec::new();
        write_ntpperf(&mut row, &Step::new(1500.0, Duration::from_secs(1), &tally), 150).unwrap();
        let row = String::from_utf8(row).unwrap();
        assert!(row.starts_with("1500       150   1.90%   0.10%  98.00%   0.00%    +53"), "{row}");
        let (header, columns) = (
            "rate   clients |  lost invalid   basic  xleave |    min    mean     max stddev",
            row.trim_end().len(),
        );
        assert_eq!(columns, header.len(), "{row}");
    }
}
