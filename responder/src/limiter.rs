//! How often a source is answered: a token bucket for each source prefix, in a table of constant cost.
//!
//! # The bucket
//!
//! A bucket is one 64-bit word. It holds the moment at which the bucket will be full again (the "theoretical
//! arrival time" of the generic cell rate algorithm, ITU-T I.371), so that filling up needs no work: a request
//! moves that moment on by the interval of its [`Class`], and is refused where that would take it further from
//! now than the class's window, burst x interval. The moment has the highest bits, so that adding to it and
//! subtracting from it need no masks; the bits below identify the bucket's owner. A refused request moves
//! nothing. In any time t a source gets at most `burst + t / interval` answers in addition to the leak, and at
//! least one per interval if it asks.
//!
//! Loads and stores are plain. Two CPUs that handle the same source at once may count two requests as one: a
//! race costs a token and never a lock.
//!
//! # The table
//!
//! [`WAYS`] buckets are a set. Which set a source's bucket is in, and the tag that it is known by there, are
//! bits of a hash under a secret key: no outsider can aim at a set, and which requests are answered reveals
//! only the state of one's own bucket. Two sources in one set with the same tag share a bucket, four times in
//! a million.
//!
//! A source that has no bucket takes the place of the one that is nearest to full, and is answered. So
//! eviction cannot mute any client, it can only forget, and what it forgets costs nothing: a bucket that is
//! full or nearly so carries no information about its source. A flood from random sources sends one request
//! from each, which leaves a bucket one interval from full, while an abuser's is a whole burst away. So the
//! flood's buckets push out each other. An abuser's bucket is the next to go only when all other places of its
//! set are taken by sources that each spent more. For the same reason the table need not know all clients,
//! but only those of about the last interval, and those that are in debt.
//!
//! # What becomes of refused requests
//!
//! One in 2^leak is answered nevertheless, at random. Without that, an attacker who forges a client's address
//! could mute the client. With it the client keeps that share of its answers, and its share of the tokens.
//!
//! Of the others, those of a source that is only moderately over its rate get a kiss of death (RFC 5905
//! section 7.4), as far as there is a budget for that. Each bucket counts refusals up and answers down, to
//! [`FLOOD`]. A source that asks at more than twice its rate reaches that and gets no more kisses, because a
//! server that answers every refusal is a reflector.
//!
//! A request that the socket answers has to get through two tables, this one in the NIC path and the socket's own.
//! Each lets a share of the leak through, see [`divided`].
//!
//! # Clients that retry faster when they are refused
//!
//! Penalties that grow with the requests that were refused keep such a client locked out, and asking, for
//! ever. Here a refused request costs nothing: the next token, at most an interval later, goes to whoever
//! asks then, and the leak gives most to those who ask most. So the first retries are answered, the client
//! is content and falls back to its poll interval. A storm of many such clients behind one address ends as
//! fast as the tokens come in.

pub use crate::bucket::{Bucket, Decision, LONGEST_WINDOW_S, Ruling, WAYS};
pub use crate::host::Buckets;

use crate::bucket::{LONGEST_WINDOW_BITS, MOMENT_SHIFT, TICK_SHIFT, TICKS_IN_A_SECOND, smaller};
use crate::sample::Chances;

/// The smallest and the largest number of buckets in a table.
pub const TABLE_ENTRIES: core::ops::RangeInclusive<u32> = 1 << 16..=1 << 24;
/// The number of refusals, minus answers, at which a source counts as a flood and gets no more kisses.
pub const FLOOD: u64 = 8;
/// The lowest bits of a bucket: the tag.
const TAG: u64 = (1 << 20) - 1;
/// The next four bits: refusals, minus answers.
const EXCESS_SHIFT: u32 = 20;
const MOST_EXCESS: u64 = 15;
const EXCESS: u64 = MOST_EXCESS << EXCESS_SHIFT;
const ONE_EXCESS: u64 = 1 << EXCESS_SHIFT;
/// All other bits: when the bucket is full, in ticks modulo 2^40, 208 days.
const MOMENT: u64 = u64::MAX << MOMENT_SHIFT;
/// The bits of the hash above this are the tag that identifies a source.
const TAG_SHIFT: u32 = 44;
/// The bits of the hash that choose the set begin here. With 2^22 sets they end below the tag.
const SET_SHIFT: u32 = 20;

