//! `[limits]` and `[access]`: how often clients are answered, and which clients.

use responder::limiter::{
    BUDGET, Class, KISS_DENIED, KNOWN, LONGEST_WINDOW_S, NO_LEAK, Policy, TABLE_ENTRIES,
};
use serde::Deserialize;

use super::ConfigError;
use super::quota::{DataSize, QuotaCounts, Speed};
use crate::net::prefix::Prefix;

/// The section `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Whether any client is limited.
    pub enabled: bool,
    /// Requests per second of a source.
    pub rate: u32,
    /// Number of requests that a source may send at once.
    pub burst: u32,
    /// Requests per second of a source that `limit` names.
    pub strict_rate: u32,
    /// Number of requests that such a source may send at once.
    pub strict_burst: u32,
    /// Number of leading bits of an IPv4 address that identify a source.
    pub ipv4_prefix: u8,
    /// Number of leading bits of an IPv6 address that identify a source.
    pub ipv6_prefix: u8,
    /// One refused request in 2^leak is answered; 0 means none.
    pub leak: u8,
    /// Percentage of the requests over the rate that are answered if they come by the usual path of a known source.
    pub known_percent: u8,
    /// Kisses of death per second of the whole server; 0 means none.
    pub kod: u32,
    /// Number of entries in the table: a power of two.
    pub table_entries: u32,
    /// A cap on the answers per second of the whole server.
    pub budget_answers_per_s: Option<u32>,
    /// A cap on the bits per second of the Ethernet frames of all answers.
    pub budget_bits_per_s: Option<u64>,
    /// The traffic that the server may use in a month.
    pub quota: Option<DataSize>,
    /// Which traffic counts towards it.
    pub quota_counts: QuotaCounts,
    /// The day of the month on which it begins again.
    pub quota_day: u8,
    /// The speed that the server has in the pool; advice on it is given by this.
    pub pool_netspeed: Option<Speed>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // 200 clients behind one address that poll every 64 s send 3 requests per second. This rate
            // leaves room for four times as much again, for those of them that start with a burst.
            rate: 16,
            // All of those 200 may ask within the same second, as at the top of the hour, with some bursts of
            // 8 in addition.
            burst: 256,
            strict_rate: 1,
            strict_burst: 16,
            ipv4_prefix: 32,
            // A customer of a provider has at least this much.
            ipv6_prefix: 64,
            leak: 4,
            // Whoever forges a known client's address and guesses its TTL leaves the client this much.
            known_percent: 70,
            kod: 64,
            // A bucket carries information while it is not full, which is a sixteenth of a second after one
            // request. Half a million new sources per second mean 31,250 of them. The table of 512 KiB stays
            // in a core's cache.
            table_entries: 1 << 16,
            budget_answers_per_s: None,
            budget_bits_per_s: None,
            quota: None,
            quota_counts: QuotaCounts::Out,
            quota_day: 1,
            pool_netspeed: None,
        }
    }
}

/// The section `[access]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Prefixes that are not answered.
    pub deny: Vec<Prefix>,
    /// Exceptions from wider entries, which are treated like everybody else.
    pub allow: Vec<Prefix>,
    /// Prefixes that are answered without a limit.
    pub unlimited: Vec<Prefix>,
    /// Prefixes that are limited to the strict rate.
    pub limit: Vec<Prefix>,
    /// Files with more entries, one per line.
    pub files: Vec<std::path::PathBuf>,
    /// What denied clients get.
    pub denied: Denied,
    /// Whether requests in mode 1 (symmetric active) are answered, in mode 2 (symmetric passive). Old Windows clients
    /// ask so.
    pub symmetric: bool,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            deny: Vec::new(),
            allow: Vec::new(),
            unlimited: Vec::new(),
            limit: Vec::new(),
            files: Vec::new(),
            denied: Denied::default(),
            // As chrony and ntpd do. The answer is as long as the request, and no server answers it.
            symmetric: true,
        }
    }
}

/// The value of `access.denied`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denied {
    /// No answer.
    #[default]
    Drop,
    /// A kiss of death (DENY), within the budget for kisses.
    Kod,
}

