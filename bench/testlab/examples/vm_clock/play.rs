//! One row of the table: a guest with a daemon, upstreams on the host, and everything that is recorded of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::daemons::{self, Daemon, GUEST, UPSTREAMS};
use crate::machine::Machine;
use crate::probe::{KernelSample, Probe};
use crate::random::Random;
use crate::report::identities;
use crate::truth::Truth;
use testlab::fake_upstream::{Conduct, FakeUpstream, Script};
use testlab::oracle::{Answer, Oracle};

/// Requests a second of the oracle.
const RATE: u32 = 50;
/// As near to the truth as is asked of the kernel's clock, in s.
pub(crate) const NEAR_S: f64 = 0.001;
/// For how long it has to be near until a play that waits for it goes on.
const NEAR_FOR: Duration = Duration::from_secs(10);
/// How near the guest's clock is put to where a play wants it, in s. A look under emulation is no better.
const PUT_S: f64 = 0.001;
const TRIES: u32 = 30;
const LOOK: Duration = Duration::from_millis(100);
/// The kernel takes a leap second in a timer's tick, late by as much on an emulated machine.
const LATE_LEAP: Duration = Duration::from_millis(100);

/// A play that is going on.
pub(crate) struct Play<'machine> {
    pub(crate) machine: &'machine mut Machine,
    /// Who answers on port 123 of the guest.
    pub(crate) daemon: Daemon,
    pub(crate) random: Random,
    /// Of the daemons' polls, log2 seconds; else their defaults.
    pub(crate) poll: Option<u8>,
    pub(crate) upstreams: Vec<FakeUpstream>,
    pub(crate) truth: Truth,
    oracle: Oracle,
    oracle_began: Instant,
    probe: Probe,
    /// What times are counted from.
    zero: Instant,
    /// When ours was up, since the oracle began.
    up: Duration,
    /// Spans in which nobody can have known better.
    forgiven: Vec<(Instant, Instant)>,
    pub(crate) notes: Vec<String>,
    pub(crate) faults: Vec<String>,
}

/// What was recorded in a play.
pub(crate) struct Record {
    pub(crate) zero: Instant,
    pub(crate) answers: Vec<Judged>,
    pub(crate) kernel: Vec<KernelSample>,
    pub(crate) notes: Vec<String>,
    pub(crate) faults: Vec<String>,
    /// What the daemon said.
    pub(crate) log: String,
}

/// An answer beside the truth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    pub(crate) at: Instant,
    pub(crate) answer: Answer,
    /// How far it was ahead of the truth.
    pub(crate) error_s: f64,
    /// Nobody could know better.
    pub(crate) is_forgiven: bool,
}

impl Judged {
    /// How far it is beyond what it claims, for sure.
    pub(crate) fn excess_s(&self) -> f64 {
        self.error_s.abs() - self.answer.bound_s() - self.answer.uncertainty_s
    }

    /// Whether it says that it is synchronised and is further off than it says.
    pub(crate) fn is_wrong(&self) -> bool {
        self.answer.is_synchronised() && !self.is_forgiven && self.excess_s() > 0.0
    }
}

impl<'machine> Play<'machine> {
    /// Leaves a guest without daemons, whose clock is right and has a rate that nobody has touched, with four exact
    /// upstreams, and begins to record.
    pub(crate) fn begin(
        machine: &'machine mut Machine,
        daemon: Daemon,
        truth: fn() -> Truth,
        random: Random,
    ) -> Result<Self> {
        daemons::clean_up(&mut machine.guest)?;
        machine.guest.run("vm_clock guest reset")?;
        let truth = truth();
        let upstreams = UPSTREAMS.iter().map(|address| upstream(address, &truth)).collect();
        let oracle_began = Instant::now();
        let mut play = Self {
            machine,
            daemon,
            random,
            poll: None,
            upstreams,
            truth,
            oracle: Oracle::here(&[format!("{GUEST}:123").parse().expect("an address")], RATE),
            oracle_began,
            probe: Probe::start(GUEST, truth)?,
            zero: Instant::now(),
            up: Duration::ZERO,
            forgiven: Vec::new(),
            notes: Vec::new(),
            faults: Vec::new(),
        };
        play.put_clock(0.0)?;
        Ok(play)
    }

    /// What times are counted from is now.
    pub(crate) fn now_is_zero(&mut self) {
        self.zero = Instant::now();
    }

    /// Steps the guest's clock to where it is this far ahead of the truth.
    pub(crate) fn put_clock(&mut self, error_s: f64) -> Result<()> {
        for _try in 0..TRIES {
            let off_s = self.kernel_now()?.error_s;
            if (off_s - error_s).abs() < PUT_S {
                return Ok(());
            }
            self.guest(&format!("vm_clock guest step {:.9}", error_s - off_s))?;
        }
        Err("the guest's clock cannot be put where it is wanted: the machine is too busy".into())
    }

    /// Runs a command in the guest.
    pub(crate) fn guest(&mut self, command: &str) -> Result<String> {
        self.machine.guest.run(command)
    }

