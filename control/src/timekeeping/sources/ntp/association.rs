//! One configured upstream: its name and addresses, and the results of asking it so far.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use protocol::{Kiss, Reject, ServerTime, show_reference};
use tracing::{info, warn};

use crate::config::UpstreamConfig;
use crate::discipline::{LocalTime, SourceConfig};
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources;

/// Number of consecutive requests without an answer after which the name is resolved again.
const LOST_AFTER: u32 = 8;
/// Shortest and longest interval between two attempts to resolve a name that fails.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(256));
/// Number of addresses that are remembered as already asked.
const REMEMBERED: usize = 16;

/// One upstream.
#[derive(Debug)]
pub(super) struct Association {
    pub(super) number: u16,
    pub(super) config: UpstreamConfig,
    /// Its index in the discipline; `None` while it has no usable address.
    pub(super) index: Option<usize>,
    pub(super) server: Option<SocketAddr>,
    pub(super) local: Option<IpAddr>,
    pub(super) asking: bool,
    pub(super) resolving: bool,
    /// Whether it has forbidden further requests.
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

impl Association {
    /// Makes an association that has not been asked yet. It has no address before [`Association::readdress`].
    pub(super) fn new(number: u16, config: UpstreamConfig) -> Self {
        Self {
            number,
            index: None,
            server: None,
            contacted: Vec::new(),
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

    /// Whether it is configured by a name, which must be resolved.
    pub(super) fn is_name(&self) -> bool {
        self.literal().is_none()
    }

    /// Whether it is among the sources of the discipline that are due.
    pub(super) fn is_due(&self, due: &[usize]) -> bool {
        self.index.is_some_and(|index| due.contains(&index))
    }

    /// Returns the address by which it is configured, if that is not a name.
    fn literal(&self) -> Option<SocketAddr> {
        let address = self.config.address.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(address, self.config.port))
    }

    /// Whether its name should be resolved, because it has no address yet or its address no longer answers.
    pub(super) fn wants_address(&self) -> bool {
        let lost = self.server.is_none() || self.unanswered_since_resolved >= LOST_AFTER;
        self.literal().is_none() && lost && !self.resolving && !self.denied && self.retry_at <= Instant::now()
    }

    /// Returns when a name without an address should be resolved again.
    pub(super) fn next_look_up(&self) -> Option<Instant> {
        let wants = self.server.is_none() && self.literal().is_none() && !self.resolving && !self.denied;
        wants.then_some(self.retry_at)
    }

    /// Checks its address against those of this host, which have changed. An address that cannot be an
    /// upstream is dropped at once. One that has become usable again is treated like a new one.
    pub(super) fn readdress(&mut self, own: &OwnAddresses) -> Readdressed {
        if self.denied {
            return Readdressed::Kept;
        }
        if let Some(server) = self.server {
            let Some(unusable) = own.unusable_server(server) else { return Readdressed::Kept };
            self.server = None;
            self.local = None;
            self.latest = None;
            self.in_trouble(format!("{} {}: it is not asked", server.ip(), unusable.reason()));
            // The name may have other addresses.
            self.retry_at = Instant::now();
            self.retry_after = RETRY.0;
            return Readdressed::Dropped;
        }
        let Some(server) = self.literal() else {
            // An address of the name may have become usable.
            self.retry_at = Instant::now();
            self.retry_after = RETRY.0;
            return Readdressed::Kept;
        };
        if let Some(unusable) = own.unusable_server(server) {
            self.in_trouble(format!("{} {}: it is not asked", server.ip(), unusable.reason()));
            return Readdressed::Dropped;
        }
        if self.trouble.take().is_some() {
            info!("upstream {}: asking it again", self.config.address);
        }
        Readdressed::Taken(self.take(server))
    }

    /// Takes an address. Returns how it should be asked.
    fn take(&mut self, server: SocketAddr) -> SourceConfig {
        let met = self.contacted.contains(&server) || self.contacted.len() >= REMEMBERED;
        if !met {
            self.contacted.push(server);
        }
        self.retry_after = RETRY.0;
        self.server = Some(server);
        self.trouble = None;
        self.latest = None;
        let source = self.config.source();
        SourceConfig { iburst: source.iburst && !met, ..source }
    }

    /// Takes in the addresses to which its name was resolved. A new address is asked like a new server.
    /// `taken` are the addresses of other associations, which already have their votes. They are left out,
    /// and so are those of this host itself and others that cannot be an upstream.
    pub(super) fn resolved(
        &mut self,
        result: Result<Vec<SocketAddr>, String>,
        taken: &[SocketAddr],
        own: &OwnAddresses,
        has_route: impl Fn(SocketAddr) -> bool,
    ) -> Readdressed {
        self.resolving = false;
        self.unanswered_since_resolved = 0;
        self.retry_at = Instant::now() + self.retry_after;
        self.retry_after = (self.retry_after * 2).min(RETRY.1);
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                self.in_trouble(format!("its name cannot be resolved: {error}"));
                return Readdressed::Kept;
            }
        };
        if let Err(reasons) = own.first_usable(&found) {
            self.in_trouble(format!("its name leads to no other host: {reasons}"));
            return if self.server.is_none() { Readdressed::Dropped } else { Readdressed::Kept };
        }
        let is_free = |server: &SocketAddr| !taken.contains(server) && own.unusable_server(*server).is_none();
        let free: Vec<SocketAddr> = found.into_iter().filter(is_free).collect();
        if free.is_empty() {
            self.in_trouble("other upstreams have all of its addresses".into());
            return Readdressed::Kept;
        }
        // After an address that no longer answers, the next one in the list is tried.
        let start =
            free.iter().position(|address| Some(*address) == self.server).map_or(0, |index| index + 1);
        let (before, after) = free.split_at(start.min(free.len()));
        let Some(server) = after.iter().chain(before).copied().find(|server| has_route(*server)) else {
            self.in_trouble("there is no route to any of its addresses".into());
            return Readdressed::Kept;
        };
        if Some(server) == self.server {
            return Readdressed::Kept;
        }
        info!("upstream {}: asking {}", self.config.address, server.ip());
        Readdressed::Taken(self.take(server))
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
        // A flood of refused answers is logged in as many lines as its number has bits.
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

