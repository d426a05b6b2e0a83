//! Notices steps of `CLOCK_REALTIME` through a timer that the kernel cancels when the clock is set.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::mpsc;
use tracing::error;

use crate::error::{Code, Error, Result};
use crate::sys::capabilities;

/// Time from a failure of the timer to its replacement: a permanent failure must not keep a CPU busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts a thread that waits for the clock to be set (settimeofday, `ADJ_SETOFFSET`, a leap second) and
/// reports it, for as long as the receiver exists.
///
/// # Errors
///
/// The kernel cannot create the timer or the thread.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let mut timer = StepTimer::new().map_err(Error::because(Code::Os, "cannot make a timer"))?;
    let (sender, receiver) = mpsc::channel(1);
    // The thread is never joined: it ends with the process, and a panic in it ends the process (see
    // Cargo.toml).
    std::thread::Builder::new()
        .name("step-watch".into())
        .stack_size(64 * 1024)
        .spawn(move || {
            capabilities::keep(&[]);
            report_steps(|| timer.wait_for_step(), &sender, PAUSE);
        })
        .map_err(Error::because(Code::Os, "cannot start the thread that watches for steps"))?;
    Ok(receiver)
}

/// Reports a step each time `wait` returns.
fn report_steps(mut wait: impl FnMut() -> nix::Result<()>, steps: &mpsc::Sender<()>, pause: Duration) {
    while !steps.is_closed() {
        if let Err(error) = wait() {
            error!("cannot watch for steps of the clock: {error}; trying again");
            std::thread::sleep(pause);
        }
        // A failure is reported as well, because a step in the meantime would be missed. If the channel is
        // full, a report is already waiting.
        let _full = steps.try_send(());
    }
}

/// A timer that never expires. A wait on it ends only when it is cancelled, which a step of the clock does.
/// `None` after it has failed.
struct StepTimer(Option<TimerFd>);

impl StepTimer {
    fn new() -> nix::Result<Self> {
        Ok(Self(Some(armed_timer()?)))
    }

    /// Waits for a step. Makes the timer anew if it failed before.
    fn wait_for_step(&mut self) -> nix::Result<()> {
        let timer = self.0.take().map_or_else(armed_timer, Ok)?;
        timer.wait()?;
        // A timer that was cancelled once reports no other step.
        arm(&timer)?;
        self.0 = Some(timer);
        Ok(())
    }
}

fn armed_timer() -> nix::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    arm(&timer)?;
    Ok(timer)
}

/// Arms the timer for a time that never comes. All that matters is that the time is absolute.
fn arm(timer: &TimerFd) -> nix::Result<()> {
    let never = Expiration::OneShot(TimeSpec::new(i64::from(i32::MAX) << 8, 0));
    timer.set(never, TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_timer_that_fails_is_no_end_of_the_watch_and_steps_meanwhile_are_not_missed() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut failures = [Errno::EBADF, Errno::EBADF].into_iter();
        let watch = std::thread::spawn(move || {
            report_steps(|| failures.next().map_or(Ok(()), Err), &sender, Duration::ZERO);
        });
        for _ in 0..4 {
            assert_eq!(receiver.blocking_recv(), Some(()));
        }
        drop(receiver);
        watch.join().unwrap();
    }

    #[test]
    fn a_timer_is_made_anew_after_a_failure() {
        let mut timer = StepTimer::new().unwrap();
        // This descriptor is no armed timer, so a wait on it fails.
        let unarmed = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK).unwrap();
        timer.0 = Some(unarmed);
        assert_eq!(timer.wait_for_step(), Err(Errno::EAGAIN));
        assert!(timer.0.is_none());
        let anew = timer.0.take().map_or_else(armed_timer, Ok).unwrap();
        assert!(anew.get().unwrap().is_some());
    }
}
