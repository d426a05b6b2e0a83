//! Requests to send and answers to look into.
//!
//! Both go through `etherparse`, which shares no code with the crate under test: what is built here is right
//! by its measure, and so are the checksums and lengths of what is taken apart.
#![allow(dead_code, reason = "each test crate uses a part of this")]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, LinkExtSlice,
    LinkSlice, NetSlice, SingleVlanHeader, SlicedPacket, TransportSlice, UdpHeader, VlanId,
};
use responder::clock::{DispersionRate, Rate};
use responder::{
    Action, ClockState, NtpShort, NtpTimestamp, Outcome, Published, ServedTable, Server, Verdict,
};

pub(crate) const CLIENT_MAC: [u8; 6] = [0x02, 0xc1, 0x1e, 0x27, 0x00, 0x01];
pub(crate) const SERVER_MAC: [u8; 6] = [0x02, 0x5e, 0x6f, 0xe6, 0x00, 0x02];
pub(crate) const CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 123);
pub(crate) const BROADCAST_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
pub(crate) const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0xc1, 7);
pub(crate) const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x123);
pub(crate) const CLIENT_PORT: u16 = 40_123;
pub(crate) const NTP_PORT: u16 = 123;
/// The transmit timestamp of requests, if a test does not choose another.
pub(crate) const ORIGIN: u64 = 0x1234_5678_9abc_def0;

/// Tag protocol identifiers: IEEE 802.1Q and 802.1ad.
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;
/// All the stacks of tags that are stepped over.
pub(crate) const TAGS: [&[u16]; 6] =
    [&[], &[VLAN], &[SERVICE_VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN], &[SERVICE_VLAN, SERVICE_VLAN]];

/// A host with a frozen clock that serves [`SERVER_IPV4`] and [`SERVER_IPV6`].
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) served: Option<ServedTable>,
    pub(crate) clock: Option<ClockState>,
    pub(crate) monotonic_ns: u64,
}

impl Host {
    pub(crate) fn new() -> Self {
        let served =
            ServedTable::new(&[SERVER_IPV4.octets()], &[BROADCAST_IPV4.octets()], &[SERVER_IPV6.octets()]);
        let clock = clock();
        Self {
            served: Some(served.expect("three addresses fit")),
            clock: Some(clock),
            monotonic_ns: clock.monotonic_base_ns + 250_000_000,
        }
    }

    /// What becomes of the frame.
    pub(crate) fn respond(&self, frame: &mut [u8]) -> Outcome {
        responder::respond(&mut &mut *frame, self)
    }

    /// The answer to a request, which must get one with the time in it.
    #[track_caller]
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let mut frame = request.build();
        let length = frame.len();
        let outcome = self.respond(&mut frame);
        assert_eq!(outcome.verdict, Verdict::Answered);
        assert_eq!(outcome.version, request.payload[0] >> 3 & 7);
        assert_eq!(frame.len(), length);
        Answer::take_apart(&frame)
    }

    /// Asserts that the frame is not answered, for this reason, and not changed.
    #[track_caller]
    pub(crate) fn assert_unanswered(&self, frame: &[u8], verdict: Verdict) {
        let mut after = frame.to_vec();
        assert_eq!(self.respond(&mut after).verdict, verdict);
        assert_ne!(verdict.action(), Action::Transmit);
        assert_eq!(after, frame);
    }
}

/// What a [`Host`] has published.
pub(crate) struct View<'a> {
    served: &'a ServedTable,
    clock: Option<ClockState>,
}

impl Published for View<'_> {
    fn served(&self) -> &ServedTable {
        self.served
    }

    fn clock(&self) -> Option<ClockState> {
        self.clock
    }
}

impl responder::limiter::Buckets for Host {
    type Bucket = std::sync::atomic::AtomicU64;
}

impl Server for Host {
    type Published<'a> = View<'a>;

    fn published(&self) -> Option<View<'_>> {
        Some(View { served: self.served.as_ref()?, clock: self.clock })
    }
}