/// A rate and a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Class(
    /// Ticks in an interval in the upper 32 bits, ticks in a window in the lower ones. It is one word, so
    /// that a reader never sees half of a change. 0 means that there is no limit.
    pub u64,
);

impl Class {
    /// Does not limit the source.
    pub const UNLIMITED: Self = Self(0);

    /// Makes a class of `rate` requests per second, with up to `burst` at once. Returns `None` if either is
    /// zero, the rate is above the buckets' clock, or an empty bucket would take longer to fill than
    /// [`LONGEST_WINDOW_S`].
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Option<Self> {
        let Some(interval) = TICKS_IN_A_SECOND.checked_div(rate as u64) else {
            return None;
        };
        let window = interval.saturating_mul(burst as u64);
        if interval == 0 || window == 0 || window > LONGEST_WINDOW_S.wrapping_mul(TICKS_IN_A_SECOND) {
            return None;
        }
        Some(Self(interval << 32 | window))
    }

    /// Makes the class of each of `sharers` that have `rate` requests per second between them: over time, they take no
    /// more than that in all. Each has as many at once as it gets in a second, one at least. Returns `None` if the
    /// share is smaller than a class can have, or there is nothing to share.
    #[must_use]
    pub const fn share(rate: u32, sharers: u32) -> Option<Self> {
        if rate == 0 || sharers == 0 {
            return None;
        }
        let interval = TICKS_IN_A_SECOND.saturating_mul(sharers as u64).div_ceil(rate as u64);
        let burst = match rate.checked_div(sharers) {
            Some(share @ 1..) => share,
            _ => 1,
        };
        let window = interval.saturating_mul(burst as u64);
        if window > LONGEST_WINDOW_S.wrapping_mul(TICKS_IN_A_SECOND) {
            return None;
        }
        Some(Self(interval << 32 | window))
    }

    /// Returns the nanoseconds from one token to the next.
    #[must_use]
    pub const fn interval_ns(self) -> u64 {
        self.0 >> 32 << TICK_SHIFT
    }

    /// Returns the interval as the difference of two moments.
    #[inline(always)]
    const fn interval(self) -> u64 {
        self.0 >> 32 << MOMENT_SHIFT
    }

    /// Returns the window as the difference of two moments.
    #[inline(always)]
    const fn window(self) -> u64 {
        (self.0 & 0xffff_ffff) << MOMENT_SHIFT
    }

    /// Takes a token out of a bucket that will be full after `until_full`. Returns the new word, or `None` if
    /// there is no token.
    ///
    /// A value above the window is a moment in the past, or was written under a class with a larger window.
    /// The bucket counts as full in both cases, because no source is refused on suspicion.
    #[inline(always)]
    const fn spend(self, bucket: u64, now: u64, until_full: u64) -> Option<u64> {
        if until_full > self.window() {
            // A source whose bucket has filled up starts afresh.
            return Some(now.wrapping_add(self.interval()) & MOMENT | bucket & TAG);
        }
        if until_full.wrapping_add(self.interval()) > self.window() {
            return None;
        }
        let spent = bucket.wrapping_add(self.interval());
        Some(if spent & EXCESS == 0 { spent } else { spent.wrapping_sub(ONE_EXCESS) })
    }
}

/// Converts a moment of `CLOCK_MONOTONIC` to that of buckets. The fraction of a tick is in the lower bits,
/// which buckets use for other things.
#[inline(always)]
const fn moment(now_ns: u64) -> u64 {
    now_ns << (MOMENT_SHIFT - TICK_SHIFT)
}

/// Returns how far a bucket is from full; a huge number if it is full.
#[inline(always)]
const fn until_full(bucket: u64, now: u64) -> u64 {
    (bucket & MOMENT).wrapping_sub(now)
}

