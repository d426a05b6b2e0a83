//! A request, field by field.
#![expect(clippy::cast_possible_truncation, reason = "lengths of frames that fit into a page")]

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header,
    SingleVlanHeader, UdpHeader, VlanId,
};

use super::{
    CLIENT_IPV4, CLIENT_IPV6, CLIENT_MAC, CLIENT_PORT, NTP_PORT, ORIGIN, SERVER_IPV4, SERVER_IPV6,
    SERVER_MAC, udp_checksum,
};

/// A request frame, field by field, so that a test can name what is out of the ordinary and no more.
#[derive(Clone)]
pub struct Request {
    /// Where the frame is for.
    pub destination_mac: [u8; 6],
    /// Where it comes from.
    pub source_mac: [u8; 6],
    /// Tag protocol identifiers, outermost first.
    pub tags: Vec<u16>,
    /// The IP address that it comes from.
    pub source: IpAddr,
    /// The IP address that it is for; of the same family.
    pub destination: IpAddr,
    /// The hop limit of IPv6, or the time to live of IPv4.
    pub hop_limit: u8,
    /// What the IP header says follows.
    pub protocol: IpNumber,
    /// The IPv4 total length or IPv6 payload length, if not the right one.
    pub ip_length: Option<u16>,
    /// Whole words, at most ten; IPv6 has none.
    pub ipv4_options: Vec<u8>,
    /// The flag of the IPv4 header.
    pub more_fragments: bool,
    /// Of the IPv4 header, in units of eight bytes.
    pub fragment_offset: u16,
    /// The UDP port that it comes from.
    pub source_port: u16,
    /// The UDP port that it is for.
    pub destination_port: u16,
    /// The UDP length, if not the right one.
    pub udp_length: Option<u16>,
    /// The UDP checksum, if not the right one.
    pub udp_checksum: Option<u16>,
    /// The NTP message, and whatever is behind it.
    pub payload: Vec<u8>,
    /// Bytes behind the packet.
    pub padding: Vec<u8>,
}

impl Request {
    /// A version 4 request over IPv4, which is answered.
    pub fn ipv4() -> Self {
        Self::between(CLIENT_IPV4.into(), SERVER_IPV4.into())
    }

    /// A version 4 request over IPv6, which is answered.
    pub fn ipv6() -> Self {
        Self::between(CLIENT_IPV6.into(), SERVER_IPV6.into())
    }

    /// One over each family.
    pub fn of_both_families() -> [Self; 2] {
        [Self::ipv4(), Self::ipv6()]
    }

    fn between(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            destination_mac: SERVER_MAC,
            source_mac: CLIENT_MAC,
            tags: Vec::new(),
            source,
            destination,
            hop_limit: 7,
            protocol: IpNumber::UDP,
            ip_length: None,
            ipv4_options: Vec::new(),
            more_fragments: false,
            fragment_offset: 0,
            source_port: CLIENT_PORT,
            destination_port: NTP_PORT,
            udp_length: None,
            udp_checksum: None,
            payload: message(4, 3, ORIGIN).to_vec(),
            padding: Vec::new(),
        }
    }

    /// Where the IP header begins.
    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the UDP header begins.
    pub fn udp_offset(&self) -> usize {
        let header = if self.source.is_ipv4() { 20 + self.ipv4_options.len() } else { 40 };
        self.ip_offset() + header
    }

    /// Where the NTP message begins.
    pub fn ntp_offset(&self) -> usize {
        self.udp_offset() + 8
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let udp = self.udp_header();
        let datagram = [&udp.to_bytes()[..], &self.payload].concat();
        let (network, ip_header) = self.ip_header(datagram.len() as u16);
        [self.link_headers(network), ip_header, datagram, self.padding.clone()].concat()
    }

    fn link_headers(&self, network: EtherType) -> Vec<u8> {
        let mut ethertypes = self.tags.iter().copied().map(EtherType).chain([network]);
        let ethernet = Ethernet2Header {
            destination: self.destination_mac,
            source: self.source_mac,
            ether_type: ethertypes.next().expect("the network protocol at least"),
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for (number, ether_type) in ethertypes.enumerate() {
            let vlan_id = VlanId::try_new(101 + number as u16).expect("below 4096");
            let tag = SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() };
            bytes.extend(tag.to_bytes());
        }
        bytes
    }

    fn ip_header(&self, datagram: u16) -> (EtherType, Vec<u8>) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let options: Ipv4Options =
                    self.ipv4_options[..].try_into().expect("whole words, at most ten");
                let mut header = Ipv4Header {
                    total_len: 20 + self.ipv4_options.len() as u16 + datagram,
                    identification: 0x1d1d,
                    dont_fragment: false,
                    more_fragments: self.more_fragments,
                    fragment_offset: IpFragOffset::try_new(self.fragment_offset).expect("13 bits"),
                    time_to_live: self.hop_limit,
                    protocol: self.protocol,
                    source: source.octets(),
                    destination: destination.octets(),
                    options,
                    ..Ipv4Header::default()
                };
                header.total_len = self.ip_length.unwrap_or(header.total_len);
                header.header_checksum = header.calc_header_checksum();
                (EtherType::IPV4, header.to_bytes().to_vec())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: 0xb8,
                    flow_label: 0x54321.try_into().expect("20 bits"),
                    payload_length: self.ip_length.unwrap_or(datagram),
                    next_header: self.protocol,
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                (EtherType::IPV6, header.to_bytes().to_vec())
            }
            _ => panic!("addresses of two families in one packet"),
        }
    }

    fn udp_header(&self) -> UdpHeader {
        let mut header = UdpHeader {
            source_port: self.source_port,
            destination_port: self.destination_port,
            length: self.udp_length.unwrap_or(8 + self.payload.len() as u16),
            checksum: 0,
        };
        header.checksum = self
            .udp_checksum
            .unwrap_or_else(|| udp_checksum(&header, self.source, self.destination, &self.payload));
        header
    }
}

/// A request's message. What an answer must not repeat is filled with a pattern.
pub fn message(version: u8, mode: u8, transmit: u64) -> [u8; 48] {
    let mut message = [0xa5; 48];
    message[..4].copy_from_slice(&[version << 3 | mode, 0, 6, 0x20]);
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message
}
