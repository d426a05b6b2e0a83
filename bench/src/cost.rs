//! `pooltime-bench cost`: nanoseconds per packet for each kind of packet, in rounds that measure every kind
//! once.

mod bench;
mod paired_difference;
mod report;
mod subjects;
mod verify;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use core_affinity::CoreId;

use crate::failure::Failure;
use crate::machine::Machine;
use crate::programs::require_privileges;
use bench::Bench;
use paired_difference::Times;
use report::CostReport;

/// The options of the command line.
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) repeat: u32,
    pub(crate) cpu: Option<usize>,
    pub(crate) candidate: Option<PathBuf>,
    pub(crate) against: Option<PathBuf>,
    pub(crate) json: bool,
}

/// The warm-up of caches and of the CPU's clock takes this fraction of a round.
const WARM_UP: u32 = 10;

/// Measures and prints the results.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    // The earlier results are read before anything is measured, so that a file that cannot be read is
    // reported at once.
    let earlier = options.against.as_deref().map(read_report).transpose()?;
    require_privileges()?;
    let mut bench = Bench::load(options.candidate.as_deref(), pin(options.cpu)?)?;
    let subjects = subjects::all(options.candidate.is_some());

    for subject in &subjects {
        bench.measure(subject, options.repeat / WARM_UP)?;
    }
    let mut times = Times::new(subjects.len());
    for round in 0..options.rounds as usize {
        // Each round begins with another row, so that no row always follows the same one.
        for position in 0..subjects.len() {
            let index = (position + round) % subjects.len();
            let subject = &subjects[index];
            // The comparison comes first, so that neither of the two has just run.
            if let Some(plain) = subjects::plain(&subjects, subject) {
                times.add_comparison(index, bench.compare(subject, plain, options.repeat)?);
            }
            times.add(index, bench.measure(subject, options.repeat)?);
        }
    }

    let report = CostReport::new(
        Machine::describe(),
        bench.cpu(),
        options.rounds,
        options.repeat,
        bench.server_sizes(),
        &subjects,
        &times,
    );
    print(&report, earlier.as_ref(), options.json).map_err(Failure::Output)
}

fn print(report: &CostReport, earlier: Option<&CostReport>, json: bool) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut output, report)?;
        writeln!(output)
    } else {
        report.write_table(&mut output, earlier)
    }
}

fn read_report(path: &Path) -> Result<CostReport, Failure> {
    let text = fs::read_to_string(path).map_err(|reason| Failure::File { path: path.to_owned(), reason })?;
    serde_json::from_str(&text).map_err(|reason| Failure::Results { path: path.to_owned(), reason })
}

/// Pins this thread to one CPU. Returns all CPUs that it could have run on, with that one first.
fn pin(wanted: Option<usize>) -> Result<Vec<usize>, Failure> {
    // This is read before the affinity changes: afterwards it contains that one CPU only.
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    // The last CPU is the default because most interrupts go to the first.
    let cpu = wanted.or(cpus.last().copied()).unwrap_or(0);
    if cpus.contains(&cpu) && core_affinity::set_for_current(CoreId { id: cpu }) {
        cpus.sort_by_key(|other| *other != cpu);
        return Ok(cpus);
    }
    let allowed: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    Err(Failure::Cpu { cpu, allowed: allowed.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cpus_are_those_that_there_were_before_one_was_kept_to() {
        let before = core_affinity::get_core_ids().unwrap().len();
        let cpus = pin(None).unwrap();
        assert_eq!(cpus.len(), before);
        assert_eq!(core_affinity::get_core_ids().unwrap(), [CoreId { id: cpus[0] }]);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named_with_those_that_do() {
        let failure = pin(Some(9999)).unwrap_err().to_string();
        assert!(failure.contains("9999") && failure.contains("--cpu"), "{failure}");
    }
}
