//! Threads that make frames when they are due, and hand them to the kernel.

use std::thread;
use std::time::Duration;

use bench_ebpf::load_token::{MAX_REQUESTS, MIX, Plan, Request, Token, mix_index};
use crossbeam_channel::unbounded;

use super::super::clock::monotonic_ns;
use super::super::schedule::Schedule;
use super::super::watch::Watch;
use super::Sent;
use super::setup::{Setup, Step};
use crate::failure::Failure;

/// Largest number of frames that are handed over together, so that none waits long for the others.
const BATCH: u64 = 64;

/// The longest sleep before a thread looks whether it is interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How much too late a sleeping thread may wake up. A thread that never sleeps, on the other hand, is the
/// first that has to wait when others want the CPU.
const OVERSLEPT: Duration = Duration::from_micros(150);

/// A destination for frames.
pub(super) trait Outlet {
    /// Lets `write` make a frame. Returns whether there was room for one.
    fn put(&mut self, write: impl FnOnce(&mut [u8])) -> bool;

    /// Has the kernel send what was put. Returns how many of those frames it has dropped.
    fn flush(&mut self) -> Result<u64, Failure>;

    /// Waits until everything that was put has gone out. Returns how many frames have not.
    fn finish(&mut self) -> Result<u64, Failure>;
}

/// Sends a step's requests, with one outlet for each worker.
pub(super) fn send<O: Outlet + Send>(
    setup: &Setup,
    step: &Step,
    outlets: &mut [O],
    watch: &Watch,
) -> Result<Sent, Failure> {
    let (results, finished) = unbounded();
    thread::scope(|scope| {
        for (index, (core, outlet)) in (0..).zip(setup.cores.iter().zip(outlets)) {
            let results = results.clone();
            scope.spawn(move || {
                // Without pinning it works too, only less evenly.
                let _pinned = core_affinity::set_for_current(*core);
                let _receiver_waits = results.send(Worker::new(setup, step, outlet, index).run(watch));
            });
        }
    });
    drop(results);
    finished
        .into_iter()
        .try_fold(Sent::nothing(step), |total, one: Result<Sent, Failure>| one.map(|one| total + one))
}

/// A thread's part of a step.
struct Worker<'a, O> {
    plan: &'a Plan,
    outlet: &'a mut O,
    schedule: Schedule,
    versions: Box<[u8; MIX]>,
    /// The next request's number, and the distance to the one after it; the numbers between belong to other
    /// workers.
    sequence: u64,
    stride: u64,
    sent: Sent,
}

impl<'a, O: Outlet> Worker<'a, O> {
    fn new(setup: &Setup, step: &'a Step, outlet: &'a mut O, index: u32) -> Self {
        let (plan, load, workers) = (&step.plan, &setup.load, setup.workers());
        let schedule = Schedule::new(step.rate, load.spacing, step.duration, index, workers);
        Self {
            plan,
            outlet,
            schedule: schedule.with(plan.spike),
            versions: load.mix.table(),
            sequence: index.into(),
            stride: workers.into(),
            sent: Sent::nothing(step),
        }
    }

    fn run(mut self, watch: &Watch) -> Result<Sent, Failure> {
        let plan = self.plan;
        while monotonic_ns() < plan.start_ns {
            std::hint::spin_loop();
        }
        while let Some(due_ns) = self.schedule.due_ns() {
            let now_ns = monotonic_ns() - plan.start_ns;
            if now_ns >= plan.duration_ns {
                self.sent.unsent += self.schedule.give_up();
            } else if watch.is_interrupted() {
                self.sent.cut_after = Some(Duration::from_nanos(now_ns));
                break;
            } else if now_ns < due_ns {
                wait(Duration::from_nanos(due_ns - now_ns).min(LOOK_AGAIN));
            } else {
                self.put_due(now_ns);
                let dropped = self.outlet.flush()?;
                self.sent.take_back(dropped);
            }
        }
        let left = self.outlet.finish()?;
        self.sent.take_back(left);
        Ok(self.sent)
    }

    /// Puts what is due by now, up to a batch.
    fn put_due(&mut self, now_ns: u64) {
        let plan = self.plan;
        for _ in 0..BATCH {
            let Some(due_ns) = self.schedule.due_ns().filter(|due_ns| *due_ns <= now_ns) else { return };
            // If the thread was without the CPU for a while, sending all overdue requests would be a burst
            // that no client sends, and its losses would be blamed on the server.
            let hopeless = now_ns - due_ns > plan.late_ns || self.sequence >= MAX_REQUESTS;
            let token = Token { sequence: self.sequence, sent_ns: monotonic_ns() - plan.start_ns };
            let version = self.versions[mix_index(self.sequence)];
            let request = Request::new(plan, token, version);
            if hopeless {
                self.sent.unsent += 1;
            } else if self.outlet.put(|frame| {
                let _long_enough = request.write_to(frame, plan);
            }) {
                self.sent.count(request, token);
                self.sequence += self.stride;
            } else {
                return;
            }
            self.schedule.advance();
        }
    }
}

/// Waits for at most this time.
fn wait(time: Duration) {
    match time.checked_sub(OVERSLEPT) {
        Some(time) if time > OVERSLEPT => thread::sleep(time),
        _ => std::hint::spin_loop(),
    }
}
