//! The 48 bytes that every message begins with (RFC 5905, section 7.3).

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{LENGTH, version};

/// A message's fields, as they are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Leap indicator.
    pub leap: u8,
    /// 0 to 7.
    pub version: u8,
    /// 0 to 7.
    pub mode: u8,
    /// 0 is unsynchronised, or a kiss.
    pub stratum: u8,
    /// The poll interval, log2 seconds.
    pub poll: i8,
    /// log2 seconds.
    pub precision: i8,
    /// To the primary source and back.
    pub root_delay: NtpShort,
    /// Error bound to the primary source.
    pub root_dispersion: NtpShort,
    /// What the sender is synchronised to, or a kiss code.
    pub reference_id: u32,
    /// When its clock was last corrected.
    pub reference: NtpTimestamp,
    /// The other side's transmit timestamp, bit for bit.
    pub origin: [u8; 8],
    /// When that came.
    pub receive: NtpTimestamp,
    /// When this was sent.
    pub transmit: NtpTimestamp,
}

impl Header {
    /// Reads it. Nothing is judged.
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
