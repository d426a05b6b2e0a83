//! `[[upstream]]`: the servers to ask for the time, according to the pool's rules for its members.

use std::borrow::Cow;
use std::collections::BTreeMap;

use responder::udp::NTP_PORT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clock::{ClockConfig, ClockSource};
use super::{ConfigError, Fault, Warning, range};
use crate::discipline::SourceConfig;
use crate::error::{Code, Error};
use crate::net::own_addresses::OwnAddresses;
use crate::net::server_name::{NoServer, ServerName};

/// Largest number of upstreams.
pub(super) const MOST: usize = 32;
/// Recommended number of upstreams: with four, one may be false and another one missing.
const GOOD: std::ops::RangeInclusive<usize> = 4..=7;
/// Domain of the pool, whose members should not take their time from each other at random.
const POOL: &str = "pool.ntp.org";
/// The operator of a public server does not want shorter intervals.
const POLITE_POLL: u8 = 6;

/// A section `[[upstream]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "keys of a file, each a question of its own")]
pub struct UpstreamConfig {
    /// The server. A link-local address needs its interface: `fe80::1%eth0`.
    #[schemars(length(min = 1, max = 254))]
    #[schemars(extend("x-type" = "string", "x-range" = "a name or an address, up to 253 bytes"))]
    #[schemars(extend("x-example" = "ntp1.example.net"))]
    pub address: String,
    /// The UDP port.
    #[serde(default = "ntp_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// First contact may be up to eight requests, 2 s apart until four were answered.
    #[serde(default = "yes")]
    pub iburst: bool,
    /// Refused: a burst at every poll is a load on other people's servers.
    #[serde(default)]
    #[schemars(extend("const" = false))]
    pub burst: bool,
    /// The shortest interval between requests.
    #[serde(default = "min_poll")]
    #[schemars(range(min = 3, max = 17), extend("x-unit" = "log2 s", "x-default" = with_seconds(min_poll())))]
    #[schemars(extend("x-why" = ", a power of two in seconds"))]
    pub minpoll: u8,
    /// The longest interval between requests.
    #[serde(default = "max_poll")]
    #[schemars(range(min = 3, max = 17), extend("x-unit" = "log2 s", "x-default" = with_seconds(max_poll())))]
    #[schemars(extend("x-range" = "3 to 17, `minpoll` or more", "x-why" = ", a power of two in seconds"))]
    pub maxpoll: u8,
    /// While a preferred upstream is selected, only preferred ones are followed.
    #[serde(default)]
    pub prefer: bool,
    /// Only trusted upstreams vote on what is true; the others must agree with them.
    #[serde(default)]
    pub trust: bool,
}

impl UpstreamConfig {
    /// Returns the settings for the discipline.
    #[must_use]
    pub const fn source(&self) -> SourceConfig {
        SourceConfig {
            min_poll: self.minpoll,
            max_poll: self.maxpoll,
            iburst: self.iburst,
            prefer: self.prefer,
            trust: self.trust,
        }
    }

    /// Checks the values, and returns the server.
    fn check(&self, allow_pool_names: bool) -> Result<ServerName, UpstreamError> {
        let server: ServerName = self.address.parse().map_err(|error: NoServer| UpstreamError {
            remedy: error.remedy,
            ..UpstreamError::of("address", error.reason)
        })?;
        if !allow_pool_names && is_pool_name(&self.address) {
            return Err(UpstreamError::of(
                "address",
                "is the pool itself: a server of the pool takes its time from servers that it has chosen",
            )
            .remedy(
                "choose 4 to 7 servers near you, or set `clock.allow_pool_names = true` on a server that is not in the pool",
            ));
        }
        if self.burst {
            let why = "a burst at every poll loads other people's servers without any benefit";
            return Err(UpstreamError::of("burst", why)
                .remedy("use `iburst = true`, a burst at first contact only, for a quick start"));
        }
        if let Some((key, why)) = range::broken("upstream", self) {
            return Err(UpstreamError::of(key, why));
        }
        if self.minpoll > self.maxpoll {
            return Err(UpstreamError::of("minpoll", format!("is above maxpoll, {}", self.maxpoll)));
        }
        Ok(server)
    }
}

