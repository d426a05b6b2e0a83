//! What may name a server: the name of a host, an IPv4 address, or an IPv6 address with the interface that it is on.
//!
//! The resolver of the system takes more than that. It reads `192.0.2` as 192.0.0.2 and `0x7f.1` as 127.0.0.1, which
//! nobody means, and it fails much later on what can never be a name.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name that the DNS knows.
const MOST_BYTES: usize = 253;
/// Longest part of a name between dots.
const MOST_LABEL_BYTES: usize = 63;
/// Longest name of an interface.
const MOST_INTERFACE_BYTES: usize = 15;

/// A server as a person names it. Two ways to write the same server are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerName {
    /// The name of a host, in lower case and without a final dot.
    Host(String),
    /// An address. IPv4 addresses in IPv6 form have become IPv4.
    Address {
        /// The address itself.
        address: IpAddr,
        /// The interface that a link-local address is on.
        interface: Option<String>,
    },
}

/// Why a text names no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoServer {
    /// The reason, to follow the text.
    pub reason: String,
    /// What to write in its place, where that can be told.
    pub remedy: Option<String>,
}

impl FromStr for ServerName {
    type Err = NoServer;

    fn from_str(text: &str) -> Result<Self, NoServer> {
        let (literal, interface) =
            text.split_once('%').map_or((text, None), |(literal, interface)| (literal, Some(interface)));
        if let Ok(address) = literal.parse::<IpAddr>() {
            return with_interface(address.to_canonical(), interface);
        }
        if let Some(other) = other_form(text) {
            return Err(other);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > MOST_BYTES || !name.split('.').all(is_label) {
            let remedy = (!name.is_ascii() && !name.chars().any(char::is_whitespace)).then_some(
                "write a name with letters beyond ASCII in its ASCII form, which begins with `xn--`",
            );
            return Err(NoServer::new("is neither a name nor an address", remedy));
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(NoServer::new(
                "is neither a name nor an address",
                Some("an IPv4 address has four numbers from 0 to 255, such as 192.0.2.1"),
            ));
        }
        Ok(Self::Host(name.to_ascii_lowercase()))
    }
}

fn with_interface(address: IpAddr, interface: Option<&str>) -> Result<ServerName, NoServer> {
    let Some(name) = interface else { return Ok(ServerName::Address { address, interface: None }) };
    if address.is_ipv4() {
        return Err(NoServer::new("names an interface, which only IPv6 addresses have", None));
    }
    let fits = !name.is_empty()
        && name.len() <= MOST_INTERFACE_BYTES
        && !name.contains(|c: char| c == '/' || c == '%' || c.is_whitespace() || c.is_control());
    if !fits {
        return Err(NoServer::new("does not name an interface after the `%`", Some("write `fe80::1%eth0`")));
    }
    Ok(ServerName::Address { address, interface: Some(name.to_owned()) })
}

/// Recognises what other programs take for a server and this one does not.
fn other_form(text: &str) -> Option<NoServer> {
    if text.contains("://") {
        return Some(NoServer::new("is a URL", Some("write the name of the server alone")));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        let (host, port) = text.split_once(':')?;
        (!port.contains(':')).then_some((host, Some(port)))?
    };
    let server = host.parse::<ServerName>().ok()?;
    Some(match port {
        None => NoServer::new("has brackets", Some(&format!("write `{server}`"))),
        Some(port) if port.parse::<u16>().is_ok() => NoServer::new(
            "is an address and a port in one",
            Some(&format!("write `{server}`, and `port = {port}` as a key of its own")),
        ),
        Some(_) => return None,
    })
}

fn is_label(label: &str) -> bool {
    (1..=MOST_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether the resolver would take a name that ends like this for an IPv4 address.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl NoServer {
    fn new(reason: &str, remedy: Option<&str>) -> Self {
        Self { reason: reason.into(), remedy: remedy.map(Into::into) }
    }
}

impl Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Address { address, interface: None } => address.fmt(f),
            Self::Address { address, interface: Some(interface) } => write!(f, "{address}%{interface}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_the_same_server_are_equal_and_those_of_different_servers_are_not() {
        for (one, other) in [
            ("ntp1.example.net", "NTP1.Example.NET."),
            ("2001:db8::1", "2001:0DB8:0:0::1"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("fe80::1%eth0", "FE80:0::1%eth0"),
        ] {
            assert_eq!(one.parse::<ServerName>().unwrap(), other.parse().unwrap());
        }
        for (one, other) in
            [("ntp1.example.net", "ntp2.example.net"), ("fe80::1%eth0", "fe80::1%eth1"), ("a", "a.a")]
        {
            assert_ne!(one.parse::<ServerName>().unwrap(), other.parse().unwrap());
        }
    }

    #[test]
    fn what_names_no_server_has_its_reason() {
        for (text, reason) in [
            ("", "neither"),
            ("a b", "neither"),
            ("a..b", "neither"),
            (".", "neither"),
            ("-a.example", "neither"),
            ("zeit\u{fc}.example", "neither"),
            ("192.0.2.300", "neither"),
            ("192.0.2", "neither"),
            ("010.0.0.1", "neither"),
            ("0x7f.1", "neither"),
            ("3232235777", "neither"),
            ("2001:db8::1::2", "neither"),
            ("ntp.example:x", "neither"),
            ("192.0.2.0/24", "neither"),
            ("192.0.2.1:123", "port in one"),
            ("ntp1.example.net:123", "port in one"),
            ("[2001:db8::1]:123", "port in one"),
            ("[2001:db8::1]", "brackets"),
            ("ntp://ntp.example.net", "URL"),
            ("192.0.2.1%eth0", "interface"),
            ("fe80::1%", "interface"),
            ("fe80::1%a/b", "interface"),
        ] {
            let error = text.parse::<ServerName>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error:?}");
        }
        for label in ["a".repeat(64), format!("{}.", "a.".repeat(127))] {
            assert!(label.parse::<ServerName>().is_err(), "{label}");
        }
    }

    #[test]
    fn a_server_is_read_again_as_it_was_written() {
        for text in ["ntp_1.example.net", "localhost", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "1.a"] {
            let server: ServerName = text.parse().unwrap();
            assert_eq!(server.to_string(), text);
            assert_eq!(server.to_string().parse(), Ok(server));
        }
    }
}
