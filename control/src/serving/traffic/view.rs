//! What `top` shows of the traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use responder::Policy;
use responder::limiter::Source;
use responder::verdict::Family;

use super::heavy::{Counts, Key};
use super::profile::Profile;
use super::{FADE_S, Traffic};
use crate::status::traffic::{Clients, Interval, Kind, SourceTraffic, Talker, Top, Version};

impl Traffic {
    /// The view of now, with so many talkers. Sources are prefixes of these lengths.
    pub(crate) fn top(&self, most: usize, prefixes: [u8; 2], limited: bool) -> Top {
        let talkers = |figure: fn(&Counts) -> f64| {
            let talker = |(key, counts): &(Key, Counts)| {
                let requests_per_s = counts.requests / FADE_S;
                let kinds = counts.profile.kinds(requests_per_s);
                let is_regular =
                    kinds.iter().any(|kind| matches!(kind, Kind::ExactInterval | Kind::ConstantPoll));
                let profile = Some(&counts.profile).filter(|_| is_regular);
                Talker {
                    source: show_source(*key, prefixes),
                    requests_per_s,
                    dropped_per_s: counts.dropped / FADE_S,
                    error: 1.0 / counts.samples.max(1.0).sqrt(),
                    kinds,
                    interval_s: profile.and_then(Profile::interval_s),
                    resembles: profile.and_then(Profile::resembles).map(str::to_owned),
                }
            };
            self.heavy.largest(most, figure).iter().map(talker).collect()
        };
        let shares = |all: &[f64]| {
            let sum: f64 = all.iter().sum();
            let shares: Vec<_> = all.iter().map(|part| part / sum).enumerate().collect();
            shares.into_iter().filter(|(_, share)| *share > 0.0).collect::<Vec<_>>()
        };
        let version = |(version, share)| Version { version: u8::try_from(version).unwrap_or(0), share };
        let interval = |(class, share): (usize, f64)| Interval {
            from_s: if class == 0 { 0 } else { 1 << (class - 1) },
            below_s: (class + 1 < super::INTERVALS).then_some(1 << class),
            share,
        };
        Top {
            answered_per_s: self.answered / FADE_S,
            dropped_per_s: self.refused / FADE_S,
            denied_per_s: self.denied / FADE_S,
            denied: Vec::new(),
            sampled_one_in: 1 << self.rarity,
            clients: if limited { self.clients_by_family() } else { Vec::new() },
            versions: shares(&self.versions).into_iter().map(version).collect(),
            intervals: shares(&self.intervals).into_iter().map(interval).collect(),
            by_requests: talkers(|counts| counts.requests),
            by_drops: talkers(|counts| counts.dropped),
        }
    }

    /// Returns what was sampled of the source with this address.
    pub(crate) fn source(&self, address: IpAddr, policy: &Policy) -> SourceTraffic {
        let key = match address.to_canonical() {
            IpAddr::V4(address) => (Family::Ipv4 as u8, Source::ipv4(address.octets(), policy).to_bits()),
            IpAddr::V6(address) => (Family::Ipv6 as u8, Source::ipv6(address.octets(), policy).to_bits()),
        };
        let counts = self.heavy.of(key);
        SourceTraffic {
            requests: counts.requests,
            dropped: counts.dropped,
            fades_in_s: FADE_S,
            sampled_one_in: 1 << self.rarity,
        }
    }

    /// See [`Clients`].
    pub(crate) fn clients_by_family(&self) -> Vec<Clients> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of sources")]
        let of = |family: &Family| Clients {
            family: family.label().into(),
            last_hour: self.clients(*family).round() as u64,
        };
        Family::ALL.iter().map(of).collect()
    }
}

/// Writes a source, as [`responder::sample::Sample::source`] has it, as an address or a prefix of these lengths.
pub(crate) fn show_source((family, bits): Key, [ipv4_prefix, ipv6_prefix]: [u8; 2]) -> String {
    if family == Family::Ipv4 as u8 {
        let address = Source::ipv4_address(bits);
        return show(IpAddr::V4(Ipv4Addr::from(address)), ipv4_prefix, 32);
    }
    let mut address = [0; 16];
    address[..8].copy_from_slice(&Source::ipv6_network(bits));
    show(IpAddr::V6(Ipv6Addr::from(address)), ipv6_prefix, 128)
}

fn show(address: IpAddr, length: u8, whole: u8) -> String {
    if length == whole { address.to_string() } else { format!("{address}/{length}") }
}
