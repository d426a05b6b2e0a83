//! Requests over IPv6 (RFC 8200).

use crate::admission::Arrival;
use crate::checksum::Sum;
use crate::ethernet::Link;
use crate::message::Otherwise;
use crate::packet::{Packet, load, store};
use crate::server::{Published as _, Server};
use crate::verdict::{Family, Outcome, Verdict};
use crate::{ethernet, message, pipeline, served, udp};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;
/// Bytes of a packet that carries a message of 48 bytes.
const PACKET: usize = 96;

/// Version 6, default traffic class, no flow label.
const FIRST_WORD: [u8; 4] = [0x60, 0, 0, 0];
/// Payload length of an answer, UDP next, a fresh hop limit.
const SECOND_WORD: [u8; 4] = [0, 56, udp::PROTOCOL, 64];

/// See [`crate::respond`].
#[inline(always)]
pub(crate) fn respond<P: Packet, S: Server>(packet: &mut P, link: Link, server: &S) -> Outcome {
    let offset = link.offset;
    let Some(headers) = packet.bytes::<48>(offset) else {
        return Outcome::NOT_NTP;
    };
    let [version_and_class, ..] = *headers;
    let [next_header] = load(headers, 6);
    let udp_header = udp::Header::parse(&load(headers, HEADER));
    // Extension headers, fragments among them, go up to the socket like all that is not recognised.
    if version_and_class >> 4 != 6
        || next_header != udp::PROTOCOL
        || udp_header.destination_port != udp::NTP_PORT
    {
        return Outcome::NOT_NTP;
    }

    let outcome = |verdict| Outcome::new(verdict, Family::Ipv6);
    let source: [u8; 16] = load(headers, 8);
    let destination: [u8; 16] = load(headers, 24);
    let Some(published) = server.published() else {
        return outcome(Verdict::PassForOthers);
    };
    let addresses = published.served();
    if !addresses.serves_ipv6(destination) {
        return outcome(Verdict::PassForOthers);
    }
    if !link.station(packet).is_some_and(|station| published.stations().has(station)) {
        return outcome(Verdict::PassStation);
    }
    if !served::is_plausible_ipv6(source) || addresses.owns_ipv6(source) || ethernet::from_group(packet) {
        return outcome(Verdict::DropSource);
    }

    let [hops] = load(headers, 7);
    let ingress = ethernet::ingress(packet, link.tags, server.interface());
    let arrival = Arrival { port: udp_header.source_port, hops, ingress };
    let (policy, udp_offset) = (published.policy(), offset.wrapping_add(HEADER));
    let payload_length = usize::from(u16::from_be_bytes(load(headers, 4)));
    let request = match message::in_datagram(packet, udp_offset, payload_length, udp_header, policy) {
        Ok(request) => request,
        Err(Otherwise::ForSocket(request, passed)) => {
            let verdict = if has_checksum(udp_header) {
                pipeline::pass_up(request, source, arrival, passed, policy, server)
            } else {
                Verdict::DropChecksum
            };
            return outcome(verdict).with_version(request.version());
        }
        Err(Otherwise::NoRequest(verdict, version)) => {
            return outcome(pipeline::for_others(verdict, Family::Ipv6, &published, server))
                .with_version(version);
        }
    };
    let outcome = |verdict| outcome(verdict).with_version(request.version());
    if !has_checksum(udp_header) {
        return outcome(Verdict::DropChecksum);
    }
    let answer = match pipeline::answer(
        request,
        source,
        arrival,
        packet.length(),
        published.policy(),
        || published.clock(),
        server,
    ) {
        Ok(answer) => answer,
        Err(verdict) => return outcome(verdict),
    };
    let Some(bytes) = packet.bytes_mut::<PACKET>(offset) else {
        return outcome(Verdict::DropLength);
    };
    let address_sum = add_address(add_address(Sum::ZERO, source), destination);
    store(bytes, 0, FIRST_WORD);
    store(bytes, 4, SECOND_WORD);
    store(bytes, 8, destination);
    store(bytes, 24, source);
    answer.write_datagram(bytes, HEADER, address_sum);
    ethernet::turn_round(packet);
    outcome(answer.verdict())
}

/// Without the checksum nothing protects the addresses: RFC 8200 section 8.1 has a receiver drop such a packet.
#[inline(always)]
const fn has_checksum(header: udp::Header) -> bool {
    header.checksum != 0
}

#[inline(always)]
fn add_address(sum: Sum, address: [u8; 16]) -> Sum {
    sum.double(load(&address, 0)).double(load(&address, 8))
}
