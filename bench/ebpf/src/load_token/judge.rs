//! What an answer is counted as.

use super::Flaw;

/// What is wrong with an answer. The first that applies is what it is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Not a whole message.
    Short,
    /// An IP or UDP checksum that is wrong.
    Checksum,
    /// Its origin is nothing that was sent.
    Origin,
    /// Not mode 4.
    Mode,
    /// Not the request's version.
    Version,
    /// A transmit time of zero.
    ZeroTransmit,
    /// Leap 3 or stratum 0 or 16 and above, without a kiss code.
    Unsynchronised,
    /// Received after it was answered.
    ReceiveAfterTransmit,
    /// Received before the request was sent or after the answer had come.
    OutsideWindow,
    /// Longer than the request: with a forged source it would be an amplifier's.
    Longer,
    /// To a request that was too short.
    ToShort,
    /// To what was an answer itself.
    ToMode,
    /// To a request with a wrong checksum.
    ToChecksum,
    /// To a request with a wrong length.
    ToLength,
}

impl Fault {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 14] = [
        Self::Short,
        Self::Checksum,
        Self::Origin,
        Self::Mode,
        Self::Version,
        Self::ZeroTransmit,
        Self::Unsynchronised,
        Self::ReceiveAfterTransmit,
        Self::OutsideWindow,
        Self::Longer,
        Self::ToShort,
        Self::ToMode,
        Self::ToChecksum,
        Self::ToLength,
    ];

    /// An answer to a request that no server may answer.
    #[must_use]
    pub const fn answered(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Short => Self::ToShort,
            Flaw::Mode => Self::ToMode,
            Flaw::Checksum => Self::ToChecksum,
            Flaw::Length => Self::ToLength,
        }
    }

    /// The name under which it is counted.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Checksum => "checksum",
            Self::Origin => "origin",
            Self::Mode => "mode",
            Self::Version => "version",
            Self::ZeroTransmit => "zero_transmit",
            Self::Unsynchronised => "unsynchronised",
            Self::ReceiveAfterTransmit => "receive_after_transmit",
            Self::OutsideWindow => "outside_window",
            Self::Longer => "longer_than_request",
            Self::ToShort => "answered_short",
            Self::ToMode => "answered_mode",
            Self::ToChecksum => "answered_checksum",
            Self::ToLength => "answered_length",
        }
    }
}

/// What an answer to a known request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The time, of the server's receipt and of its answer, as NTP timestamps.
    Time {
        /// Receive timestamp.
        receive: u64,
        /// Transmit timestamp.
        transmit: u64,
    },
    /// A kiss-o'-death: the server asks to be left alone.
    Kiss,
    /// Neither.
    Wrong(Fault),
}

/// Judges a message of 48 bytes, as six words in network order, whose origin is that of a request of
/// `version`. `window` is when, by the server's clock, the request can have arrived: from its sending to the
/// arrival of the answer; `None` where the server's clock is not known. `lenient` takes the time of a server that
/// says itself that it is not synchronised.
#[must_use]
#[inline(always)]
pub fn judge(words: [u64; 6], version: u8, window: Option<(u64, u64)>, lenient: bool) -> Judgement {
    let [first, stratum, ..] = words[0].to_ne_bytes();
    let (receive, transmit) = (u64::from_be(words[4]), u64::from_be(words[5]));
    if first & 7 != 4 {
        return Judgement::Wrong(Fault::Mode);
    }
    if first >> 3 & 7 != version {
        return Judgement::Wrong(Fault::Version);
    }
    // A kiss code is four letters; the first one tells it from the zero of a clock without a reference.
    let [_, _, _, _, reference_letter, ..] = words[1].to_ne_bytes();
    if stratum == 0 && reference_letter.is_ascii_uppercase() {
        return Judgement::Kiss;
    }
    if transmit == 0 {
        return Judgement::Wrong(Fault::ZeroTransmit);
    }
    if !lenient && (first >> 6 == 3 || stratum == 0 || stratum > 15) {
        return Judgement::Wrong(Fault::Unsynchronised);
    }
    if transmit.wrapping_sub(receive).cast_signed() < 0 {
        return Judgement::Wrong(Fault::ReceiveAfterTransmit);
    }
    if let Some((earliest, latest)) = window
        && (receive.wrapping_sub(earliest).cast_signed() < 0
            || latest.wrapping_sub(receive).cast_signed() < 0)
    {
        return Judgement::Wrong(Fault::OutsideWindow);
    }
    Judgement::Time { receive, transmit }
}
