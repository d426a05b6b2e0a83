//! A seeded stream of frames for a server: requests, and frames that are nearly requests.
//!
//! Most frames differ from a good request in one or two fields, and their lengths and checksums fit these fields. So
//! they get past the first checks, at which frames with random changes alone would stop. The same seed gives the same
//! frames on every machine.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are those of frames, and of random numbers the lowest bits are wanted"
)]

use crate::frames::{
    BROADCAST_IPV4, FIRST_VLAN, NTP_PORT, SERVER_IPV4, SERVER_IPV6, SERVER_MAC, SERVICE_VLAN, VLAN,
};
use crate::random::Random;

/// The length in bytes of the shortest frames, an Ethernet header. `BPF_PROG_TEST_RUN` takes no shorter ones.
pub const SHORTEST: usize = 14;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;

/// The addresses of the server that the frames are for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// MAC address of its interface.
    pub mac: [u8; 6],
    /// The IPv4 address that it answers for.
    pub ipv4: [u8; 4],
    /// The broadcast address of its IPv4 network.
    pub broadcast: [u8; 4],
    /// The IPv6 address that it answers for.
    pub ipv6: [u8; 16],
}

impl Target {
    /// The server whose addresses are in [`frames`](crate::frames).
    pub const SERVER: Self = Self {
        mac: SERVER_MAC,
        ipv4: SERVER_IPV4.octets(),
        broadcast: BROADCAST_IPV4.octets(),
        ipv6: SERVER_IPV6.octets(),
    };
}

/// An endless stream of frames.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    target: Target,
}

impl Generator {
    /// The stream of this seed for a server.
    pub const fn new(seed: u64, target: Target) -> Self {
        Self { random: Random::new(seed), target }
    }

    /// A request that the server answers: version 1 to 4, either family, up to two tags, maybe padded.
    pub fn request(&mut self) -> Vec<u8> {
        Plan::request(&mut self.random, &self.target).build()
    }

    /// A frame that may be anything.
    fn frame(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut plan = Plan::request(random, &self.target);
        match random.below(100) {
            0..25 => plan.build(),
            25..65 => {
                for _ in 0..=random.below(2) {
                    plan.spoil(random, &self.target);
                }
                plan.build()
            }
            65..85 => {
                if random.chance(50) {
                    plan.spoil(random, &self.target);
                }
                let mut frame = plan.build();
                change_bytes(random, &mut frame);
                frame
            }
            85..96 => {
                if random.chance(30) {
                    plan.spoil(random, &self.target);
                }
                let mut frame = plan.build();
                let length = random.between(SHORTEST, frame.len());
                frame.truncate(length);
                frame
            }
            _ => {
                let length = random.between(SHORTEST, 200);
                random.bytes(length)
            }
        }
    }
}

impl Iterator for Generator {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.frame())
    }
}

/// Sets one to four bytes, or flips a bit of them.
fn change_bytes(random: &mut Random, frame: &mut [u8]) {
    for _ in 0..=random.below(4) {
        let index = random.index(frame.len());
        let any = random.bits() as u8;
        frame[index] = if random.chance(50) {
            frame[index] ^ 1 << (any & 7)
        } else {
            random.pick(&[0, 1, 0x7f, 0x80, 0xff, 123, any])
        };
    }
}

/// The fields of a frame that is to be built.
#[derive(Clone, Debug)]
struct Plan {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    tags: Vec<u16>,
    /// What is added to the VLAN IDs.
    vlan_error: u16,
    ethertype: u16,
    network: Network,
    /// The next protocol that the IP header names.
    protocol: u8,
    /// Error of the length in the IP header, modulo 2^16.
    ip_length_error: u16,
    /// IPv4 options or IPv6 extension headers.
    ip_extra: Vec<u8>,
    source_port: u16,
    destination_port: u16,
    udp_length_error: u16,
    udp_checksum: UdpChecksum,
    payload: Vec<u8>,
    padding: usize,
}