    /// Returns what is known without the discipline.
    pub(super) fn view(&self, now: LocalTime) -> sources::Peer {
        let time = self.latest.map(|(time, _)| time);
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        sources::Peer {
            association: self.number,
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
            ..sources::Peer::default()
        }
    }
}

/// How an upstream's address has changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Readdressed {
    /// The address is unchanged.
    Kept,
    /// It has no address that can be asked.
    Dropped,
    /// It has an address again, to be asked with these settings.
    Taken(SourceConfig),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::own_addresses::tests::own;

    fn association(address: &str) -> Association {
        let text = format!("[[upstream]]\naddress = \"{address}\"\n");
        let mut association =
            Association::new(1, crate::config::Config::parse(&text).unwrap().upstream.remove(0));
        association.readdress(&OwnAddresses::default());
        association
    }

    /// Returns the address of another host.
    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 123))
    }

    fn taken(change: Readdressed) -> SourceConfig {
        match change {
            Readdressed::Taken(source) => source,
            other => panic!("a new address: {other:?}"),
        }
    }

    fn trouble(association: &Association) -> String {
        association.view(LocalTime::from_ns(0)).trouble.unwrap_or_default()
    }

    #[test]
    fn an_address_needs_no_name() {
        let mut association = association("192.0.2.9");
        assert_eq!(association.server, Some(server(9)));
        for _ in 0..100 {
            assert!(!association.wants_address());
            association.asked();
        }
    }

    #[test]
    fn an_address_of_this_host_is_never_asked_and_comes_back_when_it_is_gone() {
        let mut association = association("192.0.2.9");
        assert_eq!(association.readdress(&own(&["198.51.100.1"])), Readdressed::Kept);
        assert_eq!(association.readdress(&own(&["192.0.2.9"])), Readdressed::Dropped);
        assert_eq!(
            (association.server, association.wants_address(), association.next_look_up()),
            (None, false, None)
        );
        assert_eq!(trouble(&association), "192.0.2.9 is an address of this host itself: it is not asked");
        assert_eq!(association.readdress(&own(&["192.0.2.9", "192.0.2.10"])), Readdressed::Dropped);
        let source = taken(association.readdress(&own(&["192.0.2.10"])));
        assert_eq!((association.server, source.iburst), (Some(server(9)), false), "it was met before");
        assert_eq!(trouble(&association), "");
    }

    #[test]
    fn a_name_is_asked_at_those_of_its_addresses_that_are_not_this_host_s() {
        let mut association = association("ntp.example.net");
        let own = own(&["192.0.2.1", "2001:db8::1"]);
        let here: Vec<SocketAddr> =
            ["127.0.1.1:123", "[::1]:123", "[::ffff:192.0.2.1]:123", "[2001:db8::1]:123", "0.0.0.0:123"]
                .map(|address| address.parse().unwrap())
                .into();
        assert_eq!(association.resolved(Ok(here.clone()), &[], &own, |_| true), Readdressed::Dropped);
        assert!(association.server.is_none());
        let said = trouble(&association);
        assert!(
            said.starts_with("its name leads to no other host: 127.0.1.1 is a loopback address"),
            "{said}"
        );
        assert!(said.contains("2001:db8::1 is an address of this host itself"), "{said}");

        let all = [&here[..], &[server(2)]].concat();
        let source = taken(association.resolved(Ok(all.clone()), &[], &own, |_| true));
        assert_eq!((association.server, source.iburst), (Some(server(2)), true));
        // The address moves to this host, as a failover may do it.
        let moved = crate::net::own_addresses::tests::own(&["192.0.2.2"]);
        assert_eq!(association.readdress(&moved), Readdressed::Dropped);
        assert!(association.wants_address(), "the name may have another one");
        assert_eq!(association.resolved(Ok(vec![server(2)]), &[], &moved, |_| true), Readdressed::Dropped);
        assert!(!association.wants_address(), "not at once");
        assert_eq!(association.readdress(&own), Readdressed::Kept);
        assert!(association.wants_address(), "the addresses of this host have changed");
        taken(association.resolved(Ok(all), &[], &own, |_| true));
    }

    #[test]
    fn a_loop_is_counted() {
        let mut association = association("192.0.2.9");
        association.refused(Reject::Loop, 1);
        assert_eq!(association.view(LocalTime::from_ns(0)).rejected, [("loop".into(), 1)].into());
    }

    #[test]
    fn a_dead_address_is_replaced_by_the_next_one_which_nobody_else_has() {
        let nobody = OwnAddresses::default();
        let mut association = association("ntp.example.net");
        assert!(association.wants_address());
        association.resolving = true;
        assert!(!association.wants_address());
        let all = vec![server(1), server(2), server(3)];
        let source = taken(association.resolved(Ok(all.clone()), &[], &nobody, |_| true));
        assert_eq!((association.server, source.iburst), (Some(server(1)), true));

        association.retry_at = Instant::now();
        for _ in 0..LOST_AFTER {
            assert!(!association.wants_address());
            association.asked();
        }
        assert!(association.wants_address());
        let source = taken(association.resolved(Ok(all.clone()), &[server(2)], &nobody, |_| true));
        assert_eq!((association.server, source.iburst), (Some(server(3)), true));
        let source = taken(association.resolved(Ok(all), &[server(2)], &nobody, |_| true));
        assert_eq!((association.server, source.iburst), (Some(server(1)), false), "it was met before");
        assert_eq!(
            association.resolved(Ok(vec![server(1)]), &[], &nobody, |_| true),
            Readdressed::Kept,
            "there is no other"
        );
        assert_eq!(association.server, Some(server(1)));
    }

    #[test]
    fn what_keeps_it_from_being_asked_is_told() {
        let nobody = OwnAddresses::default();
        let mut association = association("ntp.example.net");
        assert_eq!(
            association.resolved(Err("no such name".into()), &[], &nobody, |_| true),
            Readdressed::Kept
        );
        assert!(association.view(LocalTime::from_ns(0)).trouble.unwrap().contains("no such name"));
        assert!(!association.wants_address(), "not at once");
        assert!(association.next_look_up().is_some());
        assert_eq!(
            association.resolved(Ok(vec![server(1)]), &[server(1)], &nobody, |_| true),
            Readdressed::Kept
        );
        assert!(association.view(LocalTime::from_ns(0)).trouble.unwrap().contains("other upstreams"));
        association.kissed(Kiss::Deny);
        assert!(association.denied && !association.wants_address());
        assert!(association.view(LocalTime::from_ns(0)).trouble.unwrap().contains("DENY"));
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let mut association = association("192.0.2.9");
        association.refused(Reject::Origin, 3);
        association.refused(Reject::Origin, 2);
        association.refused(Reject::Unsynchronised, 1);
        let view = association.view(LocalTime::from_ns(0));
        assert_eq!(view.rejected, [("origin".into(), 5), ("unsynchronised".into(), 1)].into());
    }
}
