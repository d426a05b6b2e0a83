//! How far a command has come, shown on a terminal. It shows time, because the time is known beforehand.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _, stderr, stdout};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Often enough that the bar moves visibly, and seldom enough not to disturb the measurement.
const REDRAW: Duration = Duration::from_millis(250);

/// A bar at the bottom of the terminal. Nothing is shown if standard error is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// What is being done.
    doing: Arc<Mutex<String>>,
    /// Its end stops the thread when it is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows progress over about this time. No bar is shown where standard error is no terminal, nor where
    /// results `for_programs` go to the same terminal.
    pub(crate) fn over(time: Duration, for_programs: bool) -> Self {
        Self::with(time, for_programs, String::new)
    }

    /// Whether progress is shown; see [`Progress::over`].
    pub(crate) fn is_shown(for_programs: bool) -> bool {
        stderr().is_terminal() && !(for_programs && stdout().is_terminal())
    }

    /// As [`Progress::over`], with what `live` returns behind what is being done.
    pub(crate) fn with(
        time: Duration,
        for_programs: bool,
        live: impl Fn() -> String + Send + 'static,
    ) -> Self {
        let shown = Self::is_shown(for_programs);
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(milliseconds(time).max(1)), target);
        let style = ProgressStyle::with_template("{wide_bar} {elapsed}, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let doing = Arc::new(Mutex::new(String::new()));
        let (stop, stopped) = channel();
        let thread = shown.then(|| {
            let (bar, started, doing) = (bar.clone(), Instant::now(), Arc::clone(&doing));
            thread::spawn(move || {
                while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                    bar.set_position(milliseconds(started.elapsed()).min(bar.length().unwrap_or(0)));
                    let doing = doing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    bar.set_message(doing + &live());
                }
            })
        });
        Self { bar, doing, stop: Some(stop), thread }
    }

    /// Shows what is being done.
    pub(crate) fn tell(&self, what: String) {
        self.bar.set_message(what.clone());
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Prints something while the bar is hidden.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

/// Prints a line on standard error. A reader that has gone away (`2>&1 | head`) is no error.
pub(crate) fn say(line: impl Display) {
    let _nobody_reads = writeln!(stderr(), "{line}");
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panic_is_shown_already = thread.join();
        }
        self.bar.finish_and_clear();
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
