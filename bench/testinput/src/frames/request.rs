//! The fields of a request.
#![expect(clippy::cast_possible_truncation, reason = "lengths of frames that fit into a page")]

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header,
    SingleVlanHeader, UdpHeader, VlanId,
};

use super::{
    CLIENT_IPV4, CLIENT_IPV6, CLIENT_MAC, CLIENT_PORT, FIRST_VLAN, NTP_PORT, ORIGIN, SERVER_IPV4,
    SERVER_IPV6, SERVER_MAC, udp_checksum,
};

/// The fields of a request's frame. A test names those that are unusual and takes the others from [`Self::ipv4`] or
/// [`Self::ipv6`].
#[derive(Clone)]
pub struct Request {
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Tag protocol identifiers, the outermost first.
    pub tags: Vec<u16>,
    /// Source IP address.
    pub source: IpAddr,
    /// Destination IP address, of the same family.
    pub destination: IpAddr,
    /// Hop limit of IPv6, or time to live of IPv4.
    pub hop_limit: u8,
    /// The next protocol that the IP header names.
    pub protocol: IpNumber,
    /// IPv4 total length or IPv6 payload length, unless it is the right one.
    pub ip_length: Option<u16>,
    /// IPv4 options: whole words, at most ten.
    pub ipv4_options: Vec<u8>,
    /// The flag "more fragments" of the IPv4 header.
    pub more_fragments: bool,
    /// Fragment offset of the IPv4 header in units of eight bytes.
    pub fragment_offset: u16,
    /// Source UDP port.
    pub source_port: u16,
    /// Destination UDP port.
    pub destination_port: u16,
    /// UDP length, unless it is the right one.
    pub udp_length: Option<u16>,
    /// UDP checksum, unless it is the right one.
    pub udp_checksum: Option<u16>,
    /// UDP payload: the NTP message and what follows it.
    pub payload: Vec<u8>,
    /// Bytes after the IP packet.
    pub padding: Vec<u8>,
}

impl Request {
    /// A request of version 4 over IPv4 that is answered.
    pub fn ipv4() -> Self {
        Self::between(CLIENT_IPV4.into(), SERVER_IPV4.into())
    }

    /// A request of version 4 over IPv6 that is answered.
    pub fn ipv6() -> Self {
        Self::between(CLIENT_IPV6.into(), SERVER_IPV6.into())
    }

    /// A request over each family.
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

    /// Offset of the IP header in the frame.
    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the UDP header in the frame.
    pub fn udp_offset(&self) -> usize {
        let header = if self.source.is_ipv4() { 20 + self.ipv4_options.len() } else { 40 };
        self.ip_offset() + header
    }

    /// Offset of the NTP message in the frame.
    pub fn ntp_offset(&self) -> usize {
        self.udp_offset() + 8
    }

    /// Encodes the frame.
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
            let vlan_id = VlanId::try_new(FIRST_VLAN + number as u16).expect("below 4096");
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

/// The message of a request. Fields that an answer must not repeat have a pattern.
pub fn message(version: u8, mode: u8, transmit: u64) -> [u8; 48] {
    let mut message = [0xa5; 48];
    message[..4].copy_from_slice(&[version << 3 | mode, 0, 6, 0x20]);
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message
}
