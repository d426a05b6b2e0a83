//! The class that an answer is counted in.

use super::Malformation;

/// What is wrong with an answer. An answer counts under the first fault that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// The message is not complete.
    Short,
    /// An IP or UDP checksum is wrong.
    Checksum,
    /// Its origin timestamp was never sent.
    Origin,
    /// The mode is not 4.
    Mode,
    /// The version is not that of the request.
    Version,
    /// The transmit timestamp is zero.
    ZeroTransmit,
    /// The leap indicator is 3, or the stratum is 0 or at least 16, without a kiss code.
    Unsynchronised,
    /// The receive timestamp is after the transmit timestamp.
    ReceiveAfterTransmit,
    /// The receive timestamp is before the request was sent or after the answer came.
    OutsideWindow,
    /// The answer is longer than the request: with a forged source the server would amplify traffic.
    Longer,
    /// The request was too short to be answered.
    ToShort,
    /// The request was an answer itself.
    ToMode,
    /// The request had a wrong checksum.
    ToChecksum,
    /// The request had a wrong length.
    ToLength,
}

impl Fault {
    /// All faults, in the order of their counters.
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

    /// Returns the fault of an answer to a request that no server may answer.
    #[must_use]
    pub const fn answered(malformation: Malformation) -> Self {
        match malformation {
            Malformation::Short => Self::ToShort,
            Malformation::Mode => Self::ToMode,
            Malformation::Checksum => Self::ToChecksum,
            Malformation::Length => Self::ToLength,
        }
    }

    /// Returns the name of the fault in results.
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

/// The class of an answer to a known request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerClass {
    /// The server's time. Both are NTP timestamps of the server.
    Time {
        /// Receive timestamp.
        receive: u64,
        /// Transmit timestamp.
        transmit: u64,
    },
    /// A kiss-o'-death: the server asks the client to back off.
    Kiss,
    /// A wrong answer.
    Wrong(Fault),
}

/// Classifies a message of 48 bytes, given as six words in network order, whose origin is that of a request
/// of `version`. `window` is when the request can have arrived on the server's clock: from its sending to the
/// arrival of the answer, or `None` where the server's clock is not known. `lenient` accepts the time of a
/// server that says itself that it is not synchronised.
#[must_use]
#[inline(always)]
pub fn classify(words: [u64; 6], version: u8, window: Option<(u64, u64)>, lenient: bool) -> AnswerClass {
    let [first, stratum, ..] = words[0].to_ne_bytes();
    let (receive, transmit) = (u64::from_be(words[4]), u64::from_be(words[5]));
    if first & 7 != 4 {
        return AnswerClass::Wrong(Fault::Mode);
    }
    if first >> 3 & 7 != version {
        return AnswerClass::Wrong(Fault::Version);
    }
    // A kiss code is four letters; its first letter tells it from the zero of a clock without a reference.
    let [_, _, _, _, reference_letter, ..] = words[1].to_ne_bytes();
    if stratum == 0 && reference_letter.is_ascii_uppercase() {
        return AnswerClass::Kiss;
    }
    if transmit == 0 {
        return AnswerClass::Wrong(Fault::ZeroTransmit);
    }
    if !lenient && (first >> 6 == 3 || stratum == 0 || stratum > 15) {
        return AnswerClass::Wrong(Fault::Unsynchronised);
    }
    if transmit.wrapping_sub(receive).cast_signed() < 0 {
        return AnswerClass::Wrong(Fault::ReceiveAfterTransmit);
    }
    if let Some((earliest, latest)) = window
        && (receive.wrapping_sub(earliest).cast_signed() < 0
            || latest.wrapping_sub(receive).cast_signed() < 0)
    {
        return AnswerClass::Wrong(Fault::OutsideWindow);
    }
    AnswerClass::Time { receive, transmit }
}
