//! Ethernet II and VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use crate::packet::{Packet, load, store};
use crate::station::{Station, Tags};

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

/// What the link layer says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The network protocol.
    pub network: Network,
    /// The offset of its header.
    pub offset: usize,
    /// The VLAN tags before it.
    pub tags: Tags,
}

impl Link {
    /// Reads the header and at most two tags. Returns `None` for network protocols that NTP does not run over.
    #[inline(always)]
    pub fn of<P: Packet>(packet: &P) -> Option<Self> {
        let header: &[u8; HEADER] = packet.bytes(0)?;
        let mut ethertype = u16::from_be_bytes(load(header, 12));
        let mut offset = HEADER;
        let mut tags = Tags::NONE;
        if ethertype == VLAN || ethertype == SERVICE_VLAN {
            (ethertype, tags) = tag(packet, HEADER, ethertype, tags)?;
            offset = const { HEADER.wrapping_add(TAG) };
            if ethertype == VLAN || ethertype == SERVICE_VLAN {
                (ethertype, tags) = tag(packet, const { HEADER.wrapping_add(TAG) }, ethertype, tags)?;
                offset = const { HEADER.wrapping_add(TAG).wrapping_add(TAG) };
            }
        }
        let network = match ethertype {
            IPV4 => Network::Ipv4,
            IPV6 => Network::Ipv6,
            _ => return None,
        };
        Some(Self { network, offset, tags })
    }

    /// Returns the station that the frame is for, or `None` where it has no destination.
    #[inline(always)]
    pub(crate) fn station<P: Packet>(self, packet: &P) -> Option<Station> {
        Some(Station::of_frame(*packet.bytes(0)?, self.tags))
    }
}

/// Reads the tag at `offset`, which `ethertype` announces. Returns the ethertype behind it, and the tags with this one.
#[inline(always)]
fn tag<P: Packet>(packet: &P, offset: usize, ethertype: u16, before: Tags) -> Option<(u16, Tags)> {
    let tag: &[u8; TAG] = packet.bytes(offset)?;
    let control = u16::from_be_bytes(load(tag, 0));
    Some((u16::from_be_bytes(load(tag, 2)), before.with(control, ethertype == SERVICE_VLAN)))
}

/// Returns eight bits that tell by which interface, in which VLAN and from which station a frame came: 0 where it has no
/// source. Different ways share a value one time in 256.
#[inline(always)]
pub fn ingress<P: Packet>(packet: &P, tags: Tags, interface: u32) -> u8 {
    let Some(header) = packet.bytes::<12>(0) else {
        return 0;
    };
    let [tag_bits, source_end] = [tags.bits(), u32::from_ne_bytes(load(header, 8))];
    let source_start = u32::from(u16::from_ne_bytes(load(header, 6)));
    let mixed = (u64::from(source_end) | u64::from(source_start ^ interface << 16) << 32)
        .wrapping_add(u64::from(tag_bits))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Whether the frame claims to come from a multicast or broadcast address, which no station has.
#[inline(always)]
pub fn from_group<P: Packet>(packet: &P) -> bool {
    packet.bytes::<1>(6).is_none_or(|[first]| first & 1 != 0)
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
