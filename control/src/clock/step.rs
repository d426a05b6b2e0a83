//! Word from the kernel that `CLOCK_REALTIME` was stepped: a timer that is cancelled by it.

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::mpsc;

use crate::error::{Code, Error, Result};

/// Starts a thread that waits for somebody to set the clock (settimeofday, `ADJ_SETOFFSET`, a leap second) and
/// says so. It ends with the process.
///
/// # Errors
///
/// The kernel's.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)
        .map_err(Error::because(Code::Os, "cannot make a timer"))?;
    arm(&timer).map_err(Error::because(Code::Os, "cannot set a timer"))?;
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("step-watch".into())
        .stack_size(64 * 1024)
        .spawn(move || {
            // The timer never expires, so a wait ends by a cancellation only. Cancelled once, it would tell
            // of no other step.
            while timer.wait().and_then(|()| arm(&timer)).is_ok() {
                // Full means that one is waiting to be seen already.
                let _full = sender.try_send(());
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread that watches for steps"))?;
    Ok(receiver)
}

/// For a time that does not come: what matters is that it is an absolute one.
fn arm(timer: &TimerFd) -> nix::Result<()> {
    let never = Expiration::OneShot(TimeSpec::new(i64::from(i32::MAX) << 8, 0));
    timer.set(never, TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)
}
