//! The configuration: TOML files in which unknown keys are errors.

mod access;
mod clock;
mod failure;
mod files;
mod leap;
mod limits;
mod metrics;
mod origin;
mod place;
mod quota;
mod range;
mod reference;
mod schema;
mod section;
mod show;
mod text;
mod upstream;
mod warning;
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use responder::layout::INTERFACES;
use responder::limiter::{Policy, SYMMETRIC};
use responder::served::CAPACITY;
use responder::{Access, Family};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::Prefix;
pub use access::{answers_nobody, parse_list};
pub use clock::{ClockConfig, ClockSource, MakeStep};
pub use failure::{ConfigError, Fault};
pub use files::directory_beside;
pub use leap::LeapFile;
pub use limits::{AccessConfig, Denied, LimitsConfig};
pub use metrics::MetricsConfig;
pub use origin::Origin;
pub use quota::{DataSize, Quota, QuotaCounts, Speed};
pub use reference::{Key, REQUIRED, Section, sections};
pub use schema::{SCHEMA_PATH, published as schema};
pub use show::Shown;
pub(crate) use text::read_text;
pub use upstream::{UpstreamConfig, is_pool_name};
pub use warning::Warning;

/// The file that the daemon reads without `--config`.
pub const DEFAULT_PATH: &str = "/etc/pooltime-xdp.toml";
/// Largest length of an interface's alternative name in bytes (`ALTIFNAMSIZ`); its first name has at most 15.
const LONGEST_NAME: usize = 127;
/// Largest size of a file; no configuration needs more.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The interfaces that `run` (the service) answers on, 8 at most. They have to be Ethernet; loopback needs none.
    /// `attach` names its own.
    #[schemars(inner(length(min = 1, max = LONGEST_NAME), regex(pattern = r"^[^\s/:]+$")))]
    #[schemars(extend("x-type" = "list of names, alternative ones too, each 1 to 127 bytes"))]
    #[schemars(extend("x-default" = "the interface of the default route", "x-example" = ["eth0", "eth1"]))]
    pub interfaces: Vec<String>,
    /// Addresses to answer for beside those of the interfaces, such as anycast addresses on `lo`.
    #[serde(deserialize_with = "served")]
    #[schemars(inner(regex(pattern = r"^[0-9A-Fa-f:.]+$")))]
    #[schemars(extend("x-type" = "list of addresses, 96 of a family at most", "x-example" = ["192.0.2.53"]))]
    pub serve: Vec<IpAddr>,
    /// Where the time comes from, and how good it must be.
    #[serde(deserialize_with = "section::section")]
    pub clock: ClockConfig,
    /// The servers that are asked for the time, one section for each. Four to seven are recommended.
    #[serde(deserialize_with = "section::sections")]
    #[schemars(length(max = upstream::MOST))]
    pub upstream: Vec<UpstreamConfig>,
    /// How often clients are answered.
    #[serde(deserialize_with = "section::section")]
    pub limits: LimitsConfig,
    /// Which clients are answered. The longest prefix that contains the source decides.
    #[serde(deserialize_with = "section::section")]
    pub access: AccessConfig,
    /// Metrics, health and the status page.
    #[serde(deserialize_with = "section::section")]
    pub metrics: MetricsConfig,
    /// Where all of this was read.
    #[serde(skip)]
    pub origin: Origin,
}

/// Parses addresses to serve. IPv4 addresses in IPv6 form become IPv4: no packet has such a destination.
fn served<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<IpAddr>, D::Error> {
    let addresses: Vec<IpAddr> = parse_each(deserializer, "an IP address, like 192.0.2.1 or 2001:db8::1")?;
    Ok(addresses.iter().map(IpAddr::to_canonical).collect())
}

