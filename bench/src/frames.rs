//! Packets as frames on an Ethernet. Built by etherparse, so that the server's own idea of headers and
//! checksums is not what it is measured by.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use responder::message::MODE_CLIENT;

/// The port of NTP.
pub(crate) const NTP_PORT: u16 = 123;
/// Bytes of an NTP message without extensions.
pub(crate) const MESSAGE: usize = 48;

const HOP_LIMIT: u8 = 64;

/// Where a packet comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// MAC addresses.
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    /// Both of one family.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Ports.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

#[cfg(test)]
impl Path {
    /// To an NTP server, from port 0.
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

/// A client's request without anything in it but version, mode and transmit timestamp, as privacy-minded
/// clients send it.
pub(crate) fn request(version: u8, transmit: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0] = (version & 7) << 3 | MODE_CLIENT;
    message[40..].copy_from_slice(&transmit.to_be_bytes());
    message
}

/// A UDP datagram.
pub(crate) fn udp(path: &Path, payload: &[u8]) -> Vec<u8> {
    let datagram = network(path).udp(path.source_port, path.destination_port);
    let mut frame = Vec::with_capacity(datagram.size(payload.len()));
    datagram.write(&mut frame, payload).expect("a vector takes all, and payloads are shorter than 64 KiB");
    frame
}

/// A TCP segment without data, as an acknowledgement.
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
