//! The configuration file: TOML in which unknown keys are errors.

mod clock;
mod failure;
mod limits;
mod upstream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use responder::limiter::{Policy, SYMMETRIC};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
pub use clock::{ClockConfig, ClockSource, MakeStep};
pub use failure::{ConfigError, Fault};
pub use limits::{AccessConfig, Denied, LimitsConfig};
pub use upstream::{UpstreamConfig, Warning, is_pool_name};

/// The file that the daemon reads without `--config`.
pub const DEFAULT_PATH: &str = "/etc/pooltime-xdp.toml";
/// Largest number of addresses on which HTTP is served.
const MAX_LISTEN: usize = 8;
/// Largest size of a file; no configuration needs more.
const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The interfaces to which `run` attaches; `attach` takes its own from the command line.
    pub interfaces: Vec<String>,
    /// Addresses that are answered for in addition to those of the interfaces, such as an anycast address on
    /// `lo`.
    pub serve: Vec<IpAddr>,
    /// Settings of the clock.
    pub clock: ClockConfig,
    /// The servers that are asked for the time.
    pub upstream: Vec<UpstreamConfig>,
    /// How often clients are answered.
    pub limits: LimitsConfig,
    /// Which clients are answered.
    pub access: AccessConfig,
    /// Metrics, health and the status page.
    pub metrics: MetricsConfig,
}

/// The section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Addresses on which HTTP is served; empty means none.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<SocketAddr>,
    /// Whether the daemon refuses to start if it cannot listen on one of them.
    pub required: bool,
    /// Whether the page shows the addresses of the sources that are limited most. They are personal data.
    pub show_sources: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9200))];
        Self { listen, required: false, show_sources: false }
    }
}

/// Parses addresses here, because the standard library's error does not name the address that it is about.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let address = |text: &String| {
        text.parse().map_err(|_| {
            serde::de::Error::custom(format_args!(
                "`{text}` is not an address with a port, like 127.0.0.1:9200 or [::1]:9200"
            ))
        })
    };
    texts.iter().map(address).collect()
}

impl Config {
    /// Reads a file; the default one may be missing.
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
        let (path, required) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        let text = match read_text(path) {
            Err(_) if !required && !path.exists() => return Ok(Self::default()),
            text => text?,
        };
        Self::parse_on(&text, own).map_err(|error| error.at(path.display()))
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
        let config: Self = toml::from_str(text).map_err(|error| explain(text, &error))?;
        config.check()?;
        config.check_upstreams(text, &own.serving(&config.serve))?;
        Ok(config)
    }

    /// Refuses upstreams that can never be one, and names the line in `text`.
    fn check_upstreams(&self, text: &str, own: &OwnAddresses) -> Result<()> {
        for (index, upstream) in self.upstream.iter().enumerate() {
            let Some(unusable) = own.unusable_name(&upstream.address) else { continue };
            let place =
                line_of_upstream(text, index).map_or_else(String::new, |line| format!("line {line}: "));
            let what = format!("{place}upstream {}: `{}` {}", index + 1, upstream.address, unusable.reason());
            return Err(Error::new(Code::Config, what).remedy(unusable.remedy()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.clock.check()?;
        upstream::check(&self.clock, &self.upstream)?;
        self.policy(1)?;
        if let Some(address) =
            self.serve.iter().find(|address| address.is_unspecified() || address.is_multicast())
        {
            return wrong("serve", &format!("{address} is not the address of a host"));
        }
        if let Some(address) = self.metrics.listen.iter().find(|address| address.port() == 0) {
            return wrong("metrics.listen", &format!("{address} has no port"));
        }
        if self.metrics.listen.len() > MAX_LISTEN {
            return wrong("metrics.listen", &format!("at most {MAX_LISTEN} addresses"));
        }
        if let Some(name) = self.interfaces.iter().find(|name| name.is_empty() || name.len() > 15) {
            return wrong("interfaces", &format!("`{name}` cannot be an interface name (1 to 15 bytes)"));
        }
        Ok(())
    }

    /// Returns what is valid but not recommended.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        upstream::warnings(&self.clock, &self.upstream)
    }
}

fn wrong<E: From<Error>>(key: &str, why: &str) -> Result<(), E> {
    Err(Error::new(Code::Config, format_args!("{key}: {why}")).into())
}

/// Reads a file that should be a configuration, of whatever program.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::unreadable(path.display())(error);
    let metadata = path.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        let what = format!(
            "{} is not a configuration file: not a regular file, or above {MAX_BYTES} bytes",
            path.display()
        );
        return Err(Error::new(Code::Config, what).into());
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let not_text = |_| Error::new(Code::Config, format_args!("{} is not UTF-8 text", path.display()));
    Ok(String::from_utf8(bytes).map_err(not_text)?)
}

