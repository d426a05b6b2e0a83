//! The configuration file: TOML in which unknown keys are errors.

mod access;
mod clock;
mod failure;
mod leap;
mod limits;
mod place;
mod quota;
mod text;
mod upstream;
mod warning;
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use responder::layout::INTERFACES;
use responder::limiter::{Policy, SYMMETRIC};
use responder::served::CAPACITY;
use responder::{Access, Family};
use serde::{Deserialize, Deserializer};

use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::Prefix;
pub use access::{answers_nobody, parse_list};
pub use clock::{ClockConfig, ClockSource, MakeStep};
pub use failure::{ConfigError, Fault};
pub use leap::LeapFile;
pub use limits::{AccessConfig, Denied, LimitsConfig};
pub use quota::{DataSize, Quota, QuotaCounts, Speed};
pub(crate) use text::read_text;
pub use upstream::{UpstreamConfig, is_pool_name};
pub use warning::Warning;

/// The file that the daemon reads without `--config`.
pub const DEFAULT_PATH: &str = "/etc/pooltime-xdp.toml";
/// Largest number of addresses on which HTTP is served.
const MAX_LISTEN: usize = 8;
/// Largest length of an interface's alternative name in bytes (`ALTIFNAMSIZ`); its first name has at most 15.
const LONGEST_NAME: usize = 127;
/// Largest size of a file; no configuration needs more.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The interfaces to which `run` attaches; `attach` takes its own from the command line.
    pub interfaces: Vec<String>,
    /// Addresses that are answered for in addition to those of the interfaces, such as an anycast address on
    /// `lo`.
    #[serde(deserialize_with = "served")]
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
    /// Where all of this was read.
    #[serde(skip)]
    pub origin: Origin,
}

/// The file and its text, for errors that are found after it was parsed. It is no part of what is configured.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    path: Option<PathBuf>,
    text: String,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl Origin {
    /// Adds file and line to an error.
    fn place(&self, error: ConfigError) -> ConfigError {
        let error = error.in_text(&self.text);
        match &self.path {
            Some(path) => error.at(path.display()),
            None => error,
        }
    }
}

/// The section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Addresses on which HTTP is served; empty means none.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<SocketAddr>,
    /// Names by which clients may ask, besides addresses, `localhost` and the host's own name.
    pub hosts: Vec<String>,
    /// Whether the daemon refuses to start if it cannot listen on one of them.
    pub required: bool,
    /// Whether the page shows the addresses of the sources that are limited most. They are personal data.
    pub show_sources: bool,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9200))];
        Self { listen, hosts: Vec::new(), required: false, show_sources: false }
    }
}

/// Parses addresses here, because the standard library's error does not name the address that it is about.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<SocketAddr>, D::Error> {
    parse_each(deserializer, "an address with a port, like 127.0.0.1:9200 or [::1]:9200")
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
        let text = match read_text(path, path.display(), MAX_BYTES) {
            Err(_) if !required && !path.exists() => return Ok(Self::default()),
            text => text?,
        };
        let mut config = Self::parse_on(&text, own).map_err(|error| error.at(path.display()))?;
        config.origin.path = Some(path.to_owned());
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
        let mut config: Self = toml::from_str(text).map_err(|error| wording::explain(text, &error))?;
        text.clone_into(&mut config.origin.text);
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

impl MetricsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for (index, address) in self.listen.iter().enumerate() {
            let wrong = |why: &str| {
                let error = ConfigError::of("metrics.listen", format_args!("{address} {why}"));
                Err(error.about(format!("metrics.listen[{index}]")))
            };
            if address.port() == 0 {
                return wrong("has no port");
            }
            if !seen.insert(address) {
                return wrong("is listed twice");
            }
            if seen.len() > MAX_LISTEN {
                return wrong(&format!("is one too many: at most {MAX_LISTEN} addresses"));
            }
        }
        for (index, name) in self.hosts.iter().enumerate() {
            if !is_host_name(name) {
                let why = "is not a host name, like ntp1.example.net, without a port";
                let error = ConfigError::of("metrics.hosts", format_args!("`{}` {why}", name.escape_debug()));
                return Err(error.about(format!("metrics.hosts[{index}]")));
            }
        }
        Ok(())
    }
}

