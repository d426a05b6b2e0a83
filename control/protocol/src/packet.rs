//! The header: the 48 bytes with which every message begins (RFC 5905, section 7.3).

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{LENGTH, version};

/// The fields of a message as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Leap indicator.
    pub leap: u8,
    /// Version, 0 to 7.
    pub version: u8,
    /// Mode, 0 to 7.
    pub mode: u8,
    /// Stratum; 0 means unsynchronised, or a kiss.
    pub stratum: u8,
    /// Poll interval in log2 seconds.
    pub poll: i8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Round trip to the primary source.
    pub root_delay: NtpShort,
    /// Error bound to the primary source.
    pub root_dispersion: NtpShort,
    /// Reference ID: what the sender is synchronised to, or a kiss code.
    pub reference_id: u32,
    /// When its clock was last corrected.
    pub reference: NtpTimestamp,
    /// The transmit timestamp of the other side, bit for bit.
    pub origin: [u8; 8],
    /// When the other side's message arrived.
    pub receive: NtpTimestamp,
    /// When this message was sent.
    pub transmit: NtpTimestamp,
}

impl Header {
    /// Reads the header without any check.
    #[must_use]
    pub fn read(bytes: &[u8; LENGTH]) -> Self {
        let [first, stratum, poll, precision, ..] = *bytes;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        let double = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        let timestamp = |at: usize| NtpTimestamp(u64::from_be_bytes(double(at)));
        Self {
            leap: first >> 6,
            version: version(first),
            mode: first & 7,
            stratum,
            poll: poll.cast_signed(),
            precision: precision.cast_signed(),
            root_delay: NtpShort(word(4)),
            root_dispersion: NtpShort(word(8)),
            reference_id: word(12),
            reference: timestamp(16),
            origin: double(24),
            receive: timestamp(32),
            transmit: timestamp(40),
        }
    }
}
