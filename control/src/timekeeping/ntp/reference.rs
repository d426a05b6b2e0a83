//! How a server that takes its time from an address names it: the reference id of RFC 5905, section 7.3.

use std::net::IpAddr;

use md5::{Digest as _, Md5};

/// The IPv4 address itself, or the first four bytes of the MD5 hash of an IPv6 address.
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
}