/// Returns the line of an upstream's address, counted from 1.
fn line_of_upstream(text: &str, index: usize) -> Option<usize> {
    #[derive(Deserialize)]
    struct Upstreams {
        upstream: Vec<Upstream>,
    }
    #[derive(Deserialize)]
    struct Upstream {
        address: Spanned<toml::Value>,
    }
    let upstreams = toml::from_str::<Upstreams>(text).ok()?.upstream;
    Some(line_of(text, upstreams.get(index)?.address.span().start))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn explain(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| line_of(text, span.start));
    let message = error.message().lines().next().unwrap_or_default().trim();
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    let explained = Error::new(Code::Config, format_args!("{place}{message}"));
    match nearest_key(error.message()) {
        Some(key) => explained.remedy(format_args!("did you mean `{key}`?")),
        None => explained,
    }
}

/// Takes serde's "unknown field `x`, expected one of `a`, `b`" and returns the expected key that is most
/// similar.
fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_key() {
        let error = Config::parse("interfaces = [\"eth0\"]\n\n[clock]\nlocal_stratun = 10\n").unwrap_err();
        assert!(error.what.contains("line 4") && error.what.contains("local_stratun"), "{error}");
        assert!(error.remedy.as_deref().is_some_and(|remedy| remedy.contains("`local_stratum`")), "{error}");
        assert_eq!(error.code, Code::Config);
    }

    #[test]
    fn a_key_like_no_other_gets_no_guess() {
        let error = Config::parse("qqq = 1").unwrap_err();
        assert!(error.what.contains("qqq") && error.remedy.is_none(), "{error}");
    }

    #[test]
    fn a_malformed_prefix_is_named_with_its_line() {
        let error = Config::parse("[access]\nallow = []\ndeny = [\"10.0.0.1/8\"]\n").unwrap_err();
        assert!(error.what.contains("line 3") && error.what.contains("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn a_listen_address_that_is_none_is_named_with_its_line() {
        for text in ["127.0.0.1", "localhost:9200", "[::1]", "127.0.0.1:99999", ""] {
            let error = Config::parse(&format!("[metrics]\nlisten = [{text:?}]")).unwrap_err();
            assert!(error.what.contains("line 2") && error.what.contains(&format!("`{text}`")), "{error}");
        }
        assert_eq!(Config::parse("[metrics]\nlisten = []").unwrap().metrics.listen, []);
    }

    #[test]
    fn broken_syntax_is_named_with_its_line() {
        assert!(Config::parse("serve = [\n\"::1\"\n[clock").unwrap_err().what.contains("line 3"));
    }

    #[test]
    fn values_out_of_range_are_refused_by_their_key() {
        for (text, key) in [
            ("[clock]\nhorizon_ms = 1", "clock.horizon_ms"),
            ("[clock]\nmax_error_ms = 0", "clock.max_error_ms"),
            ("[clock]\nstratum = 16", "clock.stratum"),
            ("[clock]\nlocal_stratum = 0", "clock.local_stratum"),
            ("serve = [\"0.0.0.0\"]", "serve"),
            ("serve = [\"ff02::1\"]", "serve"),
            ("interfaces = [\"\"]", "interfaces"),
            ("[metrics]\nlisten = [\"127.0.0.1:0\"]", "metrics.listen"),
            ("[limits]\nrate = 0", "limits.rate"),
            ("[limits]\ntable_entries = 65537", "limits.table_entries"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.what.starts_with(key), "{text}: {error}");
        }
    }
}
