//! Samples of requests that are reported to the daemon, chosen in two ways.
//!
//! By request: each request has the same chance. These samples show which sources ask how much, and what
//! becomes of their requests.
//!
//! By source: all requests of the sources whose keyed hash is below a limit. These samples show how many
//! sources there are, and how long they wait between requests. A source that asks all the time is reported
//! only while it owes little.
//!
//! The daemon sets both chances so that there are some hundreds of reports per second at any load, and
//! grants each CPU a number of them: between two grants a flood costs no more than that.

use crate::bucket::Ruling;
use crate::packet::load;

/// Bit of [`Sample::kind`]: chosen as a request.
pub const OF_REQUESTS: u8 = 1;
/// Bit of [`Sample::kind`]: chosen for its source.
pub const OF_SOURCES: u8 = 2;
/// Bit of [`Sample::kind`]: its source took the place of one whose bucket was not full yet.
pub const EVICTED: u8 = 4;
/// Bit of [`Sample::kind`]: chosen because it has the shape of a pool monitor's probe, see
/// [`crate::message::Request::is_probe`]. All of these are reported, as far as the grant allows.
pub const OF_PROBES: u8 = 8;
/// Bit of [`Sample::kind`]: the source is known from earlier, see [`crate::known`].
pub const KNOWN: u8 = 16;
/// Bit of [`Sample::kind`]: the request of a known source came by the source's usual path.
pub const USUAL_PATH: u8 = 32;
/// Bit of [`Sample::kind`]: the request of a known source came by another path than usual.
pub const OTHER_PATH: u8 = 64;

/// Two seconds are a little more than 2 to the power of this many ticks of the limiter's clock.
const LITTLE_BITS: u32 = 17;
/// The shift that moves the nanoseconds within a little more than a millisecond to the top of a word.
const MILLISECOND_SHIFT: u32 = 44;

/// A request as it is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// The part of the source's address that the limiter uses; see [`crate::limiter::Source::to_bits`].
    pub source: u64,
    /// The source's hash.
    pub hash: u64,
    /// When it arrived, according to `CLOCK_MONOTONIC`; 0 if no clock was read, because a list denies the source.
    pub at_ns: u64,
    /// The transmit timestamp of the request, in the byte order of the network.
    pub transmit: [u8; 8],
    /// The UDP port that the request came from.
    pub port: u16,
    /// The TTL or hop limit with which it arrived; 0 where it is not known.
    pub hops: u8,
    /// Bits [`OF_REQUESTS`], [`OF_SOURCES`], [`EVICTED`], [`OF_PROBES`], [`KNOWN`], [`USUAL_PATH`] and [`OTHER_PATH`].
    pub kind: u8,
    /// The index of the verdict in [`crate::Verdict::ALL`].
    pub verdict: u8,
    /// The index of the family in [`crate::Family::ALL`].
    pub family: u8,
    /// The NTP version of the request.
    pub version: u8,
    /// The poll field of the request, in log2 seconds as the client says.
    pub poll: i8,
}

/// The thresholds for choosing requests: a number that is as good as random is compared with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chances {
    /// Threshold for the request's own number.
    pub request: u64,
    /// Threshold for the source's hash.
    pub source: u64,
}

impl Chances {
    /// Reports nothing.
    pub const NONE: Self = Self { request: 0, source: 0 };

    /// Returns the kinds under which a request is reported; 0 for none.
    #[inline(always)]
    pub(crate) const fn choose(self, ruling: &Ruling, now_ns: u64) -> u8 {
        // The last millisecond of the moment is as good as random, because no client knows it to the
        // nanosecond.
        let number = ruling.hash.wrapping_add(now_ns << MILLISECOND_SHIFT);
        let of_requests = if number < self.request { OF_REQUESTS } else { 0 };
        let of_sources =
            if ruling.hash < self.source && ruling.owed() >> LITTLE_BITS == 0 { OF_SOURCES } else { 0 };
        of_requests | of_sources
    }
}

impl Sample {
    /// Reads a sample that the program has written.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        let [port_first, port_second, hops, kind, verdict, family, version, poll] = load(bytes, 32);
        Self {
            source: u64::from_ne_bytes(load(bytes, 0)),
            hash: u64::from_ne_bytes(load(bytes, 8)),
            at_ns: u64::from_ne_bytes(load(bytes, 16)),
            transmit: load(bytes, 24),
            port: u16::from_ne_bytes([port_first, port_second]),
            hops,
            kind,
            verdict,
            family,
            version,
            poll: poll.cast_signed(),
        }
    }
}
