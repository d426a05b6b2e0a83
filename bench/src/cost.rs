//! `pooltime-bench cost`: nanoseconds for a packet, by kind, in rounds that measure every kind once.

mod pairing;
mod report;
mod subjects;
mod verify;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

use core_affinity::CoreId;

use crate::failure::Failure;
use crate::machine::Machine;
use crate::programs::{Gauge, Run, Server, Yardstick, require_privileges};
use pairing::Times;
use report::{Report, ServerSize};
use responder::Policy;
use subjects::{Method, Program, Subject};
pub(crate) use verify::Refusal;

/// What the command line asks for.
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) repeat: u32,
    pub(crate) cpu: Option<usize>,
    pub(crate) candidate: Option<PathBuf>,
    pub(crate) against: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Caches and the CPU's clock are warmed up by this fraction of a round.
const WARM_UP: u32 = 10;

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    // Before anything is measured: a results file that cannot be read is known at once.
    let earlier = options.against.as_deref().map(read_report).transpose()?;
    require_privileges()?;
    let cpu = pin(options.cpu)?;
    let mut bench = Bench::load(options.candidate.as_deref(), cpu)?;
    let subjects = subjects::all(options.candidate.is_some());

    for subject in &subjects {
        bench.measure(subject, options.repeat / WARM_UP)?;
    }
    let mut times = Times::new(subjects.len());
    for round in 0..options.rounds as usize {
        // Each round begins elsewhere, so that no row always follows the same one.
        for position in 0..subjects.len() {
            let index = (position + round) % subjects.len();
            times.add(index, bench.measure(&subjects[index], options.repeat)?);
        }
    }

    let report = Report::new(
        Machine::describe(),
        cpu,
        options.rounds,
        options.repeat,
        bench.server_sizes(),
        &subjects,
        &times,
    );
    print(&report, earlier.as_ref(), options.json).map_err(Failure::Output)
}

fn print(report: &Report, earlier: Option<&Report>, json: bool) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut output, report)?;
        writeln!(output)
    } else {
        report.write_table(&mut output, earlier)
    }
}

fn read_report(path: &Path) -> Result<Report, Failure> {
    let text = fs::read_to_string(path).map_err(|reason| Failure::File { path: path.to_owned(), reason })?;
    serde_json::from_str(&text).map_err(|reason| Failure::Results { path: path.to_owned(), reason })
}

/// Keeps this thread on one CPU.
fn pin(wanted: Option<usize>) -> Result<usize, Failure> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    // The first CPU is where most interrupts go.
    let cpu = wanted.or(allowed.last().map(|core| core.id)).unwrap_or(0);
    if allowed.iter().any(|core| core.id == cpu) && core_affinity::set_for_current(CoreId { id: cpu }) {
        return Ok(cpu);
    }
    let allowed: Vec<String> = allowed.iter().map(|core| core.id.to_string()).collect();
    Err(Failure::Cpu { cpu, allowed: allowed.join(", ") })
}

/// The loaded programs.
struct Bench {
    /// One for each CPU; a row on one CPU alone takes the first.
    yardsticks: Vec<Yardstick>,
    /// Those CPUs.
    cpus: Vec<usize>,
    /// The built-in server without limits and with, and the candidate if there is one.
    servers: Vec<Server>,
}

impl Bench {
    fn load(candidate: Option<&Path>, cpu: usize) -> Result<Self, Failure> {
        let mut objects = vec![("the built-in server object".to_owned(), xdp_ebpf::POOLTIME.to_vec())];
        if let Some(path) = candidate {
            let object = fs::read(path).map_err(|reason| Failure::File { path: path.to_owned(), reason })?;
            objects.push((path.display().to_string(), object));
        }
        let load = |(name, object): &(String, Vec<u8>), policy: &Policy| {
            Server::load(object, name, &subjects::served(), &subjects::clock(), policy)
        };
        let mut servers = Vec::new();
        for (number, object) in objects.iter().enumerate() {
            servers.push(load(object, &Policy::OFF)?);
            if number == 0 {
                servers.push(load(object, &subjects::limited())?);
                for prefixes in subjects::LISTS {
                    let mut server = load(object, &subjects::listed())?;
                    let (ipv4, ipv6) = subjects::prefixes(prefixes);
                    server.deny(&ipv4, &ipv6)?;
                    servers.push(server);
                }
            }
        }
        let mut cpus: Vec<_> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        // The one that this thread keeps to comes first.
        cpus.sort_by_key(|other| *other != cpu);
        let yardsticks = cpus.iter().map(|_| Yardstick::load()).collect::<Result<_, _>>()?;
        Ok(Self { yardsticks, cpus, servers })
    }

    fn rearmed(&self) -> Result<u64, Failure> {
        self.yardsticks.iter().map(Yardstick::rearmed).sum()
    }

    fn server_sizes(&self) -> Vec<ServerSize> {
        let size = |server: &Server| {
            let (verified_instructions, machine_code_bytes) = server.size();
            ServerSize { verified_instructions, machine_code_bytes }
        };
        let different = [subjects::SERVER, subjects::CANDIDATE];
        different.iter().filter_map(|index| self.servers.get(*index)).map(size).collect()
    }