/// The parameters of the limiter's decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    /// Key of the hash: random and secret. It belongs to the table: a new key makes all buckets unknown.
    pub key: [u64; 3],
    /// Class of sources that are on no list.
    pub ordinary: Class,
    /// Class of sources that the lists limit strictly.
    pub strict: Class,
    /// Class of the kisses of death that one CPU sends.
    pub kiss: Class,
    /// Mask of the bits that count in a source's IPv4 address, in the form of [`Source`].
    pub ipv4_mask: u64,
    /// Mask of the bits that count in the first half of its IPv6 address, in the same form.
    pub ipv6_mask: u64,
    /// Number of sets, a power of two, minus one.
    pub set_mask: u32,
    /// One refused request in 2^leak is answered; 64 or more means none.
    pub leak: u8,
    /// Smallest poll interval in a kiss of death, in log2 seconds.
    pub kiss_poll: i8,
    /// The bits [`KISS_DENIED`], [`BUDGET`], [`SYMMETRIC`] and [`KNOWN`].
    pub options: u8,
    /// Bit 0: there is an IPv4 access list. Bit 1: there is an IPv6 one.
    pub lists: u8,
    /// Number of sets of known sources, a power of two, minus one. The sets of tries are as many.
    pub known_mask: u32,
    /// Share of the requests by the usual path of a known source, in 256ths, that are answered when the source's bucket
    /// and its reserve are empty, see [`crate::known`]. At most 255.
    pub known_share: u8,
    /// Padding, always zero.
    pub reserved: [u8; 3],
    /// Which requests are reported to the daemon.
    pub chances: Chances,
}

/// [`Policy::lists`]: there is an IPv4 access list.
pub const IPV4_LIST: u8 = 1;
/// [`Policy::lists`]: there is an IPv6 access list.
pub const IPV6_LIST: u8 = 2;
/// [`Policy::options`]: sources that the lists deny are sent a kiss of death, within its budget.
pub const KISS_DENIED: u8 = 1;
/// [`Policy::options`]: there is a cap on all answers, see [`crate::budget`].
pub const BUDGET: u8 = 2;
/// [`Policy::options`]: symmetric active peers are answered as clients are, see [`crate::message::classify`].
pub const SYMMETRIC: u8 = 4;
/// [`Policy::options`]: known sources are told from strangers, see [`crate::known`].
pub const KNOWN: u8 = 8;
/// [`Policy::leak`]: nothing leaks.
pub const NO_LEAK: u8 = 64;

impl Policy {
    /// Answers every source.
    pub const OFF: Self = Self {
        key: [0; 3],
        ordinary: Class::UNLIMITED,
        strict: Class::UNLIMITED,
        kiss: Class::UNLIMITED,
        ipv4_mask: u64::MAX,
        ipv6_mask: u64::MAX,
        set_mask: 0,
        leak: NO_LEAK,
        kiss_poll: 0,
        options: 0,
        lists: 0,
        known_mask: 0,
        known_share: 0,
        reserved: [0; 3],
        chances: Chances::NONE,
    };

    /// Returns the [`Policy::ipv4_mask`] of a prefix length; more than 32 bits count as 32.
    #[must_use]
    pub fn ipv4_mask_of(prefix_length: u8) -> u64 {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix_length.into())).unwrap_or(0);
        word_of(of_ipv4(mask.to_be_bytes()))
    }

    /// Returns the [`Policy::ipv6_mask`] of a prefix length; more than 64 bits count as 64, because within a
    /// /64 every host may choose its addresses freely.
    #[must_use]
    pub fn ipv6_mask_of(prefix_length: u8) -> u64 {
        word_of(u64::MAX.checked_shl(64_u32.saturating_sub(prefix_length.into())).unwrap_or(0).to_be_bytes())
    }

    /// Returns the hash of a source, whose bits give the number of the set and the tag. There are two rounds,
    /// so that each of those bits depends on every bit of the source and of the key.
    #[must_use]
    #[inline(always)]
    pub const fn hash(&self, source: u64) -> u64 {
        let [first, second, third] = self.key;
        let mixed = (source ^ first).wrapping_mul(second | 1);
        (mixed ^ mixed >> 32).wrapping_mul(third | 1)
    }

    /// Returns whether a refused request is answered anyway. The chance depends on the moment, to the
    /// nanosecond, and on the request, under the key: the client knows neither the moment nor the key.
    #[inline(always)]
    pub(crate) const fn leaks(&self, leak: u8, now_ns: u64, noise: u64) -> bool {
        leak < NO_LEAK && self.random(now_ns, noise) >> 1 >> (63_u8.wrapping_sub(leak) & 63) == 0
    }

    /// Returns whether a request by the usual path of a known source is answered, although the source's bucket and its reserve
    /// are empty. The chance is [`Self::known_share`], and depends on the same as the leak, but on other bits.
    #[inline(always)]
    pub(crate) const fn shares(&self, now_ns: u64, noise: u64) -> bool {
        (self.random(now_ns, noise) >> 16 & 0xff) < self.known_share as u64
    }

    #[inline(always)]
    const fn random(&self, now_ns: u64, noise: u64) -> u64 {
        let [first, second, third] = self.key;
        let mixed = (now_ns ^ noise ^ third).wrapping_mul(first | 1);
        (mixed ^ mixed >> 32).wrapping_mul(second | 1)
    }
}

