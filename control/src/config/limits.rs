//! `[limits]` and `[access]`: how often clients are answered, and which clients.

use responder::limiter::{
    BUDGET, Class, KISS_DENIED, KNOWN, LONGEST_WINDOW_S, NO_LEAK, Policy, TABLE_ENTRIES,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quota::{DataSize, QUOTAS, QuotaCounts, SPEEDS, Speed};
use super::{ConfigError, range};
use crate::net::prefix::Prefix;

/// The section `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Whether sources are limited at all.
    pub enabled: bool,
    /// The rate of a source.
    #[schemars(range(min = 1, max = 10_000), extend("x-unit" = "requests per second"))]
    pub rate: u32,
    /// The burst of a source: the number of requests that it may send at once.
    #[schemars(range(min = 1, max = 36_000_000), extend("x-unit" = "requests"))]
    #[schemars(extend("x-range" = "1 to an hour's worth, 3600 times `rate`"))]
    pub burst: u32,
    /// The rate of sources that `access.limit` names.
    #[schemars(range(min = 1, max = 10_000), extend("x-unit" = "requests per second"))]
    pub strict_rate: u32,
    /// The burst of sources that `access.limit` names.
    #[schemars(range(min = 1, max = 36_000_000), extend("x-unit" = "requests"))]
    #[schemars(extend("x-range" = "1 to an hour's worth, 3600 times `strict_rate`"))]
    pub strict_burst: u32,
    /// The number of leading bits of an IPv4 address that identify a source.
    #[schemars(range(min = 8, max = 32), extend("x-unit" = "bits"))]
    pub ipv4_prefix: u8,
    /// The number of leading bits of an IPv6 address that identify a source.
    #[schemars(range(min = 16, max = 64), extend("x-unit" = "bits"))]
    #[schemars(extend("x-why" = " bits: a host can choose any address within its /64"))]
    pub ipv6_prefix: u8,
    /// One refused request in 2 to the power of `leak` is answered.
    #[schemars(range(min = 1, max = 16), extend("x-unit" = "log2"))]
    #[schemars(extend("x-why" = "; without a leak, an attacker who forges addresses could mute any client"))]
    pub leak: u8,
    /// Of the requests beyond the rate that come by the usual path of a known source, so many are answered.
    #[schemars(range(min = 0, max = 99), extend("x-unit" = "%"))]
    #[schemars(extend("x-why" = ": with 100 nothing would be limited"))]
    pub known_percent: u8,
    /// Kisses of death of the whole server, divided among the CPUs and the socket; 0 for none.
    #[schemars(range(min = 0, max = 10_000), extend("x-unit" = "per second"))]
    pub kod: u32,
    /// The size of the table of sources; takes effect at the next start.
    #[schemars(extend("enum" = powers_of_two(), "x-type" = "integer"))]
    #[schemars(extend("x-range" = range_of_table()))]
    pub table_entries: u32,
    /// A cap on the answers of the whole server.
    #[schemars(range(min = 100, max = 100_000_000), extend("x-unit" = "answers per second", "x-example" = 20_000))]
    pub budget_answers_per_s: Option<u32>,
    /// The same in bits of Ethernet frames: 720 for an IPv4 answer, 880 for an IPv6 answer, more with VLAN tags or
    /// padding.
    #[schemars(range(min = 100_000, max = 100_000_000_000_u64), extend("x-unit" = "bits per second"))]
    #[schemars(extend("x-example" = 20_000_000))]
    pub budget_bits_per_s: Option<u64>,
    /// The traffic of a month. Near its end, answers are refused in the order of the budget.
    #[schemars(extend("x-range" = QUOTAS, "x-example" = "4 TB"))]
    pub quota: Option<DataSize>,
    /// What uses the quota up: what the server sends, what it receives, or the sum.
    pub quota_counts: QuotaCounts,
    /// The day of the month on which the quota begins again, at 00:00 UTC; in shorter months it is the last day.
    #[schemars(range(min = 1, max = 31))]
    #[schemars(extend("x-why" = ", the day of the month on which the quota begins again"))]
    pub quota_day: u8,
    /// The server's setting in the pool. The server gives advice on it; it sets nothing.
    #[schemars(extend("x-range" = SPEEDS, "x-example" = "50 Mbit"))]
    pub pool_netspeed: Option<Speed>,
}

/// Returns the sizes that the table of sources can have.
fn powers_of_two() -> Vec<u32> {
    (0..u32::BITS).map(|bit| 1 << bit).filter(|size| TABLE_ENTRIES.contains(size)).collect()
}

fn range_of_table() -> String {
    let (least, most) = TABLE_ENTRIES.into_inner();
    format!("a power of two from {least} to {most}")
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// These sources are not answered.
    #[schemars(extend("x-type" = "list of prefixes", "x-example" = ["192.0.2.0/24"]))]
    pub deny: Vec<Prefix>,
    /// Exceptions from wider entries: treated like everybody else.
    #[schemars(extend("x-type" = "list of prefixes", "x-example" = ["192.0.2.8/29"]))]
    pub allow: Vec<Prefix>,
    /// Answered without a limit.
    #[schemars(extend("x-type" = "list of prefixes", "x-example" = ["2001:db8:1::/48"]))]
    pub unlimited: Vec<Prefix>,
    /// Limited to the strict rate.
    #[schemars(extend("x-type" = "list of prefixes", "x-example" = ["203.0.113.0/24"]))]
    pub limit: Vec<Prefix>,
    /// Files with further entries, one a line: `deny`, `allow`, `unlimited` or `limit`, then a prefix. A prefix alone is
    /// denied, and `#` begins a comment.
    #[schemars(extend("x-type" = "list of paths", "x-example" = ["/etc/pooltime-xdp.deny"]))]
    pub files: Vec<std::path::PathBuf>,
    /// What a denied source gets: nothing, or a kiss of death (DENY) within the budget for kisses.
    pub denied: Denied,
    /// Whether requests in mode 1 (symmetric active) are answered, in mode 2. Old Windows clients ask so.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
        range::check("limits", self)?;
        let class = |prefix: &str, rate: u32, burst: u32| {
            Class::new(rate, burst).ok_or_else(|| {
                let most = LONGEST_WINDOW_S * u64::from(rate);
                let key = format!("limits.{prefix}burst");
                ConfigError::of(&key, format_args!("must be 1 to {most} requests (an hour's worth)"))
            })
        };
        let (ordinary, strict) =
            (class("", self.rate, self.burst)?, class("strict_", self.strict_rate, self.strict_burst)?);
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
