//! The sources that are known from earlier, by what only they and the network between them and us can know.
//!
//! # What is remembered
//!
//! A word for each source, found by bits of its keyed hash, so that no address is in it:
//!
//! | bits | |
//! |---|---|
//! | 44 to 63 | tag of the source |
//! | 28 to 43 | its usual [`Path`] |
//! | 16 to 27 | reserve: when its bucket is full again, in ticks of 2^30 ns modulo 2^12 |
//! | 8 to 15 | the epoch in which it was last seen, in units of 2^40 ns (18 minutes) modulo 2^8 |
//! | 2 to 4 | trust in the path |
//! | 0 to 1 | in how many epochs it was seen, up to 3; 0 means that the word is empty |
//!
//! A source is known once it was seen in two epochs, and forgotten when it has not been seen for [`REMEMBERED`] of
//! them, a little less than a day. A stranger takes the place of nobody who is known: a flood from random sources
//! pushes out only other strangers.
//!
//! # The usual path
//!
//! Whoever forges a source's address does not see the source's requests, and so does not know with which TTL or hop
//! limit they arrive, nor by which interface, VLAN and router. The path is learnt in quiet times: in each epoch, the
//! first request has a vote if the source's bucket has been full since the epoch before. A path that is confirmed in a
//! second epoch is the usual one. Trust in it goes up by two with each vote for it, to [`MOST_TRUST`], and down by one with
//! each vote for another. Nothing is written otherwise, so that a
//! source that asks all the time costs a look at one cache line.
//!
//! # The reserve
//!
//! If the bucket of a known source is empty, requests by its usual path draw on a bucket of their own, of
//! [`RESERVE`] requests and one more every [`RESERVE_INTERVAL_S`] seconds. A source that was quiet at the beginning of an
//! epoch has a full one. Behind that, a share of them is answered,
//! [`crate::Policy::known_share`]: if a forger has guessed the path, nothing tells his requests from the source's, and the
//! source keeps that share of its answers.

use crate::bucket::{Bucket, WAYS, smaller};

/// Sets of the table: half a million sources in 4 MiB.
pub const SETS: u32 = 1 << 17;
/// The number of epochs after which a source is forgotten: 23.8 hours.
pub const REMEMBERED: u64 = 78;
/// Requests in a full reserve.
pub const RESERVE: u64 = 16;
/// Seconds, about, in which the reserve earns a request.
pub const RESERVE_INTERVAL_S: u64 = RESERVE_INTERVAL;
/// The most epochs that a path can be ahead of others.
pub const MOST_TRUST: u64 = 4;

/// The bits of the hash that choose the set begin here, as those of the limiter do.
const SET_SHIFT: u32 = 20;
const TAG_SHIFT: u32 = 44;
const PATH_SHIFT: u32 = 28;
const RESERVE_SHIFT: u32 = 16;
const MOMENT: u64 = 0xfff;
const EPOCH_SHIFT: u32 = 8;
const EPOCH: u64 = 0xff;
const TRUST_SHIFT: u32 = 2;
const TRUST: u64 = 7;
const SEEN: u64 = 3;
/// The number of epochs in which a known source was seen, at least.
const KNOWN_SEEN: u64 = 2;
/// The trust in a usual path, at least.
const USUAL_TRUST: u64 = 2;

/// An epoch is 2^40 ns.
const EPOCH_NS_SHIFT: u32 = 40;
/// The nanoseconds within an epoch.
pub(crate) const EPOCH_MASK_NS: u64 = (1 << EPOCH_NS_SHIFT) - 1;
/// A tick of the reserve is 2^30 ns.
const TICK_NS_SHIFT: u32 = 30;
/// Ticks in which the reserve earns a request.
const RESERVE_INTERVAL: u64 = 2;
const RESERVE_WINDOW: u64 = RESERVE.wrapping_mul(RESERVE_INTERVAL);