fn is_host_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=253).contains(&name.len()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

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
            ("[metrics]\nhosts = [\"ntp1.example.net:9200\"]", "metrics.hosts"),
            ("[metrics]\nhosts = [\"\"]", "metrics.hosts"),
            ("[limits]\nrate = 0", "limits.rate"),
            ("[limits]\ntable_entries = 65537", "limits.table_entries"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(
                error.what.contains(&format!(": {key}: ")) && error.what.starts_with("line "),
                "{text}: {error}"
            );
        }
    }

    /// Words of the programming language and of its libraries.
    const JARGON: [&str; 24] = [
        "u8",
        "u16",
        "u32",
        "u64",
        "usize",
        "i64",
        "i128",
        "f64",
        "sequence",
        "struct",
        "enum",
        "variant",
        "field",
        "newtype",
        "unit value",
        "Option",
        "os error",
        "invalid type",
        "invalid value",
        "byte array",
        "a map",
        "expected map",
        "serde",
        "Datetime",
    ];
    const VALUES: [&str; 43] = [
        "99999999999999999999999",
        "\"x\"",
        "\"\"",
        "\"-1\"",
        "\"5\"",
        "\"192.0.2.1\"",
        "\"/nowhere\"",
        "-1",
        "0",
        "1",
        "255",
        "256",
        "65536",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999999999999999999999999",
        "1.5",
        "1e400",
        "nan",
        "-inf",
        "true",
        "false",
        "[]",
        "[1]",
        "[true]",
        "[\"x\"]",
        "[[\"x\"]]",
        "[{}]",
        "[{ a = 1 }]",
        "{}",
        "{ a = 1 }",
        "1979-05-27",
        "07:32:00",
        "1979-05-27T07:32:00Z",
        "x",
        "",
        "\"open",
        "[1, ",
        "{ a = ",
        "1_",
        "\"\\q\"",
        "0x",
    ];

    /// Returns the keys of a section, as the parser itself names them.
    fn keys(before: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{before}nothing_like_it = 1\n")).unwrap_err();
        let (_, known) = error
            .message()
            .split_once("expected one of ")
            .or_else(|| error.message().split_once("expected "))
            .unwrap();
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_wrong_value_of_every_key_is_refused_with_its_line_in_a_person_s_words() {
        let mut seen = 0;
        for before in [
            "",
            "[clock]\n",
            "[clock.makestep]\n",
            "[limits]\n",
            "[access]\n",
            "[metrics]\n",
            "[[upstream]]\naddress = \"a\"\n[[upstream]]\n",
        ] {
            for key in keys(before) {
                for value in VALUES {
                    let text = format!("# first\n{before}{key} = {value}\n");
                    let Err(error) = Config::parse(&text) else { continue };
                    seen += 1;
                    let said = error.to_string();
                    assert!(said.starts_with("line "), "{text}{said}");
                    for word in JARGON {
                        let is_whole = |at: usize| {
                            let (left, right) = (&said[..at], &said[at + word.len()..]);
                            !left.ends_with(|c: char| c.is_alphanumeric())
                                && !right.starts_with(|c: char| c.is_alphanumeric())
                        };
                        let mut found = said.match_indices(word).map(|(at, _)| at);
                        assert!(!found.any(is_whole), "`{word}` in:\n{text}{said}");
                    }
                }
            }
        }
        assert!(seen > 1_000, "{seen}");
    }

    #[test]
    fn what_a_value_must_be_is_said_with_its_key_and_what_it_is() {
        for (text, said) in [
            (
                "[clock]\nhorizon_ms = \"5000\"",
                "line 2: clock.horizon_ms: must be a whole number, 0 or more, not the text \"5000\"",
            ),
            (
                "[clock]\nstratum = 1.5",
                "line 2: clock.stratum: must be a whole number from 0 to 255, not 1.5",
            ),
            ("[clock]\nstratum = -1", "line 2: clock.stratum: must be a whole number from 0 to 255, not -1"),
            ("[clock]\nsteer = 1", "line 2: clock.steer: must be true or false, not 1"),
            ("[clock]\nsource = \"gps\"", "line 2: clock.source: must be `system` or `upstream`, not `gps`"),
            (
                "interfaces = \"eth0\"",
                "line 1: interfaces: must be a list in square brackets, not the text \"eth0\"",
            ),
            ("clock = 5", "line 1: clock: must be a section of keys, not 5"),
            ("[[upstream]]\nport = 123", "line 1: upstream 1: the key `address` is missing"),
            (
                "[upstream]\naddress = \"a\"",
                "line 1: upstream: must be a list in square brackets, not a section of keys",
            ),
            ("serve = [\"x\"]", "line 1: serve: `x` is not an IP address, like 192.0.2.1 or 2001:db8::1"),
        ] {
            assert_eq!(Config::parse(text).unwrap_err().what, said, "{text}");
        }
        assert!(
            Config::parse("[upstream]\naddress = \"a\"")
                .unwrap_err()
                .remedy
                .unwrap()
                .contains("[[upstream]]")
        );
    }

    #[test]
    fn what_a_start_would_refuse_is_refused_by_its_line() {
        let list =
            |count: u8, name: &dyn Fn(u8) -> String| (1..=count).map(name).collect::<Vec<_>>().join(",\n");
        let interfaces =
            |count| format!("interfaces = [{}]", list(count, &|number| format!("\"a{number}\"")));
        let serve = |count| format!("serve = [{}]", list(count, &|number| format!("\"192.0.2.{number}\"")));
        Config::parse(&interfaces(8)).unwrap();
        Config::parse(&interfaces(8).replace("a8", "a1")).unwrap();
        Config::parse(&serve(96)).unwrap();
        for (text, said) in [
            (interfaces(9), "line 9: interfaces: `a9` is one too many"),
            (serve(97), "line 97: serve: 192.0.2.97 is one too many"),
            ("interfaces = [\"eth0:1\"]".into(), "line 1: interfaces: `eth0:1` cannot be"),
            ("serve = [\n\"255.255.255.255\"]".into(), "line 2: serve: 255.255.255.255 is not"),
            ("serve = [\n\"::ffff:224.0.0.1\"]".into(), "line 2: serve: 224.0.0.1 is not"),
            (
                "[metrics]\nlisten = [\"[::1]:9\",\n\"[0::1]:9\"]".into(),
                "line 3: metrics.listen: [::1]:9 is listed twice",
            ),
            (
                "[access]\ndeny = [\"::ffff:0:0/96\"]".into(),
                "line 2: access.deny: `::ffff:0.0.0.0/96` is not a prefix",
            ),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.what.starts_with(said), "{text}: {error}");
        }
        let mapped = Config::parse("serve = [\"::ffff:192.0.2.1\"]").unwrap();
        assert_eq!(mapped.serve, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn errors_of_other_files_have_the_line_that_names_them() {
        let config =
            Config::parse("[access]\ndeny = [\"192.0.2.7\"]\nfiles = [\n\"/nowhere/list\"]\n").unwrap();
        let error = config.entries().unwrap_err().error.what;
        assert!(
            error.starts_with("line 4: access.files: /nowhere/list: No such file or directory"),
            "{error}"
        );
        let twice = "[access]\ndeny = [\"192.0.2.7\"]\nunlimited = [\"::ffff:192.0.2.7\"]\n";
        let error = Config::parse(twice).unwrap_err().what;
        assert!(
            error.starts_with("line 3: access.unlimited: 192.0.2.7/32 is `deny` and `unlimited`"),
            "{error}"
        );
    }
}
