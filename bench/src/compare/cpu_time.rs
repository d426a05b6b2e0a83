//! The time that the server side has spent on its core, according to the kernel's accounting. It counts all
//! threads on the server's host and the kernel's thread that polls its end of the link. One of them does
//! nearly all that the kernel does for the server. Time that a hypervisor takes away from a virtual CPU is
//! not counted.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::CompareError;
use super::lab::Lab;

/// How long the idle link is watched, to see what polling costs on its own.
const IDLE: Duration = Duration::from_millis(250);

/// CPU time of the server side; see the module.
pub(super) struct CpuTime<'lab> {
    lab: &'lab Lab,
    /// CPU seconds per second while nothing comes.
    idle: f64,
}

/// The CPU time at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at: Instant,
    had_s: f64,
}

impl<'lab> CpuTime<'lab> {
    /// Measures what the link takes while nobody sends. The link must be polled already.
    pub(super) fn open(lab: &'lab Lab) -> Result<Self, CompareError> {
        let mut cpu_time = Self { lab, idle: 0.0 };
        let before = cpu_time.mark();
        if before.had_s <= 0.0 {
            let reason = "the kernel does not provide /proc/PID/schedstat (CONFIG_SCHED_INFO)".into();
            return Err(CompareError::Lab { what: "the CPU time of the server's core".into(), reason });
        }
        thread::sleep(IDLE);
        cpu_time.idle = cpu_time.had_since(before, Duration::ZERO) / before.at.elapsed().as_secs_f64();
        Ok(cpu_time)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { at: Instant::now(), had_s: self.lab.server_threads().iter().map(|thread| cpu_s(thread)).sum() }
    }

    /// Returns the seconds of CPU time since `before` for a load that lasted `load`. What polling took before
    /// the load began and after it ended is not counted.
    pub(super) fn had_since(&self, before: Mark, load: Duration) -> f64 {
        let now = self.mark();
        let around_s = (now.at - before.at).saturating_sub(load).as_secs_f64();
        ((now.had_s - before.had_s) - self.idle * around_s).max(0.0)
    }
}

/// Returns the CPU time of a thread so far, including interrupts on top of it, from its `schedstat` file. A
/// thread that has ended counts as zero.
#[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
fn cpu_s(schedstat: &str) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}
