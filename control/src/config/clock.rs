//! `[clock]`: where the time comes from and how good it must be.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::leap::SHIPPED;
use super::section::section;
use super::{ConfigError, LeapFile, range};
use crate::discipline::{self, SteerConfig};

/// The section `[clock]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// Serve the system clock, which another daemon disciplines, or ask the upstreams below.
    pub source: ClockSource,
    /// Answers stay synchronised for this long after the daemon last looked.
    #[schemars(range(min = 1_000, max = 3_600_000), extend("x-unit" = "ms"))]
    pub horizon_ms: u64,
    /// Above this error bound, answers say "unsynchronised".
    #[schemars(range(min = 1, max = 16_000), extend("x-unit" = "ms"))]
    pub max_error_ms: u64,
    /// The stratum to serve if the clock's keeper does not say its own.
    #[schemars(range(min = 1, max = 15), extend("x-source" = "system"))]
    pub stratum: u8,
    /// The reference to serve if the clock's keeper does not say its own.
    #[schemars(extend("x-source" = "system", "x-type" = "IPv4 address", "x-example" = "192.0.2.1"))]
    #[schemars(extend("x-default" = format!("`\"{}\"`", Ipv4Addr::from_bits(protocol::reference::LOCAL))))]
    pub reference: Option<Ipv4Addr>,
    /// Serve an unsynchronised clock under this stratum: for laboratories and isolated networks, never for the pool.
    #[schemars(range(min = 1, max = 15), extend("x-source" = "system", "x-example" = 10))]
    pub local_stratum: Option<u8>,
    /// Steer the kernel's clock, too. Otherwise it is left alone, and only the served time is right.
    #[schemars(extend("x-source" = "upstream"))]
    pub steer: bool,
    /// The fewest upstreams that must agree.
    #[schemars(range(min = 1))]
    #[schemars(extend("x-source" = "upstream", "x-default" = "2 of three or more upstreams, otherwise 1"))]
    #[schemars(extend("x-range" = "1 to the number of upstreams", "x-example" = 2))]
    pub min_sources: Option<usize>,
    /// An upstream with a larger root distance is not used.
    #[schemars(range(min = 1, max = 16_000), extend("x-source" = "upstream", "x-unit" = "ms"))]
    pub max_distance_ms: u64,
    /// When the kernel's clock may be stepped.
    #[serde(deserialize_with = "section")]
    #[schemars(extend("x-source" = "upstream"))]
    pub makestep: MakeStep,
    /// A larger offset of the kernel's clock is left to the operator.
    #[schemars(range(min = 1), extend("x-source" = "upstream", "x-unit" = "s"))]
    pub panic_s: u32,
    /// The fastest slew of the kernel's clock.
    #[schemars(range(min = 1, max = 90_000), extend("x-source" = "upstream", "x-unit" = "ppm"))]
    pub max_slew_ppm: u32,
    /// A leap-seconds.list that has the last word on leap seconds until it expires. `"none"` does without.
    #[schemars(extend("x-source" = "upstream", "x-type" = "path"))]
    #[schemars(extend("x-default" = format!("`{SHIPPED}` if it is there"), "x-example" = SHIPPED))]
    pub leap_seconds_list: Option<PathBuf>,
    /// Accept names of the pool as upstreams: for a server that will not join the pool.
    #[schemars(extend("x-source" = "upstream"))]
    pub allow_pool_names: bool,
}

/// The value of `clock.source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MakeStep {
    /// A larger offset of the kernel's clock is stepped, but see `makestep.updates`.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-unit" = "ms"))]
    pub threshold_ms: u64,
    /// Steps are made in this number of first updates from the upstreams only.
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
        range::check("clock", self)?;
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
