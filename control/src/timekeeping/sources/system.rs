//! `source = "system"`: the kernel's clock as another daemon keeps it, and what that daemon says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use responder::udp::NTP_PORT;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Correction, Mirrored, Source};
use crate::config::ClockConfig;
use crate::discipline::{Discipline, LocalTime};
use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::{CrossTimestamp, KernelClock};
use crate::sys::port_owner::Holder;
use crate::timekeeping::keeper::ask::Asker;
use crate::timekeeping::keeper::{Claim, Keeper, Remaining};
use crate::timekeeping::system_clock::SystemClock;

/// Interval at which a keeper is asked that is synchronised.
const INTERVAL: Duration = Duration::from_secs(8);
/// Interval at which systemd-timesyncd is asked, which has nothing new to say unless it corrects the clock.
const INTERVAL_OF_TIMESYNCD: Duration = Duration::from_secs(64);
/// Interval at which a keeper is asked that is not synchronised yet.
const INTERVAL_AT_FIRST: Duration = Duration::from_secs(1);
/// For so long nobody's answer is awaited at that interval.
const PATIENCE: Duration = Duration::from_mins(1);

/// What came of asking the keeper.
#[derive(Clone, Debug)]
struct Heard {
    claim: Option<Claim>,
    /// A process that seems to keep the clock but does not answer.
    silent: Option<Holder>,
}

/// Mirrors the kernel's clock.
pub(in crate::timekeeping) struct SystemSource {
    clock: SystemClock,
    own: OwnAddresses,
    /// Readings of the last look.
    readings: Option<(CrossTimestamp, Adjtimex)>,
    /// The keeper's latest claim, unless it has stopped answering.
    claim: Option<Claim>,
    arrived: Option<Heard>,
    news: News,
    watch: Watch,
}

impl SystemSource {
    /// Makes a source that has not been read yet. The daemon that keeps the clock may answer NTP requests at one of
    /// these addresses.
    pub(in crate::timekeeping) fn new(precision: i8, local_daemons: &[SocketAddr]) -> Self {
        let news = News { holds_port: local_daemons.is_empty(), ..News::default() };
        Self { news, ..Self::hearing(precision, Watch::start(Asker::new(local_daemons))) }
    }

    fn hearing(precision: i8, watch: Watch) -> Self {
        Self {
            clock: SystemClock::new(precision),
            own: OwnAddresses::default(),
            readings: None,
            claim: None,
            arrived: None,
            news: News::default(),
            watch,
        }
    }

    /// Waits until the keeper has answered or failed to answer for the first time, so that even the first state can
    /// use its answer.
    pub(in crate::timekeeping) async fn hear_local_daemon(&mut self) {
        self.arrived = self.watch.heard.recv().await;
        self.hear();
    }

    fn hear(&mut self) {
        if let Some(heard) = self.arrived.take() {
            self.claim = heard.claim;
            self.news.tell(&heard, self.readings.map(|(sample, _)| sample.realtime_ns));
        }
    }
}