/// What is wrong with one of the upstreams.
struct UpstreamError {
    key: Cow<'static, str>,
    why: String,
    remedy: Option<String>,
    /// The number of the one that it contradicts, counted from 0.
    other: Option<usize>,
}

impl UpstreamError {
    fn of(key: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into(), remedy: None, other: None }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Says which upstream it is: `upstream 3 (`ntp3.example.net`).minpoll: must be ...`.
    fn at(self, index: usize, address: &str) -> ConfigError {
        let Self { key, why, remedy, other } = self;
        let (number, address) = (index + 1, address.escape_debug());
        let what = match &*key {
            "address" => format!("upstream {number}: `{address}` {why}"),
            key => format!("upstream {number} (`{address}`).{key}: {why}"),
        };
        let error =
            ConfigError::from(Error::new(Code::Config, what)).about(format!("upstream[{index}].{key}"));
        let error = match other {
            Some(other) => error.against(format!("upstream[{other}].{key}")),
            None => error,
        };
        match remedy {
            Some(remedy) => error.remedy(remedy),
            None => error,
        }
    }
}

/// Whether this is a name of the NTP Pool, which stands for other servers each time.
#[must_use]
pub fn is_pool_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.strip_suffix(POOL).is_some_and(|zone| zone.is_empty() || zone.ends_with('.'))
}

/// Checks all upstreams, for a host with these addresses.
pub(super) fn check(
    clock: &ClockConfig,
    upstreams: &[UpstreamConfig],
    own: &OwnAddresses,
) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let checked = upstream.check(clock.allow_pool_names).and_then(|server| {
            if let Some(unusable) = own.unusable_name(&upstream.address) {
                return Err(UpstreamError::of("address", unusable.reason()).remedy(unusable.remedy()));
            }
            match seen.insert((server, upstream.port), index) {
                Some(first) => {
                    let why = format!(
                        "is listed twice, as upstream {} as well: each server has one vote",
                        first + 1
                    );
                    Err(UpstreamError { other: Some(first), ..UpstreamError::of("address", why) })
                }
                None => Ok(()),
            }
        });
        checked.map_err(|error| error.at(index, &upstream.address))?;
    }
    if upstreams.len() > MOST {
        return Err(ConfigError::of("upstream", format_args!("at most {MOST}"))
            .about(format!("upstream[{MOST}].address")));
    }
    if clock.source == ClockSource::Upstream {
        if upstreams.is_empty() {
            return Err(ConfigError::of(
                "clock.source",
                "\"upstream\" needs upstreams, but none is configured",
            )
            .fault(Fault::NoUpstreams)
            .remedy("add 4 to 7 of them: `[[upstream]]`, `address = \"ntp.example.net\"`"));
        }
        if clock.min_sources.is_some_and(|fewest| fewest > upstreams.len()) {
            let why = format!("must be at most {}, the number of upstreams", upstreams.len());
            return Err(ConfigError::of("clock.min_sources", why));
        }
    }
    Ok(())
}

pub(super) fn warnings(clock: &ClockConfig, upstreams: &[UpstreamConfig]) -> Vec<Warning> {
    let count = upstreams.len();
    if clock.source == ClockSource::System {
        return if count > 0 { vec![Warning::NotUsed(count)] } else { Vec::new() };
    }
    let mut warnings = Vec::new();
    if count < *GOOD.start() {
        warnings.push(Warning::TooFew(count));
    }
    if count > *GOOD.end() {
        warnings.push(Warning::TooMany(count));
    }
    let too_often = upstreams.iter().filter(|upstream| upstream.minpoll < POLITE_POLL);
    warnings.extend(too_often.map(|upstream| Warning::PollsTooOften {
        upstream: upstream.address.clone(),
        minpoll: upstream.minpoll,
    }));
    warnings
}

const fn ntp_port() -> u16 {
    NTP_PORT
}

const fn yes() -> bool {
    true
}

const fn min_poll() -> u8 {
    6
}

