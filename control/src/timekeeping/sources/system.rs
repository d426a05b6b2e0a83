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

    fn time_lost(&mut self) {
        self.clock.time_lost();
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use protocol::{Reading, ServerTime};

    use super::*;
    use crate::discipline;
    use crate::timekeeping::fake::FakeMachine;
    use crate::timekeeping::system_clock::Unsynchronised;

    const NOW: LocalTime = LocalTime::from_ns(0);

    /// A source that hears from a local daemon what a test sends.
    fn source() -> (SystemSource, mpsc::Sender<Heard>) {
        let (sender, answers) = mpsc::channel(1);
        (SystemSource { answers: Some(answers), ..SystemSource::new(-24, &[]) }, sender)
    }

    fn daemon(stratum: u8, offset_ns: i64) -> Heard {
        let server = ServerTime { stratum, precision: -20, ..ServerTime::default() };
        let leap = if stratum == 0 { 3 } else { 0 };
        let reading = Reading { server: ServerTime { leap, ..server }, offset_ns, delay_ns: 0 };
        Heard::Answer(LocalDaemon { reading, monotonic_ns: 1_000_000_000 })
    }

    fn arrived(source: &mut SystemSource) -> bool {
        source.poll_arrived(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn take_in(source: &mut SystemSource) {
        let mut discipline = Discipline::new(discipline::Config::default(), &[], NOW, None);
        source.take_in(&mut discipline, NOW);
    }

    fn mirrored(source: &mut SystemSource) -> Mirrored {
        source.look(&FakeMachine::new(0.0, 0.0)).unwrap();
        source.mirror(&ClockConfig::default()).unwrap()
    }

    #[test]
    fn a_clock_that_has_not_been_looked_at_is_not_mirrored() {
        let (mut source, _sender) = source();
        assert_eq!(source.mirror(&ClockConfig::default()), None);
        assert_eq!(mirrored(&mut source).observation.unsynchronised, None);
    }

    #[test]
    fn what_the_local_daemon_says_wakes_the_loop_and_counts_when_it_is_taken_in() {
        let (mut source, sender) = source();
        assert!(!arrived(&mut source), "nothing was said");
        sender.try_send(daemon(3, -5_000)).unwrap();
        assert!(arrived(&mut source) && arrived(&mut source), "until it is taken in");
        assert_eq!(mirrored(&mut source).correction.offset_s, None);
        take_in(&mut source);
        assert!(!arrived(&mut source));
        let Mirrored { observation, correction } = mirrored(&mut source);
        assert_eq!((observation.state.stratum, correction.offset_s), (3, Some(-5e-6)));

        sender.try_send(daemon(0, 0)).unwrap();
        assert!(arrived(&mut source));
        take_in(&mut source);
        assert_eq!(mirrored(&mut source).observation.unsynchronised, Some(Unsynchronised::Daemon));
    }

    #[test]
    fn a_local_daemon_that_falls_silent_counts_no_more() {
        let (mut source, sender) = source();
        for heard in [daemon(3, 0), Heard::Silence] {
            sender.try_send(heard).unwrap();
            assert!(arrived(&mut source));
            take_in(&mut source);
        }
        let Mirrored { observation, correction } = mirrored(&mut source);
        assert_eq!((observation.unsynchronised, correction.offset_s), (None, None));
        assert_eq!(observation.state.stratum, ClockConfig::default().stratum);
    }

    #[test]
    fn without_anybody_to_ask_it_waits_for_nothing() {
        let mut alone = SystemSource::new(-24, &[]);
        assert!(!arrived(&mut alone));
        let (mut source, sender) = source();
        drop(sender);
        assert!(!arrived(&mut source), "who asked has ended");
        take_in(&mut source);
        assert_eq!(mirrored(&mut source).observation.unsynchronised, None);
    }

    #[tokio::test]
    async fn the_first_answer_is_waited_for_before_the_first_state() {
        let (mut source, sender) = source();
        tokio::spawn(async move { sender.send(daemon(2, 0)).await });
        source.hear_local_daemon().await;
        assert_eq!(mirrored(&mut source).observation.state.stratum, 2);
    }
}