impl Source for SystemSource {
    fn set_own_addresses(&mut self, own: &OwnAddresses, _discipline: &mut Discipline, _now: LocalTime) {
        self.own = own.clone();
    }

    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.arrived.is_some() {
            return Poll::Ready(());
        }
        match self.watch.heard.poll_recv(context) {
            Poll::Ready(Some(heard)) => {
                self.arrived = Some(heard);
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn take_in(&mut self, _discipline: &mut Discipline, _now: LocalTime) {
        self.hear();
    }

    fn time_lost(&mut self) {
        self.clock.time_lost();
    }

    fn look(&mut self, kernel: &dyn KernelClock) -> Result<()> {
        let state = kernel.discipline()?;
        if self.readings.is_some_and(|(_, before)| state.max_error_us < before.max_error_us) {
            // The keeper has corrected the clock, and has something new to say.
            self.watch.asks_now.notify_one();
        }
        self.readings = Some((kernel.cross_timestamp()?, state));
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "for showing")]
    fn mirror(&mut self, config: &ClockConfig) -> Option<Mirrored> {
        let (sample, kernel) = self.readings?;
        let claim = self.claim.map(|claim| claim.with_own(self.own.reference_ids()));
        let offset_ns = claim.map(|claim| match claim.remaining {
            Remaining::Slew(ns) | Remaining::Unsaid(ns) => ns,
            Remaining::InKernel => kernel.offset_ns,
        });
        let correction = Correction {
            offset_s: offset_ns.map(|ns| ns as f64 / 1e9),
            frequency_ppm: kernel.frequency_scaled_ppm as f64 / 65_536.0,
        };
        let observation = self.clock.observe(&sample, &kernel, claim.as_ref(), config);
        if observation.stepped_ns.is_some() {
            self.watch.asks_now.notify_one();
        }
        Some(Mirrored { observation, correction })
    }
}

/// A task that asks the keeper at once and then again and again, outside the loop.
struct Watch {
    heard: mpsc::Receiver<Heard>,
    /// Has it ask without waiting any longer.
    asks_now: Arc<Notify>,
}

impl Watch {
    fn start(mut asker: Asker) -> Self {
        let (sender, heard) = mpsc::channel(1);
        let asks_now = Arc::new(Notify::new());
        let woken = Arc::clone(&asks_now);
        tokio::spawn(async move {
            let mut answered = Instant::now();
            loop {
                let outcome = tokio::task::spawn_blocking(move || {
                    let claim = asker.ask();
                    (asker, claim)
                });
                let Ok((returned, claim)) = outcome.await else { return };
                asker = returned;
                if claim.is_some() {
                    answered = Instant::now();
                }
                let silent = asker.process().filter(|_| claim.is_none()).cloned();
                if sender.send(Heard { claim, silent }).await.is_err() {
                    return;
                }
                let _early = timeout(until_next(claim.as_ref(), answered.elapsed()), woken.notified()).await;
            }
        });
        Self { heard, asks_now }
    }
}

/// Returns how long to wait after this claim, if the last one came so long ago.
fn until_next(claim: Option<&Claim>, silence: Duration) -> Duration {
    match claim {
        Some(Claim { synchronised: true, keeper: Keeper::Timesyncd, .. }) => INTERVAL_OF_TIMESYNCD,
        Some(Claim { synchronised: true, .. }) => INTERVAL,
        None if silence > PATIENCE => INTERVAL,
        Some(_) | None => INTERVAL_AT_FIRST,
    }
}

/// What the log says of the keeper: changes, and only those.
#[derive(Debug, Default)]
struct News {
    /// Whether this server holds port 123 in all families, so that no other daemon can answer there.
    holds_port: bool,
    keeper: Option<Keeper>,
    synchronised: bool,
    overdue: bool,
    silent: Option<u32>,
}

impl News {
    fn tell(&mut self, heard: &Heard, now_unix_ns: Option<i128>) {
        let keeper = heard.claim.map(|claim| claim.keeper);
        let synchronised = heard.claim.is_some_and(|claim| claim.synchronised);
        if let Some(line) = self.of_keeper(keeper) {
            info!("{line}");
        }
        if keeper.is_some() && self.synchronised && !synchronised {
            warn!("the clock's keeper is not synchronised any more");
        }
        self.synchronised = synchronised;
        let overdue =
            now_unix_ns.and_then(|now_ns| Some(heard.claim?.is_overdue(now_ns))).unwrap_or(self.overdue);
        match (self.overdue, overdue) {
            (false, true) => warn!(
                "the clock's keeper has not corrected the clock for a long time: all its upstreams seem to be gone; see `chronyc sources` or `timedatectl timesync-status`"
            ),
            (true, false) => info!("the clock's keeper corrects the clock again"),
            _ => {}
        }
        self.overdue = overdue;
        if let Some(line) = self.of_silence(heard.silent.as_ref()) {
            warn!("{line}");
        }
    }

