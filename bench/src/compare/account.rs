//! What the server side has had of its core, by the kernel's own accounts: those of all threads of the server's host,
//! and that of the kernel's thread that polls its end of the link. Nearly all that the kernel does for the server is
//! done in one of them. Time that a host takes away from a virtual CPU is in none.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::CompareError;
use super::lab::Lab;

/// To see what polling takes while nothing comes.
const IDLE: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Account<'lab> {
    lab: &'lab Lab,
    /// What a second takes in which nothing comes.
    idle: f64,
}

/// A moment of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at: Instant,
    had_s: f64,
}

impl<'lab> Account<'lab> {
    /// Learns what the link takes while nobody sends; it has to be polled already.
    pub(super) fn open(lab: &'lab Lab) -> Result<Self, CompareError> {
        let mut account = Self { lab, idle: 0.0 };
        let before = account.mark();
        if before.had_s <= 0.0 {
            let reason = "the kernel does not provide /proc/PID/schedstat (CONFIG_SCHED_INFO)".into();
            return Err(CompareError::Lab { what: "the CPU time of the server's core".into(), reason });
        }
        thread::sleep(IDLE);
        account.idle = account.had_since(before, Duration::ZERO) / before.at.elapsed().as_secs_f64();
        Ok(account)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), had_s: self.lab.server_threads().iter().map(|thread| cpu_s(thread)).sum() }
    }

    /// Seconds of the core since then for a load that lasted so long; what polling took before it began and after it
    /// had ended does not count.
    pub(super) fn had_since(&self, before: Mark, load: Duration) -> f64 {
        let now = self.mark();
        let around_s = (now.at - before.at).saturating_sub(load).as_secs_f64();
        ((now.had_s - before.had_s) - self.idle * around_s).max(0.0)
    }
}

/// What a thread has had of a CPU so far, interrupts on top of it included, by its file `schedstat`; nothing if it
/// has ended.
#[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
fn cpu_s(schedstat: &str) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}
