//! What the sockets' thread and the daemon share: the clock, the limits and the counters.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use responder::budget::{self, Allowance, Cost};
use responder::known;
use responder::layout::Count;
use responder::limiter::{Buckets, WAYS};
use responder::sample::{Chances, Sample};
use responder::verdict::{COUNTERS, Outcome};
use responder::{Access, ClockState, Policy};

use crate::serving::limits::Effective;
use crate::status::sources::Peers;

/// Sets of this path's own tables of buckets, of known sources and of tries: what comes here is little, and a table in a map would cost a call
/// of the kernel for each request.
const SETS: u32 = 1 << 12;

/// How many are answered, as the sockets' thread goes by it.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) policy: Policy,
}

/// Samples that wait for the daemon; more are lost.
pub const MOST_SAMPLES: usize = 256;

/// The sockets' own buckets, and their part of the budget.
#[derive(Debug)]
pub(super) struct Table {
    sets: Vec<[AtomicU64; WAYS]>,
    known: Vec<[AtomicU64; WAYS]>,
    tries: Vec<[AtomicU64; WAYS]>,
    kisses: AtomicU64,
    answers: AtomicU64,
    cost: Mutex<Cost>,
    samples: Mutex<Vec<Sample>>,
}

impl Buckets for Table {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.sets.get(usize::try_from(number).ok()?)
    }

    fn known(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.known.get(usize::try_from(number).ok()?)
    }

    fn tries(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tries.get(usize::try_from(number).ok()?)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        Some(&self.kisses)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        let cost = *self.cost.lock().unwrap_or_else(PoisonError::into_inner);
        (cost != Cost::NOTHING).then_some(Allowance { cost, bucket: &self.answers })
    }

    fn report(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < MOST_SAMPLES {
            samples.push(sample);
        }
    }
}

/// What the two threads share.
#[derive(Debug)]
pub struct Shared {
    clock: Mutex<Option<ClockState>>,
    limits: Mutex<Arc<Limits>>,
    /// The access lists in force. Whoever changes them does so entry by entry.
    pub lists: Arc<RwLock<Effective>>,
    peers: Mutex<Arc<Peers>>,
    pub(super) table: Table,
    packets: Vec<AtomicU64>,
    bytes: Vec<AtomicU64>,
}

impl Shared {
    pub(super) fn new() -> Self {
        let zeros = || (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        let empty = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            clock: Mutex::new(None),
            limits: Mutex::new(Arc::new(Limits { policy: Policy::OFF })),
            lists: Arc::default(),
            peers: Mutex::default(),
            table: Table {
                sets: (0..SETS).map(empty).collect(),
                known: (0..SETS).map(empty).collect(),
                tries: (0..SETS).map(empty).collect(),
                kisses: AtomicU64::new(0),
                answers: AtomicU64::new(0),
                cost: Mutex::default(),
                samples: Mutex::default(),
            },
            packets: zeros(),
            bytes: zeros(),
        }
    }

    /// Gives the sockets the clock that the program answers by.
    pub fn publish_clock(&self, clock: ClockState) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    /// Gives the sockets the limits that the program goes by.
    pub fn publish_limits(&self, policy: &Policy) {
        let limits = Limits { policy: Policy { set_mask: SETS - 1, known_mask: SETS - 1, ..*policy } };
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }

    /// Gives the sockets what they tell of the clock and the upstreams.
    pub fn publish_peers(&self, peers: Peers) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
    }

    /// What they tell of them.
    #[must_use]
    pub fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says which requests are to be reported from now on.
    pub fn publish_chances(&self, chances: Chances) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = Policy { chances, ..limits.policy };
        *limits = Arc::new(Limits { policy });
    }

    /// How full the sockets' bucket of the budget is.
    #[must_use]
    pub fn budget_level(&self, now_ns: u64) -> u64 {
        budget::level(self.table.answers.load(Ordering::Relaxed), now_ns)
    }

    /// Sets what an answer costs.
    pub fn grant(&self, cost: Cost) {
        *self.table.cost.lock().unwrap_or_else(PoisonError::into_inner) = cost;
    }

    /// Forgets the sources that were not seen for a day, see [`crate::serving::xdp::Datapath::forget_sources`].
    pub fn forget_sources(&self, now_ns: u64) {
        let epoch = known::epoch(now_ns);
        for place in self.table.known.iter().flatten() {
            let word = place.load(Ordering::Relaxed);
            if word != 0 && !known::is_remembered(word, epoch) {
                // If the sockets' thread has written it meanwhile, it has seen the source.
                let _seen = place.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Takes the samples of what came to the sockets.
    #[must_use]
    pub fn take_samples(&self) -> Vec<Sample> {
        std::mem::take(&mut self.table.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the access lists say of a source.
    pub(super) fn access(&self, source: IpAddr) -> Access {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).of(source)
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn clock(&self) -> Option<ClockState> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, outcome: Outcome, bytes: usize) {
        let index = outcome.counter();
        self.packets[index].fetch_add(1, Ordering::Relaxed);
        self.bytes[index].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What came to the sockets so far, by [`Outcome::counter`]. Bytes are of the UDP payload.
    #[must_use]
    pub fn counters(&self) -> Box<[Count; COUNTERS]> {
        let mut counters = Box::new([Count::default(); COUNTERS]);
        for (index, count) in counters.iter_mut().enumerate() {
            count.packets = self.packets[index].load(Ordering::Relaxed);
            count.bytes = self.bytes[index].load(Ordering::Relaxed);
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_forget_a_source_before_its_epoch_comes_round_again() {
        const EPOCH: u64 = 1 << 40;
        let shared = Shared::new();
        // Seen in two epochs, the last of which is the tenth.
        let word = 0x1234_5000_0000_0000 | 10 << 8 | 2;
        for (epoch, is_kept) in [(10, true), (10 + known::REMEMBERED, true), (11 + known::REMEMBERED, false)]
        {
            shared.table.known[7][3].store(word, Ordering::Relaxed);
            shared.forget_sources(epoch * EPOCH);
            let after = shared.table.known[7][3].load(Ordering::Relaxed);
            assert_eq!(after, if is_kept { word } else { 0 }, "epoch {epoch}");
        }
    }
}
