//! The loaded programs, and how a row is measured: alone, or in turns with another row.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use aya::programs::ProgramFd;
use core_affinity::CoreId;
use responder::Policy;

use super::paired_difference::Comparison;
use super::report::ServerSize;
use super::subjects::{self, Program, Subject};
use super::verify::{self, Refusal};
use crate::failure::Failure;
use crate::programs::{Baseline, Gauge, Server, TestRunResult};
use bench_ebpf::alternation::Turns;

/// The loaded programs.
pub(super) struct Bench {
    baseline: Baseline,
    /// The CPUs as [`super::pin`] returns them. A row that runs on one CPU takes the first.
    cpus: Vec<usize>,
    /// The built-in server and its variants, and the candidate if there is one. The indexes are those in
    /// [`subjects`].
    servers: Vec<Server>,
}

impl Bench {
    pub(super) fn load(candidate: Option<&Path>, cpus: Vec<usize>) -> Result<Self, Failure> {
        let mut objects = vec![("the built-in server object".to_owned(), xdp_ebpf::POOLTIME.to_vec())];
        if let Some(path) = candidate {
            let object = fs::read(path).map_err(|reason| Failure::File { path: path.to_owned(), reason })?;
            objects.push((path.display().to_string(), object));
        }
        let load = |(name, object): &(String, Vec<u8>), policy: &Policy| {
            Server::load(object, name, &subjects::served(), &subjects::stations(), &subjects::clock(), policy)
        };
        let mut servers = Vec::new();
        for (number, object) in objects.iter().enumerate() {
            servers.push(load(object, &Policy::OFF)?);
            servers.push(load(object, &subjects::limited())?);
            let lists = if number == 0 { &subjects::LISTS[..] } else { &[] };
            for prefixes in lists {
                let mut server = load(object, &subjects::listed())?;
                let (ipv4, ipv6) = subjects::prefixes(*prefixes);
                server.deny(&ipv4, &ipv6)?;
                servers.push(server);
            }
        }
        Ok(Self { baseline: Baseline::load()?, cpus, servers })
    }

    /// Returns the CPU of rows that run on one CPU.
    pub(super) fn cpu(&self) -> usize {
        self.cpus[0]
    }

    pub(super) fn server_sizes(&self) -> Vec<ServerSize> {
        let size = |server: &Server| {
            let (verified_instructions, machine_code_bytes) = server.size();
            ServerSize { verified_instructions, machine_code_bytes }
        };
        let different = [subjects::SERVER, subjects::CANDIDATE];
        different.iter().filter_map(|index| self.servers.get(*index)).map(size).collect()
    }

    fn handle(&self, program: Program) -> Result<ProgramFd, Failure> {
        match program {
            Program::Gauge(gauge) => self.baseline.handle(gauge),
            Program::Server(index) => self.servers[index].handle(),
        }
    }

    fn cpus_of(&self, subject: &Subject) -> &[usize] {
        if subject.crowded { &self.cpus } else { &self.cpus[..1] }
    }

    /// Measures nanoseconds per run over `repeat` runs, or fails if there is no valid figure.
    pub(super) fn measure(&mut self, subject: &Subject, repeat: u32) -> Result<f64, Failure> {
        let gauge = subject.method.gauge();
        if gauge.is_some() {
            let measured = self.handle(subject.program)?;
            self.baseline.put_behind(&measured, &subject.frame)?;
        }
        let ran = [(subject.program, u64::from(repeat))];
        let run = self.verified(subject, gauge, &ran, |bench| match (gauge, subject.program) {
            (Some(gauge), _) => bench.run_behind(gauge, subject, repeat),
            (None, Program::Gauge(gauge)) => bench.baseline.run(gauge, &subject.frame, repeat),
            (None, Program::Server(index)) => bench.servers[index].run(&subject.frame, repeat),
        })?;
        Ok(run.ns)
    }

    /// Measures the cost of a row compared with its plain row, or fails if there is no valid figure.
    pub(super) fn compare(
        &mut self,
        subject: &Subject,
        plain: &Subject,
        repeat: u32,
    ) -> Result<Comparison, Failure> {
        let turns = subject.method.turns(repeat);
        let [of_plain, of_subject] = turns.shares();
        let ran = [(plain.program, of_plain), (subject.program, of_subject)];
        let gauge = subject.method.gauge().unwrap_or(Gauge::Rearm);
        let mut pairs = Vec::new();
        for _ in 0..2 {
            self.exchange_copies()?;
            let measured = [self.handle(plain.program)?, self.handle(subject.program)?];
            self.baseline.put_in_turns([&measured[0], &measured[1]], &subject.frame, &turns)?;
            let all_runs = turns.all_runs();
            self.verified(subject, Some(gauge), &ran, |bench| bench.run_behind(gauge, subject, all_runs))?;
            let taken = self.baseline.turns()?;
            for cpu in self.cpus_of(subject) {
                let of_cpu = taken.get(*cpu).and_then(Turns::pairs);
                pairs.push(of_cpu.ok_or_else(|| Refusal::of_turns(subject))?);
            }
        }
        Ok(Comparison::of(&pairs).ok_or_else(|| Refusal::of_turns(subject))?)
    }