fn parse_each<'de, T: std::str::FromStr, D: Deserializer<'de>>(
    deserializer: D,
    wanted: &str,
) -> std::result::Result<Vec<T>, D::Error> {
    let parse = |text: &String| {
        text.parse().map_err(|_| serde::de::Error::custom(format_args!("`{text}` is not {wanted}")))
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

impl Config {
    /// Reads a file, which has to exist, or without a name the default one, which may be missing; then the files of the
    /// directory beside it. See [`directory_beside`].
    ///
    /// # Errors
    ///
    /// Unreadable, too large, not text, or as [`Config::parse`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_on(path, &OwnAddresses::default())
    }

    /// As [`Config::load`], for a host with these addresses, none of which may be an upstream.
    ///
    /// # Errors
    ///
    /// As [`Config::load`] and [`Config::parse_on`].
    pub fn load_on(path: Option<&Path>, own: &OwnAddresses) -> Result<Self, ConfigError> {
        let config = Self::of(files::read(path)?, own)?;
        LeapFile::read(&config.clock).map_err(|error| config.origin.place(error))?;
        Ok(config)
    }

    /// Returns the policy for both answering paths, as [`LimitsConfig::policy`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn policy(&self, cpus: u32) -> Result<Policy> {
        let policy = self.limits.policy(self.access.denied, cpus)?;
        let symmetric = if self.access.symmetric { SYMMETRIC } else { 0 };
        Ok(Policy { options: policy.options | symmetric, ..policy })
    }

    /// Parses a configuration.
    ///
    /// # Errors
    ///
    /// The error names line and key, and for an unknown key the nearest known one.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self::parse_on(text, &OwnAddresses::default())?)
    }

    /// As [`Config::parse`], for a host with these addresses. The daemon does without: an address may become this
    /// host's own, or cease to be, at any time.
    ///
    /// # Errors
    ///
    /// As [`Config::parse`]; an upstream is this host itself.
    pub fn parse_on(text: &str, own: &OwnAddresses) -> Result<Self, ConfigError> {
        Self::of(Origin::of_text(text), own)
    }

    /// As [`Config::parse`], for several texts in their order: see [`Origin`].
    ///
    /// # Errors
    ///
    /// As [`Config::parse`]; the error names the text by its number.
    pub fn parse_all(texts: &[&str]) -> Result<Self> {
        Ok(Self::of(Origin::of_texts(texts), &OwnAddresses::default())?)
    }

    fn of(origin: Origin, own: &OwnAddresses) -> Result<Self, ConfigError> {
        let mut merged = Table::new();
        for file in origin.texts() {
            let explained = |error| file.name(wording::explain(file.text(), &error).into());
            // Each by itself first: only its own text tells where its mistakes are.
            toml::from_str::<Self>(file.text()).map_err(explained)?;
            origin::merge(&mut merged, toml::from_str(file.text()).map_err(explained)?);
        }
        let mut config: Self = Value::Table(merged)
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::from(wording::explain("", &error)))?;
        config.origin = origin;
        config.check(own).map_err(|error| config.origin.place(error))?;
        Ok(config)
    }

    /// Returns the entries of the access lists: those of the configuration and of the files that it names.
    ///
    /// # Errors
    ///
    /// A file cannot be read, a line in one is no entry, a prefix has two entries, or there are too many.
    pub fn entries(&self) -> Result<BTreeMap<Prefix, Access>, ConfigError> {
        access::entries(&self.access).map_err(|error| self.origin.place(error))
    }

    /// Checks all that can be told from the file alone.
    fn check(&self, own: &OwnAddresses) -> Result<(), ConfigError> {
        self.clock.check()?;
        upstream::check(&self.clock, &self.upstream, &own.serving(&self.serve))?;
        self.limits.policy(self.access.denied, 1)?;
        access::listed(&self.access)?;
        self.check_interfaces()?;
        self.check_served()?;
        self.metrics.check()
    }

    fn check_interfaces(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        for (index, name) in self.interfaces.iter().enumerate() {
            let wrong = |why: String| {
                let error = ConfigError::of("interfaces", format_args!("`{}` {why}", name.escape_debug()));
                Err(error.about(format!("interfaces[{index}]")))
            };
            if name.is_empty() || name.len() > LONGEST_NAME {
                return wrong(format!("cannot be an interface name (1 to {LONGEST_NAME} bytes)"));
            }
            if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
                return wrong("cannot be an interface name, which has no spaces, slashes and colons".into());
            }
            if names.insert(name) && names.len() > INTERFACES {
                return wrong(format!(
                    "is one too many: a server answers on {INTERFACES} interfaces at most"
                ));
            }
        }
        Ok(())
    }

    fn check_served(&self) -> Result<(), ConfigError> {
        let mut families = [BTreeSet::new(), BTreeSet::new()];
        for (index, address) in self.serve.iter().enumerate() {
            let wrong = |why: String| {
                let error = ConfigError::of("serve", format_args!("{address} {why}"));
                Err(error.about(format!("serve[{index}]")))
            };
            let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
            if address.is_unspecified() || address.is_multicast() || is_broadcast {
                return wrong("is not the address of a host".into());
            }
            let family = &mut families[usize::from(address.is_ipv6())];
            if family.insert(address) && family.len() > CAPACITY {
                return wrong(format!(
                    "is one too many: a server answers for {CAPACITY} addresses of a family at most, those of its \
                     interfaces included"
                ));
            }
        }
        Ok(())
    }

    /// Returns what is valid but not recommended, as far as the file itself tells.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        upstream::warnings(&self.clock, &self.upstream)
    }

    /// Returns all warnings: of the file itself and of the files that it names, with these entries of access lists.
    ///
    /// # Errors
    ///
    /// The list of leap seconds cannot be read.
    pub fn all_warnings(&self, entries: &BTreeMap<Prefix, Access>) -> Result<Vec<Warning>, ConfigError> {
        let mut warnings = self.warnings();
        if self.clock.source == ClockSource::Upstream {
            let list = LeapFile::read(&self.clock).map_err(|error| self.origin.place(error))?;
            warnings.extend(list.and_then(|list| list.warning_now()));
        }
        let unanswered = Family::ALL.iter().filter(|family| answers_nobody(entries, **family));
        warnings.extend(unanswered.map(|family| Warning::NobodyAnswered(*family)));
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests;
