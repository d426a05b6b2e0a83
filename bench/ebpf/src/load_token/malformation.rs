//! Which requests are malformed, and how.

/// What is wrong with a request that no server may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Malformation {
    /// Four bytes of the message are missing.
    Short,
    /// The mode is 4, that of an answer.
    Mode,
    /// The UDP checksum is wrong.
    Checksum,
    /// The UDP header's length is eight bytes more than there are.
    Length,
}

impl Malformation {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Short, Self::Mode, Self::Checksum, Self::Length];
    /// Number of kinds.
    pub const COUNT: u32 = Self::Length as u32 + 1;
    /// Number of kinds, counted from the first, that a UDP socket can send.
    pub const BY_SOCKETS: u64 = 2;

    /// Returns how a request is malformed, or `None` if it is well-formed. `malformed` of 65,536 requests are
    /// malformed, with equal shares of the first `kinds` kinds.
    #[must_use]
    #[inline(always)]
    pub const fn of(sequence: u64, malformed: u64, kinds: u64) -> Option<Self> {
        let drawn = draw(sequence);
        if drawn >= malformed {
            return None;
        }
        Some(match sequence % kinds {
            0 => Self::Short,
            1 => Self::Mode,
            2 => Self::Checksum,
            _ => Self::Length,
        })
    }
}

/// Returns a number below 65,536 for each request, which decides whether it is one of a share.
#[must_use]
#[inline(always)]
pub const fn draw(sequence: u64) -> u64 {
    let mixed = sequence.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ mixed >> 29) >> 16 & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_is_malformed_and_each_kind_comes_as_often() {
        let mut kinds = [0_u32; 4];
        for sequence in 0..1 << 16 {
            if let Some(malformation) = Malformation::of(sequence, 6554, 4) {
                kinds[malformation as usize] += 1;
            }
        }
        let all: u32 = kinds.iter().sum();
        assert!((6300..6800).contains(&all), "{kinds:?}");
        assert!(kinds.iter().all(|kind| kind * 5 > all && kind * 3 < all), "{kinds:?}");
    }
}