const fn max_poll() -> u8 {
    10
}

fn with_seconds(poll: u8) -> String {
    format!("{poll} ({} s)", 1_u32 << poll)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Warning};
    use crate::net::own_addresses::tests::own;

    /// Makes a configuration with this number of upstreams.
    fn with(count: usize) -> String {
        let upstreams =
            (0..count).map(|number| format!("[[upstream]]\naddress = \"ntp{number}.example.net\"\n"));
        format!("[clock]\nsource = \"upstream\"\n{}", upstreams.collect::<String>())
    }

    #[test]
    fn four_to_seven_are_good_fewer_and_more_are_warned_of_and_none_is_wrong() {
        for (count, warnings) in [(1, 1), (2, 1), (3, 1), (4, 0), (7, 0), (8, 1)] {
            let config = Config::parse(&with(count)).unwrap();
            assert_eq!(config.warnings().len(), warnings, "{count}: {:?}", config.warnings());
        }
        assert!(Config::parse(&with(0)).unwrap_err().what.contains("none is configured"));
        assert!(Config::parse(&with(33)).unwrap_err().what.contains("at most 32"));
    }

    #[test]
    fn defaults_are_those_of_the_discipline() {
        let config = Config::parse(&with(4)).unwrap();
        assert_eq!(config.upstream[0].source(), crate::discipline::SourceConfig::default());
        assert_eq!((config.upstream[0].port, config.clock.steer), (123, true));
        // An upstream above `max_error_ms` can never be served.
        let expected = crate::discipline::Config { max_distance_s: 1.0, ..Default::default() };
        // Whether the machine ships a list of leap seconds does not matter here.
        let clock = crate::config::ClockConfig { leap_seconds_list: Some("none".into()), ..config.clock };
        assert_eq!(clock.discipline().unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_with_an_upstream_is_said_with_its_number_and_name() {
        for (line, said) in [
            ("burst = true", "burst"),
            ("minpoll = 2", "minpoll"),
            ("maxpoll = 18", "maxpoll"),
            ("minpoll = 11", "above maxpoll"),
            ("port = 0", "port"),
        ] {
            let error = Config::parse(&format!("{}{line}\n", with(4))).unwrap_err();
            assert!(
                error.what.contains("upstream 4 (`ntp3.example.net`)") && error.what.contains(said),
                "{error}"
            );
        }
        for name in ["", "a b", "ntp.example.net:123/udp", "192.0.2.300"] {
            let error = Config::parse(&with(4).replace("ntp2.example.net", name)).unwrap_err();
            assert!(error.what.contains("neither a name nor an address"), "{name}: {error}");
        }
        let twice = Config::parse(&with(4).replace("ntp2.example.net", "NTP1.example.net.")).unwrap_err();
        assert!(
            twice.what.starts_with("line 8: upstream 3: ") && twice.what.contains("upstream 2"),
            "{twice}"
        );
        let port = Config::parse(&with(4).replace("ntp2.example.net", "192.0.2.1:123")).unwrap_err();
        assert!(port.remedy.as_ref().unwrap().contains("`192.0.2.1`, and `port = 123`"), "{port}");
        let error = Config::parse(&format!("{}key = 1\n", with(4))).unwrap_err();
        assert!(error.what.contains("line 11: unknown key `key` in [[upstream]]"), "{error}");
    }

    #[test]
    fn what_can_never_be_an_upstream_is_refused_with_its_line() {
        for (address, reason) in [
            ("127.0.0.1", "a loopback address"),
            ("::ffff:127.0.0.9", "a loopback address"),
            ("::1", "a loopback address"),
            ("localhost", "a loopback address"),
            ("0.0.0.0", "the unspecified address"),
            ("::", "the unspecified address"),
            ("224.0.1.1", "a multicast address"),
            ("ff02::101%eth0", "a multicast address"),
            ("255.255.255.255", "a broadcast address"),
            ("fe80::1", "a link-local address without its interface"),
        ] {
            let error = Config::parse(&with(4).replace("ntp2.example.net", address)).unwrap_err();
            let place = format!("line 8: upstream 3: `{address}` is {reason}");
            assert!(error.what.starts_with(&place) && error.remedy.is_some(), "{error}");
        }
        Config::parse(&with(4).replace("ntp2.example.net", "fe80::1%eth0")).unwrap();
    }

    #[test]
    fn this_host_s_addresses_and_those_that_it_serves_are_no_upstreams() {
        let own = own(&["192.0.2.1", "2001:db8::1"]);
        for address in ["192.0.2.1", "::ffff:192.0.2.1", "2001:DB8::1", "192.0.2.255"] {
            let text = with(4).replace("ntp1.example.net", address);
            let error = Config::parse_on(&text, &own).unwrap_err().error;
            assert!(error.what.starts_with(&format!("line 6: upstream 2: `{address}` is ")), "{error}");
            // The daemon starts with it, because it may be another host's address a moment later.
            Config::parse(&text).unwrap();
        }
        let text =
            format!("serve = [\"198.51.100.7\"]\n{}", with(4).replace("ntp3.example.net", "198.51.100.7"));
        let error = Config::parse(&text).unwrap_err();
        assert!(
            error.what.starts_with("line 11: upstream 4: `198.51.100.7` is an address of this host"),
            "{error}"
        );
        // An inline table has a line as well.
        let text = "upstream = [{ address = \"ntp1.example.net\" },\n  { address = \"192.0.2.1\" }]\n";
        let error = Config::parse_on(text, &own).unwrap_err().error;
        assert!(error.what.starts_with("line 2: upstream 2: "), "{error}");
    }

    #[test]
    fn how_many_must_agree_is_left_to_the_discipline_unless_it_is_configured() {
        let fewest = |text: &str| Config::parse(text).unwrap().clock.discipline().unwrap().min_sources;
        assert_eq!(fewest(&with(4)), None);
        for configured in 1..=4 {
            let text = with(4).replace("[clock]", &format!("[clock]\nmin_sources = {configured}"));
            assert_eq!(fewest(&text), Some(configured));
        }
    }

    #[test]
    fn the_pool_is_no_upstream_of_a_pool_server() {
        for name in ["pool.ntp.org", "0.debian.pool.ntp.org", "2.Pool.NTP.org."] {
            let text = with(4).replace("ntp2.example.net", name);
            let error = Config::parse(&text).unwrap_err();
            assert!(error.what.contains(name) && error.remedy.is_some(), "{error}");
            Config::parse(&text.replace("[clock]", "[clock]\nallow_pool_names = true")).unwrap();
        }
        Config::parse(&with(4).replace("ntp2.example.net", "notpool.ntp.org")).unwrap();
    }

    #[test]
    fn keys_of_the_clock_are_checked() {
        for (line, key) in [
            ("min_sources = 0", "clock.min_sources"),
            ("min_sources = 5", "clock.min_sources"),
            ("max_slew_ppm = 90001", "clock.max_slew_ppm"),
            ("max_distance_ms = 0", "clock.max_distance_ms"),
            ("panic_s = 0", "clock.panic_s"),
            ("makestep = { threshold_ms = 0 }", "clock.makestep.threshold_ms"),
            ("local_stratum = 10", "clock.local_stratum"),
        ] {
            let error = Config::parse(&with(4).replace("[clock]", &format!("[clock]\n{line}"))).unwrap_err();
            assert!(error.what.starts_with(&format!("line 2: {key}: ")), "{line}: {error}");
        }
        let missing = with(4).replace("[clock]", "[clock]\nleap_seconds_list = \"/nowhere/leap\"");
        let error = Config::parse(&missing).unwrap().clock.discipline().unwrap_err().error;
        assert!(error.what.contains("/nowhere/leap"), "{error}");
    }

    #[test]
    fn upstreams_that_nobody_asks_are_warned_of() {
        let config = Config::parse(&with(4).replace("\"upstream\"", "\"system\"")).unwrap();
        assert_eq!(config.warnings(), [Warning::NotUsed(4)]);
        assert!(config.warnings()[0].to_string().contains("not used"));
    }
}
