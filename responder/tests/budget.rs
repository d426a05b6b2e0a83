//! What the budget promises: the cap holds whatever comes, and those who owe most go without first.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use responder::admission::Client;
use responder::budget::{Allowance, Cost, PARTS_OF_A_UNIT, UNITS_IN_A_NS, WINDOW_NS};
use responder::limiter::{BUDGET, Buckets, Class, Policy, Source, WAYS};
use responder::message::{LENGTH, Request};
use responder::sample::{Chances, OF_REQUESTS, OF_SOURCES, Sample};
use responder::{Access, Family, Verdict};

const SECOND: u64 = 1_000_000_000;

/// A CPU with its part of the budget.
struct Cpu {
    sets: Vec<[AtomicU64; WAYS]>,
    cost: Cost,
    bucket: AtomicU64,
    policy: Policy,
    samples: Mutex<Vec<Sample>>,
}

impl Buckets for Cpu {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.sets.get(number as usize)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        Some(Allowance { cost: self.cost, bucket: &self.bucket })
    }

    fn report(&self, sample: Sample) {
        self.samples.lock().unwrap().push(sample);
    }
}

impl Cpu {
    fn with_answers_per_s(answers: u64) -> Self {
        const SETS: u32 = 1 << 12;
        Self {
            sets: (0..SETS).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect(),
            cost: Cost { answer: SECOND * UNITS_IN_A_NS / answers, byte: 0 },
            bucket: AtomicU64::new(0),
            policy: Policy {
                key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0],
                ordinary: Class::new(16, 256).unwrap(),
                strict: Class::new(1, 16).unwrap(),
                set_mask: SETS - 1,
                leak: 4,
                options: BUDGET,
                ..Policy::OFF
            },
            samples: Mutex::default(),
        }
    }

    fn ask(&self, access: Access, address: u32, now_ns: u64) -> Verdict {
        let mut message = [0; LENGTH];
        message[0] = 0x23;
        message[40..].copy_from_slice(&now_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let request = Request::parse(&message, 40_000, &self.policy).unwrap();
        let source = Source::ipv4(address.to_be_bytes(), &self.policy);
        Client::new(access, source, Family::Ipv4, 90, request).admit(self, &self.policy, now_ns)
    }
}

fn is_answer(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Answered | Verdict::Leaked)
}

proptest! {
    /// A cap in bytes, which counts each frame as long as it is.
    #[test]
    fn an_answer_costs_as_much_as_its_frame_is_long_but_never_less_than_any_answer(
        answer in 0..1_u64 << 40,
        byte in 0..1_u64 << 40,
        bytes in 0..9000_usize,
    ) {
        let cost = Cost { answer, byte }.of(bytes);
        prop_assert!(cost >= answer);
        prop_assert!(u128::from(cost) >= u128::from(byte) * bytes as u128 / u128::from(PARTS_OF_A_UNIT));
        let by_bytes = Cost { answer: 0, byte }.of(bytes);
        prop_assert!(cost == answer || cost == by_bytes);
    }

    /// From any answer to any later one.
    #[test]
    fn never_more_than_the_cap_is_answered_whatever_comes(
        answers_per_s in 1_u64..20_000,
        requests in prop::collection::vec(
            (prop_oneof![0..SECOND / 100_000, 0..SECOND / 100, 0..2 * SECOND], 0..40_u32, any::<bool>()),
            1..800,
        ),
        start in 0..u64::MAX >> 6,
    ) {
        let cpu = Cpu::with_answers_per_s(answers_per_s);
        let mut now_ns = start;
        let mut answered = Vec::new();
        for (gap, address, strict) in requests {
            now_ns += gap;
            let access = if strict { Access::Strict } else { Access::Ordinary };
            if is_answer(cpu.ask(access, address, now_ns)) {
                answered.push(now_ns);
            }
        }
        for (index, from) in answered.iter().enumerate() {
            for (count, to) in answered[index..].iter().enumerate() {
                let most = (to - from + WINDOW_NS + 1) * UNITS_IN_A_NS / cpu.cost.answer + 1;
                prop_assert!(count as u64 <= most, "{} in {} ns", count + 1, to - from);
            }
        }
    }

    #[test]
    fn what_is_within_the_cap_is_answered(answers_per_s in 100_u64..20_000, spread in 0_u64..1000) {
        let cpu = Cpu::with_answers_per_s(answers_per_s);
        for number in 0..2000 {
            let now_ns = SECOND + number * SECOND / answers_per_s + number % 7 * spread;
            // Each source asks far less than it may.
            prop_assert_eq!(cpu.ask(Access::Ordinary, number as u32 % 1999, now_ns), Verdict::Answered);
        }
    }

    #[test]
    fn any_word_in_the_bucket_and_any_cost_is_decided_about(word: u64, answer: u64, byte: u64, now_ns: u64) {
        let cpu = Cpu { bucket: AtomicU64::new(word), cost: Cost { answer, byte }, ..Cpu::with_answers_per_s(1) };
        let _any = cpu.ask(Access::Ordinary, 7, now_ns);
        let _any = cpu.ask(Access::Unlimited, 7, now_ns);
    }
}

