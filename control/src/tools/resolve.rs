//! Resolves a server's name to its addresses.

use std::net::{SocketAddr, ToSocketAddrs as _};

use clap::Args;

use crate::error::{Code, Error, Result};

/// Options that select the address family of names.
#[derive(Args, Debug)]
pub(crate) struct FamilyArguments {
    /// Use only IPv4 addresses
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use only IPv6 addresses
    #[arg(short = '6', long)]
    ipv6: bool,
}

/// Returns the addresses of a server, of one family or of both. A link-local address keeps its scope.
pub(crate) fn resolve(server: &str, port: u16, family: &FamilyArguments) -> Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = (host(server, port)?, port)
        .to_socket_addrs()
        .map_err(Error::because(Code::NoInput, format_args!("`{server}`")))?
        .filter(|address| !(family.ipv4 && address.is_ipv6() || family.ipv6 && address.is_ipv4()))
        .collect();
    if addresses.is_empty() {
        return Err(Error::new(Code::NoInput, format_args!("`{server}` has no address in that family")));
    }
    Ok(addresses)
}

/// Returns the name or the address in what a user may write for a server.
///
/// # Errors
///
/// It is a URL, or names another port.
fn host(server: &str, port: u16) -> Result<&str> {
    let wrong = |what: &str, host: &str| {
        Error::new(Code::Usage, format_args!("`{server}` {what}")).remedy(format_args!(
            "name the server alone: `{host}`; where a port can be chosen, `--port` does it"
        ))
    };
    if let Some((_scheme, rest)) = server.split_once("://") {
        return Err(wrong("is a URL", rest.split(['/', '?', '#']).next().unwrap_or(rest)));
    }
    let (host, named) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => (address, Some(rest.strip_prefix(':').unwrap_or(rest))),
        // An IPv6 address has more than one colon.
        None => match server.split_once(':') {
            Some((host, rest)) if !rest.contains(':') => (host, Some(rest)),
            _ => (server, None),
        },
    };
    match named {
        Some(named) if named.parse() != Ok(port) => Err(wrong("names a port", host)),
        _ => Ok(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_as_people_write_them() {
        for (server, expected) in [
            ("ntp1.example.net", "ntp1.example.net"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("fe80::1%lo", "fe80::1%lo"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[fe80::1%lo]:123", "fe80::1%lo"),
            ("ntp1.example.net:123", "ntp1.example.net"),
        ] {
            assert_eq!(host(server, 123).unwrap(), expected);
        }
    }

    #[test]
    fn a_url_and_another_port_are_told_with_what_to_name_instead() {
        for (server, what, named) in [
            ("http://ntp1.example.net/x", "is a URL", "`ntp1.example.net`"),
            ("ntp://192.0.2.1", "is a URL", "`192.0.2.1`"),
            ("ntp1.example.net:124", "names a port", "`ntp1.example.net`"),
            ("[2001:db8::1]:124", "names a port", "`2001:db8::1`"),
            ("192.0.2.1:", "names a port", "`192.0.2.1`"),
            ("[2001:db8::1]x", "names a port", "`2001:db8::1`"),
        ] {
            let error = host(server, 123).unwrap_err();
            assert!(error.what.contains(what) && error.remedy.clone().unwrap().contains(named), "{error}");
            assert_eq!(error.code, Code::Usage);
        }
    }

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let family = FamilyArguments { ipv4: false, ipv6: false };
        let [SocketAddr::V6(address)] = resolve("fe80::1%lo", 123, &family).unwrap()[..] else { panic!() };
        assert_ne!(address.scope_id(), 0);
    }
}
