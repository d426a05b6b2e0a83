//! The names that the HTTP server answers to.
//!
//! A page in a browser may only read what comes from the name that it came from itself, but the owner of that name may
//! let it point to this host afterwards (DNS rebinding), and the browser then reads status and metrics for the page. The
//! name is in the request, so requests to names that are not known as this server's are refused. An address is no such
//! name: a browser asks it only for pages that came from there. Nor can anybody else let `localhost` or this host's own
//! name point somewhere.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Request;
use hyper::header::HOST;

/// The names, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// The configured names and those that every host has.
    pub(super) fn new(configured: &[String]) -> Self {
        let own = nix::sys::utsname::uname().ok().and_then(|name| name.nodename().to_str().map(normal));
        let always = own.into_iter().chain(["localhost".to_owned()]);
        Self(
            configured
                .iter()
                .map(|name| normal(name))
                .chain(always)
                .filter(|name| !name.is_empty())
                .collect(),
        )
    }

    /// Whether a request is for one of the names. One that names no host is no browser's.
    pub(super) fn are_meant_by<B>(&self, request: &Request<B>) -> bool {
        let in_target = request.uri().authority().map(|authority| Some(authority.as_str()));
        let in_fields = request.headers().get_all(HOST).iter().map(|value| value.to_str().ok());
        in_target.into_iter().chain(in_fields).all(|named| named.is_some_and(|named| self.include(named)))
    }

    /// Whether `host`, `host:port`, `[address]` or `[address]:port` is one of the names, or an address.
    fn include(&self, named: &str) -> bool {
        if let Some(rest) = named.strip_prefix('[') {
            return rest.split_once(']').is_some_and(|(address, port)| {
                address.parse::<Ipv6Addr>().is_ok()
                    && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
            });
        }
        let (host, port) = named.rsplit_once(':').unwrap_or((named, ""));
        let host = normal(host);
        is_port(port) && (matches!(host.parse(), Ok(IpAddr::V4(_))) || self.0.contains(&host))
    }
}

fn is_port(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(fields: &[&str], target: &str) -> bool {
        let mut request = Request::builder().uri(target);
        for field in fields {
            request = request.header(HOST, *field);
        }
        Hosts::new(&["NTP1.example.net".to_owned()]).are_meant_by(&request.body(()).unwrap())
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_answered_with_any_port() {
        let own = nix::sys::utsname::uname().unwrap().nodename().to_str().unwrap().to_owned();
        for host in ["127.0.0.1", "[::1]", "192.0.2.1", "localhost", "LocalHost.", "ntp1.example.net", &own] {
            for port in ["", ":9200", ":1"] {
                assert!(accepted(&[&format!("{host}{port}")], "/metrics"), "{host}{port}");
            }
        }
        assert!(accepted(&[], "/metrics"), "HTTP/1.0 does without");
        assert!(accepted(&["127.0.0.1"], "http://127.0.0.1:9200/metrics"));
    }

    #[test]
    fn every_other_name_is_refused_wherever_it_is() {
        for host in [
            "rebind.example",
            "rebind.example:9200",
            "localhost.rebind.example",
            "ntp1.example.net.rebind.example",
            "127.0.0.1.rebind.example",
            "xntp1.example.net",
            "ntp1.example.net@rebind.example",
            "[rebind.example]",
            "[::1].rebind.example",
            "[::1",
            "::1",
            "localhost:x",
            "localhost:99999",
            "localhost..",
            "",
            ".",
            ":9200",
            "2130706433",
        ] {
            assert!(!accepted(&[host], "/metrics"), "{host}");
            assert!(!accepted(&["localhost", host], "/metrics"), "a second field, {host}");
        }
        assert!(!accepted(&["localhost"], "http://rebind.example/metrics"));
    }
}
