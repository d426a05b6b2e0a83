//! Requests over IPv4 (RFC 791).

use crate::admission::Arrival;
use crate::checksum::Sum;
use crate::ethernet::Link;
use crate::message::Otherwise;
use crate::packet::{Packet, load, store};
use crate::server::{Published as _, Server};
use crate::verdict::{Family, Outcome, Verdict};
use crate::{ethernet, message, pipeline, served, udp};

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Bytes of a packet that carries a message of 48 bytes.
const PACKET: usize = 76;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Version 4, five words of header, default service class, the total length of an answer.
const FIRST_WORD: [u8; 4] = [0x45, 0, 0, 76];
/// Identification 0 and "don't fragment": an atomic datagram needs no identification (RFC 6864).
const SECOND_WORD: [u8; 4] = [0, 0, 0x40, 0];
/// A fresh time to live and the protocol; the checksum is not known yet.
const THIRD_WORD: [u8; 4] = [64, udp::PROTOCOL, 0, 0];

/// See [`crate::respond`].
#[inline(always)]
pub(crate) fn respond<P: Packet, S: Server>(packet: &mut P, link: Link, server: &S) -> Outcome {
    let offset = link.offset;
    let Some(headers) = packet.bytes::<28>(offset) else {
        return Outcome::NOT_NTP;
    };
    let [version_and_length, _, _, _, ..] = *headers;
    let [next_protocol] = load(headers, 9);
    let udp_header = udp::Header::parse(&load(headers, HEADER));
    // With options the UDP header is elsewhere and these are not its bytes: such a packet goes up to the
    // socket like all that is not recognised.
    if version_and_length != 0x45
        || next_protocol != udp::PROTOCOL
        || udp_header.destination_port != udp::NTP_PORT
    {
        return Outcome::NOT_NTP;
    }
    let fragment = u16::from_be_bytes(load(headers, 6));
    if fragment & FRAGMENT_OFFSET != 0 {
        // No UDP header in here, whatever the bytes look like. The kernel puts fragments together.
        return Outcome::NOT_NTP;
    }

    let outcome = |verdict| Outcome::new(verdict, Family::Ipv4);
    let source: [u8; 4] = load(headers, 12);
    let destination: [u8; 4] = load(headers, 16);
    let Some(published) = server.published() else {
        return outcome(Verdict::PassForOthers);
    };
    let addresses = published.served();
    if !addresses.serves_ipv4(destination) {
        return outcome(Verdict::PassForOthers);
    }
    if !link.station(packet).is_some_and(|station| published.stations().has(station)) {
        return outcome(Verdict::PassStation);
    }
    if !served::is_plausible_ipv4(source) || addresses.owns_ipv4(source) || ethernet::from_group(packet) {
        return outcome(Verdict::DropSource);
    }

    let [hops] = load(headers, 8);
    let ingress = ethernet::ingress(packet, link.tags, server.interface());
    let arrival = Arrival { port: udp_header.source_port, hops, ingress };
    let (policy, udp_offset) = (published.policy(), offset.wrapping_add(HEADER));
    let found = if fragment & MORE_FRAGMENTS == 0 {
        let total_length = usize::from(u16::from_be_bytes(load(headers, 2)));
        let payload = total_length.wrapping_sub(HEADER);
        message::in_datagram(packet, udp_offset, payload, udp_header, policy)
    } else {
        let identification = u16::from_be_bytes(load(headers, 4));
        Err(message::in_first_fragment(packet, udp_offset, identification, udp_header, policy))
    };
    let request = match found {
        Ok(request) => request,
        Err(Otherwise::ForSocket(request, passed)) => {
            let verdict = if packet.bytes(offset).is_some_and(is_intact) {
                pipeline::pass_up(request, source, arrival, passed, policy, server)
            } else {
                Verdict::DropChecksum
            };
            return outcome(verdict).with_version(request.version());
        }
        Err(Otherwise::NoRequest(verdict, version)) => {
            return outcome(pipeline::for_others(verdict, Family::Ipv4, &published, server))
                .with_version(version);
        }
    };
    let outcome = |verdict| outcome(verdict).with_version(request.version());
    if !packet.bytes(offset).is_some_and(is_intact) {
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
    let address_sum = Sum::ZERO.word(source).word(destination);
    let header_checksum = address_sum.word(FIRST_WORD).word(SECOND_WORD).word(THIRD_WORD).checksum();
    store(bytes, 0, FIRST_WORD);
    store(bytes, 4, SECOND_WORD);
    store(bytes, 8, THIRD_WORD);
    store(bytes, 10, header_checksum);
    store(bytes, 12, destination);
    store(bytes, 16, source);
    answer.write_datagram(bytes, HEADER, address_sum);
    ethernet::turn_round(packet);
    outcome(answer.verdict())
}

/// Whether a header's checksum is right.
#[inline(always)]
fn is_intact(header: &[u8; HEADER]) -> bool {
    let sum = Sum::ZERO
        .word(load(header, 0))
        .word(load(header, 4))
        .word(load(header, 8))
        .word(load(header, 12))
        .word(load(header, 16));
    sum.fold() == [0xff, 0xff]
}
