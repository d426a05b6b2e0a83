//! One configured upstream: its name and addresses, and what came of asking it so far.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::answer::{Kiss, ServerTime};
use super::exchange::has_route;
use super::reject::Reject;
use crate::config::UpstreamConfig;
use crate::discipline::{LocalTime, SourceConfig};
use crate::peers;
use crate::query::show_reference;

/// Requests in a row without an answer after which the name is looked up again.
const LOST_AFTER: u32 = 8;
/// Between two look-ups of a name that fails, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(256));
/// Addresses that are remembered to have been asked.
const REMEMBERED: usize = 16;

/// One upstream.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) association: u16,
    pub(super) config: UpstreamConfig,
    /// Its index in the discipline.
    pub(super) index: usize,
    pub(super) server: Option<SocketAddr>,
    pub(super) local: Option<IpAddr>,
    pub(super) asking: bool,
    pub(super) resolving: bool,
    /// It has forbidden further requests.
    pub(super) denied: bool,
    retry_at: Instant,
    retry_after: Duration,
    contacted: Vec<SocketAddr>,
    unanswered: u32,
    unanswered_since_resolved: u32,
    requests: u64,
    answers: u64,
    rejected: BTreeMap<Reject, u64>,
    kisses: BTreeMap<String, u64>,
    trouble: Option<String>,
    latest: Option<(ServerTime, LocalTime)>,
}

impl Peer {
    pub(super) fn new(association: u16, config: UpstreamConfig, index: usize) -> Self {
        let literal = config.address.parse::<IpAddr>().ok();
        let server = literal.map(|address| SocketAddr::new(address, config.port));
        Self {
            association,
            index,
            server,
            contacted: server.into_iter().collect(),
            config,
            local: None,
            asking: false,
            resolving: false,
            denied: false,
            retry_at: Instant::now(),
            retry_after: RETRY.0,
            unanswered: 0,
            unanswered_since_resolved: 0,
            requests: 0,
            answers: 0,
            rejected: BTreeMap::new(),
            kisses: BTreeMap::new(),
            trouble: None,
            latest: None,
        }
    }

    /// Whether its name is to be looked up: it has no address yet, or the one it has is dead.
    pub(super) fn wants_address(&self) -> bool {
        let literal = self.config.address.parse::<IpAddr>().is_ok();
        let lost = self.server.is_none() || self.unanswered_since_resolved >= LOST_AFTER;
        !literal && lost && !self.resolving && !self.denied && self.retry_at <= Instant::now()
    }

    /// When a name without an address is to be looked up again.
    pub(super) fn next_look_up(&self) -> Option<Instant> {
        (self.server.is_none() && !self.resolving && !self.denied).then_some(self.retry_at)
    }