/// The way by which a request came: what the network between the client and this host decides, not the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path(
    /// The hops above eight bits of what the request came in by. 0 is an unknown path.
    u16,
);

impl Path {
    /// The path of a request about whose way nothing is known.
    pub const UNKNOWN: Self = Self(0);

    /// Makes it from the TTL or hop limit with which a request arrived, 0 if that is not known, and from
    /// [`crate::ethernet::ingress`].
    #[must_use]
    #[inline(always)]
    pub const fn new(hops: u8, ingress: u8) -> Self {
        Self(if hops == 0 { 0 } else { (hops as u16) << 8 | ingress as u16 })
    }
}

/// What is known of the source of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not known.
    Stranger,
    /// It is known, and nothing can be said about the path of the request.
    Known,
    /// It is known, and the request came by its usual path.
    Usual,
    /// It is known, and the request came by another path, or there is no usual one.
    Other,
}

/// Returns the number of the set in which a source is, by its hash and the number of sets, a power of two, minus one.
#[must_use]
#[inline(always)]
pub const fn set_number(hash: u64, set_mask: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "masked by 32 bits")]
    let number = (hash >> SET_SHIFT) as u32;
    number & set_mask
}

/// Returns the epoch of a moment of `CLOCK_MONOTONIC`.
#[must_use]
#[inline(always)]
pub const fn epoch(now_ns: u64) -> u64 {
    now_ns >> EPOCH_NS_SHIFT & EPOCH
}

/// Returns how many epochs ago a source was last seen, plus one: for another CPU the next epoch may have begun.
#[inline(always)]
const fn age(word: u64, epoch: u64) -> u64 {
    epoch.wrapping_add(1).wrapping_sub(word >> EPOCH_SHIFT) & EPOCH
}

/// Returns whether a word says anything that is not to be forgotten by now.
#[must_use]
#[inline(always)]
pub const fn is_remembered(word: u64, epoch: u64) -> bool {
    word & SEEN != 0 && age(word, epoch) <= REMEMBERED.wrapping_add(1)
}

/// Returns whether a word is that of a known source.
#[must_use]
#[inline(always)]
pub const fn is_known(word: u64, epoch: u64) -> bool {
    word & SEEN >= KNOWN_SEEN && is_remembered(word, epoch)
}

/// Finds the place of a source, and its word.
#[inline(always)]
pub(crate) fn find<B: Bucket>(set: &[B; WAYS], hash: u64, epoch: u64) -> Option<(&B, u64)> {
    let [a, b, c, d] = set;
    let of_source = |place| {
        let word = B::load(place);
        ((word ^ hash) >> TAG_SHIFT == 0 && is_remembered(word, epoch)).then_some((place, word))
    };
    of_source(a).or_else(|| of_source(b)).or_else(|| of_source(c)).or_else(|| of_source(d))
}

/// Returns the standing of a request of a source with this word.
#[inline(always)]
pub(crate) const fn standing(word: u64, path: Path) -> Standing {
    if word & SEEN < KNOWN_SEEN {
        Standing::Stranger
    } else if path.0 == 0 {
        Standing::Known
    } else if usual_path(word) == path.0 && word >> TRUST_SHIFT & TRUST >= USUAL_TRUST {
        Standing::Usual
    } else {
        Standing::Other
    }
}

#[inline(always)]
const fn usual_path(word: u64) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "the path has 16 bits")]
    let path = (word >> PATH_SHIFT) as u16;
    path
}

