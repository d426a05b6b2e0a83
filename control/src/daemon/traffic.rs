//! The daemon's part in the budget and in what is known of the traffic: four times a second it takes what the CPUs
//! report, and grants them what they may spend until the next time.

use std::net::IpAddr;
use std::time::Instant;

use responder::budget::{self, Cost};
use responder::layout::{Count, Grant};
use responder::verdict::COUNTERS;
use responder::{Policy, layout};
use tracing::error;

use super::Daemon;
use super::probes::{Seen, Upstreams};
use crate::error::Result;
use crate::serving::limits::{Budget, Shares};
use crate::serving::traffic::Traffic;
use crate::serving::userspace::MOST_SAMPLES as MOST_OF_SOCKETS;
use crate::status::probes::{LatestRound, ProbeRounds};
use crate::status::traffic::{Clients, SourceTraffic, Top};
use crate::sys::kernel_clock::monotonic_ns;
use crate::timekeeping::system_clock::Unsynchronised;

/// Samples of all CPUs from one round to the next; the ring buffer has room for that.
const SAMPLES: u64 = 1024;
const _: () = assert!(layout::SAMPLES_BYTES as u64 >= SAMPLES * 48);
/// Talkers that are shown.
const TALKERS: usize = 10;

/// What is kept from round to round.
pub(super) struct Rounds {
    pub(super) traffic: Traffic,
    /// Of the CPUs, and of the sockets behind them.
    shares: Option<Shares>,
    last: Instant,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self { traffic: Traffic::new(), shares: None, last: Instant::now() }
    }
}

impl Daemon {
    /// A round. What fails is told and tried again in the next.
    pub(super) fn look_at_traffic(&mut self) {
        if let Err(error) = self.try_look_at_traffic() {
            error!("cannot look at the traffic: {error}");
        }
    }

    pub(super) fn try_look_at_traffic(&mut self) -> Result<()> {
        let now_ns = monotonic_ns()?;
        let mut samples = self.datapath.take_samples();
        let through_ring = samples.len();
        let of_sockets = self.sockets.shared.take_samples();
        let sockets_full = of_sockets.len() >= MOST_OF_SOCKETS;
        samples.extend(of_sockets);
        // About clients that a list denies the program decides without a clock.
        for sample in samples.iter_mut().filter(|sample| sample.at_ns == 0) {
            sample.at_ns = now_ns;
        }
        let counters = self.all_counters()?;
        let seen = Seen {
            samples: &samples,
            through_ring,
            sockets_full,
            counters: &counters,
            clock: self.publisher.served(),
            reason: self.publisher.unsynchronised().map(Unsynchronised::explain),
            now_ns,
        };
        let upstreams = self.upstreams();
        self.probes.look(&seen, upstreams);
        let passed = self.rounds.last.elapsed();
        self.rounds.last = Instant::now();
        self.rounds.traffic.take(&samples, &*counters, passed, now_ns);
        self.look_at_quota()?;
        self.grant(now_ns)?;
        let (chances, policy) = (self.rounds.traffic.chances(), *self.datapath.policy());
        if policy.chances != chances {
            self.datapath.publish_policy(&Policy { chances, ..policy })?;
            self.sockets.shared.publish_chances(chances);
        }
        self.sockets.shared.forget_sources(now_ns);
        self.datapath.forget_sources(now_ns)?;
        Ok(())
    }

    /// Whom the clock follows now, and who is furthest from it.
    fn upstreams(&self) -> Upstreams {
        let peers = self.peers().unwrap_or_default();
        let (system, others): (Vec<_>, Vec<_>) =
            peers.peers.iter().partition(|peer| Some(peer.association) == peers.system.system_peer);
        let furthest = others
            .iter()
            .filter(|peer| peer.reach != 0)
            .filter_map(|peer| Some((peer.name.clone(), peer.offset_s?)))
            .max_by(|(_, one), (_, other)| one.abs().total_cmp(&other.abs()));
        let kept_s = self.timekeeper.correction().and_then(|correction| correction.offset_s);
        Upstreams {
            peer: system.first().map(|peer| peer.name.clone()),
            offset_s: system.first().map_or(kept_s, |peer| peer.offset_s),
            other: furthest,
        }
    }

    /// What became of the probes of the pool's monitors.
    pub(super) fn probe_rounds(&self) -> ProbeRounds {
        let limits = &self.config.limits;
        self.probes.rounds.view(self.probes.now_unix_s(), [limits.ipv4_prefix, limits.ipv6_prefix])
    }

    /// The latest of them, for the status page.
    pub(super) fn latest_probe_rounds(&self) -> Vec<LatestRound> {
        let (limits, show_sources) = (&self.config.limits, self.config.metrics.show_sources);
        self.probes.rounds.latest([limits.ipv4_prefix, limits.ipv6_prefix], show_sources)
    }

    /// Gives each CPU, and the sockets, its share of the budget and of the samples.
    fn grant(&mut self, now_ns: u64) -> Result<()> {
        let spent = self.datapath.spent()?;
        let cpus = spent.len();
        let costs: Vec<Cost> = match Budget::of(&self.config.limits, self.quota_cap()) {
            None => {
                self.rounds.shares = None;
                vec![Cost::NOTHING; cpus + 1]
            }
            Some(budget) => {
                let shares = self.rounds.shares.get_or_insert_with(|| Shares::equal(cpus + 1));
                let of_cpus = spent.iter().map(|spent| budget::level(spent.answers, now_ns));
                let of_sockets = self.sockets.shared.budget_level(now_ns);
                shares.balance(&of_cpus.chain([of_sockets]).collect::<Vec<_>>());
                shares.costs(budget).collect()
            }
        };
        let more = (SAMPLES / cpus as u64).max(8);
        let grants: Vec<_> = spent
            .iter()
            .zip(&costs)
            .map(|(spent, cost)| Grant { cost: *cost, samples: spent.samples.wrapping_add(more) })
            .collect();
        self.probes.spent(&spent);
        self.datapath.grant(&grants)?;
        self.probes.granted(&grants);
        self.sockets.shared.grant(costs[cpus]);
        Ok(())
    }

    /// Of all interfaces and the sockets.
    fn all_counters(&self) -> Result<Box<[Count; COUNTERS]>> {
        let mut sum = self.sockets.shared.counters();
        for index in self.interfaces.names.attached.keys() {
            for (total, count) in sum.iter_mut().zip(self.datapath.counters(*index)?.iter()) {
                total.packets = total.packets.wrapping_add(count.packets);
            }
        }
        Ok(sum)
    }

    /// Sources that the limiter forgot early, about.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of sources")]
    pub(super) fn evictions(&self) -> u64 {
        self.rounds.traffic.evictions().round() as u64
    }

    /// The sources of the last hour; none where nobody is limited.
    pub(super) fn clients(&self) -> Vec<Clients> {
        if self.config.limits.enabled { self.rounds.traffic.clients_by_family() } else { Vec::new() }
    }

    /// What is known of the requests of one source.
    pub(super) fn source_traffic(&self, address: IpAddr) -> SourceTraffic {
        self.rounds.traffic.source(address, self.datapath.policy())
    }

    pub(super) fn top(&self) -> Top {
        let limits = &self.config.limits;
        self.rounds.traffic.top(TALKERS, [limits.ipv4_prefix, limits.ipv6_prefix], limits.enabled)
    }
}
