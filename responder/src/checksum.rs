//! The Internet checksum (RFC 1071), over values that are already in registers.
//!
//! One's complement sums do not depend on the byte order or on the width of the words that are added, so
//! words are added as the machine loads them, and the result is stored in the same way.

/// A one's complement sum that has not been folded yet. It has room for 65,000 32-bit words: below that,
/// folding three times carries everything round.
///
/// For 8-byte words, only the upper halves are summed separately; the sum of the lower halves is the
/// difference to the sum of everything. That takes three operations per word, where extracting both halves
/// would take five.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    /// Sum of all words, modulo 2^64.
    all: u64,
    /// Sum of the upper halves of 8-byte words.
    upper: u64,
}

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self { all: 0, upper: 0 };

    /// Adds four bytes in network order.
    #[must_use]
    #[inline(always)]
    pub fn word(self, bytes: [u8; 4]) -> Self {
        Self { all: self.all.wrapping_add(u64::from(u32::from_ne_bytes(bytes))), ..self }
    }

    /// Adds eight bytes in network order.
    #[must_use]
    #[inline(always)]
    pub fn double(self, bytes: [u8; 8]) -> Self {
        let value = u64::from_ne_bytes(bytes);
        Self { all: self.all.wrapping_add(value), upper: self.upper.wrapping_add(value >> 32) }
    }

    /// Adds a 16-bit number.
    #[must_use]
    #[inline(always)]
    pub fn number(self, value: u16) -> Self {
        Self { all: self.all.wrapping_add(u64::from(value.to_be())), ..self }
    }

    /// Returns the sum folded to 16 bits, as two bytes in network order: `ff ff` over data that carries a
    /// right checksum.
    #[must_use]
    #[inline(always)]
    pub fn fold(self) -> [u8; 2] {
        let lower = self.all.wrapping_sub(self.upper << 32);
        let sum = lower.wrapping_add(self.upper);
        let sum = (sum >> 32).wrapping_add(sum & 0xffff_ffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = sum as u16;
        sum.to_ne_bytes()
    }

    /// Returns the checksum: the complement of the folded sum.
    #[must_use]
    #[inline(always)]
    pub fn checksum(self) -> [u8; 2] {
        (!u16::from_ne_bytes(self.fold())).to_ne_bytes()
    }

    /// Returns the checksum for UDP, where zero means "none" and a sum of zero is sent as its other
    /// representation (RFC 768).
    #[must_use]
    #[inline(always)]
    pub fn udp_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }
}
