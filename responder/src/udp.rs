//! UDP (RFC 768).

use crate::packet::load;

/// Length of a UDP header.
pub const HEADER: usize = 8;
/// The port of NTP (RFC 5905 section 7).
pub const NTP_PORT: u16 = 123;
/// The IP protocol number.
pub const PROTOCOL: u8 = 17;
/// The UDP length of a message of 48 bytes.
pub const ANSWER_LENGTH: u16 = 56;

/// The fields of a UDP header that matter.
#[derive(Clone, Copy)]
pub struct Header {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of header and payload in bytes, as the header claims.
    pub length: u16,
    /// Checksum; 0 means that there is none.
    pub checksum: u16,
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
            checksum: u16::from_be_bytes(load(bytes, 6)),
        }
    }
}
