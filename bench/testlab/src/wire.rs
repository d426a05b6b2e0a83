//! Frames on an interface of the lab. They are built and read by `etherparse`, not by the code under test.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::{EtherType, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanSlice};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::lab::Lab;

/// MAC address of `lan0` on the host `server`.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 1];
/// MAC address of `lan0` on the host `client`.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 2];
/// The port of NTP.
pub const PORT: u16 = 123;

/// The socket option by which the kernel reports the VLAN tag that it removed from a frame.
#[derive(Clone)]
struct PacketAuxdata;

nix::setsockopt_impl!(PacketAuxdata, libc::SOL_PACKET, libc::PACKET_AUXDATA, bool, sockopt::SetBool);

/// A socket that sends and receives whole frames on an interface.
pub struct Wire(OwnedFd);

impl Wire {
    /// Starts to listen on an interface of this network namespace.
    pub fn here(interface: &str) -> Self {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .unwrap();
        bind(socket.as_raw_fd(), &link_address(interface)).unwrap();
        setsockopt(&socket, PacketAuxdata, &true).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
        Self(socket)
    }

    /// Starts to listen on an interface of a host.
    pub fn tap(lab: &Lab, host: &str, interface: &str) -> Self {
        lab.inside(host, || Self::here(interface))
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(frame)], &[], MsgFlags::empty(), None).unwrap();
    }

    /// Calls `pick` with each frame that has arrived or arrives within `patience`, and returns its first result.
    pub fn find<T>(&self, patience: Duration, pick: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = self.receive().as_deref().and_then(&pick) {
                return Some(found);
            }
            if start.elapsed() > patience {
                return None;
            }
        }
    }

    /// Sends a datagram and waits for its answer.
    pub fn ask(&self, request: &Datagram, patience: Duration) -> Option<Datagram> {
        self.send(&request.to_frame());
        self.find(patience, |frame| {
            Datagram::parse(frame).filter(|datagram| request.is_answered_by(datagram))
        })
    }

    /// All datagrams from port 123 that have arrived.
    pub fn answers(&self) -> Vec<Datagram> {
        let frames = std::iter::from_fn(|| self.receive());
        frames
            .filter_map(|frame| Datagram::parse(&frame))
            .filter(|datagram| datagram.source.port() == PORT)
            .collect()
    }

    /// The next frame; `None` if none arrives within 50 ms.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let mut control = nix::cmsg_space!([u8; 20]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).ok()?;
        let length = received.bytes;
        let tag = received.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::Unknown(message) => removed_tag(&message.data_bytes),
            _ => None,
        });
        buffer.truncate(length);
        if let Some(tag) = tag {
            buffer.splice(12..12, tag);
        }
        Some(buffer)
    }
}

/// The link address of an interface. nix cannot create one, but `getifaddrs` returns it.
fn link_address(interface: &str) -> LinkAddr {
    let mut addresses = getifaddrs().unwrap().filter(|address| address.interface_name == interface);
    addresses.find_map(|address| address.address?.as_link_addr().copied()).unwrap()
}

/// The outer VLAN tag, which the kernel removes from a frame before it reaches a socket. `struct tpacket_auxdata`
/// (`linux/if_packet.h`) has it: status, length and captured length (32 bits each), two offsets, the tag and its
/// protocol (16 bits each).
fn removed_tag(auxdata: &[u8]) -> Option<[u8; 4]> {
    let status = u32::from_ne_bytes(auxdata[..4].try_into().unwrap());
    let half = |at: usize| u16::from_ne_bytes([auxdata[at], auxdata[at + 1]]).to_be_bytes();
    let ([a, b], [c, d]) = (half(18), half(16));
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some([a, b, c, d])
}

