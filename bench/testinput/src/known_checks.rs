//! What holds for every sequence of requests to the table of known sources. A fuzz target and a test over random inputs
//! check it.
//!
//! An input begins with the moment of the first request, and goes on with three bytes for each request: from
//! whom, by which path, and after how long. What the table says of the sources, and what becomes of their requests when their
//! buckets are empty, is compared with an account that has no bit fields.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use responder::admission::{Arrival, Client};
use responder::bucket::Ruling;
use responder::known::{self, MOST_TRUST, REMEMBERED, RESERVE, RESERVE_INTERVAL_S};
use responder::limiter::{Buckets, Class, KNOWN, NO_LEAK, Policy, Source, WAYS};
use responder::sample::{Chances, OTHER_PATH, Sample, USUAL_PATH};
use responder::{Access, Family, Verdict, sample};

/// Length in bytes of what an input begins with.
pub const HEADER: usize = 8;
/// Length in bytes of a request in an input.
pub const REQUEST: usize = 3;

/// An epoch, in which a source has one vote, in ns.
const EPOCH_NS: u64 = 1 << 40;
/// A tick of the buckets' clock in ns.
const TICK_OF_BUCKETS_NS: u64 = 1 << 14;
/// A tick of the reserve in ns.
const TICK_NS: u64 = 1 << 30;
/// Ticks in an epoch.
const EPOCH_TICKS: u64 = EPOCH_NS / TICK_NS;
/// More ticks than this since the last draw or vote, and the reserve's moments may look like a debt.
const SURE_TICKS: u64 = 4000;
/// As many sources as there are places, so that none is pushed out.
const SOURCES: usize = WAYS;

/// One set of each table, and the last report.
#[derive(Default)]
struct Tables {
    set: [AtomicU64; WAYS],
    known: [AtomicU64; WAYS],
    reported: Cell<Option<Sample>>,
}

impl Buckets for Tables {
    type Bucket = AtomicU64;

    fn set(&self, _number: u32) -> Option<&[AtomicU64; WAYS]> {
        Some(&self.set)
    }

    fn known(&self, _number: u32) -> Option<&[AtomicU64; WAYS]> {
        Some(&self.known)
    }

    fn report(&self, sample: Sample) {
        self.reported.set(Some(sample));
    }
}

/// What the table has to know of a source.
#[derive(Clone, Copy, Debug)]
struct Memory {
    epochs: u32,
    last_epoch: u64,
    hops: u8,
    trust: u64,
    /// Requests that are missing from the reserve, in ticks that it takes to earn them, and the tick in which that was so.
    drawn: (u64, u64),
    /// Whether the reserve's moments, which come round after an hour and some, may look like a debt since the last vote.
    is_unsure: bool,
}

impl Memory {
    const fn first(hops: u8, epoch: u64) -> Self {
        Self {
            epochs: 1,
            last_epoch: epoch,
            hops,
            trust: 1,
            drawn: (0, epoch * EPOCH_TICKS),
            is_unsure: false,
        }
    }

    /// After the vote of an epoch.
    fn after_vote(self, hops: u8, epoch: u64) -> Self {
        let (trust, hops) = if self.hops == hops {
            ((self.trust + 2).min(MOST_TRUST), hops)
        } else if self.trust > 1 {
            (self.trust - 1, self.hops)
        } else {
            (1, hops)
        };
        Self {
            epochs: self.epochs + 1,
            last_epoch: epoch,
            hops,
            trust,
            drawn: (0, epoch * EPOCH_TICKS),
            is_unsure: false,
        }
    }

    const fn is_known(&self) -> bool {
        self.epochs >= 2
    }

    const fn is_usual(&self, hops: u8) -> bool {
        self.is_known() && self.trust >= 2 && self.hops == hops
    }
}

