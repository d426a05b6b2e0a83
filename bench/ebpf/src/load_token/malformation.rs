//! Which requests are malformed, and how.

/// What is wrong with a request that no server may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flaw {
    /// Four bytes of the message are missing.
    Short,
    /// Mode 4: an answer.
    Mode,
    /// A wrong UDP checksum.
    Checksum,
    /// The UDP header tells of eight bytes more than there are.
    Length,
}

impl Flaw {
    /// All of them, by their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Short, Self::Mode, Self::Checksum, Self::Length];
    /// How many kinds there are.
    pub const COUNT: u32 = Self::Length as u32 + 1;
    /// How many of them, from the first on, a UDP socket can send.
    pub const BY_SOCKETS: u64 = 2;

    /// That of a request, of the first so many kinds; none, if it is not one of those that have one.
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

/// A number below 65,536 for each request, by which one is picked out of many.
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
    fn a_share_of_the_requests_has_a_flaw_and_each_kind_comes_as_often() {
        let mut kinds = [0_u32; 4];
        for sequence in 0..1 << 16 {
            if let Some(flaw) = Flaw::of(sequence, 6554, 4) {
                kinds[flaw as usize] += 1;
            }
        }
        let all: u32 = kinds.iter().sum();
        assert!((6300..6800).contains(&all), "{kinds:?}");
        assert!(kinds.iter().all(|kind| kind * 5 > all && kind * 3 < all), "{kinds:?}");
    }
}