    /// Starts the daemon.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.daemon.start(&mut self.machine.guest, self.poll)?;
        self.up = self.oracle_began.elapsed();
        Ok(())
    }

    /// Starts another daemon beside it.
    pub(crate) fn start_beside(&mut self, other: Daemon) -> Result<()> {
        other.start(&mut self.machine.guest, self.poll)
    }

    /// Starts the daemon again after it ended or was killed.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.daemon.start_again(&mut self.machine.guest)
    }

    pub(crate) fn kill_9(&mut self) -> Result<()> {
        self.daemon.signal(&mut self.machine.guest, "KILL")?;
        self.daemon.wait(&mut self.machine.guest)
    }

    pub(crate) fn terminate(&mut self) -> Result<()> {
        self.daemon.signal(&mut self.machine.guest, "TERM")?;
        self.daemon.wait(&mut self.machine.guest)
    }

    /// The guest's clock as it is now: the surest of some looks.
    pub(crate) fn kernel_now(&self) -> Result<KernelSample> {
        const LOOKS: Duration = Duration::from_millis(900);
        const PATIENCE: Duration = Duration::from_secs(20);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            sleep(LOOKS);
            if let Some(surest) = self.probe.surest_since(began) {
                return Ok(surest);
            }
        }
        Err("the guest does not show its clock".into())
    }

    /// Waits for a synchronised answer that was asked for after now. Whether there was one.
    pub(crate) fn wait_until_synchronised(&self, limit: Duration) -> bool {
        let began = self.oracle_began.elapsed();
        wait_until(limit, || {
            self.oracle.latest().is_some_and(|answer| answer.at > began && answer.is_synchronised())
        })
    }

    /// Waits until the kernel's clock has been near the truth for a while. Whether it came to that.
    pub(crate) fn wait_until_near(&self, limit: Duration) -> bool {
        let began = Instant::now();
        wait_until(limit, || {
            let Some(since) = Instant::now().checked_sub(NEAR_FOR).filter(|since| *since >= began) else {
                return false;
            };
            let samples = self.probe.samples();
            let mut recent = samples.iter().filter(|sample| sample.at >= since).peekable();
            recent.peek().is_some() && recent.all(|sample| sample.least_error_s() <= NEAR_S)
        })
    }

    /// What times are counted from is then.
    pub(crate) fn set_zero(&mut self, at: Instant) {
        self.zero = at;
    }

    /// Notes strata and references of all synchronised answers. Those of a keeper that tells its own must be true: all
    /// upstreams are of stratum 1.
    pub(crate) fn compare_identities(&mut self, keeper: Daemon) {
        // Before, the keeper may have answered itself.
        let mut answers = self.oracle.so_far().answers;
        answers.retain(|answer| answer.at > self.up);
        self.note(identities(&answers));
        let true_references: Vec<_> = self.upstreams.iter().map(FakeUpstream::reference_id).collect();
        let is_false =
            |answer: &Answer| answer.stratum != 2 || !true_references.contains(&answer.reference_id);
        let synchronised = || answers.iter().filter(|answer| answer.is_synchronised());
        let falsehoods = synchronised().filter(|answer| is_false(answer)).count();
        if keeper.tells_its_source() && falsehoods > 0 {
            self.fault(format!("{falsehoods} answers with a false stratum or reference"));
        }
        let mut was_synchronised = false;
        let mut losses = 0;
        for answer in &answers {
            losses += u32::from(was_synchronised && !answer.is_synchronised());
            was_synchronised = answer.is_synchronised();
        }
        if losses > 0 {
            self.fault(format!("synchronisation was lost {losses} times"));
        }
    }

    /// Between these two nobody can know better.
    pub(crate) fn forgive(&mut self, from: Instant, to: Instant) {
        self.forgiven.push((from, to));
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// The rate of the guest's clock beside the truth, in ppm, from now on.
    pub(crate) fn measure_rate_ppm(&self, time: Duration) -> Result<f64> {
        let first = self.kernel_now()?;
        watch(time);
        let last = self.kernel_now()?;
        Ok((last.error_s - first.error_s) / (last.at - first.at).as_secs_f64() * 1e6)
    }

    /// Ends, with what was recorded. The machine goes on.
    pub(crate) fn end(mut self) -> Result<Record> {
        let log = self.log()?;
        let verdict = self.oracle.stop();
        let answers = verdict.answers.iter().map(|answer| {
            let at = self.oracle_began + answer.at;
            let received = at + Duration::from_secs_f64(2.0 * answer.uncertainty_s);
            let is_forgiven = self.forgiven.iter().any(|(from, to)| *from <= received && at <= *to);
            Judged {
                at,
                answer: *answer,
                error_s: self.truth.error_s(answer.offset_s, at, received),
                is_forgiven,
            }
        });
        let answers = answers.collect();
        let leaping = self.truth.leap().map(|leap| (leap.at, leap.at + LATE_LEAP));
        let forgiven: Vec<_> = self.forgiven.iter().copied().chain(leaping).collect();
        let mut kernel = self.probe.samples();
        kernel.retain(|sample| !forgiven.iter().any(|(from, to)| *from <= sample.at && sample.at <= *to));
        daemons::clean_up(&mut self.machine.guest)?;
        Ok(Record { zero: self.zero, answers, kernel, notes: self.notes, faults: self.faults, log })
    }

    /// The end of what the daemon has said.
    fn log(&mut self) -> Result<String> {
        self.daemon.log(&mut self.machine.guest)
    }
}

/// Lets a play go on for so long.
pub(crate) fn watch(time: Duration) {
    sleep(time);
}

/// Lets a play go on until then.
pub(crate) fn watch_until(at: Instant) {
    sleep(at.saturating_duration_since(Instant::now()));
}

/// Whether it came to this in time.
fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(LOOK);
    }
    true
}

/// An upstream that is exact, and takes part in the leap second of the truth if there is one.
fn upstream(address: &str, truth: &Truth) -> FakeUpstream {
    let socket = format!("{address}:123").parse().expect("an address");
    let conduct = Conduct { error_s: truth.shift_s(), ..Conduct::exact() };
    let script = match truth.leap() {
        None => Script::new(conduct),
        Some(leap) => Script::new(Conduct { leap: leap.indicator(), ..conduct }).after(
            leap.at.saturating_duration_since(Instant::now()),
            move |conduct| {
                conduct.error_s += leap.by_s;
                conduct.leap = 0;
            },
        ),
    };
    FakeUpstream::start_here(socket, script)
}
