//! The target of a load, and whether sending to it is permitted.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::frames::NTP_PORT;

/// Why nothing is sent to a target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// A name or an address cannot be resolved.
    #[error("cannot find {target}: {reason}. Give an address, [address]:port, or a name that resolves")]
    Unknown { target: String, reason: std::io::Error },

    /// The target belongs to somebody else, as far as is known.
    #[error(
        "{0} is on the public Internet, and load there is an attack unless the server is yours. If it is: \
         --i-own-this-server"
    )]
    Public(SocketAddr),

    /// Answers would go to the real owners of these addresses.
    #[error(
        "the clients' network is on the public Internet: answers to forged requests would go to those who are \
         there. Use a private network, or pass --i-own-this-server if all of it is yours"
    )]
    PublicSources,
}

/// Resolves an address or name, with or without a port.
pub(crate) fn resolve(target: &str) -> Result<SocketAddr, TargetError> {
    let unknown = |reason| TargetError::Unknown { target: target.into(), reason };
    if let Ok(address) = target.parse::<SocketAddr>() {
        return Ok(address);
    }
    // With a port there is a colon and the text is no bare IPv6 address.
    let bare = target.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, NTP_PORT));
    }
    let with_port = target.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let found = if with_port { target.to_socket_addrs() } else { (target, NTP_PORT).to_socket_addrs() };
    found.map_err(unknown)?.next().ok_or_else(|| unknown(std::io::ErrorKind::NotFound.into()))
}

/// Refuses an address that is not loopback, link-local or private, unless the server is `owned`.
pub(crate) fn permit(address: SocketAddr, owned: bool) -> Result<(), TargetError> {
    if owned || is_private(address.ip()) { Ok(()) } else { Err(TargetError::Public(address)) }
}

/// Whether the server at this address reads the same clock as this process.
pub(crate) fn shares_clock(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether an address is only in networks of our own.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_link_local_and_private_addresses_are_sent_to() {
        for address in ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.9", "169.254.1.1"] {
            assert!(permit(resolve(address).unwrap(), false).is_ok(), "{address}");
        }
        for address in ["::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1"] {
            assert!(permit(resolve(address).unwrap(), false).is_ok(), "{address}");
        }
        for address in ["192.0.2.1", "8.8.8.8", "172.32.0.1", "224.0.1.1", "255.255.255.255", "0.0.0.0"] {
            assert!(permit(resolve(address).unwrap(), false).is_err(), "{address}");
        }
        for address in ["2001:db8::1", "ff02::101", "::", "::ffff:8.8.8.8"] {
            assert!(permit(resolve(address).unwrap(), false).is_err(), "{address}");
        }
        let refusal = permit(resolve("8.8.8.8").unwrap(), false).unwrap_err().to_string();
        assert!(refusal.contains("--i-own-this-server"), "{refusal}");
        assert!(permit(resolve("8.8.8.8").unwrap(), true).is_ok());
    }

    #[test]
    fn the_port_is_that_of_ntp_unless_it_is_given() {
        assert_eq!(resolve("10.0.0.1").unwrap().port(), 123);
        assert_eq!(resolve("10.0.0.1:4000").unwrap().port(), 4000);
        assert_eq!(resolve("fd00::1").unwrap().port(), 123);
        assert_eq!(resolve("[fd00::1]").unwrap().port(), 123);
        assert_eq!(resolve("[fd00::1]:4000").unwrap().port(), 4000);
        assert_eq!(resolve("localhost:4000").unwrap().port(), 4000);
    }

    #[test]
    fn what_cannot_be_found_is_named() {
        let error = resolve("no.such.host.invalid").unwrap_err().to_string();
        assert!(error.contains("no.such.host.invalid"), "{error}");
    }
}