    /// Takes over what its name was resolved to. Gives how it is to be asked if that is a new address: as a server
    /// never met before. `taken` are the addresses of the others, which have their votes already.
    pub(super) fn resolved(
        &mut self,
        result: Result<Vec<SocketAddr>, String>,
        taken: &[SocketAddr],
    ) -> Option<SourceConfig> {
        self.resolving = false;
        self.unanswered_since_resolved = 0;
        self.retry_at = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(RETRY.1);
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.in_trouble(format!("its name cannot be resolved: {error}"));
                return None;
            }
        };
        let free: Vec<SocketAddr> = found.into_iter().filter(|address| !taken.contains(address)).collect();
        if free.is_empty() {
            self.in_trouble("other upstreams have all of its addresses".into());
            return None;
        }
        // After the dead one, those behind it in the list have their turn.
        let start =
            free.iter().position(|address| Some(*address) == self.server).map_or(0, |index| index + 1);
        let (before, after) = free.split_at(start.min(free.len()));
        let Some(server) = after.iter().chain(before).copied().find(|server| has_route(*server)) else {
            self.in_trouble("there is no route to any of its addresses".into());
            return None;
        };
        if Some(server) == self.server {
            return None;
        }
        info!("upstream {}: asking {}", self.config.address, server.ip());
        let met = self.contacted.contains(&server) || self.contacted.len() >= REMEMBERED;
        if !met {
            self.contacted.push(server);
        }
        self.retry_after = RETRY.0;
        self.server = Some(server);
        self.trouble = None;
        self.latest = None;
        let source = self.config.source();
        Some(SourceConfig { iburst: source.iburst && !met, ..source })
    }

    pub(super) fn asked(&mut self) {
        self.asking = true;
        self.requests += 1;
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since_resolved = self.unanswered_since_resolved.saturating_add(1);
    }

    pub(super) fn answered(&mut self, time: ServerTime, at: LocalTime) {
        if self.answers == 0 {
            info!("upstream {}: answers, stratum {}", self.config.address, time.stratum);
        }
        self.answers += 1;
        self.unanswered = 0;
        self.unanswered_since_resolved = 0;
        self.trouble = None;
        self.latest = Some((time, at));
    }

    pub(super) fn refused(&mut self, reject: Reject, packets: u64) {
        let count = self.rejected.entry(reject).or_default();
        let before = *count;
        *count += packets;
        // A flood of them is told in as many lines as its number has bits.
        if before.checked_ilog2() != count.checked_ilog2() {
            warn!("upstream {}: {count} answers refused so far, for {reject}", self.config.address);
        }
    }

    pub(super) fn kissed(&mut self, kiss: Kiss) {
        let (code, name) = (kiss.code(), &self.config.address);
        let count = self.kisses.entry(code.clone()).or_default();
        *count += 1;
        if count.is_power_of_two() {
            match kiss {
                Kiss::Rate => warn!("upstream {name}: wants fewer requests ({code}) and gets them"),
                Kiss::Deny | Kiss::Restrict => {
                    warn!(
                        "upstream {name}: forbids requests ({code}) and is not asked any more: choose another one"
                    );
                }
                Kiss::Other(_) => warn!("upstream {name}: has no time to give ({code})"),
            }
        }
        if matches!(kiss, Kiss::Deny | Kiss::Restrict) {
            self.denied = true;
            self.trouble = Some(format!("the server forbade further requests ({code})"));
        }
    }

    pub(super) fn in_trouble(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!("upstream {}: {trouble}", self.config.address);
            self.trouble = Some(trouble);
        }
    }

    /// What is known without the discipline.
    pub(super) fn view(&self, now: LocalTime) -> peers::Peer {
        let time = self.latest.map(|(time, _)| time);
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        peers::Peer {
            association: self.association,
            name: self.config.address.clone(),
            address: self.server.map(|server| server.ip().to_string()),
            local_address: self.local.map(|local| local.to_string()),
            port: self.config.port,
            reference_id: time.map_or(0, |time| time.reference_id),
            reference: time.map_or_else(
                || self.kisses.keys().next_back().cloned().unwrap_or_else(|| "INIT".into()),
                |time| show_reference(time.stratum, time.reference_id),
            ),
            stratum: time.map_or(16, |time| time.stratum),
            leap: time.map_or(3, |time| time.leap),
            precision: time.map_or(0, |time| time.precision),
            its_poll_log2: time.map_or(0, |time| time.poll.clamp(0, 17).cast_unsigned()),
            when_s: self.latest.map(|(_, at)| now.seconds_since(at).max(0.0)),
            root_delay_s: time.map_or(0.0, |time| seconds(time.root_delay.as_nanos())),
            root_dispersion_s: time.map_or(0.0, |time| seconds(time.root_dispersion.as_nanos())),
            reference_time: time.map_or(0, |time| time.reference_time.0),
            receive_time: time.map_or(0, |time| time.transmit.0),
            unanswered: self.unanswered,
            requests: self.requests,
            answers: self.answers,
            rejected: self.rejected.iter().map(|(reject, count)| (reject.label().into(), *count)).collect(),
            kisses: self.kisses.clone(),
            trouble: self.trouble.clone(),
            ..peers::Peer::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        let text = format!("[[upstream]]\naddress = \"{address}\"\n");
        Peer::new(1, crate::config::Config::parse(&text).unwrap().upstream.remove(0), 0)
    }

    fn loopback(number: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, number], 123))
    }

    #[test]
    fn an_address_needs_no_name() {
        let mut peer = peer("127.0.0.9");
        assert_eq!(peer.server, Some(loopback(9)));
        for _ in 0..100 {
            assert!(!peer.wants_address());
            peer.asked();
        }
    }

    #[test]
    fn a_dead_address_is_replaced_by_the_next_one_which_nobody_else_has() {
        let mut peer = peer("ntp.example.net");
        assert!(peer.wants_address());
        peer.resolving = true;
        assert!(!peer.wants_address());
        let all = vec![loopback(1), loopback(2), loopback(3)];
        let source = peer.resolved(Ok(all.clone()), &[]).expect("a new address");
        assert_eq!((peer.server, source.iburst), (Some(loopback(1)), true));

        peer.retry_at = Instant::now();
        for _ in 0..LOST_AFTER {
            assert!(!peer.wants_address());
            peer.asked();
        }
        assert!(peer.wants_address());
        let source = peer.resolved(Ok(all.clone()), &[loopback(2)]).expect("a new address");
        assert_eq!((peer.server, source.iburst), (Some(loopback(3)), true));
        let source = peer.resolved(Ok(all), &[loopback(2)]).expect("back to the first");
        assert_eq!((peer.server, source.iburst), (Some(loopback(1)), false), "it was met before");
        assert_eq!(peer.resolved(Ok(vec![loopback(1)]), &[]), None, "there is no other");
        assert_eq!(peer.server, Some(loopback(1)));
    }

    #[test]
    fn what_keeps_it_from_being_asked_is_told() {
        let mut peer = peer("ntp.example.net");
        assert_eq!(peer.resolved(Err("no such name".into()), &[]), None);
        assert!(peer.view(LocalTime::from_ns(0)).trouble.unwrap().contains("no such name"));
        assert!(!peer.wants_address(), "not at once");
        assert!(peer.next_look_up().is_some());
        assert_eq!(peer.resolved(Ok(vec![loopback(1)]), &[loopback(1)]), None);
        assert!(peer.view(LocalTime::from_ns(0)).trouble.unwrap().contains("other upstreams"));
        peer.kissed(Kiss::Deny);
        assert!(peer.denied && !peer.wants_address());
        assert!(peer.view(LocalTime::from_ns(0)).trouble.unwrap().contains("DENY"));
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let mut peer = peer("127.0.0.9");
        peer.refused(Reject::Origin, 3);
        peer.refused(Reject::Origin, 2);
        peer.refused(Reject::Unsynchronised, 1);
        let view = peer.view(LocalTime::from_ns(0));
        assert_eq!(view.rejected, [("origin".into(), 5), ("unsynchronised".into(), 1)].into());
    }
}
