//! The reasons why an answer is refused.

use std::fmt;

/// Why an answer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// It does not have 48 bytes, like the request.
    Length,
    /// It is shorter than 48 bytes, although it may be longer.
    Short,
    /// Its version is neither 4 nor 3.
    Version,
    /// It is not a server's answer.
    Mode,
    /// Its origin is not the request's transmit timestamp.
    Origin,
    /// Its transmit timestamp is zero.
    ZeroTransmit,
    /// Its receive timestamp is zero.
    ZeroReceive,
    /// It says that it was sent before the request was received.
    Order,
    /// Its leap indicator is 3.
    Unsynchronised,
    /// Its stratum is 0 without a kiss, or 15 or more: a client of it would be at stratum 16, which is unsynchronised.
    Stratum,
    /// The server is too far from its primary source.
    RootDistance,
    /// The server is synchronised to this host.
    Loop,
    /// The server claims to have kept the request for longer than the answer took.
    Residence,
    /// It answers the request, but comes from another address or port than the one that was asked.
    Source,
}

impl Reject {
    /// Returns the name under which it is counted.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Short => "short",
            Self::Version => "version",
            Self::Mode => "mode",
            Self::Origin => "origin",
            Self::ZeroTransmit => "zero_transmit",
            Self::ZeroReceive => "zero_receive",
            Self::Order => "order",
            Self::Unsynchronised => "unsynchronised",
            Self::Stratum => "stratum",
            Self::RootDistance => "root_distance",
            Self::Loop => "loop",
            Self::Residence => "residence",
            Self::Source => "source",
        }
    }

    /// Returns the reason in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Length => "it is not 48 bytes long, as the request was",
            Self::Short => "it is shorter than 48 bytes",
            Self::Version => "it is neither of version 4 nor of version 3",
            Self::Mode => "it is not from a server (mode 4)",
            Self::Origin => "its origin is not our transmit timestamp",
            Self::ZeroTransmit => "its transmit timestamp is zero",
            Self::ZeroReceive => "its receive timestamp is zero",
            Self::Order => "it was received after it was sent",
            Self::Unsynchronised => "the server is not synchronised (leap 3)",
            Self::Stratum => "its stratum is not 1 to 14, so a client of it would not be synchronised",
            Self::RootDistance => "the server's root distance is above the limit",
            Self::Loop => "the server is synchronised to this host",
            Self::Residence => "the server claims to have kept the request for longer than the answer took",
            Self::Source => "it comes from another address than the one that was asked",
        }
    }

    /// Whether the packet may have been sent by anybody, so that the answer itself may still come.
    #[must_use]
    pub const fn is_forgery(self) -> bool {
        matches!(self, Self::Length | Self::Short | Self::Version | Self::Mode | Self::Origin | Self::Source)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.reason())
    }
}

impl std::error::Error for Reject {}
