//! `[clock]`: where the time comes from and how good it must be.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, LeapFile};
use crate::discipline::{self, SteerConfig};

/// The section `[clock]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// Where the time comes from.
    pub source: ClockSource,
    /// How long answers claim to be synchronised after the last publication.
    pub horizon_ms: u64,
    /// Error bound above which answers do not claim to be synchronised.
    pub max_error_ms: u64,
    /// For `system`: the stratum if no local daemon reports one.
    pub stratum: u8,
    /// For `system`: the IPv4 address of the upstream, for the reference ID if no local daemon reports one.
    pub reference: Option<Ipv4Addr>,
    /// For `system`: the stratum under which an unsynchronised clock is served, in laboratories and isolated
    /// networks. Not for the pool.
    pub local_stratum: Option<u8>,
    /// For `upstream`: whether to steer the kernel's clock as well. If not, it is left alone, and only the
    /// served time is right.
    pub steer: bool,
    /// For `upstream`: the smallest number of upstreams that must agree. By default it is two if three or
    /// more are configured, otherwise one.
    pub min_sources: Option<usize>,
    /// For `upstream`: the root distance above which an upstream is not used.
    pub max_distance_ms: u64,
    /// For `upstream`: when the kernel's clock may be stepped.
    pub makestep: MakeStep,
    /// For `upstream`: a larger offset of the kernel's clock is left to the operator.
    pub panic_s: u32,
    /// For `upstream`: how much the kernel's clock may run fast or slow to remove an offset.
    pub max_slew_ppm: u32,
    /// For `upstream`: a leap-seconds.list that decides about leap seconds until it expires.
    pub leap_seconds_list: Option<PathBuf>,
    /// For `upstream`: accept names of the pool as upstreams, for a server that will not be in the pool.
    pub allow_pool_names: bool,
}

/// The value of `clock.source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockSource {
    /// The system clock, which another daemon disciplines.
    #[default]
    System,
    /// The configured upstreams, which this daemon asks itself.
    Upstream,
}

impl ClockSource {
    /// Returns the value in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Upstream => "upstream",
        }
    }
}

/// The value of `clock.makestep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MakeStep {
    /// Offsets above this are stepped.
    pub threshold_ms: u64,
    /// Only this many corrections after the start may be steps.
    pub updates: u32,
}

impl Default for MakeStep {
    /// Corresponds to `makestep 1 3` in chrony's configuration.
    fn default() -> Self {
        Self { threshold_ms: 1_000, updates: 3 }
    }
}

impl Default for ClockConfig {
    fn default() -> Self {
        Self {
            source: ClockSource::System,
            // This is long enough for a restart or an upgrade, and short enough that a client notices at its
            // next poll.
            horizon_ms: 20_000,
            // RFC 5905's MAXDIST, above which a client should not select a server, is 1 s.
            max_error_ms: 1_000,
            // A stratum that is too high does no harm; this is the highest that the pool accepts.
            stratum: 5,
            reference: None,
            local_stratum: None,
            steer: true,
            min_sources: None,
            max_distance_ms: 1_500,
            makestep: MakeStep::default(),
            panic_s: 1_000,
            // As fast as chronyd by default: the way back from an offset takes seconds and not hours.
            max_slew_ppm: 83_333,
            leap_seconds_list: None,
            allow_pool_names: false,
        }
    }
}

impl ClockConfig {
    /// Returns the reference ID of an upstream if no local daemon names it.
    #[must_use]
    pub fn reference_id(&self) -> u32 {
        self.reference.map_or(protocol::reference::LOCAL, u32::from)
    }

    /// Returns how the kernel's clock is steered.
    #[must_use]
    pub fn steering(&self) -> SteerConfig {
        SteerConfig {
            step_above_s: milliseconds(self.makestep.threshold_ms),
            step_updates: self.makestep.updates,
            panic_s: self.panic_s.into(),
            max_slew: f64::from(self.max_slew_ppm) * 1e-6,
            ..SteerConfig::default()
        }
    }

    /// How the upstreams are judged. Reads the list of leap seconds.
    ///
    /// # Errors
    ///
    /// The configured list cannot be read.
    pub fn discipline(&self) -> Result<discipline::Config, ConfigError> {
        Ok(discipline::Config {
            min_sources: self.min_sources,
            // A source that is worse than what may be served cannot vouch for it.
            max_distance_s: milliseconds(self.max_distance_ms.min(self.max_error_ms)),
            leap_list: LeapFile::read(self)?.and_then(|file| file.list().cloned()),
            ..discipline::Config::default()
        })
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, value, least, most) in [
            ("clock.horizon_ms", self.horizon_ms, 1_000, 3_600_000),
            ("clock.max_error_ms", self.max_error_ms, 1, 16_000),
            ("clock.stratum", self.stratum.into(), 1, 15),
            ("clock.local_stratum", self.local_stratum.unwrap_or(1).into(), 1, 15),
            ("clock.max_distance_ms", self.max_distance_ms, 1, 16_000),
            ("clock.makestep.threshold_ms", self.makestep.threshold_ms, 1, 1_000_000_000_000),
            ("clock.panic_s", self.panic_s.into(), 1, u32::MAX.into()),
            ("clock.max_slew_ppm", self.max_slew_ppm.into(), 1, 90_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::of(key, format_args!("must be {least} to {most}")));
            }
        }
        if self.min_sources == Some(0) {
            return Err(ConfigError::of("clock.min_sources", "must be at least 1"));
        }
        if self.source == ClockSource::Upstream && self.local_stratum.is_some() {
            return Err(ConfigError::of(
                "clock.local_stratum",
                "requires `source = \"system\"`: with upstreams, an unsynchronised clock is never served as synchronised",
            ));
        }
        Ok(())
    }
}

fn milliseconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}
