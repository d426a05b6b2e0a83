//! The fields of an answer.

use std::net::IpAddr;

use etherparse::{IpNumber, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice};

use super::udp_checksum;

/// The fields of an answer's frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// VLAN IDs, the outermost first.
    pub vlans: Vec<u16>,
    /// Source IP address.
    pub source: IpAddr,
    /// Destination IP address.
    pub destination: IpAddr,
    /// Hop limit of IPv6, or time to live of IPv4.
    pub hop_limit: u8,
    /// Source UDP port.
    pub source_port: u16,
    /// Destination UDP port.
    pub destination_port: u16,
    /// NTP message.
    pub message: Message,
}

impl Answer {
    /// Decodes a frame and asserts what holds for every answer: it is one unfragmented packet of default service
    /// class without options, with right checksums and a message of 48 bytes.
    #[track_caller]
    pub fn take_apart(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).expect("an answer can be parsed");
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
            panic!("not an Ethernet frame: {packet:?}");
        };
        let vlans = packet.link_exts.iter().map(|extension| match extension {
            LinkExtSlice::Vlan(tag) => tag.vlan_identifier().value(),
            LinkExtSlice::Macsec(_) => panic!("no tag: {extension:?}"),
        });
        let (source, destination, hop_limit) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(header.total_len, 76);
                assert_eq!(header.header_len(), 20);
                assert!(header.dont_fragment && !header.is_fragmenting_payload());
                assert_eq!(header.identification, 0);
                assert_eq!((header.dscp.value(), header.ecn.value()), (0, 0));
                let addresses = (header.source.into(), header.destination.into());
                (IpAddr::V4(addresses.0), IpAddr::V4(addresses.1), header.time_to_live)
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.payload_length, 56);
                assert_eq!(header.next_header, IpNumber::UDP);
                assert_eq!((header.traffic_class, header.flow_label.value()), (0, 0));
                let addresses = (header.source.into(), header.destination.into());
                (IpAddr::V6(addresses.0), IpAddr::V6(addresses.1), header.hop_limit)
            }
            other => panic!("not IP: {other:?}"),
        };
        let Some(TransportSlice::Udp(udp)) = &packet.transport else {
            panic!("not UDP: {packet:?}");
        };
        assert_eq!(udp.length(), 56);
        // Zero would say that there is none, and IPv6 requires one (RFC 8200 section 8.1).
        assert_ne!(udp.checksum(), 0);
        assert_eq!(udp.checksum(), udp_checksum(&udp.to_header(), source, destination, udp.payload()));
        Self {
            destination_mac: ethernet.destination(),
            source_mac: ethernet.source(),
            vlans: vlans.collect(),
            source,
            destination,
            hop_limit,
            source_port: udp.source_port(),
            destination_port: udp.destination_port(),
            message: Message::read(udp.payload()),
        }
    }
}

/// The fields of an NTP message (RFC 5905, figure 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Leap indicator.
    pub leap: u8,
    /// Version.
    pub version: u8,
    /// Mode: 3 for clients, 4 for servers.
    pub mode: u8,
    /// Stratum; 0 in kisses of death and in answers of unsynchronised servers.
    pub stratum: u8,
    /// Poll interval in log2 seconds.
    pub poll: u8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Root delay in units of 2^-16 s.
    pub root_delay: u32,
    /// Root dispersion in units of 2^-16 s.
    pub root_dispersion: u32,
    /// Reference ID, or the code of a kiss of death.
    pub reference_id: u32,
    /// Reference timestamp.
    pub reference: u64,
    /// Origin timestamp: the transmit timestamp of the request.
    pub origin: u64,
    /// Receive timestamp of the request.
    pub receive: u64,
    /// Transmit timestamp of the answer.
    pub transmit: u64,
}

impl Message {
    /// Decodes the 48 bytes of a message.
    #[track_caller]
    pub fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 48);
        let short = |offset: usize| u32::from_be_bytes(bytes[offset..offset + 4].try_into().expect("four"));
        let long = |offset: usize| u64::from_be_bytes(bytes[offset..offset + 8].try_into().expect("eight"));
        Self {
            leap: bytes[0] >> 6,
            version: bytes[0] >> 3 & 7,
            mode: bytes[0] & 7,
            stratum: bytes[1],
            poll: bytes[2],
            precision: bytes[3].cast_signed(),
            root_delay: short(4),
            root_dispersion: short(8),
            reference_id: short(12),
            reference: long(16),
            origin: long(24),
            receive: long(32),
            transmit: long(40),
        }
    }
}