    /// Exchanges the two copies of the server, so that the one that was without limits gets them and the
    /// other way round. Where in memory the kernel has placed a program, which it keeps secret, can be worth
    /// a nanosecond.
    fn exchange_copies(&mut self) -> Result<(), Failure> {
        self.servers.swap(subjects::SERVER, subjects::LIMITED);
        self.servers[subjects::SERVER].set_policy(&Policy::OFF)?;
        self.servers[subjects::LIMITED].set_policy(&subjects::limited())
    }

    /// Has the programs run this often on each of the subject's CPUs, and refuses the result if a run did
    /// anything else than expected.
    fn verified(
        &mut self,
        subject: &Subject,
        gauge: Option<Gauge>,
        ran: &[(Program, u64)],
        run: impl FnOnce(&Self) -> Result<TestRunResult, Failure>,
    ) -> Result<TestRunResult, Failure> {
        let counts = |servers: &[Server]| servers.iter().map(Server::counts).collect::<Result<Vec<_>, _>>();
        let (counted_before, rearmed_before) = (counts(&self.servers)?, self.baseline.rearmed()?);
        let run = run(self)?;
        verify::verify(
            subject,
            &verify::Evidence {
                behind_gauge: gauge.is_some(),
                ran,
                cpus: self.cpus_of(subject),
                action: run.action,
                frame: &run.frame,
                counted_before: &counted_before,
                counted_after: &counts(&self.servers)?,
                rearmed_before: &rearmed_before,
                rearmed_after: &self.baseline.rearmed()?,
            },
        )?;
        Ok(run)
    }

    /// Runs what was put behind the gauge on all of the subject's CPUs at once; the first CPU is that of this
    /// thread. Returns the frame of the first CPU and the mean time of all.
    fn run_behind(&self, gauge: Gauge, subject: &Subject, repeat: u32) -> Result<TestRunResult, Failure> {
        let others = &self.cpus_of(subject)[1..];
        let start = Barrier::new(1 + others.len());
        let run = || {
            start.wait();
            self.baseline.run(gauge, &subject.frame, repeat)
        };
        thread::scope(|scope| {
            let others: Vec<_> = others
                .iter()
                .map(|cpu| {
                    scope.spawn(|| {
                        let _pinned = core_affinity::set_for_current(CoreId { id: *cpu });
                        run()
                    })
                })
                .collect();
            let mut all = run()?;
            #[expect(clippy::cast_precision_loss, reason = "CPUs")]
            let cpus = 1.0 + others.len() as f64;
            for other in others {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                all.ns += other.ns;
                if other.action != all.action {
                    all.action = other.action;
                }
            }
            all.ns /= cpus;
            Ok(all)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::pin;
    use super::*;
    use responder::ServedTable;

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn a_server_that_does_what_each_row_says_is_measured_and_compared() {
        let candidate = std::env::temp_dir().join(format!("pooltime-candidate-{}", std::process::id()));
        fs::write(&candidate, xdp_ebpf::POOLTIME).unwrap();
        let bench = Bench::load(Some(&candidate), pin(None).unwrap());
        fs::remove_file(&candidate).unwrap();
        let mut bench = bench.unwrap();
        let subjects = subjects::all(true);
        for subject in &subjects {
            let ns = bench.measure(subject, 1000).unwrap();
            assert!(ns > 1.0, "{}: {ns} ns", subject.name);
            if let Some(plain) = subjects::plain(&subjects, subject) {
                let comparison = bench.compare(subject, plain, 1000).unwrap();
                assert!(comparison.plain_ns > 1.0, "{}: {comparison:?}", subject.name);
            }
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
            &subjects::stations(),
            &subjects::clock(),
            &Policy::OFF,
        )
        .unwrap();
        let subjects = subjects::all(false);
        for subject in &subjects {
            let answer = subject.name.contains("answer");
            match bench.measure(subject, 1000) {
                Ok(_) => assert!(!answer, "{} was measured", subject.name),
                Err(failure) => {
                    assert!(answer && failure.as_own::<Refusal>().is_some(), "{failure}");
                    let text = failure.to_string();
                    assert!(text.contains("XDP_PASS") && text.contains("pass_for_others"), "{text}");
                }
            }
        }
        let plain = |subject: &&Subject| subjects::plain(&subjects, subject).is_some();
        for subject in subjects.iter().filter(plain) {
            let plain = subjects::plain(&subjects, subject).unwrap();
            let failure = bench.compare(subject, plain, 1000).unwrap_err().to_string();
            assert!(failure.contains("pass_for_others"), "{failure}");
        }
    }

    #[test]
    #[ignore = "needs root: scripts/test runs it"]
    fn a_server_past_its_horizon_gets_no_figure_for_an_answer() {
        let mut bench = Bench::load(None, pin(None).unwrap()).unwrap();
        let clock = responder::ClockState { horizon_ns: 0, ..subjects::clock() };
        bench.servers[0] = Server::load(
            xdp_ebpf::POOLTIME,
            "the server",
            &subjects::served(),
            &subjects::stations(),
            &clock,
            &Policy::OFF,
        )
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
            bench_ebpf::BASELINE,
            "other.o",
            &subjects::served(),
            &subjects::stations(),
            &subjects::clock(),
            &Policy::OFF,
        )
        .err()
        .unwrap();
        assert!(failure.to_string().contains("other.o"), "{failure}");
        assert_eq!(failure.exit_code(), 69);
    }
}
