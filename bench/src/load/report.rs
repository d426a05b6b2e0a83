//! The results of a load, step by step.

mod page;

use std::fs;
use std::io::{self, Write};

use serde::Serialize;

use super::find_max::Search;
use super::generator::Generator;
use super::step::{KEPT, Percentiles, Step, fraction};
use super::{Load, Output};
use crate::failure::Failure;
use crate::machine::Machine;

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
    machine: Machine,
    target: String,
    generator: String,
    profile: String,
    duration_s: f64,
    timeout_s: f64,
    /// Number of sources that requests come from.
    #[serde(skip)]
    clients: u32,
    steps: Vec<Step>,
    conclusion: Option<String>,
    /// In a search: the highest rate that was served, and what limited it.
    highest_rate: Option<f64>,
    limit: Option<&'static str>,
}

impl LoadReport {
    pub(super) fn new(command: &'static str, generator: &dyn Generator, load: &Load) -> Self {
        Self {
            command,
            machine: Machine::describe(),
            target: generator.target().to_string(),
            generator: generator.name(),
            profile: load.profile.to_string(),
            duration_s: load.duration.as_secs_f64(),
            timeout_s: load.timeout.as_secs_f64(),
            clients: generator.clients(),
            steps: Vec::new(),
            conclusion: None,
            highest_rate: None,
            limit: None,
        }
    }

    /// Prints what comes before the first step.
    pub(super) fn begin(&self, output: &Output) -> Result<(), Failure> {
        let mut to = io::stdout().lock();
        let written = match output.format {
            Format::Table => writeln!(
                to,
                "{} by {}; profile {}; {} s a step, answers within {} s\n\n{:>9} {:>9} {:>10} {:>8} {:>7} {:>7} {:>6}  \
                 {:>8} {:>8} {:>8} {:>8} {:>8}",
                self.target,
                self.generator,
                self.profile,
                self.duration_s,
                self.timeout_s,
                "rate",
                "sent/s",
                "answered",
                "lost",
                "invalid",
                "KoD",
                "late",
                "min",
                "p50",
                "p99",
                "p99.9",
                "max"
            ),
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
            Format::Table => write_row(&mut to, &step),
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

    /// Prints what comes after the last step.
    pub(super) fn end(&self, output: &Output) -> Result<(), Failure> {
        let mut to = io::stdout().lock();
        let written = match (output.format, &self.conclusion) {
            (Format::Json, _) => serde_json::to_writer_pretty(&mut to, self)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(to)),
            (Format::Table, Some(conclusion)) => writeln!(to, "\n{conclusion}"),
            _ => Ok(()),
        };
        written.map_err(Failure::Output)?;
        if let Some(path) = &output.html {
            fs::write(path, page::render(self))
                .map_err(|reason| Failure::File { path: path.clone(), reason })?;
        }
        Ok(())
    }
}

fn write_row(to: &mut impl Write, step: &Step) -> io::Result<()> {
    let Percentiles { min, p50, p99, p99_9, max, .. } = step.round_trip_ns;
    writeln!(
        to,
        "{:>9.0} {:>9.0} {:>10} {:>7.3}% {:>7} {:>7} {:>6}  {:>8} {:>8} {:>8} {:>8} {:>8}",
        step.rate,
        step.sent_rate,
        step.answered,
        100.0 * step.loss_fraction(),
        step.invalid,
        step.kisses,
        step.late,
        short_time(min),
        short_time(p50),
        short_time(p99),
        short_time(p99_9),
        short_time(max),
    )?;
    let note = |to: &mut dyn Write, text: String| writeln!(to, "{:>9} {text}", "");
    for (name, count) in &step.faults {
        note(to, format!("{count} x invalid: {name}"))?;
    }
    if step.sent > 0 && step.lost == step.sent && step.invalid + step.late == 0 {
        let text = "nothing came back at all. A firewall? On a veth link to a server with native XDP, this end needs \
                    an XDP program too, if only one that passes everything";
        note(to, text.into())?;
    }
    let (windows, failed) = step.loss_windows.windows();
    if failed > 0 && failed * 2 <= windows {
        let text = format!(
            "all of them in {failed} of {windows} windows of {:.1} ms",
            step.loss_windows.window_ms()
        );
        note(to, text)?;
    }
    if step.malformed > 0 {
        let text = "further requests that no server may answer";
        note(to, format!("{} {text}", step.malformed))?;
    }
    if step.duplicates > 0 {
        note(to, format!("{} duplicates, not counted as answers", step.duplicates))?;
    }
    if !step.kept_rate() {
        let text = "requests were due but not sent: this is the generator's limit, not the server's";
        note(to, format!("{} {text}", step.unsent))?;
    }
    if fraction(step.sent_late, step.sent) > 1.0 - KEPT {
        note(to, format!("{} requests were sent more than 1 ms late", step.sent_late))?;
    }
    if step.dropped_here > 0 {
        note(
            to,
            format!(
                "{} of the lost answers were dropped on this host because buffers were full",
                step.dropped_here
            ),
        )?;
    }
    Ok(())
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

/// Formats a time with three digits and a unit.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn short_time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
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
