//! What known sources are promised: they come before strangers when the budget is short, and whoever forges their
//! addresses does not mute them.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    reason = "a test that panics says what it has to say"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use responder::admission::{Arrival, Client};
use responder::budget::{Allowance, Cost, UNITS_IN_A_NS};
use responder::known;
use responder::limiter::{BUDGET, Buckets, Class, KNOWN, Policy, Source, WAYS};
use responder::sample::{self, Chances, Sample};
use responder::{Access, Action, Family, Verdict};
use testinput::known_checks;

const SECOND: u64 = 1_000_000_000;
/// An epoch of the table of known sources.
const EPOCH: u64 = 1 << 40;
const KEY: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0];
/// Buckets of the limiter, as many as a server has by default.
const BUCKETS: usize = 1 << 16;
/// The TTL with which most requests arrive here.
const HOPS: u8 = 51;

/// A server's memory.
struct Server {
    sets: Vec<[AtomicU64; WAYS]>,
    known: Vec<[AtomicU64; WAYS]>,
    tries: Vec<[AtomicU64; WAYS]>,
    kisses: AtomicU64,
    answers: AtomicU64,
    cost: Cost,
    policy: Policy,
    samples: Mutex<Vec<Sample>>,
}

impl Buckets for Server {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.sets.get(number as usize)
    }

    fn known(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.known.get(number as usize)
    }

    fn tries(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tries.get(number as usize)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        Some(&self.kisses)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        (self.cost != Cost::NOTHING).then_some(Allowance { cost: self.cost, bucket: &self.answers })
    }

    fn report(&self, sample: Sample) {
        self.samples.lock().unwrap().push(sample);
    }
}

impl Server {
    /// With the limits that a server has by default, and a key of its own.
    fn new(seed: u64) -> Self {
        let sets = |number: usize| {
            (0..number).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect::<Vec<_>>()
        };
        Self {
            sets: sets(BUCKETS / WAYS),
            known: sets(known::SETS as usize),
            tries: sets(known::SETS as usize),
            kisses: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            cost: Cost::NOTHING,
            policy: Policy {
                key: KEY.map(|word| word.wrapping_mul(seed | 1)),
                ordinary: Class::new(16, 256).unwrap(),
                strict: Class::new(1, 16).unwrap(),
                kiss: Class::new(64, 64).unwrap(),
                set_mask: (BUCKETS / WAYS - 1) as u32,
                known_mask: known::SETS - 1,
                known_share: 179,
                leak: 4,
                options: KNOWN,
                ..Policy::OFF
            },
            samples: Mutex::default(),
        }
    }

    fn with_answers_per_s(mut self, answers: u64) -> Self {
        self.cost = Cost { answer: SECOND * UNITS_IN_A_NS / answers, byte: 0 };
        self.policy.options |= BUDGET;
        self
    }

    fn ask(&self, address: u32, hops: u8, noise: u64, now_ns: u64) -> Verdict {
        client(&self.policy, address, hops, noise).admit(self, &self.policy, now_ns)
    }
}

/// A request of a client.
fn client(policy: &Policy, address: u32, hops: u8, noise: u64) -> Client {
    Client {
        access: Access::Ordinary,
        source: Source::ipv4(address.to_be_bytes(), policy),
        family: Family::Ipv4,
        answer_bytes: 90,
        arrival: Arrival { port: 40_000, hops, ingress: 3 },
        before_socket: false,
        version: 4,
        poll: 6,
        transmit: noise.to_ne_bytes(),
        is_probe: false,
    }
}

/// Numbers that are as good as random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn is_time(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Answered | Verdict::Leaked | Verdict::AnsweredKnown)
}

/// A client asks every 64 s for so many epochs. Returns the moment after the last request.
fn get_known(server: &Server, address: u32, hops: u8, epochs: u64, random: &mut Random) -> u64 {
    let mut now_ns = EPOCH * 3 + random.below(EPOCH);
    let until_ns = now_ns + epochs * EPOCH;
    while now_ns < until_ns {
        assert_eq!(server.ask(address, hops, random.next(), now_ns), Verdict::Answered);
        now_ns += 64 * SECOND + random.below(SECOND);
    }
    now_ns
}

/// The share of a client's requests that are answered with the time while somebody forges its address.
fn share_under_forgery(per_s: u64, forged_hops: u8, epochs: u64, seed: u64) -> f64 {
    const CLIENT: u32 = 0xc633_6407;
    let (server, mut random) = (Server::new(seed), Random(seed));
    let start = get_known(&server, CLIENT, HOPS, epochs, &mut random);
    let gap = SECOND / per_s;
    // The first minute empties the bucket.
    let (mut forged_ns, mut next_ns) = (start, start + 60 * SECOND);
    let (mut asked, mut answered) = (0_u32, 0_u32);
    let requests = if per_s > 5_000 { 40 } else { 120 };
    while asked < requests {
        while forged_ns < next_ns {
            server.ask(CLIENT, forged_hops, random.next(), forged_ns);
            forged_ns += gap / 2 + random.below(gap);
        }
        answered += u32::from(is_time(server.ask(CLIENT, HOPS, random.next(), next_ns)));
        asked += 1;
        // Like a monitor: three requests two seconds apart, and then nothing for a while.
        next_ns += if asked % 3 == 0 { 5 * SECOND } else { 2 * SECOND } + random.below(SECOND / 10);
    }
    f64::from(answered) / f64::from(asked)
}