#[derive(Clone, Debug)]
enum Network {
    Ipv4 {
        source: [u8; 4],
        destination: [u8; 4],
        /// Bits of version and header length that are flipped.
        first_byte_error: u8,
        service: u8,
        identification: u16,
        /// Flags and offset.
        fragment: u16,
        hop_limit: u8,
        /// Bits of the checksum that are flipped.
        checksum_error: u16,
    },
    Ipv6 {
        source: [u8; 16],
        destination: [u8; 16],
        /// Version, traffic class and flow label.
        first_word: u32,
        hop_limit: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum UdpChecksum {
    Right,
    None,
    /// The sum of the pseudo header alone, as in a request from a socket on the same machine.
    Unfinished,
    Any(u16),
}

impl Plan {
    fn request(random: &mut Random, target: &Target) -> Self {
        let version = random.between(1, 4) as u8;
        // Version 1 has no mode field (RFC 1059).
        let mode = if version == 1 && random.chance(50) { 0 } else { 3 };
        let any = random.bits();
        let network = if random.chance(50) {
            Network::Ipv4 {
                source: client_ipv4(random),
                destination: target.ipv4,
                first_byte_error: 0,
                service: random.pick(&[0, 0, 0xb8, 0xff]),
                identification: any as u16,
                fragment: random.pick(&[0, 0x4000]),
                hop_limit: hop_limit(random),
                checksum_error: 0,
            }
        } else {
            Network::Ipv6 {
                source: client_ipv6(random),
                destination: target.ipv6,
                first_word: 6 << 28 | random.pick(&[0, 0x0b80_0000, any as u32 >> 4]),
                hop_limit: hop_limit(random),
            }
        };
        Self {
            destination_mac: target.mac,
            source_mac: client_mac(random),
            tags: random.pick(&[&[][..], &[], &[VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN]]).to_vec(),
            vlan_error: 0,
            ethertype: match network {
                Network::Ipv4 { .. } => IPV4,
                Network::Ipv6 { .. } => IPV6,
            },
            network,
            protocol: UDP,
            ip_length_error: 0,
            ip_extra: Vec::new(),
            source_port: client_port(random, mode),
            destination_port: NTP_PORT,
            udp_length_error: 0,
            udp_checksum: random.pick(&[UdpChecksum::Right, UdpChecksum::Unfinished]),
            payload: message(random, version, mode),
            padding: if random.chance(20) { random.between(1, 40) } else { 0 },
        }
    }

    /// Makes one field unusual, often so that the request must not be answered.
    fn spoil(&mut self, random: &mut Random, target: &Target) {
        let any = random.bits();
        match random.below(20) {
            0 => {
                let other = client_mac(random);
                self.destination_mac = random.pick(&[[0xff; 6], [1, 0, 0x5e, 0, 1, 1], other]);
            }
            1 => self.source_mac[0] |= 1,
            2 => {
                let tag = |random: &mut Random| random.pick(&[VLAN, SERVICE_VLAN, 0x9100]);
                self.tags = (0..random.below(5)).map(|_| tag(random)).collect();
            }
            3 => self.ethertype = random.pick(&[IPV4, IPV6, 0x0806, 0x8863, 0x88cc, 46, any as u16]),
            4 => self.spoil_source(random, target),
            5 => self.spoil_destination(random, target),
            6 => self.protocol = random.pick(&[0, 1, 6, 43, 44, 58, 60, 132, any as u8]),
            7 => self.ip_length_error = length_error(random),
            8 => self.spoil_ip_header(random),
            9 => self.ip_extra = ip_extra(random, &self.network),
            10 => self.source_port = random.pick(&[0, 1, 7, NTP_PORT, 0xffff, any as u16]),
            11 => self.destination_port = random.pick(&[0, 53, 122, 124, 0x7b00, 323, any as u16]),
            12 => self.udp_length_error = length_error(random),
            13 => {
                // Both lengths wrong by the same: the headers agree with each other, not with the frame.
                self.udp_length_error = length_error(random);
                self.ip_length_error = self.udp_length_error;
            }
            14 => self.udp_checksum = random.pick(&[UdpChecksum::None, UdpChecksum::Any(any as u16)]),
            15 => self.payload[0] = any as u8,
            16 => self.payload[0] = self.payload[0] & !7 | any as u8 & 7,
            17 => {
                self.tags = random.pick(&[&[VLAN][..], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN]]).to_vec();
                self.vlan_error = random.pick(&[1, 2, 0x1000, 0u16.wrapping_sub(FIRST_VLAN), any as u16]);
            }
            18 => {
                let length = random.between(1, 47);
                self.payload.truncate(length);
            }
            _ => {
                // Extension fields, a MAC, or what is neither.
                let any = random.between(1, 100);
                let length = random.pick(&[1, 2, 4, 12, 16, 20, 24, 28, 36, 72, any]);
                self.payload.extend(random.bytes(length));
            }
        }
        if self.payload.is_empty() {
            self.payload.push(0x23);
        }
    }

    fn spoil_source(&mut self, random: &mut Random, target: &Target) {
        match &mut self.network {
            Network::Ipv4 { source, .. } => {
                let any = random.array();
                let sources = [
                    [0; 4],
                    [0, 1, 2, 3],
                    [127, 0, 0, 1],
                    [224, 0, 1, 1],
                    [239, 255, 255, 255],
                    [240, 0, 0, 1],
                    [255; 4],
                    target.ipv4,
                    target.broadcast,
                    any,
                ];
                *source = random.pick(&sources);
            }
            Network::Ipv6 { source, .. } => {
                let [mut loopback, mut mapped, mut multicast, mut link_local] = [[0; 16]; 4];
                loopback[15] = 1;
                mapped[10..].copy_from_slice(&[0xff, 0xff, 198, 51, 100, 7]);
                multicast[..2].copy_from_slice(&[0xff, random.bits() as u8]);
                link_local[..2].copy_from_slice(&[0xfe, 0x80]);
                link_local[15] = 9;
                let any = random.array();
                *source = random.pick(&[[0; 16], loopback, mapped, multicast, link_local, target.ipv6, any]);
            }
        }
    }

    fn spoil_destination(&mut self, random: &mut Random, target: &Target) {
        match &mut self.network {
            Network::Ipv4 { destination, .. } => {
                let mut neighbour = target.ipv4;
                neighbour[3] ^= 1;
                let any = random.array();
                *destination =
                    random.pick(&[neighbour, target.broadcast, [255; 4], [224, 0, 1, 1], [0; 4], any]);
            }
            Network::Ipv6 { destination, .. } => {
                let mut neighbour = target.ipv6;
                neighbour[random.index(16)] ^= 1;
                let mut multicast = [0; 16];
                multicast[..2].copy_from_slice(&[0xff, 2]);
                multicast[14..].copy_from_slice(&[1, 1]);
                let any = random.array();
                *destination = random.pick(&[neighbour, multicast, [0; 16], any]);
            }
        }
    }

    fn spoil_ip_header(&mut self, random: &mut Random) {
        let any = random.bits();
        match &mut self.network {
            Network::Ipv4 { first_byte_error, fragment, checksum_error, .. } => match random.below(4) {
                0 => *first_byte_error = any as u8,
                1 => *fragment = random.pick(&[0x2000, 0x2001, 1, 185, 0x8000, 0x6000, any as u16]),
                2 => *checksum_error = 1 << random.below(16),
                _ => *checksum_error = any as u16,
            },
            Network::Ipv6 { first_word, .. } => *first_word = any as u32,
        }
    }

    fn build(&self) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for (number, tag) in self.tags.iter().enumerate() {
            frame.extend(tag.to_be_bytes());
            frame.extend((FIRST_VLAN + number as u16).wrapping_add(self.vlan_error).to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        let udp_length = 8 + self.payload.len();
        self.add_ip_header(&mut frame, udp_length);
        self.add_datagram(&mut frame, with_error(udp_length, self.udp_length_error));
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn add_ip_header(&self, frame: &mut Vec<u8>, udp_length: usize) {
        match &self.network {
            Network::Ipv4 {
                source,
                destination,
                first_byte_error,
                service,
                identification,
                fragment,
                hop_limit,
                checksum_error,
            } => {
                let length = 20 + self.ip_extra.len();
                let mut header = vec![0x40 | (length / 4) as u8 ^ first_byte_error, *service];
                header.extend(with_error(length + udp_length, self.ip_length_error).to_be_bytes());
                header.extend(identification.to_be_bytes());
                header.extend(fragment.to_be_bytes());
                header.extend([*hop_limit, self.protocol, 0, 0]);
                header.extend(source);
                header.extend(destination);
                header.extend(&self.ip_extra);
                let checksum = !internet_sum(&header) ^ checksum_error;
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend(header);
            }
            Network::Ipv6 { source, destination, first_word, hop_limit } => {
                let payload_length = with_error(self.ip_extra.len() + udp_length, self.ip_length_error);
                // An extension header names what follows in its first byte.
                let next = match self.ip_extra.first() {
                    Some(_) => EXTENSION_HEADERS[self.ip_extra.len() / 8 % EXTENSION_HEADERS.len()],
                    None => self.protocol,
                };
                frame.extend(first_word.to_be_bytes());
                frame.extend(payload_length.to_be_bytes());
                frame.extend([next, *hop_limit]);
                frame.extend(source);
                frame.extend(destination);
                frame.extend(&self.ip_extra);
            }
        }
    }

    fn add_datagram(&self, frame: &mut Vec<u8>, udp_length: u16) {
        let addresses = match &self.network {
            Network::Ipv4 { source, destination, .. } => [&source[..], destination].concat(),
            Network::Ipv6 { source, destination, .. } => [&source[..], destination].concat(),
        };
        let mut sum = addresses;
        sum.extend([0, UDP]);
        sum.extend(udp_length.to_be_bytes());
        let mut datagram = Vec::new();
        datagram.extend(self.source_port.to_be_bytes());
        datagram.extend(self.destination_port.to_be_bytes());
        datagram.extend(udp_length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        let checksum = match self.udp_checksum {
            UdpChecksum::None => 0,
            UdpChecksum::Unfinished => internet_sum(&sum),
            UdpChecksum::Any(checksum) => checksum,
            UdpChecksum::Right => {
                sum.extend(&datagram);
                match !internet_sum(&sum) {
                    0 => 0xffff,
                    checksum => checksum,
                }
            }
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(datagram);
    }
}

/// IPv6 extension headers: hop-by-hop options, destination options, routing, fragment.
const EXTENSION_HEADERS: [u8; 4] = [0, 60, 43, 44];

/// A message with random fields and this version and mode. The transmit timestamp is random, near the present, or at
/// one end of the range.
fn message(random: &mut Random, version: u8, mode: u8) -> Vec<u8> {
    let mut message = random.array::<48>();
    message[0] = message[0] & 0xc0 | version << 3 | mode;
    let any = random.bits();
    let transmit = random.pick(&[any, any, 0xec00_0000_0000_0000 | any >> 16, 0, u64::MAX]);
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message.to_vec()
}

/// Most packets of a client come by the same path.
fn hop_limit(random: &mut Random) -> u8 {
    if random.chance(75) { 57 } else { random.between(1, 255) as u8 }
}

fn client_mac(random: &mut Random) -> [u8; 6] {
    let mut mac = random.array::<6>();
    mac[0] = mac[0] & !1 | 2;
    mac
}

/// A documentation address (RFC 5737).
fn client_ipv4(random: &mut Random) -> [u8; 4] {
    let [host] = random.array();
    random.pick(&[[198, 51, 100, host], [203, 0, 113, host]])
}

/// A documentation address (RFC 3849).
fn client_ipv6(random: &mut Random) -> [u8; 16] {
    let mut address = random.array::<16>();
    address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    address
}

/// A client's port. It is 123 only in mode 3, because a message of mode 0 from that port is a peer's.
fn client_port(random: &mut Random, mode: u8) -> u16 {
    if mode == 3 && random.chance(20) { NTP_PORT } else { random.between(1024, 65535) as u16 }
}

fn length_error(random: &mut Random) -> u16 {
    let any = random.bits() as i16;
    random.pick(&[-1, 1, -4, 4, -8, 8, -48, -49, -52, -56, -57, -76, 20, 40, 1000, any, any]).cast_unsigned()
}

/// IPv4 options of whole words, or an IPv6 extension header of whole eight bytes that is followed by UDP.
fn ip_extra(random: &mut Random, network: &Network) -> Vec<u8> {
    match network {
        Network::Ipv4 { .. } => {
            let words = random.between(1, 10);
            // "No operation", or anything.
            if random.chance(50) { vec![1; 4 * words] } else { random.bytes(4 * words) }
        }
        Network::Ipv6 { .. } => {
            let length = 8 * random.between(1, 5);
            let mut header = random.bytes(length);
            header[0] = UDP;
            header[1] = (header.len() / 8 - 1) as u8;
            header
        }
    }
}

fn with_error(length: usize, error: u16) -> u16 {
    (length as u16).wrapping_add(error)
}

/// The one's complement sum of RFC 1071, as plain as possible.
fn internet_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
