//! What a load test's request carries, and how its answer is checked.
//!
//! This module is pure and is built twice: for the bench, and for its programs that run in the kernel.

mod answer_class;
mod arrivals;
mod histogram;
mod malformation;
mod request;
mod window;

pub use answer_class::{AnswerClass, Fault, classify};
#[cfg(not(target_arch = "bpf"))]
pub use arrivals::exponential;
pub use arrivals::{INTERVALS, Spike};
pub use histogram::{BUCKETS, bucket, bucket_value};
pub use malformation::{Malformation, draw};
pub use request::*;
pub use window::{WINDOWS, window, window_shift};

/// Bits of a token that number the request; the remaining bits are its time.
pub const SEQUENCE_BITS: u32 = 28;
/// Number of requests that one key can tell apart.
pub const MAX_REQUESTS: u64 = 1 << SEQUENCE_BITS;
/// Unit of the time in a token: 2^4 ns, so that 36 bits last for 18 minutes.
const TIME_SHIFT: u32 = 4;

/// Number of entries in the table from which each request's version is taken, according to the request's
/// number.
pub const MIX: usize = 4096;

/// What a request's transmit timestamp means to the holder of the key: all that is needed to match and to
/// time its answer, so that nothing about the request has to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Number of the request, below [`MAX_REQUESTS`].
    pub sequence: u64,
    /// When it was sent: nanoseconds from the start of the step, with a resolution of 16 ns.
    pub sent_ns: u64,
}

/// The key of one step of a load test. Timestamps that it seals look random, as those of clients should. A
/// timestamp that it did not seal opens to a number and a time that were never sent.
#[derive(Clone, Copy, Debug)]
pub struct Key(pub u64);

const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;
const FIRST_INVERSE: u64 = inverse(FIRST);
const SECOND_INVERSE: u64 = inverse(SECOND);

/// Returns the inverse of an odd number modulo 2^64. Each of Newton's steps doubles the number of right bits.
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
    /// Returns the transmit timestamp of a request.
    #[must_use]
    #[inline(always)]
    pub const fn seal(self, token: Token) -> u64 {
        let plain = token.sequence & (MAX_REQUESTS - 1) | token.sent_ns >> TIME_SHIFT << SEQUENCE_BITS;
        let mixed = (plain ^ self.0).wrapping_mul(FIRST);
        (mixed ^ mixed >> 32).wrapping_mul(SECOND)
    }

    /// Returns the token of a timestamp; the inverse of [`Key::seal`].
    #[must_use]
    #[inline(always)]
    pub const fn open(self, timestamp: u64) -> Token {
        let mixed = timestamp.wrapping_mul(SECOND_INVERSE);
        let plain = (mixed ^ mixed >> 32).wrapping_mul(FIRST_INVERSE) ^ self.0;
        Token { sequence: plain & (MAX_REQUESTS - 1), sent_ns: plain >> SEQUENCE_BITS << TIME_SHIFT }
    }
}

/// Returns the entry of a request in a table that has each version in its share. The order is mixed, because
/// requests sent one after the other would otherwise meet the table's entries in their order.
#[must_use]
#[inline(always)]
pub const fn mix_index(sequence: u64) -> usize {
    (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// The kernel's counts, as indices of its per-CPU map value.
pub mod count {
    /// Requests sent.
    pub const SENT: usize = 0;
    /// Requests that were too late to be sent.
    pub const SKIPPED: usize = 1;
    /// Requests that got anything back.
    pub const MATCHED: usize = 2;
    /// Right answers.
    pub const ANSWERED: usize = 3;
    /// Answers that came after the timeout.
    pub const LATE: usize = 4;
    /// Kisses-o'-death.
    pub const KISSES: usize = 5;
    /// Further answers to a request that already had one.
    pub const DUPLICATES: usize = 6;
    /// Sum of the offsets of right answers, in units of 2^-33 s, two's complement.
    pub const OFFSETS: usize = 7;
    /// Requests that were sent although no server may answer them; they are not counted in [`SENT`].
    pub const MALFORMED: usize = 8;
    /// The index of the first of [`super::Fault::ALL`].
    pub const FAULTS: usize = 9;
    /// Number of all counts.
    pub const COUNTS: usize = 32;
}

/// Converts nanoseconds to units of 2^-32 s; the result is exact below 2^40 ns.
#[must_use]
#[inline(always)]
pub const fn ntp_units(ns: u64) -> u64 {
    // 2^64 / 10^9 is 4 and this many 2^32nds.
    const FRACTION: u64 = 1_266_874_890;
    (ns << 2) + (ns >> 32) * FRACTION + (((ns & 0xffff_ffff) * FRACTION) >> 32)
}

/// Converts units of 2^-32 s to nanoseconds, up to 2 s.
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
    fn time_is_converted_both_ways() {
        for ns in [0, 1, 999, 123_456_789, 1_999_999_999] {
            assert!(nanoseconds(ntp_units(ns)).abs_diff(ns) <= 1, "{ns}");
        }
        assert_eq!(ntp_units(60_000_000_000) >> 32, 60);
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
