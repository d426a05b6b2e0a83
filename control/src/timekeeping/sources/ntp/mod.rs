//! The daemon as an NTP client: asks the configured upstreams and passes their answers to the
//! [`crate::discipline`].
//!
//! Requests and name resolution run outside the daemon's loop, with at most one of each per association.

mod association;
pub mod exchange;
mod sample;
mod timestamping;

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use protocol::{Kiss, Reject, reference_id};
use tokio::sync::mpsc;

use super::Source;
use crate::config::Config;
use crate::discipline::{Discipline, LocalTime};
use crate::error::chain;
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources::Peer;
use association::{Association, Readdressed};
use exchange::{Exchange, ExchangeOutcome, exchange, has_route, keep_stamping};
use sample::sample;

/// Timeout for an answer. It is shorter than the interval of a burst, so that only one request at a time is
/// under way.
const ANSWER: Duration = Duration::from_millis(1900);

/// The result of a request or of resolving a name.
#[derive(Debug)]
enum Arrival {
    /// A name was resolved.
    Resolved {
        /// The association of the name.
        association: u16,
        /// Its addresses.
        result: Result<Vec<SocketAddr>, String>,
    },
    /// A request has ended.
    Exchanged {
        /// The association that was asked.
        association: u16,
        /// The address that was asked.
        server: SocketAddr,
        /// The result.
        exchange: Exchange,
    },
}

/// The upstreams.
pub(in crate::timekeeping) struct NtpSource {
    associations: Vec<Association>,
    own: OwnAddresses,
    next_association: u16,
    max_distance_s: f64,
    sender: mpsc::Sender<Arrival>,
    inbox: mpsc::Receiver<Arrival>,
    arrived: Option<Arrival>,
    _stamping: Option<std::net::UdpSocket>,
}

impl NtpSource {
    /// Makes a source without upstreams; the configuration adds them.
    pub(in crate::timekeeping) fn new(own: OwnAddresses) -> Self {
        let (sender, inbox) = mpsc::channel(64);
        Self {
            associations: Vec::new(),
            own,
            next_association: 1,
            max_distance_s: 0.0,
            sender,
            inbox,
            arrived: None,
            _stamping: keep_stamping().ok(),
        }
    }

    fn readdress(&mut self, place: usize, discipline: &mut Discipline, now: LocalTime) {
        let association = &mut self.associations[place];
        let change = association.readdress(&self.own);
        apply(association, change, discipline, now);
    }

    fn resolved(
        &mut self,
        number: u16,
        result: Result<Vec<SocketAddr>, String>,
        discipline: &mut Discipline,
        now: LocalTime,
    ) {
        let others = self.associations.iter().filter(|association| association.number != number);
        let taken: Vec<_> = others.filter_map(|association| association.server).collect();
        if let Some(association) =
            self.associations.iter_mut().find(|association| association.number == number)
        {
            let change = association.resolved(result, &taken, &self.own, has_route);
            apply(association, change, discipline, now);
        }
    }

