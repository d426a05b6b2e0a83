//! The line that a foreground daemon keeps up to date on a terminal.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

use responder::verdict::Action;
use tokio::sync::oneshot;
use tokio::time::{Interval, interval};
use tracing::error;

use crate::error::{Code, Error, Result};
use crate::net::xdp_mode::Mode;
use crate::status::{Status, total};

/// Rewrites one line each second, if there is a terminal to write it on.
pub(super) struct StatusLine {
    timer: Option<Interval>,
    /// The status that was requested and has not arrived yet.
    requested: Option<oneshot::Receiver<Result<Status>>>,
    before: Option<(Instant, u64)>,
}

impl StatusLine {
    pub(super) fn new(wanted: bool) -> Self {
        let timer = (wanted && stdout().is_terminal()).then(|| interval(Duration::from_secs(1)));
        Self { timer, requested: None, before: None }
    }

    /// Waits until the line is due, and returns the status to show. Waits for ever if there is no line. Nothing is lost
    /// if the wait is given up.
    pub(super) async fn next(
        &mut self,
        ask: impl Fn() -> oneshot::Receiver<Result<Status>>,
    ) -> Result<Status> {
        let Some(timer) = &mut self.timer else { return std::future::pending().await };
        loop {
            if let Some(requested) = &mut self.requested {
                let status = requested.await;
                self.requested = None;
                let ended = |_| Err(Error::new(Code::Software, "the observer has ended"));
                return status.unwrap_or_else(ended);
            }
            timer.tick().await;
            self.requested = Some(ask());
        }
    }

    /// Writes the line. A status that could not be had is logged: the line is for show, and the server goes on.
    pub(super) fn show(&mut self, status: Result<Status>) {
        match status {
            Ok(status) => {
                // Clear to the end of the line: the last one may have been longer.
                let _no_terminal = write!(stdout().lock(), "\r{}\x1b[K", self.line(&status, Instant::now()));
                let _no_terminal = stdout().flush();
            }
            Err(error) => error!("no status to show: {error}"),
        }
    }

    fn line(&mut self, status: &Status, now: Instant) -> String {
        let counters = || status.interfaces.iter().map(|interface| &interface.counters);
        let sum = |action| counters().map(|counters| total(counters, action)).sum::<u64>();
        let (answered, dropped) = (sum(Action::Transmit), sum(Action::Drop));
        let rate = self.before.map_or(0.0, |(then, before)| {
            #[expect(clippy::cast_precision_loss, reason = "for showing")]
            let answers = answered.saturating_sub(before) as f64;
            answers / now.duration_since(then).as_secs_f64()
        });
        self.before = Some((now, answered));
        let interfaces: Vec<_> = status
            .interfaces
            .iter()
            .map(|interface| format!("{} {}", interface.name, interface.mode.map_or("-", Mode::label)))
            .collect();
        format!(
            "{} | {} | {rate:.0} answers/s, {answered} answered, {dropped} dropped | Ctrl-C detaches",
            interfaces.join(", "),
            status.clock_line(),
        )
    }

    /// Leaves the line as it is and goes to the next.
    pub(super) fn finish(&mut self) {
        if self.timer.take().is_some() {
            println!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn a_status_that_cannot_be_had_does_not_end_the_line_and_the_rate_is_right_after_it() {
        let mut line = StatusLine { timer: None, requested: None, before: None };
        let start = Instant::now();
        let first = line.line(&sample(), start);
        line.show(Err(Error::new(Code::Os, "cannot list the interfaces over netlink")));

        let mut later = sample();
        let counters = &mut later.interfaces[0].counters;
        counters.iter_mut().find(|counter| counter.verdict == "answered").unwrap().packets += 600;
        let second = line.line(&later, start + Duration::from_secs(2));
        assert!(first.contains(" 0 answers/s"), "{first}");
        assert!(second.contains(" 300 answers/s"), "{second}");
    }
}
