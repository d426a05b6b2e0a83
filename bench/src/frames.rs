//! Packets as Ethernet frames. They are built by etherparse, so that the server is not measured by its own
//! idea of headers and checksums.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use responder::message::MODE_CLIENT;

/// The UDP port of NTP.
pub(crate) const NTP_PORT: u16 = 123;
/// Length in bytes of an NTP message without extensions.
pub(crate) const MESSAGE: usize = 48;

const HOP_LIMIT: u8 = 64;

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// MAC address of the sender; the receiver's follows.
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    /// Source address; source and destination are of one family.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Source port; the destination's follows.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

#[cfg(test)]
impl Path {
    /// Makes a path to the NTP port of a server, from port 0.
    pub(crate) fn between(source: &str, destination: &str) -> Self {
        Self {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 0,
            destination_port: NTP_PORT,
        }
    }
}

/// Makes a client's request in which only version, mode and transmit timestamp are set, as privacy-minded
/// clients send it.
pub(crate) fn request(version: u8, transmit: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0] = (version & 7) << 3 | MODE_CLIENT;
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message
}

/// Makes a frame with a UDP datagram.
pub(crate) fn udp(path: &Path, payload: &[u8]) -> Vec<u8> {
    let datagram = network(path).udp(path.source_port, path.destination_port);
    let mut frame = Vec::with_capacity(datagram.size(payload.len()));
    datagram.write(&mut frame, payload).expect("a vector takes all, and payloads are shorter than 64 KiB");
    frame
}

/// Makes a frame with a TCP segment without data: an acknowledgement.
pub(crate) fn tcp(path: &Path) -> Vec<u8> {
    let segment = network(path).tcp(path.source_port, path.destination_port, 1, 65_535).ack(1);
    let mut frame = Vec::with_capacity(segment.size(0));
    segment.write(&mut frame, &[]).expect("a vector takes all");
    frame
}

fn network(path: &Path) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(path.source_mac, path.destination_mac);
    match (path.source, path.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), HOP_LIMIT)
        }
        (source, destination) => ethernet.ipv6(wide(source), wide(destination), HOP_LIMIT),
    }
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
