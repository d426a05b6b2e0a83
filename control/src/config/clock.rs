//! `[clock]`: where the time comes from and how good it has to be.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, wrong};
use crate::discipline::{self, LeapList, SteerConfig};
use crate::error::{Code, Error, Result};

/// `[clock]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// Where the time comes from.
    pub source: ClockSource,
    /// How long answers claim to be synchronised after the daemon last looked.
    pub horizon_ms: u64,
    /// Above this error bound answers do not claim to be synchronised.
    pub max_error_ms: u64,
    /// `system`: the stratum where no local daemon tells.
    pub stratum: u8,
    /// `system`: the reference where no local daemon tells: the IPv4 address of the upstream.
    pub reference: Option<Ipv4Addr>,
    /// `system`: serve an unsynchronised clock under this stratum: for laboratories and isolated networks, never
    /// for the pool.
    pub local_stratum: Option<u8>,
    /// `upstream`: steer the kernel's clock, too. Else it is left alone, and only what is served is right.
    pub steer: bool,
    /// `upstream`: fewest upstreams that must agree. Without it two, where three or more are configured, else one.
    pub min_sources: Option<usize>,
    /// `upstream`: the root distance above which one is of no use.
    pub max_distance_ms: u64,
    /// `upstream`: when the kernel's clock may be stepped.
    pub makestep: MakeStep,
    /// `upstream`: an offset of the kernel's clock above this is left to the operator.
    pub panic_s: u32,
    /// `upstream`: the most by which the kernel's clock is made to run fast or slow to remove an offset.
    pub max_slew_ppm: u32,
    /// `upstream`: a leap-seconds.list that has the last word on leap seconds until it expires.
    pub leap_seconds_list: Option<PathBuf>,
    /// `upstream`: accept names of the pool as upstreams: for a server that is not to be in the pool.
    pub allow_pool_names: bool,
}

/// `clock.source`.
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
    /// As it is configured.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Upstream => "upstream",
        }
    }
}

/// `clock.makestep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MakeStep {
    /// Offsets above this are stepped ...
    pub threshold_ms: u64,
    /// ... in the first so many corrections after the start.
    pub updates: u32,
}

impl Default for MakeStep {
    /// `makestep 1 3` of chrony's configurations.
    fn default() -> Self {
        Self { threshold_ms: 1_000, updates: 3 }
    }
}

impl Default for ClockConfig {
    fn default() -> Self {
        Self {
            source: ClockSource::System,
            // Long enough for a restart or an upgrade, short enough to be noticed by a client's next poll.
            horizon_ms: 20_000,
            // RFC 5905's MAXDIST, above which a client should not select a server, is 1 s.
            max_error_ms: 1_000,
            // A stratum that is too high does no harm; this is the highest that the pool takes.
            stratum: 5,
            reference: None,
            local_stratum: None,
            steer: true,
            min_sources: None,
            max_distance_ms: 1_500,
            makestep: MakeStep::default(),
            panic_s: 1_000,
            // What the kernel's own error bound grows by: it stays true if the daemon dies during a slew.
            max_slew_ppm: 500,
            leap_seconds_list: None,
            allow_pool_names: false,
        }
    }
}

impl ClockConfig {
    /// The reference id of an upstream that no local daemon names.
    #[must_use]
    pub fn reference_id(&self) -> u32 {
        self.reference.map_or(protocol::reference::LOCAL, u32::from)
    }

    /// How the kernel's clock is steered.
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
    /// The list cannot be read or understood.
    pub fn discipline(&self) -> Result<discipline::Config, ConfigError> {
        let leap_list = self.leap_seconds_list.as_ref().map(|path| {
            let failed = format!("clock.leap_seconds_list: {}", path.display());
            let text = std::fs::read_to_string(path).map_err(ConfigError::unreadable(&failed))?;
            Ok::<_, ConfigError>(LeapList::parse(&text).map_err(Error::because(Code::Config, &failed))?)
        });
        Ok(discipline::Config {
            min_sources: self.min_sources,
            // A source that is worse than what may be served is no witness for it.
            max_distance_s: milliseconds(self.max_distance_ms.min(self.max_error_ms)),
            leap_list: leap_list.transpose()?,
            ..discipline::Config::default()
        })
    }

    pub(super) fn check(&self) -> Result<()> {
        for (key, value, least, most) in [
            ("clock.horizon_ms", self.horizon_ms, 1_000, 3_600_000),
            ("clock.max_error_ms", self.max_error_ms, 1, 16_000),
            ("clock.stratum", self.stratum.into(), 1, 15),
            ("clock.local_stratum", self.local_stratum.unwrap_or(1).into(), 1, 15),
            ("clock.max_distance_ms", self.max_distance_ms, 1, 16_000),
            ("clock.makestep.threshold_ms", self.makestep.threshold_ms, 1, 1_000_000_000_000),
            ("clock.panic_s", self.panic_s.into(), 1, u32::MAX.into()),
            ("clock.max_slew_ppm", self.max_slew_ppm.into(), 1, 500),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(key, &format!("must be {least} to {most}"));
            }
        }
        if self.min_sources == Some(0) {
            return wrong("clock.min_sources", "must be at least 1");
        }
        if self.source == ClockSource::Upstream && self.local_stratum.is_some() {
            return wrong(
                "clock.local_stratum",
                "requires `source = \"system\"`: with upstreams, an unsynchronised clock is never served as synchronised",
            );
        }
        Ok(())
    }
}

fn milliseconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}