    fn exchanged(
        &mut self,
        number: u16,
        server: SocketAddr,
        exchange: Exchange,
        discipline: &mut Discipline,
        now: LocalTime,
    ) {
        let Some(association) = self.associations.iter_mut().find(|association| association.number == number)
        else {
            return;
        };
        association.asking = false;
        let Some(index) = association.index.filter(|_| association.server == Some(server)) else {
            return;
        };
        association.local = exchange.local.or(association.local);
        for (reject, count) in &exchange.refused {
            association.refused(*reject, *count);
        }
        let (time, times) = match exchange.outcome {
            ExchangeOutcome::Time(time, times) => (time, times),
            ExchangeOutcome::Kiss(kiss) => {
                association.kissed(kiss);
                match kiss {
                    Kiss::Rate => discipline.slow_down(index, now),
                    Kiss::Deny | Kiss::Restrict => discipline.deny(index),
                    Kiss::Other(_) => discipline.unfit(index, now),
                }
                return;
            }
            ExchangeOutcome::Rejected(reject) => {
                association.refused(reject, 1);
                return association.in_trouble(refusal(reject));
            }
            ExchangeOutcome::Failed(error) => return association.in_trouble(chain(&error)),
            // What came instead of the answer may tell why there is none.
            ExchangeOutcome::Silence => {
                if let Some(elsewhere) = exchange.elsewhere {
                    association.in_trouble(format!(
                        "its answers come from {elsewhere}, not from the address that is asked, and are refused"
                    ));
                } else if let Some((reject, _)) = exchange.refused.iter().max_by_key(|(_, count)| **count) {
                    association.in_trouble(refusal(*reject));
                }
                return;
            }
        };
        // An address that the routing table treats as local need not be that of an interface.
        let is_self = exchange.local.is_some_and(|local| local.to_canonical() == server.ip().to_canonical());
        let usable = if is_self {
            Err(Reject::Loop)
        } else {
            time.usable(self.max_distance_s, self.own.reference_ids())
        };
        match usable.and_then(|()| sample(&time, &times)) {
            Ok(sample) => {
                association.answered(time, sample.at);
                discipline.sample(index, &sample);
            }
            Err(reject) => {
                association.refused(reject, 1);
                association.in_trouble(refusal(reject));
                if reject != Reject::Residence {
                    discipline.unfit(index, now);
                }
            }
        }
    }
}

fn refusal(reject: Reject) -> String {
    format!("its answers are refused: {reject}")
}

impl Source for NtpSource {
    fn configure(&mut self, config: &Config, discipline: &mut Discipline, now: LocalTime) {
        self.max_distance_s = Duration::from_millis(config.clock.max_distance_ms).as_secs_f64();
        let mut before = std::mem::take(&mut self.associations);
        for upstream in &config.upstream {
            let kept = before.iter().position(|association| association.config == *upstream);
            if let Some(place) = kept {
                self.associations.push(before.swap_remove(place));
                continue;
            }
            let number = self.next_association;
            self.next_association = self.next_association.checked_add(1).unwrap_or(1);
            let mut association = Association::new(number, upstream.clone());
            if association.is_name() {
                association.index = Some(discipline.add(upstream.source(), now));
            }
            self.associations.push(association);
            self.readdress(self.associations.len() - 1, discipline, now);
        }
        for index in before.into_iter().filter_map(|gone| gone.index) {
            discipline.retire(index);
        }
    }

