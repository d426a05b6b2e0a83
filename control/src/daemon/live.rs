//! The line that a foreground daemon keeps up to date on a terminal.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

use responder::verdict::Action;
use tokio::time::{Interval, interval};

use crate::status::{Status, total};

/// Rewrites one line each second, if there is a terminal to write it on.
pub(super) struct StatusLine {
    timer: Option<Interval>,
    before: Option<(Instant, u64)>,
}

impl StatusLine {
    pub(super) fn new(wanted: bool) -> Self {
        let timer = (wanted && stdout().is_terminal()).then(|| interval(Duration::from_secs(1)));
        Self { timer, before: None }
    }

    /// Waits until the line is to be written; for ever if it is not.
    pub(super) async fn due(&mut self) {
        match &mut self.timer {
            Some(timer) => {
                timer.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn show(&mut self, status: &Status) {
        let counters = || status.interfaces.iter().map(|interface| &interface.counters);
        let sum = |action| counters().map(|counters| total(counters, action)).sum::<u64>();
        let (answered, dropped) = (sum(Action::Transmit), sum(Action::Drop));
        let now = Instant::now();
        let rate = self.before.map_or(0.0, |(then, before)| {
            #[expect(clippy::cast_precision_loss, reason = "for showing")]
            let answers = answered.saturating_sub(before) as f64;
            answers / now.duration_since(then).as_secs_f64()
        });
        self.before = Some((now, answered));
        let interfaces: Vec<_> = status
            .interfaces
            .iter()
            .map(|interface| format!("{} {}", interface.name, interface.mode.map_or("-", crate::datapath::Mode::label)))
            .collect();
        // Clear to the end of the line: the last one may have been longer.
        let _no_terminal = write!(
            stdout().lock(),
            "\r{} | {} | {rate:.0} answers/s, {answered} answered, {dropped} dropped | Ctrl-C detaches\x1b[K",
            interfaces.join(", "),
            status.clock_line(),
        );
        let _no_terminal = stdout().flush();
    }

    /// Leaves the line as it is and goes to the next.
    pub(super) fn finish(&mut self) {
        if self.timer.take().is_some() {
            println!();
        }
    }
}