/// Divides a [`Policy::leak`] between two tables that a request has to get through one after the other: the share of
/// the first, and that of the second. A request that both refuse otherwise gets through with the chance of the whole.
#[must_use]
#[inline(always)]
pub const fn divided(leak: u8) -> [u8; 2] {
    if leak >= NO_LEAK {
        return [NO_LEAK; 2];
    }
    let second = leak >> 1;
    [leak.wrapping_sub(second), second]
}

/// The owner of a bucket: the bits of an address that the policy's masks keep, as a word of eight bytes. They are the first half of an IPv6 address. An IPv4 address is preceded by the beginning of a multicast
/// address, which no source has, so that no source of one family is a source of the other, in either byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(u64);

/// The first byte of IPv6 multicast addresses, and of no source's.
const MULTICAST: u8 = 0xff;

/// Returns the bytes of an IPv4 source.
#[inline(always)]
const fn of_ipv4([a, b, c, d]: [u8; 4]) -> [u8; 8] {
    [MULTICAST, 0, 0, 0, a, b, c, d]
}

/// Returns the word of a source's bytes: with the last four, in which neighbours differ, in the lower half, because the
/// hash multiplies, and carries go upwards only.
#[inline(always)]
const fn word_of(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes).rotate_left(32)
}

impl Source {
    /// Creates it from an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub fn ipv4(address: [u8; 4], policy: &Policy) -> Self {
        Self(word_of(of_ipv4(address)) & policy.ipv4_mask)
    }

    /// Creates it from an IPv6 address.
    #[must_use]
    #[inline(always)]
    pub fn ipv6(address: [u8; 16], policy: &Policy) -> Self {
        Self(word_of(crate::packet::load(&address, 0)) & policy.ipv6_mask)
    }

    /// The inverse of [`Self::to_bits`].
    #[must_use]
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the word.
    #[must_use]
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns the address in the word of an IPv4 source.
    #[must_use]
    pub const fn ipv4_address(bits: u64) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = bits.rotate_right(32).to_le_bytes();
        [a, b, c, d]
    }

    /// Returns the first half of the address in the word of an IPv6 source.
    #[must_use]
    pub const fn ipv6_network(bits: u64) -> [u8; 8] {
        bits.rotate_right(32).to_le_bytes()
    }
}

/// Decides about a request that came at `now_ns` of `CLOCK_MONOTONIC`. `noise` is any value that differs from
/// one request to the next.
#[must_use]
#[inline(always)]
pub fn decide<B: Buckets>(
    buckets: &B,
    policy: &Policy,
    class: Class,
    source: Source,
    now_ns: u64,
    noise: u64,
) -> Ruling {
    let ruling = judge(buckets, policy, class, source, now_ns);
    if ruling.decision == Decision::Answer {
        return ruling;
    }
    let decision = refused(buckets, policy, &ruling, buckets.leak(policy.leak), now_ns, noise);
    Ruling { decision, ..ruling }
}

/// Decides whether a source is within its rate: [`Decision::Answer`] or [`Decision::Drop`].
#[inline(always)]
pub(crate) fn judge<B: Buckets>(
    buckets: &B,
    policy: &Policy,
    class: Class,
    source: Source,
    now_ns: u64,
) -> Ruling {
    if class == Class::UNLIMITED {
        return Ruling::unlimited();
    }
    let hash = policy.hash(source.0);
    #[expect(clippy::cast_possible_truncation, reason = "masked by 32 bits")]
    let number = (hash >> SET_SHIFT) as u32 & policy.set_mask;
    let Some(set) = buckets.set(number) else {
        return Ruling::unlimited();
    };
    let now = moment(now_ns);
    let tag = hash >> TAG_SHIFT;
    let Some((bucket, word)) = find(set, tag) else {
        let Place { evicted, is_crowded } = take_place(set, tag, class, now);
        return Ruling { hash, evicted, is_new: true, is_crowded, ..Ruling::unlimited() };
    };

    let until_full = until_full(word, now);
    let ruling = Ruling { hash, until_full: until_full & MOMENT, ..Ruling::unlimited() };
    if let Some(spent) = class.spend(word, now, until_full) {
        bucket.store(spent);
        return ruling;
    }
    let excess = (word & EXCESS) >> EXCESS_SHIFT;
    if excess < MOST_EXCESS {
        // At the maximum there is nothing to write, so that a flood does not move the cache line from CPU to
        // CPU.
        bucket.store(word.wrapping_add(ONE_EXCESS));
    }
    Ruling { decision: Decision::Drop, excess, ..ruling }
}

