//! What systemd is told, where it asked to be: ready, reloading, ending, what is served, and that the loop still
//! turns.

use std::time::{Duration, Instant};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// The service manager, if there is one.
pub(super) struct Service {
    /// From one sign of life to the next: half of what it waits for.
    interval: Option<Duration>,
    told: Instant,
    status: String,
}

impl Service {
    /// Says that requests are answered.
    pub(super) fn ready() -> Self {
        tell(&[NotifyState::Ready]);
        Self {
            interval: watchdog_enabled().map(|timeout| timeout / 2),
            told: Instant::now(),
            status: String::new(),
        }
    }

    /// Called by the loop each time that the clock was published: a daemon that hangs no longer does, and is
    /// started anew. `status` is for people.
    pub(super) fn alive(&mut self, status: String) {
        if self.interval.is_some_and(|interval| self.told.elapsed() >= interval) {
            tell(&[NotifyState::Watchdog]);
            self.told = Instant::now();
        }
        if self.status != status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    pub(super) fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn reloaded() {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }
}

/// Does nothing where nobody asked.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        warn!("cannot tell the service manager: {error}");
    }
}
