//! `[metrics]`: where metrics, health and the status page are served.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{ConfigError, parse_each};

/// Largest number of addresses on which HTTP is served.
const MAX_LISTEN: usize = 8;

/// The section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where metrics, health and the status page are served over HTTP; `[]` for nowhere. Takes effect at the next start.
    #[serde(deserialize_with = "addresses")]
    #[schemars(length(max = MAX_LISTEN), inner(regex(pattern = r"^([0-9.]+|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]+$")))]
    #[schemars(extend("x-type" = "list of addresses with a port, 8 at most"))]
    pub listen: Vec<SocketAddr>,
    /// Names by which clients ask for these pages. Addresses, `localhost` and the name of the host itself need not be
    /// listed; requests to other names are refused with status 421, so that no page in a browser can read these. Takes
    /// effect at the next start.
    #[schemars(inner(length(max = 253), regex(pattern = r"^[A-Za-z0-9_.-]+$")))]
    #[schemars(extend("x-type" = "list of host names", "x-example" = ["ntp1.example.net"]))]
    pub hosts: Vec<String>,
    /// Whether the daemon refuses to start if it cannot listen. Takes effect at the next start.
    pub required: bool,
    /// Whether the page shows the addresses of the sources that are limited most and of the pool's monitors: personal
    /// data.
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

impl MetricsConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
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
