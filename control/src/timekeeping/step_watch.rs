//! Word from the kernel that `CLOCK_REALTIME` was stepped: a timer that is cancelled by it.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::mpsc;
use tracing::error;

use crate::error::{Code, Error, Result};

/// After the timer failed, until it is made anew: a failure that stays must not keep a CPU busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts a thread that waits for somebody to set the clock (settimeofday, `ADJ_SETOFFSET`, a leap second) and
/// says so, for as long as the receiver is there.
///
/// # Errors
///
/// The kernel's.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let mut timer = StepTimer::new().map_err(Error::because(Code::Os, "cannot make a timer"))?;
    let (sender, receiver) = mpsc::channel(1);
    // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
    std::thread::Builder::new()
        .name("step-watch".into())
        .stack_size(64 * 1024)
        .spawn(move || report_steps(|| timer.wait_for_step(), &sender, PAUSE))
        .map_err(Error::because(Code::Os, "cannot start the thread that watches for steps"))?;
    Ok(receiver)
}

/// Says of each step that `wait` returns for.
fn report_steps(mut wait: impl FnMut() -> nix::Result<()>, steps: &mpsc::Sender<()>, pause: Duration) {
    while !steps.is_closed() {
        if let Err(error) = wait() {
            error!("cannot watch for steps of the clock: {error}; trying again");
            std::thread::sleep(pause);
        }
        // After a failure, too: a step in the meantime would be missed. Full means that one is waiting to be seen.
        let _full = steps.try_send(());
    }
}

/// A timer that never expires, so a wait ends only when it is cancelled, which a step of the clock does. `None` after
/// it failed.
struct StepTimer(Option<TimerFd>);

impl StepTimer {
    fn new() -> nix::Result<Self> {
        Ok(Self(Some(armed_timer()?)))
    }

    /// Makes the timer anew if it failed before.
    fn wait_for_step(&mut self) -> nix::Result<()> {
        let timer = self.0.take().map_or_else(armed_timer, Ok)?;
        timer.wait()?;
        // Cancelled once, it would tell of no other step.
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

/// For a time that does not come: what matters is that it is an absolute one.
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
        // A descriptor that is no armed timer: a wait on it fails.
        let unarmed = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK).unwrap();
        timer.0 = Some(unarmed);
        assert_eq!(timer.wait_for_step(), Err(Errno::EAGAIN));
        assert!(timer.0.is_none());
        let anew = timer.0.take().map_or_else(armed_timer, Ok).unwrap();
        assert!(anew.get().unwrap().is_some());
    }
}
