//! What holds for every sequence of requests to the limiter and to the budget. Fuzz targets and tests over random inputs
//! check it.
//!
//! An input begins with what does not change and goes on with four bytes for each request: when it comes, and from whom.
//! What the code under test decides is compared with an account in nanoseconds, which has no tables and no bit fields.
#![expect(clippy::cast_possible_truncation, reason = "the bytes of a number below 2^16")]

use std::sync::atomic::{AtomicU64, Ordering};

use responder::admission::Client;
use responder::bucket::{Decision, Ruling, WAYS};
use responder::budget::{Allowance, Cost, UNITS_IN_A_NS, WINDOW_NS};
use responder::limiter::{self, BUDGET, Buckets, Class, NO_LEAK, Policy, Source};
use responder::message::{LENGTH, Request};
use responder::{Access, Family, Verdict};

/// Length in bytes of what an input begins with.
pub const HEADER: usize = 8;
/// Length in bytes of a request in an input.
pub const REQUEST: usize = 4;
/// A tick of the buckets' clock in nanoseconds; a bucket that has filled up is filled to a whole one.
const TICK_NS: u64 = 1 << 14;
/// More ticks than an empty bucket takes to fill. A bucket that is further from full is one that was full long ago.
const LONGEST_TICKS: u64 = 1 << 28;
const KEY: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0];

/// Sets of a table.
const SETS: usize = 4;

/// The buckets of one CPU, with nothing around them that takes time.
#[derive(Default)]
struct Cpu {
    sets: [[AtomicU64; WAYS]; SETS],
    kisses: AtomicU64,
    answers: AtomicU64,
    cost: Cost,
}

impl Cpu {
    fn first_set(&self) -> [u64; WAYS] {
        std::array::from_fn(|way| self.sets[0][way].load(Ordering::Relaxed))
    }
}

impl Buckets for Cpu {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.sets.get(number as usize)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        Some(&self.kisses)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        Some(Allowance { cost: self.cost, bucket: &self.answers })
    }
}

/// The times of the requests in an input, and a number that each comes with.
struct Requests<'a> {
    rest: &'a [u8],
    now_ns: u64,
}

impl<'a> Requests<'a> {
    /// The first half of a header says when the first request comes.
    fn new(header: [u8; HEADER], rest: &'a [u8]) -> Self {
        let [a, b, c, d, ..] = header;
        // Up to a hundred days after the start of the machine. Buckets have their moments modulo 208 days: in the hour
        // before that, a place that was never taken looks like one whose source owes.
        Self { rest, now_ns: u64::from(u32::from_ne_bytes([a, b, c, d])) << 21 | 1 }
    }
}

impl Iterator for Requests<'_> {
    type Item = (u64, u16);

    /// Two bytes are the gap before a request, from nanoseconds to minutes: a mantissa and an exponent.
    fn next(&mut self) -> Option<(u64, u16)> {
        let ([mantissa, exponent, a, b], rest) = self.rest.split_first_chunk::<REQUEST>()?;
        self.rest = rest;
        self.now_ns = self.now_ns.wrapping_add(u64::from(*mantissa) << (exponent % 32)) >> 1 << 1 | 1;
        Some((self.now_ns, u16::from_ne_bytes([*a, *b])))
    }
}

/// How far a source's bucket is from full, to the nanosecond.
#[derive(Clone, Copy, Default)]
struct Account {
    owed_ns: u64,
    at_ns: u64,
}

impl Account {
    fn owed_at(self, now_ns: u64) -> u64 {
        self.owed_ns.saturating_sub(now_ns - self.at_ns)
    }

    fn charge(&mut self, now_ns: u64, cost_ns: u64) {
        *self = Self { owed_ns: self.owed_at(now_ns) + cost_ns, at_ns: now_ns };
    }
}

fn class(rate: u8, burst: u8) -> Class {
    // From one request per 16 s, if a burst of them fits, to 60,000 per second.
    let rate = u32::from(rate) * u32::from(rate) + 1;
    Class::new(rate.min(60_000), u32::from(burst) + 1)
        .expect("a rate of at least 1 and a burst of at most 256")
}

/// Puts requests to a limiter, of four sources in the only set, and of hundreds that push each other out.
///
/// - A source gets no more answers than its burst and one for each interval, except by the leak, and it gets them.
/// - A refused request moves no bucket.
/// - Kisses are within their own class.
/// - A source that has no bucket is answered, and takes the place of the one that is nearest to full.
pub fn limiter(header: [u8; HEADER], requests: &[u8]) {
    let [.., rate, burst, kisses, options] = header;
    let policy = Policy {
        key: KEY,
        ordinary: class(rate, burst),
        kiss: class(kisses, kisses),
        leak: if options & 1 == 0 { NO_LEAK } else { options >> 4 },
        ..Policy::OFF
    };
    let interval_ns = policy.ordinary.interval_ns();
    let window_ns = interval_ns * (u64::from(burst) + 1);
    let kiss_window_ns = policy.kiss.interval_ns() * (u64::from(kisses) + 1);
    // As many as there are places, so that nobody is forgotten who owes anything, or more.
    let sources = if options & 2 == 0 { WAYS } else { 1 + usize::from(options >> 2) * 4 };
    let tables = Cpu::default();
    let mut accounts = [Account::default(); WAYS];
    let mut told = Account::default();
    for (now_ns, from) in Requests::new(header, requests) {
        let address = usize::from(from) % sources;
        let source = Source::ipv4([198, 51, (address >> 8) as u8, address as u8], &policy);
        let before = tables.first_set();
        let ruling =
            limiter::decide(&tables, &policy, policy.ordinary, source, now_ns, u64::from(from) ^ now_ns);
        let after = tables.first_set();
        check_buckets(&before, &after, &ruling, now_ns);
        match ruling.decision {
            Decision::Leak => assert_ne!(policy.leak, NO_LEAK),
            Decision::Kiss => {
                told.charge(now_ns, policy.kiss.interval_ns());
                assert!(told.owed_ns <= kiss_window_ns + TICK_NS, "too many kisses");
            }
            Decision::Answer | Decision::Drop => {}
        }
        if let Some(account) = accounts.get_mut(address).filter(|_| sources <= WAYS) {
            let owed_ns = account.owed_at(now_ns);
            if ruling.decision == Decision::Answer {
                account.charge(now_ns, interval_ns);
                assert!(account.owed_ns <= window_ns + TICK_NS, "more than the burst and the rate");
            } else {
                assert!(owed_ns + interval_ns > window_ns, "refused within burst and rate");
            }
        }
    }
}