/// A UDP datagram with its Ethernet, VLAN and IP headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source MAC address.
    pub from: [u8; 6],
    /// Destination MAC address.
    pub to: [u8; 6],
    /// VLAN tags, the outermost first: tag protocol identifier and VLAN ID.
    pub tags: Vec<(u16, u16)>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Payload of the datagram.
    pub payload: Vec<u8>,
    /// Whether all checksums are right. They are unfinished in a frame that the kernel sends over a veth, and must be
    /// right in one that the eBPF program sends back.
    pub checksums: bool,
}

impl Datagram {
    /// An untagged datagram from the client to port 123 of the server.
    pub fn request(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Self {
        Self {
            from: CLIENT_MAC,
            to: SERVER_MAC,
            tags: Vec::new(),
            source: (source, 40_000).into(),
            destination: (destination, PORT).into(),
            payload: payload.into(),
            checksums: true,
        }
    }

    /// Whether `other` has the addresses, ports and tags of an answer to this datagram.
    pub fn is_answered_by(&self, other: &Self) -> bool {
        (other.from, other.to) == (self.to, self.from)
            && other.tags == self.tags
            && (other.source, other.destination) == (self.destination, self.source)
    }

    /// Encodes the datagram as a frame with right lengths and checksums.
    pub fn to_frame(&self) -> Vec<u8> {
        let (builder, ethertype) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (PacketBuilder::ipv4(from.octets(), to.octets(), 64), EtherType::IPV4)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (PacketBuilder::ipv6(from.octets(), to.octets(), 64), EtherType::IPV6)
            }
            _ => panic!("from {} to {}", self.source, self.destination),
        };
        let mut frame = [self.to, self.from].concat();
        for (tag, vlan) in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(ethertype.0.to_be_bytes());
        let datagram = builder.udp(self.source.port(), self.destination.port());
        datagram.write(&mut frame, &self.payload).unwrap();
        frame
    }

    /// Decodes a frame; `None` if it has no UDP header or wrong lengths.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(LinkSlice::Ethernet2(ethernet)), Some(net), Some(TransportSlice::Udp(udp))) =
            (&packet.link, &packet.net, &packet.transport)
        else {
            return None;
        };
        let header = udp.to_header();
        let (source, destination, checksums): (IpAddr, IpAddr, bool) = match net {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                let right = ip.header_checksum == ip.calc_header_checksum()
                    && header.checksum == header.calc_checksum_ipv4(&ip, udp.payload()).unwrap();
                (ip.source.into(), ip.destination.into(), right)
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                let right = header.checksum == header.calc_checksum_ipv6(&ip, udp.payload()).unwrap();
                (ip.source.into(), ip.destination.into(), right)
            }
            NetSlice::Arp(_) => return None,
        };
        let tags = match packet.vlan() {
            None => Vec::new(),
            Some(VlanSlice::SingleVlan(tag)) => {
                vec![(ethernet.ether_type().0, tag.vlan_identifier().value())]
            }
            Some(VlanSlice::DoubleVlan(tags)) => {
                let (outer, inner) = (&tags.outer, &tags.inner);
                vec![
                    (ethernet.ether_type().0, outer.vlan_identifier().value()),
                    (outer.ether_type().0, inner.vlan_identifier().value()),
                ]
            }
        };
        Some(Self {
            from: ethernet.source(),
            to: ethernet.destination(),
            tags,
            source: (source, header.source_port).into(),
            destination: (destination, header.destination_port).into(),
            payload: udp.payload().into(),
            checksums,
        })
    }
}

/// A client's request of 48 bytes whose transmit timestamp is `cookie`.
pub fn request(version: u8, cookie: u64) -> [u8; 48] {
    let mut message = [0; 48];
    message[0] = version << 3 | 3;
    message[40..].copy_from_slice(&cookie.to_be_bytes());
    message
}

/// Whether a message is a server's answer, of this version, to the request with this cookie.
pub fn is_answer(message: &[u8], version: u8, cookie: u64) -> bool {
    message.len() == 48 && message[0] & 0x3f == version << 3 | 4 && message[24..32] == cookie.to_be_bytes()
}
