//! `[limits]` and `[access]`: how often clients are answered, and which.

use responder::limiter::{BUDGET, Class, KISS_DENIED, LONGEST_WINDOW_S, NO_LEAK, Policy, TABLE_ENTRIES};
use serde::Deserialize;

use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Whether anybody is limited at all.
    pub enabled: bool,
    /// Requests a second of a source.
    pub rate: u32,
    /// Requests at once.
    pub burst: u32,
    /// The same for sources that `limit` names.
    pub strict_rate: u32,
    /// And at once.
    pub strict_burst: u32,
    /// Addresses with so many bits in common are one source.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// One refused request in 2^leak is answered; `None` for none.
    pub leak: u8,
    /// Kisses of death a second, over all CPUs; 0 for none.
    pub kod: u32,
    /// Entries of the table: a power of two.
    pub table_entries: u32,
    /// A cap on the answers of the whole server.
    pub budget_answers_per_s: Option<u32>,
    /// A cap on the bits of their Ethernet frames.
    pub budget_bits_per_s: Option<u64>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // 200 clients behind one address that poll every 64 s are 3 requests a second; this leaves as much
            // again four times over for those of them that start with a burst.
            rate: 16,
            // All of those 200 within the same second, as at the top of the hour, and some bursts of 8 on top.
            burst: 256,
            strict_rate: 1,
            strict_burst: 16,
            ipv4_prefix: 32,
            // What one customer has at the least.
            ipv6_prefix: 64,
            leak: 4,
            kod: 64,
            // A bucket says something for as long as it is not full, after one request a sixteenth of a second:
            // at half a million new sources a second that is 31,250 of them. 512 KiB stay in a core's cache.
            table_entries: 1 << 16,
            budget_answers_per_s: None,
            budget_bits_per_s: None,
        }
    }
}

/// `[access]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Not answered.
    pub deny: Vec<Prefix>,
    /// Exceptions from wider entries: like everybody.
    pub allow: Vec<Prefix>,
    /// Answered without a limit.
    pub unlimited: Vec<Prefix>,
    /// Limited to the strict rate.
    pub limit: Vec<Prefix>,
    /// More entries, one a line.
    pub files: Vec<std::path::PathBuf>,
    /// What the denied are sent.
    pub denied: Denied,
}

/// `access.denied`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denied {
    /// Nothing.
    #[default]
    Drop,
    /// A kiss of death (DENY), within the budget.
    Kod,
}

impl LimitsConfig {
    /// What the program is to go by, but for key and table size, which are the table's own. `cpus` share the
    /// budget of kisses.
    ///
    /// # Errors
    ///
    /// Names the key whose value makes no sense.
    pub fn policy(&self, denied: Denied, cpus: u32) -> Result<Policy> {
        let wrong = |key: &str, why: String| Error::new(Code::Config, format_args!("limits.{key}: {why}"));
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
        let kiss = match self.kod {
            0 => Class::UNLIMITED,
            kod => {
                let share = (kod / cpus.max(1)).max(1);
                Class::new(share, share).unwrap_or_default()
            }
        };
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
            // The interval is below a second; 64 s is the least that a public server should be asked at.
            kiss_poll: 6,
            options: if denied == Denied::Kod { KISS_DENIED } else { 0 }
                | if self.is_capped() { BUDGET } else { 0 },
            ..Policy::OFF
        })
    }

    /// Whether there is a cap on all answers.
    const fn is_capped(&self) -> bool {
        self.budget_answers_per_s.is_some() || self.budget_bits_per_s.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_policy() {
        let policy = LimitsConfig::default().policy(Denied::Drop, 2).unwrap();
        assert_eq!(policy.ordinary, Class::new(16, 256).unwrap());
        assert_eq!(policy.kiss, Class::new(32, 32).unwrap());
        assert_eq!((policy.ipv4_mask, policy.ipv6_mask), (u64::from(u32::MAX), u64::MAX));
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
            assert!(error.what.starts_with(key), "{error}");
        }
    }
}