impl LimitsConfig {
    /// Returns the policy for the program, except key and table size, which belong to the table. The budget
    /// for kisses is divided among `cpus` and the sockets.
    ///
    /// # Errors
    ///
    /// The value of a key makes no sense; the error names the key.
    pub fn policy(&self, denied: Denied, cpus: u32) -> Result<Policy, ConfigError> {
        let wrong = |key: &str, why: String| ConfigError::of(&format!("limits.{key}"), why);
        let class = |prefix: &str, rate: u32, burst: u32| {
            if !(1..=10_000).contains(&rate) {
                return Err(wrong(&format!("{prefix}rate"), "must be 1 to 10000 requests per second".into()));
            }
            Class::new(rate, burst).ok_or_else(|| {
                let most = LONGEST_WINDOW_S * u64::from(rate);
                wrong(&format!("{prefix}burst"), format!("must be 1 to {most} requests (an hour's worth)"))
            })
        };
        let (ordinary, strict) =
            (class("", self.rate, self.burst)?, class("strict_", self.strict_rate, self.strict_burst)?);
        if !(8..=32).contains(&self.ipv4_prefix) {
            return Err(wrong("ipv4_prefix", "must be 8 to 32 bits".into()));
        }
        if !(16..=64).contains(&self.ipv6_prefix) {
            let why = "must be 16 to 64 bits: a host can choose any address within its /64";
            return Err(wrong("ipv6_prefix", why.into()));
        }
        if !(1..=16).contains(&self.leak) {
            let why =
                "must be 1 to 16; without a leak, an attacker who forges addresses could mute any client";
            return Err(wrong("leak", why.into()));
        }
        if self.known_percent > 99 {
            return Err(wrong("known_percent", "must be 0 to 99: with 100 nothing would be limited".into()));
        }
        if self.kod > 10_000 {
            return Err(wrong("kod", "must be 0 to 10000 per second".into()));
        }
        if !TABLE_ENTRIES.contains(&self.table_entries) || !self.table_entries.is_power_of_two() {
            let (least, most) = TABLE_ENTRIES.into_inner();
            return Err(wrong("table_entries", format!("must be a power of two from {least} to {most}")));
        }
        if self.budget_answers_per_s.is_some_and(|answers| !(100..=100_000_000).contains(&answers)) {
            return Err(wrong("budget_answers_per_s", "must be 100 to 100000000".into()));
        }
        if self.budget_bits_per_s.is_some_and(|bits| !(100_000..=100_000_000_000).contains(&bits)) {
            return Err(wrong("budget_bits_per_s", "must be 100000 to 100000000000".into()));
        }
        self.check_quota()?;
        // Without a class there are no kisses.
        let kiss = Class::share(self.kod, cpus.saturating_add(1)).unwrap_or(Class::UNLIMITED);
        let (ordinary, strict, leak) = if self.enabled {
            (ordinary, strict, self.leak)
        } else {
            (Class::UNLIMITED, Class::UNLIMITED, NO_LEAK)
        };
        Ok(Policy {
            ordinary,
            strict,
            kiss,
            ipv4_mask: Policy::ipv4_mask_of(self.ipv4_prefix),
            ipv6_mask: Policy::ipv6_mask_of(self.ipv6_prefix),
            leak,
            // The interval of the limit is below a second; 64 s is the shortest poll interval for a public
            // server.
            kiss_poll: 6,
            options: if denied == Denied::Kod { KISS_DENIED } else { 0 }
                | if self.is_capped() { BUDGET } else { 0 }
                | if self.enabled { KNOWN } else { 0 },
            known_share: share(self.known_percent),
            ..Policy::OFF
        })
    }

    /// Whether there is a cap on all answers, or may come to be one.
    const fn is_capped(&self) -> bool {
        self.budget_answers_per_s.is_some() || self.budget_bits_per_s.is_some() || self.quota.is_some()
    }
}

/// Returns a percentage in 256ths.
fn share(percent: u8) -> u8 {
    u8::try_from(u32::from(percent) * 256 / 100).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_policy() {
        let policy = LimitsConfig::default().policy(Denied::Drop, 2).unwrap();
        assert_eq!(policy.ordinary, Class::new(16, 256).unwrap());
        assert_eq!(policy.kiss, Class::share(64, 3).unwrap());
        assert_eq!((policy.ipv4_mask, policy.ipv6_mask), (Policy::ipv4_mask_of(32), u64::MAX));
    }

    #[test]
    fn without_a_budget_there_are_no_kisses_and_switched_off_there_are_no_limits() {
        let config = LimitsConfig { kod: 0, enabled: false, ..LimitsConfig::default() };
        let policy = config.policy(Denied::Drop, 2).unwrap();
        assert_eq!((policy.kiss, policy.ordinary), (Class::UNLIMITED, Class::UNLIMITED));
    }

    #[test]
    fn absurd_values_are_refused_by_their_key() {
        let default = LimitsConfig::default;
        for (config, key) in [
            (LimitsConfig { rate: 0, ..default() }, "limits.rate"),
            (LimitsConfig { rate: 1_000_000, ..default() }, "limits.rate"),
            (LimitsConfig { burst: 0, ..default() }, "limits.burst"),
            (LimitsConfig { burst: u32::MAX, ..default() }, "limits.burst"),
            (LimitsConfig { strict_rate: 0, ..default() }, "limits.strict_rate"),
            (LimitsConfig { ipv4_prefix: 33, ..default() }, "limits.ipv4_prefix"),
            (LimitsConfig { ipv6_prefix: 128, ..default() }, "limits.ipv6_prefix"),
            (LimitsConfig { leak: 0, ..default() }, "limits.leak"),
            (LimitsConfig { kod: 1_000_000, ..default() }, "limits.kod"),
            (LimitsConfig { known_percent: 100, ..default() }, "limits.known_percent"),
            (LimitsConfig { table_entries: 1000, ..default() }, "limits.table_entries"),
            (LimitsConfig { table_entries: (1 << 18) + 4, ..default() }, "limits.table_entries"),
            (LimitsConfig { table_entries: 1 << 25, ..default() }, "limits.table_entries"),
            (LimitsConfig { budget_answers_per_s: Some(0), ..default() }, "limits.budget_answers_per_s"),
            (
                LimitsConfig { budget_answers_per_s: Some(u32::MAX), ..default() },
                "limits.budget_answers_per_s",
            ),
            (LimitsConfig { budget_bits_per_s: Some(8), ..default() }, "limits.budget_bits_per_s"),
            (LimitsConfig { budget_bits_per_s: Some(u64::MAX), ..default() }, "limits.budget_bits_per_s"),
        ] {
            let error = config.policy(Denied::Drop, 1).unwrap_err();
            assert!(error.error.what.starts_with(key), "{error}");
        }
    }
}
