//! What the server side takes of its core: by the kernel's own accounts for its threads, and for the interrupts
//! between them by a thread that counts as fast as it can whenever nobody else wants the core. How much slower it
//! counts in its time than it does undisturbed is what interrupts took of that time.
//!
//! It also keeps the core from going to sleep, so that no figure has the machine's way of waking up in it. Other
//! work on the core is in nobody's account.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use nix::unistd::{Pid, gettid};

use super::lab::{self, Lab};
use crate::failure::Failure;

/// Counts at a time, between two looks at whether to stop: microseconds.
const STRIDE: u64 = 4096;
/// To see how fast it counts alone.
const ALONE: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Soaker {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    id: Pid,
    /// Counts in a second of its own CPU time while nothing was polled.
    alone_per_s: f64,
    /// What a second takes in which nothing comes: the polling.
    idle: f64,
}

/// A moment of it, in counts and in seconds of CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at: Instant,
    count: u64,
    soaker_s: f64,
    server_s: f64,
}

impl Soaker {
    /// Starts it, learns how fast it is alone, and has the link polled from then on.
    pub(super) fn start(lab: &Lab) -> Result<Self, Failure> {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&count), Arc::clone(&stop));
        let (identity, started) = crossbeam_channel::bounded(1);
        let core = CoreId { id: lab.cores.server };
        let thread = thread::spawn(move || {
            let _elsewhere_it_would_show_nothing = core_affinity::set_for_current(core);
            let _receiver_waits = identity.send(gettid());
            while !stopped.load(Ordering::Relaxed) {
                for step in 0..STRIDE {
                    std::hint::black_box(step);
                }
                counted.fetch_add(STRIDE, Ordering::Relaxed);
            }
        });
        // The thread sends it first of all.
        let id = started.recv().unwrap_or_else(|_| gettid());
        let mut soaker =
            Self { count, stop, thread: Some(thread), id, alone_per_s: f64::INFINITY, idle: 0.0 };
        soaker.keep_others_off(true)?;
        lab.rest()?;
        let before = soaker.mark(lab);
        thread::sleep(ALONE);
        let after = soaker.mark(lab);
        soaker.alone_per_s = after.counts_since(before) / (after.soaker_s - before.soaker_s).max(1e-3);
        lab.settle()?;
        let before = soaker.mark(lab);
        thread::sleep(ALONE);
        soaker.idle = soaker.taken_since(lab, before, Duration::ZERO) / before.at.elapsed().as_secs_f64();
        soaker.keep_others_off(false)?;
        Ok(soaker)
    }

    /// Lets nobody but the server side have the core, or anybody. Without a rival the interrupts are all on top of
    /// the server or of this, and none is missed. But the kernel gives ordinary work a twentieth of the core all
    /// the same, in pieces that latencies would show.
    pub(super) fn keep_others_off(&self, off: bool) -> Result<(), Failure> {
        if off {
            lab::give_priority(self.id, lab::SOAKER_PRIORITY)
        } else {
            lab::give_least_priority(self.id)
        }
    }

    pub(super) fn mark(&self, lab: &Lab) -> Mark {
        Mark {
            at: Instant::now(),
            count: self.count.load(Ordering::Relaxed),
            soaker_s: cpu_s(&format!("/proc/self/task/{}/schedstat", self.id)),
            server_s: lab.server_threads().iter().map(|thread| cpu_s(thread)).sum(),
        }
    }

    /// Seconds of the core that the server side had since then for a load that lasted this long; what polling took
    /// before it began and after it had ended does not count.
    pub(super) fn taken_since(&self, lab: &Lab, before: Mark, load: Duration) -> f64 {
        let now = self.mark(lab);
        let interrupts_s = (now.soaker_s - before.soaker_s) - now.counts_since(before) / self.alone_per_s;
        let around_s = (now.at - before.at).saturating_sub(load).as_secs_f64();
        ((now.server_s - before.server_s) + interrupts_s.max(0.0) - self.idle * around_s).max(0.0)
    }
}

impl Mark {
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
    fn counts_since(self, before: Self) -> f64 {
        (self.count - before.count) as f64
    }
}

impl Drop for Soaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panic_is_shown_already = thread.join();
        }
    }
}

/// What a thread has had of a CPU so far, interrupts on top of it included, by its file `schedstat`; nothing if it
/// has ended.
#[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
fn cpu_s(schedstat: &str) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}
