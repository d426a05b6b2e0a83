//! The results of `cost`: as a table for people and as JSON for programs.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::paired_difference::Times;
use super::subjects::{self, Method, PASS, REARMED_PASS, Subject};
use crate::machine::Machine;
use crate::statistics::Summary;

/// All results of `cost`.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct CostReport {
    machine: Machine,
    /// The CPU on which everything ran.
    cpu: usize,
    rounds: u32,
    repeat: u32,
    /// The built-in server, followed by the candidate.
    servers: Vec<ServerSize>,
    /// Time for writing the frame anew, which is subtracted from rows of that method.
    rearming_ns: Option<Summary>,
    rows: Vec<Row>,
}

/// Size of the server's program.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ServerSize {
    /// Number of instructions that the verifier went through; 0 if the kernel does not say.
    pub(super) verified_instructions: u32,
    pub(super) machine_code_bytes: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Row {
    name: String,
    /// The method, "direct" or "rearmed".
    method: String,
    ns: Summary,
    /// Ratio to `XDP_PASS` of the same round.
    ratio: Summary,
    aim: Option<Aim>,
    rounds_ns: Vec<f64>,
    /// For a row of a variant or a candidate: the additional cost in ns over the same row of the plain
    /// built-in server, measured in turns with it.
    more_ns: Option<Summary>,
    /// The cost as a multiple of that row's.
    times_plain: Option<Summary>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Aim {
    /// The figure that has a limit: the median.
    is: f64,
    most: f64,
    /// Unit of the figure; empty for multiples of `XDP_PASS`.
    unit: String,
    met: bool,
}

impl CostReport {
    pub(super) fn new(
        machine: Machine,
        cpu: usize,
        rounds: u32,
        repeat: u32,
        servers: Vec<ServerSize>,
        subjects: &[Subject],
        times: &Times,
    ) -> Self {
        let row = |(index, subject): (usize, &Subject)| {
            let costs = times.costs(subjects, index);
            let ratio = Summary::of(&times.ratios(subjects, index))?;
            let more_ns = Summary::of(&times.more(index));
            let more_ratio = Summary::of(&times.more_ratios(subjects, index));
            let times_plain = Summary::of(&times.times_plain(subjects, index));
            let aim = subject.aim.map(|aim| {
                let (is, most, unit) = match aim {
                    subjects::Aim::Ratio(most) => (Some(ratio), most, ""),
                    subjects::Aim::More(most) => (more_ratio, most, " x PASS more"),
                    subjects::Aim::Times(most) => (times_plain, most, " x plain"),
                };
                let is = is.map_or(f64::NAN, |is| is.median);
                Aim { is, most, unit: unit.into(), met: is <= most }
            });
            Some(Row {
                name: subject.name.clone(),
                method: match subject.method {
                    Method::Direct => "direct".into(),
                    Method::Rearmed => "rearmed".into(),
                    Method::Scattered | Method::ScatteredIpv4 => "scattered".into(),
                },
                ns: Summary::of(&costs)?,
                ratio,
                aim,
                more_ns,
                times_plain,
                rounds_ns: costs,
            })
        };
        // The second baseline has no row of its own: after the time for writing is subtracted, it is the
        // first one.
        let shown = subjects.iter().enumerate().filter(|(_, subject)| subject.name != REARMED_PASS);
        let rows = shown.filter_map(row).collect();
        let rearming_ns = Summary::of(&times.rearming(subjects));
        Self { machine, cpu, rounds, repeat, servers, rearming_ns, rows }
    }

    /// Prints the table, with the columns of an earlier report if given.
    pub(super) fn write_table(&self, output: &mut impl Write, earlier: Option<&Self>) -> io::Result<()> {
        let Machine { kernel, processor, cpus, jit } = &self.machine;
        writeln!(output, "{processor}, {cpus} CPUs, Linux {kernel}")?;
        if !jit {
            writeln!(
                output,
                "The kernel's eBPF compiler is off (net.core.bpf_jit_enable): the figures are those of an interpreter."
            )?;
        }
        for (server, name) in self.servers.iter().zip(["server", "candidate"]) {
            let ServerSize { verified_instructions, machine_code_bytes } = server;
            writeln!(
                output,
                "{name}: {machine_code_bytes} bytes of machine code, {verified_instructions} instructions verified"
            )?;
        }
        writeln!(
            output,
            "{} rounds of {} packets for each row, on CPU {}; every run reached its verdict and was counted\n",
            self.rounds, self.repeat, self.cpu
        )?;
        let names = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        writeln!(
            output,
            "{:names$}  {:>7}  {:>7}  {:>7}  {:>9}  {:>7}  aim",
            "ns a packet", "min", "median", "spread", "x PASS", "spread"
        )?;
        for row in &self.rows {
            let Row { name, ns, ratio, .. } = row;
            write!(
                output,
                "{name:names$}  {:>7.1}  {:>7.1}  {:>7.1}  {:>9.2}  {:>7.2}",
                ns.min, ns.median, ns.spread, ratio.median, ratio.spread
            )?;
            if let Some(Aim { is, most, unit, met }) = &row.aim {
                write!(output, "  at most {most}{unit}: ")?;
                if !unit.is_empty() {
                    write!(output, "{is:.2}, ")?;
                }
                write!(output, "{}", if *met { "met" } else { "not met" })?;
            }
            if let (Some(more), Some(times)) = (row.more_ns, row.times_plain) {
                write!(
                    output,
                    "  {:+.1} ns (spread {:.1}), {:.2} x",
                    more.median, more.spread, times.median
                )?;
            }
            if let Some(before) = earlier.and_then(|earlier| earlier.row(name)) {
                let change = 100.0 * (ratio.median / before.ratio.median - 1.0);
                write!(output, "  before {:.2} x, now {change:+.1} %", before.ratio.median)?;
            }
            writeln!(output)?;
        }
        writeln!(output, "\nspread: between the quartiles of the rounds.")?;
        if let Some(rearming) = self.rearming_ns {
            writeln!(
                output,
                "Where a program changes the frame, the frame is written anew before each run; what that takes, \
                 {:.1} ns\n(spread {:.1}), is measured with {PASS} and subtracted within each round.",
                rearming.median, rearming.spread
            )?;
        }
        writeln!(
            output,
            "What a row costs beside its plain one (+ ns, x, and x PASS more) is not the difference of the two rows: in each \
             round\nboth programs take turns within milliseconds, and it is the median of the differences of neighbouring \
             turns."
        )?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.machine != self.machine) {
            writeln!(
                output,
                "The earlier results are from another machine: {}, {} CPUs, Linux {}.",
                earlier.machine.processor, earlier.machine.cpus, earlier.machine.kernel
            )?;
        }
        Ok(())
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::paired_difference::Comparison;
    use super::super::subjects::all;
    use super::*;

    fn report(answer_ns: f64) -> CostReport {
        let subjects = all(true);
        let mut times = Times::new(subjects.len());
        for (index, subject) in subjects.iter().enumerate() {
            let ns = match subject.name.as_str() {
                PASS => 20.0,
                REARMED_PASS => 40.0,
                "answer, IPv4" => answer_ns,
                _ => 24.0,
            };
            times.add(index, ns);
            if subjects::plain(&subjects, subject).is_some() {
                times.add_comparison(index, Comparison { more_ns: 3.0, plain_ns: 120.0 });
            }
        }
        let machine = Machine { kernel: "6".into(), processor: "P".into(), cpus: 2, jit: true };
        CostReport::new(machine, 1, 1, 1000, Vec::new(), &subjects, &times)
    }

    fn table(report: &CostReport, earlier: Option<&CostReport>) -> String {
        let mut text = Vec::new();
        report.write_table(&mut text, earlier).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn line<'a>(table: &'a str, name: &str) -> &'a str {
        table.lines().find(|line| line.starts_with(name)).unwrap()
    }

    #[test]
    fn an_aim_is_met_up_to_its_limit_and_not_beyond() {
        let met = table(&report(90.0), None);
        assert!(line(&met, "answer, IPv4 ").contains("3.50"), "{met}");
        assert!(line(&met, "answer, IPv4 ").ends_with("at most 3.5: met"), "{met}");
        let missed = table(&report(90.1), None);
        assert!(line(&missed, "answer, IPv4 ").ends_with("at most 3.5: not met"), "{missed}");
    }

    #[test]
    fn variants_and_candidates_are_told_by_what_they_cost_beside_the_plain_row() {
        let table = table(&report(90.0), None);
        assert!(line(&table, "answer, IPv4 (candidate)").contains("+3.0 ns (spread 0.0), 1.03 x"), "{table}");
        let limited = line(&table, "limiter, one source, IPv6");
        assert!(limited.contains("at most 0.15 x PASS more: 0.15, met"), "{table}");
        assert!(line(&table, "limiter, random sources, IPv6").contains("plain: 1.03, met"), "{table}");
    }

    #[test]
    fn earlier_results_stand_beside_the_new_ones() {
        let earlier: CostReport =
            serde_json::from_str(&serde_json::to_string(&report(80.0)).unwrap()).unwrap();
        let table = table(&report(90.0), Some(&earlier));
        assert!(line(&table, "answer, IPv4 ").contains("before 3.00 x, now +16.7 %"), "{table}");
    }
}