#[test]
fn whoever_forges_an_address_with_another_ttl_takes_nothing_from_the_client() {
    for (seed, per_s) in [50, 500, 5_000, 50_000].into_iter().enumerate() {
        for seed in (seed as u64 * 8..).take(if per_s > 5_000 { 2 } else { 8 }) {
            let share = share_under_forgery(per_s, HOPS + 3, 3, seed);
            assert!(share >= 0.99, "{per_s} per second, seed {seed}: {share}");
        }
    }
}

#[test]
fn whoever_guesses_the_ttl_too_leaves_the_client_its_share() {
    for per_s in [50, 500, 5_000, 50_000] {
        let seeds = if per_s > 5_000 { 0..2 } else { 0..8 };
        let number = seeds.end as f64;
        let share = seeds.map(|seed| share_under_forgery(per_s, HOPS, 3, seed)).sum::<f64>() / number;
        assert!(share >= 0.6, "{per_s} per second: {share}");
    }
}

#[test]
fn a_source_that_is_not_known_keeps_what_it_had() {
    // Its share of the tokens and of the leak: without anything to tell them apart by, no more is possible.
    let share = share_under_forgery(500, HOPS + 3, 0, 1);
    assert!((0.02..0.4).contains(&share), "{share}");
}

#[test]
fn a_path_is_replaced_only_by_many_votes() {
    const CLIENT: u32 = 0x0a00_0001;
    for seed in 0..32 {
        let (server, mut random) = (Server::new(seed), Random(seed));
        let mut now_ns = get_known(&server, CLIENT, HOPS, 6, &mut random);
        // A forger who comes first in each epoch, with a full bucket.
        let mut votes = 0;
        while reported(&server, CLIENT, HOPS, now_ns) & sample::USUAL_PATH != 0 {
            now_ns += EPOCH;
            server.ask(CLIENT, HOPS + 3, random.next(), now_ns);
            votes += 1;
            assert!(votes <= known::MOST_TRUST, "{votes}");
        }
        assert_eq!(votes, known::MOST_TRUST - 1);
        // Then there is no usual path for a while, and the client's own votes bring it back.
        for _ in 0..=known::MOST_TRUST {
            now_ns += EPOCH;
            server.ask(CLIENT, HOPS, random.next(), now_ns);
        }
        assert_ne!(reported(&server, CLIENT, HOPS, now_ns) & sample::USUAL_PATH, 0);
    }
}

/// The bits of a request's sample that tell what is known of its source. The request itself teaches nothing, because the
/// source had its vote in this epoch, or the state is put back.
fn reported(server: &Server, address: u32, hops: u8, now_ns: u64) -> u8 {
    let policy = Policy { chances: Chances { request: u64::MAX, source: 0 }, ..server.policy };
    let client = client(&policy, address, hops, 0);
    let words = |sets: &[[AtomicU64; WAYS]]| {
        sets.iter().flatten().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect::<Vec<_>>()
    };
    let before = [words(&server.sets), words(&server.known)];
    // Once the bucket is full again.
    assert_eq!(client.admit(server, &policy, now_ns + SECOND), Verdict::Answered);
    for (sets, before) in [&server.sets, &server.known].into_iter().zip(before) {
        for (word, before) in sets.iter().flatten().zip(before) {
            word.store(before, std::sync::atomic::Ordering::Relaxed);
        }
    }
    server.samples.lock().unwrap().pop().expect("each request is reported").kind
}

/// A client in the flood's play.
struct Asker {
    address: u32,
    hops: u8,
    poll_ns: u64,
    /// Requests of a burst that are still to come, 2 s apart.
    burst: u32,
    tries: u32,
    is_answered: bool,
}

/// How a play ended.
#[derive(Debug, Default)]
struct Outcome {
    known_asked: u32,
    known_lost: u32,
    joiners: u32,
    joined_by_third: u32,
    strangers: u64,
    strangers_answered: u64,
}

