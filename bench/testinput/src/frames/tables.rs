//! What a server without a network limits by: buckets, lists and a budget in memory.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use responder::Access;
use responder::budget::{Allowance, Cost};
use responder::limiter::{Buckets, WAYS};
use responder::sample::Sample;

/// The state of the limiter, of the access lists and of the budget, with all that was reported.
///
/// A decision may be taken back, and made again for another moment.
#[derive(Debug, Default)]
pub struct Tables {
    sets: Vec<[AtomicU64; WAYS]>,
    known: Vec<[AtomicU64; WAYS]>,
    tries: Vec<[AtomicU64; WAYS]>,
    kisses: AtomicU64,
    answers: AtomicU64,
    cost: Mutex<Cost>,
    entries: Vec<(IpAddr, u8, Access)>,
    samples: Mutex<Vec<Sample>>,
    /// What was in the buckets that were used since the last [`Self::keep`].
    before: Mutex<Vec<(Place, u64)>>,
}

/// A bucket of the tables.
#[derive(Clone, Copy, Debug)]
enum Place {
    Set(usize, usize),
    Known(usize, usize),
    Try(usize, usize),
    Kisses,
    Answers,
}

impl Tables {
    /// Empty tables of so many sets. Each entry of the access list is an address, a prefix length in bits, and what
    /// the sources with this prefix get; the longest prefix counts.
    pub fn new(sets: usize, entries: Vec<(IpAddr, u8, Access)>) -> Self {
        let empty = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self { sets: (0..sets).map(empty).collect(), entries, ..Self::default() }
    }

    /// Adds tables of so many sets for known sources and for tries.
    #[must_use]
    pub fn with_known(self, sets: usize) -> Self {
        let empty = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self { known: (0..sets).map(empty).collect(), tries: (0..sets).map(empty).collect(), ..self }
    }

    /// The words of known sources, and those of tries.
    pub fn known_words(&self) -> [Vec<[u64; WAYS]>; 2] {
        let words = |sets: &[[AtomicU64; WAYS]]| {
            let word = |set: &[AtomicU64; WAYS]| std::array::from_fn(|way| set[way].load(Ordering::Relaxed));
            sets.iter().map(word).collect()
        };
        [words(&self.known), words(&self.tries)]
    }

    /// Sets what an answer costs; [`Cost::NOTHING`] for no cap.
    pub fn grant(&self, cost: Cost) {
        *self.cost.lock().unwrap_or_else(PoisonError::into_inner) = cost;
    }

    /// What the access list says of a source.
    pub fn access(&self, source: IpAddr) -> Access {
        let matching =
            self.entries.iter().filter(|(address, length, _)| has_prefix(source, *address, *length));
        matching.max_by_key(|(_, length, _)| *length).map_or(Access::Ordinary, |(_, _, access)| *access)
    }

    /// The words of all buckets: those of the sets, that of the kisses and that of the budget.
    pub fn words(&self) -> (Vec<[u64; WAYS]>, u64, u64) {
        let word = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        let sets = self.sets.iter().map(|set| std::array::from_fn(|way| word(&set[way]))).collect();
        (sets, word(&self.kisses), word(&self.answers))
    }

    /// The number of the set that was looked at since the last [`Self::keep`], and its words.
    pub fn set_in_use(&self) -> Option<(usize, [u64; WAYS])> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let number = before.iter().find_map(|(place, _)| match place {
            Place::Set(number, _) => Some(*number),
            _ => None,
        })?;
        Some((number, std::array::from_fn(|way| self.sets[number][way].load(Ordering::Relaxed))))
    }

    /// The number of the set of known sources that was looked at since the last [`Self::keep`], and its words.
    pub fn known_in_use(&self) -> Option<(usize, [u64; WAYS])> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let number = before.iter().find_map(|(place, _)| match place {
            Place::Known(number, _) => Some(*number),
            _ => None,
        })?;
        Some((number, std::array::from_fn(|way| self.known[number][way].load(Ordering::Relaxed))))
    }

    /// Empties all buckets of sources.
    pub fn forget_buckets(&self) {
        self.sets.iter().flatten().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Makes all known sources an epoch older, and returns the sets in which there are any.
    pub fn age_known(&self) -> Vec<(usize, [u64; WAYS])> {
        let mut aged = Vec::new();
        for (number, set) in self.known.iter().enumerate() {
            for word in set {
                word.store(older(word.load(Ordering::Relaxed)), Ordering::Relaxed);
            }
            let words = std::array::from_fn(|way| set[way].load(Ordering::Relaxed));
            if words != [0; WAYS] {
                aged.push((number, words));
            }
        }
        aged
    }

    /// What the last decision reported, and those before it whose reports were not taken.
    pub fn take_samples(&self) -> Vec<Sample> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on, what was decided cannot be taken back.
    pub fn keep(&self) {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes back what was decided and reported since the last [`Self::keep`].
    pub fn take_back(&self) {
        self.take_samples();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        // The first note of a bucket is the oldest.
        for (place, word) in before.drain(..).rev() {
            self.bucket(place).store(word, Ordering::Relaxed);
        }
    }

    fn bucket(&self, place: Place) -> &AtomicU64 {
        match place {
            Place::Set(number, way) => &self.sets[number][way],
            Place::Known(number, way) => &self.known[number][way],
            Place::Try(number, way) => &self.tries[number][way],
            Place::Kisses => &self.kisses,
            Place::Answers => &self.answers,
        }
    }

    fn note(&self, places: impl IntoIterator<Item = Place>) {
        let with_words = places.into_iter().map(|place| (place, self.bucket(place).load(Ordering::Relaxed)));
        self.before.lock().unwrap_or_else(PoisonError::into_inner).extend(with_words);
    }
}

impl Buckets for Tables {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        let number = usize::try_from(number).ok()?;
        let set = self.sets.get(number)?;
        self.note((0..WAYS).map(|way| Place::Set(number, way)));
        Some(set)
    }

    fn known(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        let number = usize::try_from(number).ok()?;
        let set = self.known.get(number)?;
        self.note((0..WAYS).map(|way| Place::Known(number, way)));
        Some(set)
    }

    fn tries(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        let number = usize::try_from(number).ok()?;
        let set = self.tries.get(number)?;
        self.note((0..WAYS).map(|way| Place::Try(number, way)));
        Some(set)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        self.note([Place::Kisses]);
        Some(&self.kisses)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        let cost = *self.cost.lock().unwrap_or_else(PoisonError::into_inner);
        self.note([Place::Answers]);
        (cost != Cost::NOTHING).then_some(Allowance { cost, bucket: &self.answers })
    }

    fn report(&self, sample: Sample) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

/// Returns a word of a known source as it would be if the source had been seen an epoch earlier.
pub fn older(word: u64) -> u64 {
    let epoch = (word >> 8).wrapping_sub(1) & 0xff;
    if word == 0 { 0 } else { word & !0xff00 | epoch << 8 }
}

/// Whether the first `length` bits of two addresses are the same.
fn has_prefix(source: IpAddr, prefix: IpAddr, length: u8) -> bool {
    let (difference, bits) = match (source, prefix) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()) << 96, 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    difference.leading_zeros() >= u32::from(length).min(bits)
}