    fn set_own_addresses(&mut self, own: &OwnAddresses, discipline: &mut Discipline, now: LocalTime) {
        if self.own == *own {
            return;
        }
        self.own = own.clone();
        for place in 0..self.associations.len() {
            self.readdress(place, discipline, now);
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.associations.iter().filter_map(Association::next_look_up).min()
    }

    fn ask(&mut self, due: &[usize]) {
        for association in &mut self.associations {
            let number = association.number;
            if association.wants_address() {
                association.resolving = true;
                let (name, port) = (association.config.address.clone(), association.config.port);
                tokio::spawn(resolve(name, port, number, self.sender.clone()));
            }
            let Some(server) = association.server.filter(|_| association.is_due(due) && !association.asking)
            else {
                continue;
            };
            association.asked();
            let sender = self.sender.clone();
            tokio::spawn(async move {
                let exchange = exchange(server, ANSWER).await;
                let arrival = Arrival::Exchanged { association: number, server, exchange };
                let _ending = sender.send(arrival).await;
            });
        }
    }

    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.arrived.is_none() {
            match self.inbox.poll_recv(context) {
                Poll::Ready(Some(arrival)) => self.arrived = Some(arrival),
                // The channel never ends, because a sender is kept here.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn take_in(&mut self, discipline: &mut Discipline, now: LocalTime) {
        match self.arrived.take() {
            Some(Arrival::Resolved { association, result }) => {
                self.resolved(association, result, discipline, now);
            }
            Some(Arrival::Exchanged { association, server, exchange }) => {
                self.exchanged(association, server, exchange, discipline, now);
            }
            None => {}
        }
    }

    fn reference_id(&self, index: usize) -> Option<u32> {
        let association = self.associations.iter().find(|association| association.index == Some(index));
        Some(reference_id(association?.server?.ip()))
    }

    fn view(&self, now: LocalTime) -> Vec<(Option<usize>, Peer)> {
        self.associations.iter().map(|association| (association.index, association.view(now))).collect()
    }
}

/// Applies a change of address to the discipline. Without an address the association is no member of it, so
/// that nobody waits for its vote. With another address it is another server, and nothing that is known about
/// the one before holds for it.
fn apply(association: &mut Association, change: Readdressed, discipline: &mut Discipline, now: LocalTime) {
    if change == Readdressed::Kept {
        return;
    }
    if let Some(index) = association.index.take() {
        discipline.retire(index);
    }
    if let Readdressed::Taken(source) = change {
        association.index = Some(discipline.add(source, now));
    }
}

/// Resolves a name on a thread of its own, because the system's resolver blocks.
async fn resolve(name: String, port: u16, association: u16, sender: mpsc::Sender<Arrival>) {
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    let result = match found {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(error.to_string()),
    };
    let _ending = sender.send(Arrival::Resolved { association, result }).await;
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::Waker;

    use protocol::{ServerTime, Times};
    use responder::clock::{NtpShort, NtpTimestamp};

    use super::*;
    use crate::discipline::{self, Standing};
    use crate::net::own_addresses::tests::own;

    const NOW: LocalTime = LocalTime::from_ns(100_000_000_000);

    /// The upstreams and the discipline, of which no request leaves the host: what comes of one is put in by hand.
    struct Offline {
        source: NtpSource,
        discipline: Discipline,
    }

    impl Offline {
        fn new(addresses: &[&str]) -> Self {
            let mut offline = Self {
                source: NtpSource::new(own(&["198.51.100.1"])),
                discipline: Discipline::new(discipline::Config::default(), &[], NOW, None),
            };
            offline.configure(addresses);
            offline
        }

        fn configure(&mut self, addresses: &[&str]) {
            let upstreams =
                addresses.iter().map(|address| format!("[[upstream]]\naddress = \"{address}\"\n"));
            let text = format!("[clock]\nsource = \"upstream\"\n{}", upstreams.collect::<String>());
            self.source.configure(&Config::parse(&text).unwrap(), &mut self.discipline, NOW);
        }

        /// As the timekeeper does when it is woken.
        fn arrives(&mut self, arrival: Arrival) {
            let mut context = Context::from_waker(Waker::noop());
            assert!(self.source.poll_arrived(&mut context).is_pending());
            self.source.sender.try_send(arrival).unwrap();
            // However often it is asked for before it is taken in, it is there once.
            for _ in 0..2 {
                assert!(self.source.poll_arrived(&mut context).is_ready());
            }
            self.source.take_in(&mut self.discipline, NOW);
            assert!(self.source.poll_arrived(&mut context).is_pending());
        }

        fn answers(&mut self, association: u16, server: SocketAddr, outcome: ExchangeOutcome) {
            let local = Some([198, 51, 100, 1].into());
            let exchange = Exchange { outcome, refused: [].into(), local, elsewhere: None };
            self.arrives(Arrival::Exchanged { association, server, exchange });
        }

        fn resolves(&mut self, association: u16, result: Result<Vec<SocketAddr>, &str>) {
            let result = result.map_err(ToOwned::to_owned);
            self.arrives(Arrival::Resolved { association, result });
        }

        fn peer(&self, place: usize) -> (Option<usize>, Peer) {
            self.source.view(NOW).swap_remove(place)
        }

        fn standing(&self, index: usize) -> Standing {
            self.discipline.report(index, NOW).standing
        }
    }

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 123))
    }

    /// What a good server says, synchronised to this one.
    fn time(reference_id: u32) -> ExchangeOutcome {
        let time = NtpTimestamp::from_unix(1_790_000_000, 0);
        let said = ServerTime {
            stratum: 2,
            precision: -20,
            root_delay: NtpShort(1),
            root_dispersion: NtpShort(1),
            reference_id,
            receive: time,
            transmit: time,
            ..ServerTime::default()
        };
        let sent_ns = NOW.as_ns() - 1_000_000;
        ExchangeOutcome::Time(said, Times { sent_ns, received_ns: NOW.as_ns(), error_s: 1e-6 })
    }

    #[test]
    fn an_answer_goes_to_the_discipline_if_the_server_is_the_one_that_was_asked() {
        let mut offline = Offline::new(&["192.0.2.9"]);
        let index = offline.peer(0).0.unwrap();
        offline.answers(1, server(10), time(7));
        offline.answers(2, server(9), time(7));
        assert_eq!((offline.peer(0).1.answers, offline.discipline.report(index, NOW).latest), (0, None));
        offline.answers(1, server(9), time(7));
        let (_, peer) = offline.peer(0);
        assert_eq!((peer.answers, peer.stratum, peer.reference_id), (1, 2, 7));
        assert!(offline.discipline.report(index, NOW).latest.is_some());
        assert_eq!(offline.source.reference_id(index), Some(reference_id(server(9).ip())));
        assert_eq!(offline.source.reference_id(index + 1), None);
    }

    #[test]
    fn answers_that_lead_back_to_this_host_are_refused_and_make_the_server_unfit() {
        let mut offline = Offline::new(&["192.0.2.9"]);
        let index = offline.peer(0).0.unwrap();
        offline.answers(1, server(9), time(reference_id([198, 51, 100, 1].into())));
        let (_, peer) = offline.peer(0);
        assert_eq!((peer.answers, peer.rejected), (0, [("loop".into(), 1)].into()));
        assert_eq!(peer.trouble.unwrap(), "its answers are refused: the server is synchronised to this host");
        assert_eq!(offline.standing(index), Standing::Unfit);
    }

    #[test]
    fn why_answers_are_refused_is_the_server_s_standing() {
        let refused = |change: fn(&mut ServerTime)| {
            let mut offline = Offline::new(&["192.0.2.9"]);
            let ExchangeOutcome::Time(mut said, times) = time(7) else { unreachable!() };
            change(&mut said);
            offline.answers(1, server(9), ExchangeOutcome::Time(said, times));
            let (index, mut peer) = offline.peer(0);
            peer.describe(&offline.discipline.report(index.unwrap(), NOW), false);
            peer.standing
        };
        assert!(refused(|said| said.leap = 3).contains("not synchronised"));
        assert!(refused(|said| said.stratum = 15).contains("stratum is not 1 to 14"));
        assert!(refused(|said| said.root_dispersion = NtpShort(u32::MAX)).contains("root distance"));
        assert!(!refused(|_| {}).contains("refused"));

        let mut offline = Offline::new(&["192.0.2.9"]);
        offline.answers(1, server(9), ExchangeOutcome::Rejected(Reject::ZeroTransmit));
        assert!(offline.peer(0).1.trouble.unwrap().contains("transmit timestamp is zero"));
        let exchange = Exchange {
            outcome: ExchangeOutcome::Silence,
            refused: [(Reject::Source, 1)].into(),
            local: None,
            elsewhere: Some(server(10)),
        };
        offline.arrives(Arrival::Exchanged { association: 1, server: server(9), exchange });
        assert!(offline.peer(0).1.trouble.unwrap().contains("come from 192.0.2.10:123"));
        assert_eq!(offline.peer(0).1.rejected, [("source".into(), 1), ("zero_transmit".into(), 1)].into());
    }

    #[test]
    fn a_network_that_is_down_is_told_and_a_server_that_forbids_requests_is_not_asked_again() {
        let mut offline = Offline::new(&["192.0.2.9", "192.0.2.10"]);
        offline.answers(1, server(9), ExchangeOutcome::Failed(io::ErrorKind::NetworkUnreachable.into()));
        let (index, peer) = offline.peer(0);
        assert_eq!(peer.trouble.unwrap(), "network unreachable");
        assert_eq!(offline.discipline.report(index.unwrap(), NOW).latest, None);
        offline.answers(1, server(9), ExchangeOutcome::Silence);
        assert_eq!(offline.peer(0).1.trouble.unwrap(), "network unreachable", "silence tells nothing new");
        offline.answers(1, server(9), time(7));
        assert_eq!(offline.peer(0).1.trouble, None);

        offline.answers(2, server(10), ExchangeOutcome::Kiss(Kiss::Deny));
        let (index, peer) = offline.peer(1);
        assert_eq!(offline.standing(index.unwrap()), Standing::Denied);
        assert!(peer.trouble.unwrap().contains("forbade"));
    }

    #[test]
    fn a_name_that_cannot_be_looked_up_is_tried_again_and_has_no_address_until_it_can_be() {
        let mut offline = Offline::new(&["ntp.example.net"]);
        assert!(offline.source.next_wakeup().is_some_and(|at| at <= Instant::now()), "at once");
        offline.resolves(1, Err("no network"));
        let (index, peer) = offline.peer(0);
        assert_eq!(peer.trouble.unwrap(), "its name cannot be resolved: no network");
        assert_eq!((index.is_some(), peer.address), (true, None), "its vote is waited for");
        assert!(offline.source.next_wakeup().is_some_and(|at| at > Instant::now()), "not at once");

        // Only an address of this host: nobody waits for its vote any more.
        offline.resolves(1, Ok(vec![SocketAddr::from(([198, 51, 100, 1], 123))]));
        assert_eq!(offline.standing(index.unwrap()), Standing::Retired);
        assert_eq!(offline.peer(0).0, None);
        offline.resolves(7, Ok(vec![server(9)]));
        assert_eq!(offline.peer(0).1.address, None, "it was somebody else's name");
    }

    #[test]
    fn a_reload_keeps_those_that_stay_and_what_comes_late_of_the_others_is_dropped() {
        let mut offline = Offline::new(&["192.0.2.9", "192.0.2.10"]);
        offline.answers(1, server(9), time(7));
        let (kept, gone) = (offline.peer(0).0.unwrap(), offline.peer(1).0.unwrap());
        offline.configure(&["192.0.2.11", "192.0.2.9"]);
        let (index, peer) = offline.peer(1);
        assert_eq!((index, peer.association, peer.answers), (Some(kept), 1, 1));
        assert_eq!(offline.standing(gone), Standing::Retired);
        let (_, new) = offline.peer(0);
        assert_eq!((new.name.as_str(), new.association), ("192.0.2.11", 3));

        offline.answers(2, server(10), time(7));
        assert!(offline.source.view(NOW).iter().all(|(_, peer)| peer.answers <= 1));
        assert_eq!(offline.discipline.report(gone, NOW).latest, None);
    }

    #[test]
    fn an_upstream_that_becomes_an_address_of_this_host_is_dropped_and_comes_back() {
        let mut offline = Offline::new(&["192.0.2.9"]);
        let index = offline.peer(0).0.unwrap();
        let Offline { source, discipline } = &mut offline;
        source.set_own_addresses(&own(&["192.0.2.9"]), discipline, NOW);
        assert_eq!((offline.standing(index), offline.peer(0).0), (Standing::Retired, None));
        offline.answers(1, server(9), time(7));
        assert_eq!(offline.peer(0).1.answers, 0, "it was asked before");
        let Offline { source, discipline } = &mut offline;
        source.set_own_addresses(&own(&[]), discipline, NOW);
        let again = offline.peer(0).0.unwrap();
        assert_eq!(offline.standing(again), Standing::Waiting, "as one never heard");
    }
}
