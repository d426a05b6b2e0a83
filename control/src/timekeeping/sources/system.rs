//! `source = "system"`: the kernel's clock as another daemon keeps it, and that daemon's answers.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Correction, Mirrored, Source};
use crate::config::ClockConfig;
use crate::discipline::{Discipline, LocalTime};
use crate::error::Result;
use crate::net::query::exchange;
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::{CrossTimestamp, KernelClock, monotonic_ns};
use crate::timekeeping::system_clock::{LocalDaemon, SystemClock};

/// Interval at which the local daemon is asked.
const INTERVAL: Duration = Duration::from_secs(8);
/// Timeout for an answer; the daemon is on the same host.
const TIMEOUT: Duration = Duration::from_millis(300);

/// The outcome of asking the local daemon.
#[derive(Clone, Copy, Debug)]
enum Heard {
    Answer(LocalDaemon),
    Silence,
}

impl Heard {
    const fn answer(self) -> Option<LocalDaemon> {
        match self {
            Self::Answer(daemon) => Some(daemon),
            Self::Silence => None,
        }
    }
}

/// Mirrors the kernel's clock.
pub(in crate::timekeeping) struct SystemSource {
    clock: SystemClock,
    /// Readings of the last look.
    readings: Option<(CrossTimestamp, Adjtimex)>,
    /// The latest answer of the local daemon, unless it has stopped answering.
    local_daemon: Option<LocalDaemon>,
    /// Receives its answers, if there is an address to ask.
    answers: Option<mpsc::Receiver<Heard>>,
    arrived: Option<Heard>,
}

impl SystemSource {
    /// Makes a source that has not been read yet. The daemon that keeps the clock may answer at one of these
    /// addresses.
    pub(in crate::timekeeping) fn new(precision: i8, local_daemons: &[SocketAddr]) -> Self {
        Self {
            clock: SystemClock::new(precision),
            readings: None,
            local_daemon: None,
            answers: (!local_daemons.is_empty()).then(|| watch(local_daemons.into())),
            arrived: None,
        }
    }

    /// Waits until the local daemon has answered or failed to answer for the first time, so that even the
    /// first state can use its answer.
    pub(in crate::timekeeping) async fn hear_local_daemon(&mut self) {
        if let Some(answers) = &mut self.answers {
            self.local_daemon = answers.recv().await.and_then(Heard::answer);
        }
    }
}

impl Source for SystemSource {
    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.arrived.is_some() {
            return Poll::Ready(());
        }
        let Some(answers) = &mut self.answers else { return Poll::Pending };
        match answers.poll_recv(context) {
            Poll::Ready(Some(heard)) => {
                self.arrived = Some(heard);
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn take_in(&mut self, _discipline: &mut Discipline, _now: LocalTime) {
        if let Some(heard) = self.arrived.take() {
            self.local_daemon = heard.answer();
        }
    }

    fn look(&mut self, kernel: &dyn KernelClock) -> Result<()> {
        let state = kernel.discipline()?;
        self.readings = Some((kernel.cross_timestamp()?, state));
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    fn mirror(&mut self, config: &ClockConfig) -> Option<Mirrored> {
        let (sample, kernel) = self.readings?;
        let correction = Correction {
            offset_s: self.local_daemon.map(|daemon| daemon.reading.offset_ns as f64 / 1e9),
            frequency_ppm: kernel.frequency_scaled_ppm as f64 / 65_536.0,
        };
        let observation = self.clock.observe(&sample, &kernel, self.local_daemon.as_ref(), config);
        Some(Mirrored { observation, correction })
    }
}

/// Asks the local daemon at once and then again and again, outside the loop.
fn watch(servers: Vec<SocketAddr>) -> mpsc::Receiver<Heard> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let servers = servers.clone();
            let answer = tokio::task::spawn_blocking(move || ask(&servers)).await.ok().flatten();
            if sender.send(answer.map_or(Heard::Silence, Heard::Answer)).await.is_err() {
                return;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
    receiver
}

/// Asks the daemon on loopback, in whichever family it listens.
fn ask(servers: &[SocketAddr]) -> Option<LocalDaemon> {
    servers.iter().find_map(|server| {
        let reading = exchange(*server, TIMEOUT).ok()?;
        Some(LocalDaemon { reading, monotonic_ns: monotonic_ns().ok()? })
    })
}