    fn of_keeper(&mut self, keeper: Option<Keeper>) -> Option<String> {
        let before = std::mem::replace(&mut self.keeper, keeper);
        match (before, keeper) {
            (before, Some(keeper)) if before != Some(keeper) => {
                Some(format!("the clock's keeper is {keeper}"))
            }
            (Some(before), None) => Some(format!("the clock's keeper does not answer any more ({before})")),
            _ => None,
        }
    }

    fn of_silence(&mut self, process: Option<&Holder>) -> Option<String> {
        let process = process.filter(|process| self.silent.replace(process.pid) != Some(process.pid))?;
        let remedy = match process.name.as_str() {
            "chronyd" => {
                "it has neither its command port nor an NTP port on loopback (`cmdport`, `allow`)".to_owned()
            }
            _ if self.holds_port => {
                format!("this server holds port {NTP_PORT} and was started first; start it after the keeper")
            }
            _ => format!("nobody answers NTP requests on loopback at port {NTP_PORT}"),
        };
        Some(format!(
            "{process} seems to keep the clock but cannot be asked: {remedy}. Stratum and reference are those of the configuration"
        ))
    }
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
        let (sender, heard) = mpsc::channel(1);
        (SystemSource::hearing(-24, Watch { heard, asks_now: Arc::default() }), sender)
    }

    fn daemon(stratum: u8, offset_ns: i64) -> Heard {
        let server = ServerTime { stratum, precision: -20, ..ServerTime::default() };
        let leap = if stratum == 0 { 3 } else { 0 };
        let reading = Reading { server: ServerTime { leap, ..server }, offset_ns, delay_ns: 0 };
        Heard { claim: Some(Claim::of_answer(&reading, 1_000_000_000)), silent: None }
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
        for heard in [daemon(3, 0), Heard { claim: None, silent: None }] {
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

    fn holder(name: &str) -> Holder {
        Holder { name: name.into(), pid: 7, unit: None }
    }

    #[test]
    fn a_keeper_that_comes_and_goes_is_told_of_once() {
        let mut news = News::default();
        assert!(news.of_keeper(Some(Keeper::Chronyd)).unwrap().contains("chronyd"));
        assert_eq!(news.of_keeper(Some(Keeper::Chronyd)), None);
        assert!(news.of_keeper(Some(Keeper::Timesyncd)).unwrap().contains("systemd-timesyncd"));
        assert!(news.of_keeper(None).unwrap().contains("does not answer any more"));
        assert_eq!(news.of_keeper(None), None);
    }

    #[test]
    fn a_keeper_that_cannot_be_asked_is_told_of_once_with_the_way_out() {
        let mut news = News { holds_port: true, ..News::default() };
        let line = news.of_silence(Some(&holder("ntpd"))).unwrap();
        assert!(line.contains("ntpd (process 7)") && line.contains("start it after the keeper"), "{line}");
        assert_eq!(news.of_silence(Some(&holder("ntpd"))), None);
        let line = News::default().of_silence(Some(&holder("chronyd"))).unwrap();
        assert!(line.contains("cmdport"), "{line}");
    }

    #[test]
    fn a_keeper_is_asked_every_second_until_it_is_synchronised() {
        let claim =
            Claim::of_answer(&Reading { server: ServerTime::default(), offset_ns: 0, delay_ns: 0 }, 0);
        assert_eq!(until_next(Some(&claim), Duration::ZERO), INTERVAL_AT_FIRST);
        assert_eq!(until_next(Some(&Claim { synchronised: true, ..claim }), Duration::ZERO), INTERVAL);
        assert_eq!(until_next(None, Duration::ZERO), INTERVAL_AT_FIRST);
        assert_eq!(until_next(None, 2 * PATIENCE), INTERVAL);
    }
}