/// What a decision does to the buckets of its set.
fn check_buckets(before: &[u64; WAYS], after: &[u64; WAYS], ruling: &Ruling, now_ns: u64) {
    // The tag is the highest bits of the hash, and the lowest of the bucket.
    let tag = |word: u64| word & 0xf_ffff;
    let is_own = |word: &u64| tag(*word) == ruling.hash >> 44;
    let moment = |word: u64| word >> 24;
    let changed = || (0..WAYS).filter(|way| before[*way] != after[*way]);
    assert!(changed().count() <= 1, "{before:x?} {after:x?}");
    let Some(own) = before.iter().position(is_own) else {
        assert_eq!(ruling.decision, Decision::Answer, "a source without a bucket is answered");
        let place = after.iter().position(is_own).expect("it has a bucket now");
        let owed = |word: u64| {
            let ns = (moment(word) << 14).wrapping_sub(now_ns) << 10 >> 10;
            if ns >> 14 >= LONGEST_TICKS { 0 } else { ns }
        };
        for other in before {
            assert!(owed(before[place]) <= owed(*other), "somebody who owed more was forgotten");
        }
        assert_eq!(ruling.evicted, owed(before[place]) != 0);
        return;
    };
    assert!(!ruling.evicted);
    if ruling.decision != Decision::Answer {
        assert_eq!(moment(before[own]), moment(after[own]), "a refused request costs nothing");
        assert_eq!(tag(before[own]), tag(after[own]));
    }
    assert!(changed().all(|way| way == own), "nobody else's bucket is touched");
}

/// Puts requests to the budget of one CPU, while its share changes.
///
/// - Over any time, no more is answered than the cap and what was saved, except to sources without a limit.
/// - Those are always answered.
/// - Nobody is refused while nothing is spent.
pub fn budget(header: [u8; HEADER], requests: &[u8]) {
    let [.., rate, burst, answers, options] = header;
    let policy = Policy {
        key: KEY,
        ordinary: class(rate, burst),
        set_mask: SETS as u32 - 1,
        leak: if options & 1 == 0 { NO_LEAK } else { options >> 4 },
        options: BUDGET,
        ..Policy::OFF
    };
    let bytes = 90 + usize::from(options >> 1) * 8;
    let mut tables = Cpu::default();
    let mut message = [0; LENGTH];
    message[0] = 0x23;
    let request = Request::parse(&message, 40_000, &policy).expect("a request");
    // In units of the budget.
    let mut spent = Account::default();
    let window = WINDOW_NS * UNITS_IN_A_NS;
    for (now_ns, number) in Requests::new(header, requests) {
        let [address, kind] = number.to_ne_bytes();
        // From 10 answers per second to a million, by the frame or by its length.
        let share = 1_u64 << ((answers ^ kind >> 4) % 17);
        let answer = 1_000_000_000 * UNITS_IN_A_NS / (10 * share);
        let cost = if kind & 8 == 0 { Cost { answer, byte: 0 } } else { Cost { answer: 1, byte: answer } };
        tables.cost = cost;
        let access = if kind % 8 == 0 { Access::Unlimited } else { Access::Ordinary };
        let source = Source::ipv4([198, 51, 100, address], &policy);
        let client = Client::new(access, source, Family::Ipv4, bytes, request);
        let now = now_ns * UNITS_IN_A_NS;
        let before = spent.owed_at(now);
        let verdict = client.admit(&tables, &policy, now_ns);
        match verdict {
            Verdict::Answered | Verdict::Leaked => {
                assert!(access == Access::Unlimited || before < window, "beyond the cap");
                // Who is answered although nothing is left makes the others wait no longer.
                if before < window {
                    spent.charge(now, cost.of(bytes));
                }
            }
            Verdict::DropBudget => {
                assert_ne!(access, Access::Unlimited);
                assert_ne!(before, 0, "refused while nothing is spent");
            }
            Verdict::DropLimited => assert_ne!(access, Access::Unlimited),
            other => panic!("{other:?}"),
        }
        let word = tables.answers.load(Ordering::Relaxed);
        assert_eq!(word.wrapping_sub(now).cast_signed().max(0).cast_unsigned(), spent.owed_at(now));
    }
}
