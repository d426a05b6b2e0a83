//! Ethernet II and VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use crate::packet::{Packet, load, store};

/// Length of an Ethernet header without tags.
pub const HEADER: usize = 14;
/// Length of a VLAN tag.
pub const TAG: usize = 4;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The network protocols that NTP runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
}

/// Returns the network protocol and the offset of its header behind at most two tags, or `None` for anything
/// else.
#[inline(always)]
pub fn network_layer<P: Packet>(packet: &P) -> Option<(Network, usize)> {
    let header: &[u8; HEADER] = packet.bytes(0)?;
    let mut ethertype = u16::from_be_bytes(load(header, 12));
    let mut offset = HEADER;
    if ethertype == VLAN || ethertype == SERVICE_VLAN {
        ethertype = behind_tag(packet, HEADER)?;
        offset = const { HEADER.wrapping_add(TAG) };
        if ethertype == VLAN || ethertype == SERVICE_VLAN {
            ethertype = behind_tag(packet, const { HEADER.wrapping_add(TAG) })?;
            offset = const { HEADER.wrapping_add(TAG).wrapping_add(TAG) };
        }
    }
    match ethertype {
        IPV4 => Some((Network::Ipv4, offset)),
        IPV6 => Some((Network::Ipv6, offset)),
        _ => None,
    }
}

#[inline(always)]
fn behind_tag<P: Packet>(packet: &P, offset: usize) -> Option<u16> {
    let tag: &[u8; TAG] = packet.bytes(offset)?;
    Some(u16::from_be_bytes(load(tag, 2)))
}

/// Whether an address has its group bit set: multicast or broadcast.
#[inline(always)]
fn is_group(address: [u8; 6]) -> bool {
    let [first, ..] = address;
    first & 1 != 0
}

/// Whether the frame was sent to a multicast or broadcast address.
#[inline(always)]
pub fn to_group<P: Packet>(packet: &P) -> bool {
    packet.bytes::<6>(0).is_none_or(|destination| is_group(*destination))
}

/// Whether the frame claims to come from a multicast or broadcast address, which no station has.
#[inline(always)]
pub fn from_group<P: Packet>(packet: &P) -> bool {
    packet.bytes::<6>(6).is_none_or(|source| is_group(*source))
}

/// Swaps the MAC addresses. The answer goes to the station that the request came from, without a neighbour
/// look-up, and in the same VLAN, because the tags stay.
#[inline(always)]
pub fn turn_round<P: Packet>(packet: &mut P) {
    if let Some(addresses) = packet.bytes_mut::<12>(0) {
        let destination: [u8; 6] = load(addresses, 0);
        let source: [u8; 6] = load(addresses, 6);
        store(addresses, 0, source);
        store(addresses, 6, destination);
    }
}
