//! UDP (RFC 768).

use crate::checksum::Sum;
use crate::message::Answer;
use crate::packet::{load, store};

/// Bytes of a UDP header.
pub const HEADER: usize = 8;
/// The port of NTP (RFC 5905 section 7).
pub const NTP_PORT: u16 = 123;
/// The IP protocol number.
pub const PROTOCOL: u8 = 17;
/// The UDP length of a message of 48 bytes.
pub const ANSWER_LENGTH: u16 = 56;

/// The fields of a UDP header that decide.
#[derive(Clone, Copy)]
pub struct Header {
    /// The port the client sent from.
    pub source_port: u16,
    /// The port it sent to.
    pub destination_port: u16,
    /// Header and payload in bytes, as the header claims.
    pub length: u16,
}

impl Header {
    /// Reads a header.
    #[must_use]
    #[inline(always)]
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        Self {
            source_port: u16::from_be_bytes(load(bytes, 0)),
            destination_port: u16::from_be_bytes(load(bytes, 2)),
            length: u16::from_be_bytes(load(bytes, 4)),
        }
    }
}

/// Writes UDP header and message of an answer at `offset` of `bytes`, ports swapped. `addresses` is the sum
/// over source and destination address.
///
/// The checksum is computed whole and never updated from the request's: a request from a socket on the
/// same machine arrives with an unfinished one (`CHECKSUM_PARTIAL`).
#[inline(always)]
pub(crate) fn write_answer(bytes: &mut [u8], offset: usize, addresses: Sum, answer: &Answer) {
    let at = |relative: usize| offset.wrapping_add(relative);
    let client: [u8; 2] = load(bytes, at(0));
    let server: [u8; 2] = load(bytes, at(2));
    store(bytes, at(0), server);
    store(bytes, at(2), client);
    store(bytes, at(4), ANSWER_LENGTH.to_be_bytes());
    // The pseudo header has the length again, beside the protocol number.
    let sum = addresses
        .number(u16::from_be_bytes(client))
        .number(u16::from_be_bytes(server))
        .number(ANSWER_LENGTH)
        .number(ANSWER_LENGTH)
        .number(u16::from(PROTOCOL));
    store(bytes, at(6), answer.add_to(sum).udp_checksum());
    answer.write(bytes, at(HEADER));
}