impl responder::Host for Host {
    fn received_ns(&self) -> u64 {
        self.monotonic_ns
    }
}

/// A synchronised clock, no field of which is zero or like another.
pub(crate) fn clock() -> ClockState {
    ClockState {
        sequence: 7,
        monotonic_base_ns: 5_000_000_000_000,
        ntp_base: NtpTimestamp(0xec00_0000_4000_0000),
        rate: Rate::NOMINAL,
        horizon_ns: 5_064_000_000_000,
        reference_time: NtpTimestamp(0xebff_fff0_0bad_cafe),
        root_delay: NtpShort::from_nanos(12_000_000),
        root_dispersion: NtpShort::from_nanos(3_000_000),
        dispersion_rate: DispersionRate::from_ppb(15_000),
        reference_id: 0xc000_0201,
        leap: 1,
        stratum: 2,
        precision: -23,
    }
}

/// A request frame, field by field, so that a test can name what is out of the ordinary and no more.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    /// Tag protocol identifiers, outermost first.
    pub(crate) tags: Vec<u16>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: IpNumber,
    /// The IPv4 total length or IPv6 payload length, if not the right one.
    pub(crate) ip_length: Option<u16>,
    pub(crate) ipv4_options: Vec<u8>,
    pub(crate) more_fragments: bool,
    /// In units of eight bytes.
    pub(crate) fragment_offset: u16,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// The UDP length, if not the right one.
    pub(crate) udp_length: Option<u16>,
    /// The UDP checksum, if not the right one.
    pub(crate) udp_checksum: Option<u16>,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the packet.
    pub(crate) padding: Vec<u8>,
}

impl Request {
    /// A version 4 request over IPv4, which is answered.
    pub(crate) fn ipv4() -> Self {
        Self::between(CLIENT_IPV4.into(), SERVER_IPV4.into())
    }

    /// A version 4 request over IPv6, which is answered.
    pub(crate) fn ipv6() -> Self {
        Self::between(CLIENT_IPV6.into(), SERVER_IPV6.into())
    }

    pub(crate) fn of_both_families() -> [Self; 2] {
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
    pub(crate) fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the UDP header begins.
    pub(crate) fn udp_offset(&self) -> usize {
        let header = if self.source.is_ipv4() { 20 + self.ipv4_options.len() } else { 40 };
        self.ip_offset() + header
    }

    /// Where the NTP message begins.
    pub(crate) fn ntp_offset(&self) -> usize {
        self.udp_offset() + 8
    }

    pub(crate) fn build(&self) -> Vec<u8> {
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

/// A request's message. What an answer must not repeat is filled with a pattern.
pub(crate) fn message(version: u8, mode: u8, transmit: u64) -> [u8; 48] {
    let mut message = [0xa5; 48];
    message[..4].copy_from_slice(&[version << 3 | mode, 0, 6, 0x20]);
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message
}

/// An answer frame's fields, behind [`Answer::take_apart`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    /// VLAN ids, outermost first.
    pub(crate) vlans: Vec<u16>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) message: Message,
}

impl Answer {
    /// Takes a frame apart and asserts what holds for every answer: one unfragmented packet without options
    /// and of default service class, with right checksums and a message of 48 bytes.
    #[track_caller]
    pub(crate) fn take_apart(frame: &[u8]) -> Self {
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

/// The fields of an NTP message, by RFC 5905 figure 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) leap: u8,
    pub(crate) version: u8,
    pub(crate) mode: u8,
    pub(crate) stratum: u8,
    pub(crate) poll: u8,
    pub(crate) precision: i8,
    pub(crate) root_delay: u32,
    pub(crate) root_dispersion: u32,
    pub(crate) reference_id: u32,
    pub(crate) reference: u64,
    pub(crate) origin: u64,
    pub(crate) receive: u64,
    pub(crate) transmit: u64,
}

impl Message {
    #[track_caller]
    pub(crate) fn read(bytes: &[u8]) -> Self {
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
