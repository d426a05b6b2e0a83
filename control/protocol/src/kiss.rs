//! Kisses of death (RFC 5905, section 7.4): a server refuses to tell the time.

/// A kiss of death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kiss {
    /// The client should ask less often.
    Rate,
    /// The client should not ask again.
    Deny,
    /// The client should not ask again.
    Restrict,
    /// Another code: the server has no time to give.
    Other([u8; 4]),
}

impl Kiss {
    /// Reads the reference ID of a server with stratum 0. Returns `None` if it is not four printable
    /// characters.
    #[must_use]
    pub fn of(reference_id: u32) -> Option<Self> {
        match &reference_id.to_be_bytes() {
            b"RATE" => Some(Self::Rate),
            b"DENY" => Some(Self::Deny),
            b"RSTR" => Some(Self::Restrict),
            bytes if bytes.iter().all(u8::is_ascii_graphic) => Some(Self::Other(*bytes)),
            _ => None,
        }
    }

    /// Returns the printable letters of the code.
    #[must_use]
    pub fn code(self) -> String {
        let bytes = match self {
            Self::Rate => *b"RATE",
            Self::Deny => *b"DENY",
            Self::Restrict => *b"RSTR",
            Self::Other(bytes) => bytes,
        };
        bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
    }
}