/// Ten thousand clients and twelve monitors for an hour and a half, then a flood from random sources against a budget of 20,000 answers
/// per second, in which other clients join.
fn flood(per_s: u64, seconds: u64, seed: u64) -> Outcome {
    const CLIENTS: u32 = 10_000;
    const MONITORS: u32 = 12;
    const JOINERS_PER_S: u64 = 40;
    let server = Server::new(seed).with_answers_per_s(20_000);
    let mut random = Random(seed);
    let start = EPOCH * 200 + random.below(EPOCH);
    let quiet_until = start + 11 * EPOCH / 2;
    let end = quiet_until + seconds * SECOND;
    let mut askers = Vec::new();
    let mut due = BinaryHeap::new();
    for number in 0..CLIENTS + MONITORS {
        let poll_ns = if number < CLIENTS { SECOND << (6 + random.below(5)) } else { 300 * SECOND };
        let hops = 40 + random.below(20) as u8;
        askers.push(Asker {
            address: 0x0a00_0000 + number,
            hops,
            poll_ns,
            burst: 0,
            tries: 0,
            is_answered: false,
        });
        due.push(Reverse((start + random.below(poll_ns), number)));
    }
    let mut outcome = Outcome::default();
    let (mut flood_ns, mut join_ns) = (quiet_until, quiet_until);
    while let Some(Reverse((now_ns, number))) = due.pop() {
        if now_ns >= end {
            break;
        }
        while flood_ns < now_ns {
            outcome.strangers += 1;
            let source = random.next();
            let verdict = server.ask(0x4000_0000 | source as u32 >> 2, source as u8, random.next(), flood_ns);
            outcome.strangers_answered += u64::from(is_time(verdict));
            flood_ns += SECOND / per_s / 2 + random.below(SECOND / per_s);
            if flood_ns >= join_ns && join_ns + 8 * SECOND < end {
                join_ns += SECOND / JOINERS_PER_S;
                let number = askers.len() as u32;
                askers.push(Asker {
                    address: 0x0b00_0000 + number,
                    hops: HOPS,
                    poll_ns: 64 * SECOND,
                    burst: 4,
                    tries: 0,
                    is_answered: false,
                });
                due.push(Reverse((flood_ns, number)));
            }
        }
        let asker = &mut askers[number as usize];
        let verdict = server.ask(asker.address, asker.hops, random.next(), now_ns);
        let is_answered = is_time(verdict);
        if now_ns < quiet_until {
            assert_eq!(verdict, Verdict::Answered, "nobody is refused in quiet times");
        } else if number < CLIENTS + MONITORS {
            outcome.known_asked += 1;
            outcome.known_lost += u32::from(!is_answered);
        } else {
            asker.tries += 1;
            if is_answered && !asker.is_answered {
                outcome.joined_by_third += u32::from(asker.tries <= 3);
            }
            outcome.joiners += u32::from(asker.tries == 1);
        }
        asker.is_answered |= is_answered;
        // Monitors ask three times, two seconds apart; so do clients that begin.
        if asker.burst == 0 && (CLIENTS..CLIENTS + MONITORS).contains(&number) {
            asker.burst = 3;
        }
        asker.burst = asker.burst.saturating_sub(1);
        let wait_ns = if asker.burst > 0 { 2 * SECOND } else { asker.poll_ns };
        due.push(Reverse((now_ns + wait_ns + random.below(SECOND / 50), number)));
    }
    outcome
}

#[test]
fn known_clients_and_those_who_try_again_come_before_a_flood_of_strangers() {
    for (seed, per_s) in [(1, 100_000), (2, 550_000), (3, 550_000)] {
        let outcome = flood(per_s, 16, seed);
        assert!(outcome.known_asked > 300, "{outcome:?}");
        assert!(f64::from(outcome.known_lost) <= f64::from(outcome.known_asked) * 0.001, "{outcome:?}");
        assert!(outcome.joiners > 250, "{outcome:?}");
        assert!(
            f64::from(outcome.joined_by_third) >= f64::from(outcome.joiners) * 0.99,
            "{per_s} per second: {outcome:?}"
        );
        // What is left goes to strangers: the cap is used up.
        assert!(outcome.strangers_answered > 16 * 18_000, "{outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_table_knows_what_an_account_of_the_sources_knows(
        header: [u8; known_checks::HEADER],
        requests in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        known_checks::known(header, &requests);
    }

    #[test]
    fn a_request_is_the_same_after_it_was_packed(
        access in 0_u32..4,
        source: u64,
        is_ipv6: bool,
        answer_bytes in 0_u16..=Client::MOST_BYTES as u16,
        arrival: (u16, u8, u8),
        before_socket: bool,
        version in 0_u8..8,
        poll: i8,
        transmit: [u8; 8],
        is_probe: bool,
    ) {
        let (port, hops, ingress) = arrival;
        let client = Client {
            access: Access::from_u32(access),
            source: Source::from_bits(source),
            family: if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 },
            answer_bytes,
            arrival: Arrival { port, hops, ingress },
            before_socket,
            version,
            poll,
            transmit,
            is_probe,
        };
        prop_assert_eq!(Client::from_words(client.to_words()), client);
    }
}

#[test]
fn each_verdict_of_an_admission_is_the_same_after_it_was_a_number() {
    for verdict in [
        Verdict::Answered,
        Verdict::Leaked,
        Verdict::AnsweredKnown,
        Verdict::KissRate,
        Verdict::KissDeny,
        Verdict::DropLimited,
        Verdict::DropDenied,
        Verdict::DropBudget,
    ] {
        assert_eq!(Verdict::of_admission(verdict as u8), verdict);
    }
    for verdict in Verdict::ALL {
        let back = Verdict::of_admission(*verdict as u8);
        assert!(back == *verdict || back.action() == Action::Drop, "{verdict:?}");
    }
}