/// Puts requests of a few sources to the limiter and the table of known sources.
///
/// - A source has a vote if its bucket has been full since the last epoch, or if it has none; one time in sixteen
///   if there are more sources than buckets.
/// - It is known from its second vote on, and forgotten when it was not seen for as many as [`REMEMBERED`].
/// - The usual path is the one that most of the last epochs voted for, as far as trust goes.
/// - If its bucket is empty, requests by the usual path draw on the reserve: as many as it has, and no more.
/// - Others are refused, and move nothing.
pub fn known(header: [u8; HEADER], requests: &[u8]) {
    // A bucket of the limiter has its moment modulo 208 days; see the checks of the limiter.
    let mut now_ns = (u64::from_le_bytes(header) >> 12) + EPOCH_NS;
    let policy = Policy {
        // One under which the sources have different tags.
        key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0],
        ordinary: Class::new(1, 4).expect("a class"),
        options: KNOWN,
        leak: NO_LEAK,
        chances: Chances { request: u64::MAX, source: 0 },
        ..Policy::OFF
    };
    let tables = Tables::default();
    let mut memories = [None::<Memory>; SOURCES];
    let (requests, _) = requests.as_chunks::<REQUEST>();
    let mut walked_ns = now_ns;
    for [source, path, wait] in requests {
        // From nothing to days: a mantissa and an exponent.
        now_ns = now_ns.saturating_add(u64::from(wait % 8) << (24 + wait / 8)).min(1 << 53);
        let (number, hops, epoch) = (usize::from(*source) % SOURCES, path % 3 + 1, now_ns / EPOCH_NS);
        forget(&tables, walked_ns, now_ns);
        walked_ns = now_ns;
        memories[number] = memories[number].filter(|memory| epoch - memory.last_epoch <= REMEMBERED);
        let memory = memories[number];
        let ruling = ruling(&tables, &policy, number, now_ns);
        let teaches = if ruling.is_new {
            !ruling.is_crowded || now_ns & 0x3c0 == 0
        } else {
            ruling.owed() == 0 && ruling.quiet() * TICK_OF_BUCKETS_NS > now_ns % EPOCH_NS
        };
        let before = words(&tables);
        let verdict = ask(&tables, &policy, number, hops, now_ns);
        let kind = tables.reported.take().map(|sample| sample.kind);
        match verdict {
            Verdict::Answered if teaches => {
                let expected = match memory {
                    Some(memory) if memory.is_usual(hops) => sample::KNOWN | USUAL_PATH,
                    Some(memory) if memory.is_known() => sample::KNOWN | OTHER_PATH,
                    _ => 0,
                };
                let kind = kind.map(|kind| kind & (sample::KNOWN | USUAL_PATH | OTHER_PATH));
                assert!(kind.is_none_or(|kind| kind == expected), "{kind:?}, {expected}, {memory:?}");
                memories[number] = Some(match memory {
                    None => Memory::first(hops, epoch),
                    Some(memory) if memory.last_epoch == epoch => memory,
                    Some(memory) => memory.after_vote(hops, epoch),
                });
            }
            Verdict::Answered => {}
            Verdict::AnsweredKnown => {
                let memory = memories[number].as_mut().expect("a source that is known");
                assert!(memory.is_usual(hops), "{memory:?}");
                let tick = now_ns / TICK_NS;
                memory.is_unsure |= tick - memory.drawn.1 > SURE_TICKS;
                let owed = memory.drawn.0.saturating_sub(tick - memory.drawn.1);
                assert!(
                    owed + RESERVE_INTERVAL_S <= RESERVE * RESERVE_INTERVAL_S,
                    "beyond the reserve: {memory:?}"
                );
                memory.drawn = (owed + RESERVE_INTERVAL_S, tick);
            }
            Verdict::DropLimited => {
                if let Some(memory) = memory.filter(|memory| memory.is_usual(hops)) {
                    let since = now_ns / TICK_NS - memory.drawn.1;
                    let owed = memory.drawn.0.saturating_sub(since);
                    assert!(
                        owed + RESERVE_INTERVAL_S > RESERVE * RESERVE_INTERVAL_S
                            || since > SURE_TICKS
                            || memory.is_unsure,
                        "refused with a reserve: {memory:?}"
                    );
                }
                assert_eq!(words(&tables).1, before.1, "a refused request moves nothing");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Empties the words of sources that are forgotten, as the daemon does in its walks, because the epochs in the words come
/// round after three days.
fn forget(tables: &Tables, from_ns: u64, to_ns: u64) {
    let moments = (from_ns..to_ns).step_by(1 << 46).take(8).chain([to_ns]);
    for moment in moments {
        for word in &tables.known {
            if !known::is_remembered(word.load(Ordering::Relaxed), known::epoch(moment)) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// The words of the limiter, and those of known sources.
fn words(tables: &Tables) -> ([u64; WAYS], [u64; WAYS]) {
    let of = |set: &[AtomicU64; WAYS]| array::from_fn(|way| set[way].load(Ordering::Relaxed));
    (of(&tables.set), of(&tables.known))
}

fn ask(tables: &Tables, policy: &Policy, number: usize, hops: u8, now_ns: u64) -> Verdict {
    client(policy, number, hops).admit(tables, policy, now_ns)
}

fn client(policy: &Policy, number: usize, hops: u8) -> Client {
    Client {
        access: Access::Ordinary,
        source: Source::ipv4([198, 51, 100, u8::try_from(number).unwrap_or(u8::MAX)], policy),
        family: Family::Ipv4,
        answer_bytes: 90,
        arrival: Arrival { port: 123, hops, ingress: 1 },
        before_socket: false,
        version: 4,
        poll: 6,
        transmit: [1; 8],
        is_probe: false,
    }
}

/// What the limiter by itself says of a request.
fn ruling(tables: &Tables, policy: &Policy, number: usize, now_ns: u64) -> Ruling {
    let copy = Tables::default();
    for (to, from) in copy.set.iter().zip(&tables.set) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let source = client(policy, number, 1).source;
    responder::limiter::decide(&copy, policy, policy.ordinary, source, now_ns, 0)
}
