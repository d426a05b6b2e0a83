//! Requests that a test builds, and answers that it decodes.
//!
//! Both use `etherparse`, which shares no code with the crate under test.

mod answer;
mod host;
mod request;
mod tables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::UdpHeader;

pub use answer::{Answer, Message};
pub use host::{Host, View, clock, served, station_list, stations, tags_of};
pub use request::{Request, message};
pub use tables::{Tables, older};

/// MAC address of the client.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0xc1, 0x1e, 0x27, 0x00, 0x01];
/// MAC address of the server.
pub const SERVER_MAC: [u8; 6] = [0x02, 0x5e, 0x6f, 0xe6, 0x00, 0x02];
/// IPv4 address of the client (RFC 5737).
pub const CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// IPv4 address that the server answers for.
pub const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 123);
/// Broadcast address of the server's network.
pub const BROADCAST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
/// IPv6 address of the client (RFC 3849).
pub const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0xc1, 7);
/// IPv6 address that the server answers for.
pub const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x123);
/// UDP port of the client.
pub const CLIENT_PORT: u16 = 40_123;
/// UDP port of NTP.
pub const NTP_PORT: u16 = 123;
/// Transmit timestamp of requests, unless a test chooses another.
pub const ORIGIN: u64 = 0x1234_5678_9abc_def0;

/// The tag protocol identifier of IEEE 802.1Q.
pub const VLAN: u16 = 0x8100;
/// The tag protocol identifier of IEEE 802.1ad.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// The VLAN ID of the outermost tag; an inner one has the next.
pub const FIRST_VLAN: u16 = 101;
/// All stacks of tags that the server accepts.
pub const TAGS: [&[u16]; 6] =
    [&[], &[VLAN], &[SERVICE_VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN], &[SERVICE_VLAN, SERVICE_VLAN]];

fn udp_checksum(header: &UdpHeader, source: IpAddr, destination: IpAddr, payload: &[u8]) -> u16 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
        }
        _ => panic!("addresses of two families in one packet"),
    }
    .expect("short enough")
}