    /// Nanoseconds for each of `repeat` runs, or no figure.
    fn measure(&mut self, subject: &Subject, repeat: u32) -> Result<f64, Failure> {
        let counts = |servers: &[Server]| servers.iter().map(Server::counts).collect::<Result<Vec<_>, _>>();
        let counted_before = counts(&self.servers)?;
        let runs = if subject.crowded { self.yardsticks.len() } else { 1 };
        let rearmed_before = self.rearmed()?;
        let run = match (subject.method, subject.program) {
            (Method::Direct, Program::Gauge(gauge)) => self.yardsticks[0].run(gauge, &subject.frame, repeat),
            (Method::Direct, Program::Server(index)) => self.servers[index].run(&subject.frame, repeat),
            (method, program) => {
                let rearm = match method {
                    Method::Scattered => Gauge::RearmScattered,
                    Method::ScatteredIpv4 => Gauge::RearmScatteredIpv4,
                    Method::Direct | Method::Rearmed => Gauge::Rearm,
                };
                for yardstick in self.yardsticks.iter_mut().take(runs) {
                    let handle = match program {
                        Program::Gauge(gauge) => yardstick.handle(gauge)?,
                        Program::Server(index) => self.servers[index].handle()?,
                    };
                    yardstick.put_behind(&handle, &subject.frame)?;
                }
                run_on_all(&self.yardsticks[..runs], &self.cpus, rearm, &subject.frame, repeat)
            }
        }?;
        verify::verify(
            subject,
            &verify::Evidence {
                repeat: u64::from(repeat) * runs as u64,
                action: run.action,
                frame: &run.frame,
                counted_before: &counted_before,
                counted_after: &counts(&self.servers)?,
                rearmed: self.rearmed()? - rearmed_before,
            },
        )?;
        Ok(run.ns)
    }
}

/// Runs what was put behind the gauge with each of the yardsticks at once, the first on this thread and the others on
/// their CPUs. The frame is the first one's, the time the mean of all.
fn run_on_all(
    yardsticks: &[Yardstick],
    cpus: &[usize],
    rearm: Gauge,
    frame: &[u8],
    repeat: u32,
) -> Result<Run, Failure> {
    let Some((first, others)) = yardsticks.split_first() else {
        return Err(Failure::Cpu { cpu: 0, allowed: String::new() });
    };
    let start = Barrier::new(yardsticks.len());
    thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .zip(cpus.iter().skip(1))
            .map(|(yardstick, cpu)| {
                let start = &start;
                scope.spawn(move || {
                    let _pinned = core_affinity::set_for_current(CoreId { id: *cpu });
                    start.wait();
                    yardstick.run(rearm, frame, repeat)
                })
            })
            .collect();
        start.wait();
        let mut run = first.run(rearm, frame, repeat)?;
        for other in others {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            run.ns += other.ns;
            if other.action != run.action {
                run.action = other.action;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "CPUs")]
        let runs = yardsticks.len() as f64;
        run.ns /= runs;
        Ok(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use responder::ServedTable;

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn a_server_that_does_what_each_row_says_is_measured() {
        let mut bench = Bench::load(None, pin(None).unwrap()).unwrap();
        for subject in subjects::all(false) {
            let ns = bench.measure(&subject, 1000).unwrap();
            assert!(ns > 1.0, "{}: {ns} ns", subject.name);
        }
    }

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn a_server_that_does_not_serve_the_address_gets_no_figure_for_an_answer() {
        let mut bench = Bench::load(None, pin(None).unwrap()).unwrap();
        bench.servers[0] = Server::load(
            xdp_ebpf::POOLTIME,
            "the server",
            &ServedTable::EMPTY,
            &subjects::clock(),
            &Policy::OFF,
        )
        .unwrap();
        for subject in subjects::all(false) {
            let answer = subject.name.contains("answer");
            let result = bench.measure(&subject, 1000);
            match result {
                Ok(_) => assert!(!answer, "{} was measured", subject.name),
                Err(Failure::Refused(refusal)) => {
                    assert!(answer, "{refusal}");
                    let text = refusal.to_string();
                    assert!(text.contains("XDP_PASS") && text.contains("pass_for_others"), "{text}");
                }
                Err(failure) => panic!("{failure}"),
            }
        }
    }

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn a_server_past_its_horizon_gets_no_figure_for_an_answer() {
        let mut bench = Bench::load(None, pin(None).unwrap()).unwrap();
        let clock = responder::ClockState { horizon_ns: 0, ..subjects::clock() };
        bench.servers[0] =
            Server::load(xdp_ebpf::POOLTIME, "the server", &subjects::served(), &clock, &Policy::OFF)
                .unwrap();
        let answers = subjects::all(false).into_iter().filter(|subject| subject.name.contains("answer"));
        for subject in answers {
            let failure = bench.measure(&subject, 1000).unwrap_err().to_string();
            assert!(failure.contains("answered_unsynchronised"), "{failure}");
        }
    }

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn an_object_without_the_program_is_named() {
        let failure = Server::load(
            xdp_ebpf::YARDSTICK,
            "other.o",
            &subjects::served(),
            &subjects::clock(),
            &Policy::OFF,
        )
        .err()
        .unwrap();
        assert!(failure.to_string().contains("other.o"), "{failure}");
        assert_eq!(failure.exit_code(), 69);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named_with_those_that_do() {
        let failure = pin(Some(9999)).unwrap_err().to_string();
        assert!(failure.contains("9999") && failure.contains("--cpu"), "{failure}");
    }
}
