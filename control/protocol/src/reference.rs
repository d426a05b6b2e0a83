//! The reference ID, with which a server names the source of its time (RFC 5905, section 7.3).

use std::net::{IpAddr, Ipv4Addr};

use md5::{Digest as _, Md5};

/// Reference ID of a clock that is its own reference, as in ntpd and chronyd: 127.127.1.1.
pub const LOCAL: u32 = 0x7f7f_0101;

/// Returns the reference ID of a server that takes its time from an address: the IPv4 address itself, or the
/// first four bytes of the MD5 hash of an IPv6 address.
#[must_use]
pub fn reference_id(address: IpAddr) -> u32 {
    match address.to_canonical() {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let [first, second, third, fourth, ..] = <[u8; 16]>::from(Md5::digest(address.octets()));
            u32::from_be_bytes([first, second, third, fourth])
        }
    }
}

/// Formats a reference ID as tools show it: as letters for primary servers (stratum 1) and kisses, otherwise
/// like an IPv4 address.
#[must_use]
pub fn show_reference(stratum: u8, id: u32) -> String {
    let bytes = id.to_be_bytes();
    if stratum <= 1 && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == 0) && id != 0 {
        bytes.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    } else {
        Ipv4Addr::from(id).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_have_one() {
        assert_eq!(reference_id("192.0.2.1".parse().unwrap()), 0xc000_0201);
        assert_eq!(reference_id("::ffff:192.0.2.1".parse().unwrap()), 0xc000_0201);
        // printf '%b' '\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01' | md5sum
        assert_eq!(reference_id("2001:db8::1".parse().unwrap()), 0x39ab_9b37);
    }

    #[test]
    fn letters_are_shown_where_it_can_be_letters() {
        let gps = u32::from_be_bytes(*b"GPS\0");
        assert_eq!(show_reference(1, gps), "GPS");
        assert_eq!(show_reference(2, gps), "71.80.83.0");
        assert_eq!(show_reference(0, 0), "0.0.0.0");
        assert_eq!(show_reference(1, LOCAL), "127.127.1.1");
    }
}
