//! What a load test's request carries, and how its answer is checked.
//!
//! Pure, and built twice: for the bench, and for its programs that run in the kernel.

mod histogram;
mod request;

pub use histogram::{BUCKETS, bucket, bucket_value};
pub use request::*;

/// Bits of a token that number the request; the rest is its time.
pub const SEQUENCE_BITS: u32 = 28;
/// The most requests that one key can tell apart.
pub const MAX_REQUESTS: u64 = 1 << SEQUENCE_BITS;
/// Units of the time in a token: 2^4 ns, so that 36 bits last for 18 minutes.
const TIME_SHIFT: u32 = 4;

/// Entries of the table from which each request's version is taken, by its number.
pub const MIX: usize = 4096;

/// What a request's transmit timestamp says to the one who knows the key: all that is needed to match and
/// to time its answer, so that nothing has to be remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Number of the request, below [`MAX_REQUESTS`].
    pub sequence: u64,
    /// When it was sent: nanoseconds from the start of the step, to 16 ns.
    pub sent_ns: u64,
}

/// A key of one step of a load test. Timestamps sealed by it look random, as clients' should, and a
/// timestamp that was not sealed by it opens to a number and a time that were never sent.
#[derive(Clone, Copy, Debug)]
pub struct Key(pub u64);

const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;
const FIRST_INVERSE: u64 = inverse(FIRST);
const SECOND_INVERSE: u64 = inverse(SECOND);

/// The inverse of an odd number modulo 2^64: each of Newton's steps doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

impl Key {
    /// The transmit timestamp of a request.
    #[must_use]
    #[inline(always)]
    pub const fn seal(self, token: Token) -> u64 {
        let plain = token.sequence & (MAX_REQUESTS - 1) | token.sent_ns >> TIME_SHIFT << SEQUENCE_BITS;
        let mixed = (plain ^ self.0).wrapping_mul(FIRST);
        (mixed ^ mixed >> 32).wrapping_mul(SECOND)
    }

    /// The inverse of [`Key::seal`].
    #[must_use]
    #[inline(always)]
    pub const fn open(self, timestamp: u64) -> Token {
        let mixed = timestamp.wrapping_mul(SECOND_INVERSE);
        let plain = (mixed ^ mixed >> 32).wrapping_mul(FIRST_INVERSE) ^ self.0;
        Token { sequence: plain & (MAX_REQUESTS - 1), sent_ns: plain >> SEQUENCE_BITS << TIME_SHIFT }
    }
}

/// The version of a request, out of a table that has each version in its share. The order is mixed, since
/// numbers that are sent one after the other would meet the table's entries in theirs.
#[must_use]
#[inline(always)]
pub const fn mix_index(sequence: u64) -> usize {
    (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

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

/// The kernel's counts, as indices of its per-CPU map value.
pub mod count {
    /// Requests sent.
    pub const SENT: usize = 0;
    /// Requests that were too late to be sent.
    pub const SKIPPED: usize = 1;
    /// Requests that something came back to.
    pub const MATCHED: usize = 2;
    /// Right answers.
    pub const ANSWERED: usize = 3;
    /// Answers after the time-out.
    pub const LATE: usize = 4;
    /// Kisses-o'-death.
    pub const KISSES: usize = 5;
    /// Second answers.
    pub const DUPLICATES: usize = 6;
    /// Sum of the offsets of right answers, in units of 2^-33 s, two's complement.
    pub const OFFSETS: usize = 7;
    /// Requests sent that no server may answer; not among those of [`SENT`].
    pub const MALFORMED: usize = 8;
    /// The first of [`super::Fault::ALL`].
    pub const FAULTS: usize = 9;
    /// All.
    pub const COUNTS: usize = 32;
}

/// Nanoseconds in units of 2^-32 s; right below 2^40.
#[must_use]
#[inline(always)]
pub const fn ntp_units(ns: u64) -> u64 {
    // 2^64 / 10^9 is 4 and this many 2^32nds.
    const FRACTION: u64 = 1_266_874_890;
    (ns << 2) + (ns >> 32) * FRACTION + (((ns & 0xffff_ffff) * FRACTION) >> 32)
}

/// Units of 2^-32 s in nanoseconds, up to 2 s.
#[must_use]
#[inline(always)]
pub const fn nanoseconds(units: u64) -> u64 {
    let units = if units >> 33 == 0 { units } else { 1 << 33 };
    (units * 1_000_000_000) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_to_the_same() {
        let key = Key(0x1234_5678_9abc_def0);
        for sequence in [0, 1, 77, MAX_REQUESTS - 1] {
            for sent_ns in [0, 16, 1_000_000_000, 1 << 39] {
                let token = Token { sequence, sent_ns };
                assert_eq!(key.open(key.seal(token)), token);
            }
        }
    }

    #[test]
    fn a_changed_bit_opens_to_something_else_entirely() {
        let key = Key(42);
        let sealed = key.seal(Token { sequence: 5, sent_ns: 1600 });
        let near = (0..64).map(|bit| key.open(sealed ^ 1 << bit));
        let plausible = near.filter(|token| token.sequence < 1000 && token.sent_ns < 1_000_000_000);
        assert_eq!(plausible.count(), 0);
    }

    #[test]
    fn a_bucket_has_values_near_its_own() {
        for value in (0..40).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit) / 3]) {
            let middle = bucket_value(bucket(value));
            assert!(middle.abs_diff(value) * 32 <= value, "{value} {middle}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn time_is_converted_both_ways() {
        for ns in [0, 1, 999, 123_456_789, 1_999_999_999] {
            assert!(nanoseconds(ntp_units(ns)).abs_diff(ns) <= 1, "{ns}");
        }
        assert_eq!(ntp_units(60_000_000_000) >> 32, 60);
    }

    #[test]
    fn exponential_intervals_have_their_mean_and_their_median() {
        let table = exponential();
        assert_eq!(table.len(), INTERVALS);
        let mean = table.iter().map(|part| f64::from(*part)).sum::<f64>() / 4096.0 / 65_536.0;
        assert!((mean - 1.0).abs() < 1e-4, "{mean}");
        let median = f64::from(table[INTERVALS / 2]) / 65_536.0;
        assert!((median - 2_f64.ln()).abs() < 1e-3, "{median}");
    }

    #[test]
    fn requests_come_from_all_clients_about_as_often() {
        let mut requests = [0_u32; 256];
        for sequence in 0..25_600 {
            requests[usize::try_from(client(sequence, 256)).unwrap()] += 1;
        }
        let (least, most) = (requests.iter().min(), requests.iter().max());
        assert!(least >= Some(&50) && most <= Some(&200), "{least:?} {most:?}");
    }

    #[test]
    fn neighbouring_numbers_fill_the_mix_evenly() {
        let mut seen = [0_u32; MIX];
        for sequence in 0..10 * MIX as u64 {
            seen[mix_index(sequence)] += 1;
        }
        let (least, most) = (seen.iter().min(), seen.iter().max());
        assert!(least >= Some(&7) && most <= Some(&13), "{least:?} {most:?}");
    }
}
