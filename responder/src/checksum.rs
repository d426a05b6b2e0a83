//! The Internet checksum (RFC 1071), over values that are already in registers.
//!
//! One's complement sums do not depend on the byte order or on the width of the words they are taken in,
//! so words are added as the machine loads them and the result is stored the same way.

/// A one's complement sum that has not been folded yet. The 64 bits have room for 2^32 32-bit words.
#[derive(Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds four bytes in network order.
    #[must_use]
    #[inline(always)]
    pub fn word(self, bytes: [u8; 4]) -> Self {
        Self(self.0.wrapping_add(u64::from(u32::from_ne_bytes(bytes))))
    }

    /// Adds eight bytes in network order.
    #[must_use]
    #[inline(always)]
    pub fn double(self, bytes: [u8; 8]) -> Self {
        let value = u64::from_ne_bytes(bytes);
        Self(self.0.wrapping_add(value & 0xffff_ffff).wrapping_add(value >> 32))
    }

    /// Adds a 16-bit number.
    #[must_use]
    #[inline(always)]
    pub fn number(self, value: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(value.to_be())))
    }

    /// The sum folded to 16 bits, as two bytes in network order: `ff ff` over data that carries a right
    /// checksum.
    #[must_use]
    #[inline(always)]
    pub fn fold(self) -> [u8; 2] {
        let sum = (self.0 >> 32).wrapping_add(self.0 & 0xffff_ffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = (sum >> 16).wrapping_add(sum & 0xffff);
        let sum = sum as u16;
        sum.to_ne_bytes()
    }

    /// The checksum: the complement of the folded sum.
    #[must_use]
    #[inline(always)]
    pub fn checksum(self) -> [u8; 2] {
        (!u16::from_ne_bytes(self.fold())).to_ne_bytes()
    }

    /// The checksum as UDP wants it: zero means "none" there, so a sum of zero is sent as its other
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