/// Returns the word of a source after a request in quiet times, or the same word if there is nothing new in it: the source
/// has had its vote of this epoch.
#[inline(always)]
pub(crate) const fn seen(word: u64, path: Path, now_ns: u64) -> u64 {
    let epoch = epoch(now_ns);
    // An age of 0 is that of a word which another CPU has written in the next epoch already.
    if age(word, epoch) <= 1 {
        return word;
    }
    let times = word & SEEN;
    let times = if times < SEEN { times.wrapping_add(1) } else { times };
    let trust = word >> TRUST_SHIFT & TRUST;
    let (trust, usual) = if path.0 == 0 {
        (trust, usual_path(word))
    } else if usual_path(word) == path.0 {
        // A vote for the usual path weighs twice: one for another, by a forger who begins just then, is not enough.
        let more = trust.wrapping_add(2);
        (if more < MOST_TRUST { more } else { MOST_TRUST }, path.0)
    } else if trust > 1 {
        (trust.wrapping_sub(1), usual_path(word))
    } else {
        (1, path.0)
    };
    of(word, usual, now_ns) | trust << TRUST_SHIFT | times
}

/// Returns the word of a source that was not remembered.
#[inline(always)]
const fn first_seen(hash: u64, path: Path, now_ns: u64) -> u64 {
    of(hash, path.0, now_ns) | 1 << TRUST_SHIFT | 1
}

/// Returns a word with the tag of a hash, a path, and a full reserve, without trust.
#[inline(always)]
const fn of(hash: u64, path: u16, now_ns: u64) -> u64 {
    hash >> TAG_SHIFT << TAG_SHIFT
        | (path as u64) << PATH_SHIFT
        | (now_ns >> TICK_NS_SHIFT & MOMENT) << RESERVE_SHIFT
        | epoch(now_ns) << EPOCH_SHIFT
}

/// Remembers a source that was not: in the place of one that is forgotten, or of the stranger who was seen least
/// recently. If all in its set are known, there is no place for it.
///
/// There is one branch, for the same reason as in [`crate::limiter`].
#[inline(always)]
pub(crate) fn remember<B: Bucket>(set: &[B; WAYS], hash: u64, path: Path, now_ns: u64) {
    let epoch = epoch(now_ns);
    let [a, b, c, d] = set;
    let least = smaller(
        smaller(worth_and_way(a, epoch, 0), worth_and_way(b, epoch, 1)),
        smaller(worth_and_way(c, epoch, 2), worth_and_way(d, epoch, 3)),
    );
    if least < OF_KNOWN
        && let Some(place) = set.get((least & WAY) as usize)
    {
        place.store(first_seen(hash, path, now_ns));
    }
}

/// Mask of the bits that hold a place in its set.
const WAY: u64 = 3;
/// The worth of a known source is at least this.
const OF_KNOWN: u64 = 1 << 12;

/// Returns what it would cost to forget a place's source, with the place in the set in the lowest two bits.
#[inline(always)]
fn worth_and_way<B: Bucket>(place: &B, epoch: u64, way: u64) -> u64 {
    let word = place.load();
    let (times, age) = (word & SEEN, age(word, epoch));
    let is_recent = age.wrapping_sub(REMEMBERED.wrapping_add(2)) >> 63;
    let is_used = (times | times >> 1) & 1;
    let of_known = (times >> 1).wrapping_mul(OF_KNOWN);
    (is_recent & is_used).wrapping_mul(EPOCH.wrapping_add(1).wrapping_sub(age) << 2 | of_known) | way
}

/// Takes a request out of the reserve of a source. Returns the new word, or `None` if the reserve is empty.
#[inline(always)]
pub(crate) const fn draw(word: u64, now_ns: u64) -> Option<u64> {
    let now = now_ns >> TICK_NS_SHIFT & MOMENT;
    let until_full = (word >> RESERVE_SHIFT).wrapping_sub(now) & MOMENT;
    // A value above the window is a moment in the past.
    let until_full = if until_full > RESERVE_WINDOW { 0 } else { until_full };
    let after = until_full.wrapping_add(RESERVE_INTERVAL);
    if after > RESERVE_WINDOW {
        return None;
    }
    let full = now.wrapping_add(after) & MOMENT;
    Some(word & !(MOMENT << RESERVE_SHIFT) | full << RESERVE_SHIFT)
}
