//! What an access list says of a source, and for which sources it has to be asked.

/// The access that the list entry with the longest matching prefix gives to a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Access {
    /// Answered like sources on no list: limited as [`crate::Policy::ordinary`].
    #[default]
    Ordinary = 0,
    /// Not answered.
    Denied = 1,
    /// Answered without a limit.
    Unlimited = 2,
    /// Limited as [`crate::Policy::strict`].
    Strict = 3,
}

impl Access {
    /// The inverse of `as u32`. Any other value is ordinary.
    #[must_use]
    #[inline(always)]
    pub const fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Denied,
            2 => Self::Unlimited,
            3 => Self::Strict,
            _ => Self::Ordinary,
        }
    }

    /// Returns a stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ordinary => "allow",
            Self::Denied => "deny",
            Self::Unlimited => "unlimited",
            Self::Strict => "limit",
        }
    }
}

/// Entries of the map that says of each IPv4 /24 whether the access list has to be asked about it.
pub const BLOCK_ENTRIES: usize = 1 << 15;
/// Words of such an entry, a bit for each /24: a cache line.
pub const BLOCK_WORDS: usize = 8;

/// The position of the bit for a source's /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The entry, below [`BLOCK_ENTRIES`].
    pub entry: u32,
    /// The word in it, below [`BLOCK_WORDS`].
    pub word: usize,
    /// The bit in that word.
    pub mask: u64,
}

impl Block {
    /// Returns the position for an address.
    #[must_use]
    #[inline(always)]
    pub const fn of(address: [u8; 4]) -> Self {
        let block = u32::from_be_bytes(address) >> 8;
        Self { entry: block >> 9, word: (block >> 6 & 7) as usize, mask: 1 << (block & 63) }
    }
}