/// A cap of 2000/s. 500 clients that ask each second, 50 sources that each get their 16 a second and ask ten times
/// as often, and one without a limit.
#[test]
fn those_who_owe_most_go_without_and_the_others_notice_nothing() {
    let cpu = Cpu::with_answers_per_s(1200);
    let mut met: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for tick in 0..20 * 10_000_u64 {
        let now_ns = SECOND + tick * SECOND / 10_000;
        let mut ask = |who, access, address| {
            // After the bursts.
            let verdict = cpu.ask(access, address, now_ns);
            if tick >= 50_000 {
                *met.entry((who, verdict.label())).or_default() += 1;
            }
        };
        if tick % 20 == 0 {
            ask("client", Access::Ordinary, 1000 + (tick / 20 % 500) as u32);
        }
        if tick % 10 < 8 {
            ask("abuser", Access::Ordinary, 1 + (tick % 50) as u32);
        }
        if tick % 100 == 0 {
            ask("unlimited", Access::Unlimited, 5000);
        }
    }
    println!("{met:?}");
    let of = |who, what| met.get(&(who, what)).copied().unwrap_or(0);
    assert_eq!(of("client", "answered"), 15 * 500, "each of them");
    assert_eq!(of("unlimited", "answered"), 15 * 100);
    assert!(of("abuser", "drop_budget") > 15 * 500, "{met:?}");
    let all: u64 = met.iter().filter(|((_, what), _)| what.starts_with("answered")).map(|(_, n)| n).sum();
    assert!((15 * 1100..=15 * 1200 + 1200).contains(&all), "the rest is not given away: {all}");
}

#[test]
fn of_sources_within_their_rate_those_that_ask_often_go_without() {
    let mut cpu = Cpu::with_answers_per_s(200);
    cpu.policy.ordinary = Class::new(2000, 8000).unwrap();
    let (mut clients, mut answered) = (0, 0);
    for tick in 0..30_000_u64 {
        let now_ns = SECOND + tick * SECOND / 1500;
        answered += u32::from(cpu.ask(Access::Ordinary, 7, now_ns) == Verdict::Answered);
        // Sixteen that ask every 10 s, and one each second.
        if tick % 937 == 0 {
            clients += 1;
            let address = if tick % (2 * 937) == 0 { 100 } else { 101 + (tick / 937 % 16) as u32 };
            assert_eq!(cpu.ask(Access::Ordinary, address, now_ns), Verdict::Answered, "{tick}");
        }
    }
    assert!(
        (3800 - clients..4250).contains(&answered),
        "{answered} answers for the one that asks all the time"
    );
}

#[test]
fn a_source_without_a_limit_is_answered_when_nothing_is_left_and_pays() {
    let cpu = Cpu::with_answers_per_s(100);
    for number in 0..1000 {
        assert_eq!(cpu.ask(Access::Unlimited, 7, SECOND + number), Verdict::Answered);
    }
    assert_eq!(cpu.ask(Access::Ordinary, 8, SECOND + 1000), Verdict::DropBudget);
    assert_eq!(cpu.ask(Access::Ordinary, 8, 2 * SECOND), Verdict::Answered);
}

#[test]
fn samples_of_requests_are_as_many_as_their_chance_and_those_of_sources_are_of_all_their_requests() {
    let mut cpu = Cpu::with_answers_per_s(1_000_000);
    cpu.policy.chances = Chances { request: u64::MAX >> 6, source: u64::MAX >> 4 };
    for number in 0..64_000_u32 {
        // Each source comes four times.
        cpu.ask(Access::Ordinary, number % 16_000, SECOND + u64::from(number) * 50_000);
    }
    let samples = cpu.samples.lock().unwrap();
    let of_requests = samples.iter().filter(|sample| sample.kind & OF_REQUESTS != 0).count();
    assert!((850..1150).contains(&of_requests), "{of_requests} of 1000");
    let mut by_source: BTreeMap<u64, u32> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.kind & OF_SOURCES != 0) {
        *by_source.entry(sample.source).or_default() += 1;
        assert_eq!((sample.family, sample.version), (Family::Ipv4 as u8, 4));
    }
    assert!((850..1150).contains(&by_source.len()), "{} of 1000 sources", by_source.len());
    assert!(by_source.values().all(|count| *count == 4));
}

#[test]
fn a_source_that_asks_all_the_time_is_not_sampled_as_a_source_all_the_time() {
    let mut cpu = Cpu::with_answers_per_s(1_000_000);
    cpu.policy.chances = Chances { request: 0, source: u64::MAX };
    for number in 0..100_000 {
        cpu.ask(Access::Ordinary, 7, SECOND + number * 100_000);
    }
    let samples = cpu.samples.lock().unwrap().len();
    assert!((1..64).contains(&samples), "{samples}");
}