/// Decides what becomes of a refused request.
#[inline(always)]
pub(crate) fn refused<B: Buckets>(
    buckets: &B,
    policy: &Policy,
    ruling: &Ruling,
    leak: u8,
    now_ns: u64,
    noise: u64,
) -> Decision {
    if policy.leaks(leak, now_ns, noise) {
        Decision::Leak
    } else if ruling.excess < FLOOD && may_kiss(buckets, policy, now_ns) {
        Decision::Kiss
    } else {
        Decision::Drop
    }
}

/// Takes a token from the budget of kisses.
#[inline(always)]
pub(crate) fn may_kiss<B: Buckets>(buckets: &B, policy: &Policy, now_ns: u64) -> bool {
    let budget = policy.kiss;
    let Some(bucket) = buckets.kisses() else {
        return false;
    };
    let (now, word) = (moment(now_ns), bucket.load());
    match budget.spend(word, now, until_full(word, now)) {
        Some(spent) if budget != Class::UNLIMITED => {
            bucket.store(spent);
            true
        }
        _ => false,
    }
}

/// Finds the bucket with this tag, and its word.
#[inline(always)]
fn find<B: Bucket>(set: &[B; WAYS], tag: u64) -> Option<(&B, u64)> {
    let [a, b, c, d] = set;
    let tagged = |bucket| {
        let word = B::load(bucket);
        (word & TAG == tag).then_some((bucket, word))
    };
    tagged(a).or_else(|| tagged(b)).or_else(|| tagged(c)).or_else(|| tagged(d))
}

/// Gives a source without a bucket the one in its set that is nearest to full, with one token taken out.
/// Returns what that bucket was before.
///
/// The code has no branches. Under a flood of new sources each branch would be mispredicted half of the
/// time, and only after the set has come from memory. So the wait for memory passes while the answer is being
/// made.
#[inline(always)]
fn take_place<B: Bucket>(set: &[B; WAYS], tag: u64, class: Class, now: u64) -> Place {
    let [a, b, c, d] = set;
    let nearest = smaller(
        smaller(debt_and_way(a, now, 0), debt_and_way(b, now, 1)),
        smaller(debt_and_way(c, now, 2), debt_and_way(d, now, 3)),
    );
    let mut quiet = 0;
    if let Some(place) = set.get((nearest & WAY) as usize) {
        quiet = now.wrapping_sub(place.load());
        place.store(now.wrapping_add(class.interval()) & MOMENT | tag);
    }
    Place { evicted: nearest > WAY, is_crowded: quiet >> CROWDED_BITS == 0 }
}

/// What a place was before a source took it.
struct Place {
    /// Its bucket was not full.
    evicted: bool,
    /// See [`Ruling::is_crowded`].
    is_crowded: bool,
}

/// A quarter of a second is a little less than 2 to the power of this, as the difference of two moments.
const CROWDED_BITS: u32 = MOMENT_SHIFT + 14;

/// Mask of the bits that hold a bucket's place in its set.
const WAY: u64 = 3;

/// Returns how far a bucket is from full, with its place in the set in the lowest two bits. Classes have
/// different windows, so a value above the longest one is a moment in the past.
#[inline(always)]
fn debt_and_way<B: Bucket>(bucket: &B, now: u64, way: u64) -> u64 {
    let debt = until_full(bucket.load(), now);
    let is_real = (debt >> (LONGEST_WINDOW_BITS + MOMENT_SHIFT)).wrapping_sub(1).cast_signed() >> 63;
    debt & is_real.cast_unsigned() & !WAY | way
}

/// Returns the number of buckets in a set that are in use at a moment, because they are not full yet.
#[must_use]
pub fn in_use(set: &[u64; WAYS], now_ns: u64) -> usize {
    let now = moment(now_ns);
    set.iter().filter(|bucket| until_full(**bucket, now) >> (LONGEST_WINDOW_BITS + MOMENT_SHIFT) == 0).count()
}
