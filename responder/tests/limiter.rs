//! What the rate limiter promises: to operators about abusers, and to clients about being answered.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use responder::limiter::{Buckets, Class, Decision, NO_LEAK, Policy, Source, WAYS, decide, in_use};
use responder::served::is_plausible_ipv6;

const SECOND: u64 = 1_000_000_000;
/// The defaults: 16 requests a second, 256 at once.
const RATE: u32 = 16;
const BURST: u32 = 256;

/// A table in memory.
struct Table {
    sets: Vec<[AtomicU64; WAYS]>,
    kisses: AtomicU64,
}

impl Table {
    fn new(sets: usize) -> Self {
        let empty = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { sets: (0..sets).map(|_| empty()).collect(), kisses: AtomicU64::new(0) }
    }
}

impl Buckets for Table {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.sets.get(number as usize)
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        Some(&self.kisses)
    }
}

/// A table under a policy, and pseudorandom numbers.
struct Limiter {
    table: Table,
    policy: Policy,
    random: u64,
}

impl Limiter {
    fn new(sets: usize) -> Self {
        Self {
            table: Table::new(sets),
            policy: Policy {
                key: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0],
                ordinary: class(RATE, BURST),
                kiss: class(8, 8),
                set_mask: u32::try_from(sets - 1).unwrap(),
                leak: NO_LEAK,
                ..Policy::OFF
            },
            random: 1,
        }
    }

    fn leaking(self, leak: u8) -> Self {
        Self { policy: Policy { leak, ..self.policy }, ..self }
    }

    /// A request from an IPv4 address.
    fn ask(&mut self, address: u32, now_ns: u64) -> Decision {
        let source = Source::ipv4(address.to_be_bytes(), &self.policy);
        let noise = self.random();
        decide(&self.table, &self.policy, self.policy.ordinary, source, now_ns, noise).decision
    }

    fn random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random ^ self.random >> 29
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.random() >> 20) % limit
    }
}

fn class(rate: u32, burst: u32) -> Class {
    Class::new(rate, burst).expect("a sensible class")
}

#[test]
fn rates_that_make_no_sense_are_no_class() {
    for (rate, burst) in [(0, 1), (1, 0), (70_000, 1), (1, 4000), (u32::MAX, u32::MAX)] {
        assert_eq!(Class::new(rate, burst), None, "{rate} {burst}");
    }
    assert_ne!(class(1, 1), Class::UNLIMITED);
}

#[test]
fn a_token_bucket_is_emptied_by_its_burst_and_refilled_at_its_rate() {
    let mut limiter = Limiter::new(1);
    let start = 77 * SECOND;
    for _ in 0..BURST {
        assert_eq!(limiter.ask(1, start), Decision::Answer);
    }
    assert_ne!(limiter.ask(1, start), Decision::Answer);
    let answered =
        (0..10_000).filter(|ms| limiter.ask(1, start + ms * SECOND / 1000) == Decision::Answer).count();
    assert!((159..=160).contains(&answered), "{answered}");
}

#[test]
fn without_a_class_or_a_table_nobody_is_limited() {
    let mut limiter = Limiter::new(4);
    let source = Source::ipv4([198, 51, 100, 7], &limiter.policy);
    for _ in 0..1000 {
        let ruling = decide(&limiter.table, &limiter.policy, Class::UNLIMITED, source, SECOND, 0);
        assert_eq!(ruling.decision, Decision::Answer);
    }
    // A table that is smaller than the policy has it, as while a new one takes its place.
    limiter.table.sets.clear();
    for _ in 0..1000 {
        assert_eq!(limiter.ask(7, SECOND), Decision::Answer);
    }
}

#[test]
fn sources_are_told_apart_by_their_prefix() {
    let policy =
        Policy { ipv4_mask: Policy::ipv4_mask_of(24), ipv6_mask: Policy::ipv6_mask_of(56), ..Policy::OFF };
    let ipv4 = |address| Source::ipv4(address, &policy);
    assert_eq!(ipv4([198, 51, 100, 7]), ipv4([198, 51, 100, 255]));
    assert_ne!(ipv4([198, 51, 100, 7]), ipv4([198, 51, 101, 7]));
    let ipv6 = |seventh, last| {
        let mut address = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        (address[7], address[15]) = (seventh, last);
        Source::ipv6(address, &policy)
    };
    assert_eq!(ipv6(0, 1), ipv6(0xff, 2));
    assert_eq!(Policy::ipv4_mask_of(32), 0xff_ffff_ffff);
    assert_eq!((Policy::ipv6_mask_of(64), Policy::ipv6_mask_of(128)), (u64::MAX, u64::MAX));
    assert_eq!((Policy::ipv4_mask_of(0), Policy::ipv6_mask_of(0)), (0xff_0000_0000, 0));
}

#[test]
fn a_share_of_a_rate_is_never_more_than_its_part() {
    for (rate, sharers) in
        [(64, 1), (64, 3), (64, 65), (64, 129), (1, 2), (1, 1000), (10_000, 3), (10_000, 513)]
    {
        let share = Class::share(rate, sharers).unwrap();
        assert!(
            100_001 * u128::from(share.interval_ns()) * u128::from(rate)
                >= 100_000 * u128::from(SECOND) * u128::from(sharers)
        );
        let mut limiter = Limiter::new(1);
        limiter.policy.ordinary = share;
        let (start, seconds) = (77 * SECOND, u64::from(sharers).max(10));
        let ticks = (0..40 * seconds).map(|tick| start + tick * SECOND / 40);
        let granted = ticks
            .map(|now| (0..400).take_while(|_| limiter.ask(1, now) == Decision::Answer).count())
            .sum::<usize>() as u64;
        let part = u64::from(rate) * seconds / u64::from(sharers);
        let burst = (u64::from(rate) / u64::from(sharers)).max(1);
        assert!(
            (part * 9 / 10..=part + part / 1000 + burst + 1).contains(&granted),
            "{rate} {sharers}: {granted}"
        );
    }
    for (rate, sharers) in [(0, 3), (64, 0), (1, 5000)] {
        assert_eq!(Class::share(rate, sharers), None);
    }
}

/// The bytes of a source, of which its word is made in the byte order of the machine.
fn bytes(source: Source) -> [u8; 8] {
    source.to_bits().to_ne_bytes()
}

proptest! {
    /// Bytes that differ make words that differ, in either byte order. Sources are those that may ask.
    #[test]
    fn no_source_of_one_family_is_one_of_the_other(
        ipv4: [u8; 4],
        ipv6: [u8; 16],
        last: [u8; 8],
        lengths in (0..=32_u8, 0..=64_u8),
    ) {
        let policy = Policy {
            ipv4_mask: Policy::ipv4_mask_of(lengths.0),
            ipv6_mask: Policy::ipv6_mask_of(lengths.1),
            ..Policy::OFF
        };
        let alike = [[0; 4], ipv4].concat();
        let mut addresses = vec![ipv6];
        for network in [alike, [ipv4, [0; 4]].concat(), [ipv4, ipv4].concat()] {
            addresses.push([&network[..], &last].concat().try_into().unwrap());
        }
        let ipv4 = Source::ipv4(ipv4, &policy);
        for address in addresses.into_iter().filter(|address| is_plausible_ipv6(*address)) {
            let ipv6 = Source::ipv6(address, &policy);
            prop_assert_ne!(u64::from_le_bytes(bytes(ipv4)), u64::from_le_bytes(bytes(ipv6)));
            prop_assert_ne!(u64::from_be_bytes(bytes(ipv4)), u64::from_be_bytes(bytes(ipv6)));
        }
    }

    #[test]
    fn the_address_of_a_source_is_told_by_its_word(ipv4: [u8; 4], ipv6: [u8; 16]) {
        let word = Source::ipv4(ipv4, &Policy::OFF).to_bits();
        prop_assert_eq!(Source::ipv4_address(word), ipv4);
        let word = Source::ipv6(ipv6, &Policy::OFF).to_bits();
        prop_assert_eq!(&Source::ipv6_network(word), &ipv6[..8]);
    }

    /// In any interval, from any request to any later one.
    #[test]
    fn no_source_gets_more_than_rate_and_burst(
        rate in 1_u32..2000,
        burst in 1_u32..300,
        gaps in prop::collection::vec(prop_oneof![0..SECOND / 1000, 0..SECOND / 10, 0..30 * SECOND], 1..600),
        start in 0..u64::MAX / 2,
    ) {
        let mut limiter = Limiter::new(1);
        limiter.policy.ordinary = class(rate, burst);
        let interval_ns = limiter.policy.ordinary.interval_ns();
        let mut now_ns = start;
        let mut answered = Vec::new();
        for gap in gaps {
            now_ns += gap;
            if limiter.ask(1, now_ns) == Decision::Answer {
                answered.push(now_ns);
            }
        }
        for (index, from) in answered.iter().enumerate() {
            for (count, to) in answered[index..].iter().enumerate() {
                // The clock of the buckets has ticks of 16 us.
                let most = u64::from(burst) + (to - from + (1 << 14)) / interval_ns;
                prop_assert!((count as u64) < most, "{} in {} ns", count + 1, to - from);
            }
        }
    }

    #[test]
    fn a_source_within_its_rate_is_never_refused(
        rate in 1_u32..2000,
        burst in 2_u32..300,
        extra in prop::collection::vec(0..SECOND, 1..600),
        start in 0..u64::MAX / 2,
    ) {
        let mut limiter = Limiter::new(1);
        limiter.policy.ordinary = class(rate, burst);
        let mut now_ns = start;
        for extra in extra {
            now_ns += limiter.policy.ordinary.interval_ns() + extra;
            prop_assert_eq!(limiter.ask(1, now_ns), Decision::Answer);
        }
    }

    #[test]
    fn a_source_that_asks_all_the_time_gets_its_rate(rate in 1_u32..200, burst in 1_u32..100, seconds in 1..20_u64) {
        let mut limiter = Limiter::new(1);
        limiter.policy.ordinary = class(rate, burst);
        let asked = (0..seconds * 4000).map(|quarter_ms| quarter_ms * SECOND / 4000);
        let answered = asked.filter(|now_ns| limiter.ask(1, *now_ns) == Decision::Answer).count() as u64;
        // Each token waits up to 250 us for the next request.
        let interval_ns = limiter.policy.ordinary.interval_ns() + SECOND / 4000;
        prop_assert!(answered >= seconds * SECOND / interval_ns);
    }

    #[test]
    fn any_word_in_a_bucket_and_any_moment_is_decided_about(words: [u64; WAYS], policy: [u64; 5], address: u32, now_ns: u64) {
        let mut limiter = Limiter::new(1);
        limiter.table.sets = vec![words.map(AtomicU64::new)];
        limiter.policy.ordinary = Class(policy[0]);
        limiter.policy.kiss = Class(policy[1]);
        limiter.policy.key = [policy[2], policy[3], policy[4]];
        limiter.policy.leak = policy[4] as u8;
        let _any = limiter.ask(address, now_ns);
        let _any = limiter.ask(address, now_ns);
        prop_assert!(in_use(&words, now_ns) <= WAYS);
    }
}

#[test]
fn eviction_mutes_nobody() {
    // Every source new, in a table that is far too small.
    let mut limiter = Limiter::new(4);
    for address in 0..100_000 {
        assert_eq!(limiter.ask(address, SECOND + u64::from(address) * 1000), Decision::Answer);
    }
}

#[test]
fn a_flood_of_new_sources_does_not_push_out_what_is_known_of_an_abuser() {
    const ABUSER: u32 = 7;
    let mut limiter = Limiter::new(64);
    let mut answered = 0;
    // Five seconds: 400,000 sources that ask once, and one that asks a thousand times a second.
    for number in 0..400_000_u64 {
        let now_ns = SECOND + number * 12_500;
        assert_eq!(limiter.ask(1000 + number as u32, now_ns), Decision::Answer);
        if number % 80 == 0 && limiter.ask(ABUSER, now_ns) == Decision::Answer {
            answered += 1;
        }
    }
    // Until it has spent more than what the others of its set have, it may be forgotten a few times.
    assert!((BURST + 5 * RATE - 1..BURST + 5 * RATE + 32).contains(&answered), "{answered} of 5000");
}

#[test]
fn a_good_client_under_a_flood_of_random_sources_loses_nothing() {
    let mut limiter = Limiter::new(1 << 14);
    for number in 0..2_000_000_u64 {
        let now_ns = SECOND + number * 1000;
        let address = limiter.random() as u32;
        assert_eq!(limiter.ask(address, now_ns), Decision::Answer);
        if number % 100_000 == 0 {
            assert_eq!(limiter.ask(7, now_ns), Decision::Answer);
        }
    }
}

#[test]
fn an_abuser_gets_its_rate_and_the_leak_and_few_kisses() {
    let mut limiter = Limiter::new(1 << 14).leaking(4);
    let mut counts = BTreeMap::new();
    for ms in 0..60_000_u64 {
        *counts.entry(format!("{:?}", limiter.ask(7, SECOND + ms * 1_000_000))).or_insert(0_u32) += 1;
    }
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    let tokens = BURST + 60 * RATE;
    assert!((tokens - 1..=tokens + 1).contains(&of("Answer")), "{counts:?}");
    let leaked = (60_000 - tokens) / 16;
    assert!((leaked * 9 / 10..leaked * 11 / 10).contains(&of("Leak")), "{counts:?}");
    // Known as a flood after the first few refusals, and from then on.
    assert!((1..=8).contains(&of("Kiss")), "{counts:?}");
}

#[test]
fn a_client_in_whose_name_somebody_floods_keeps_the_share_that_leaks() {
    let mut limiter = Limiter::new(1 << 14).leaking(4);
    let (mut asked, mut answered) = (0, 0);
    for tenth_of_ms in 0..6_000_000_u64 {
        let now_ns = SECOND + tenth_of_ms * 100_000;
        limiter.ask(7, now_ns);
        if tenth_of_ms % 1000 == 500 {
            asked += 1;
            answered +=
                u32::from(matches!(limiter.ask(7, now_ns + 50_000), Decision::Answer | Decision::Leak));
        }
    }
    assert!(answered >= asked * 9 / 10 / 16, "{answered} of {asked}");
}

#[test]
fn kisses_stay_within_their_budget_however_many_are_due() {
    let mut limiter = Limiter::new(1 << 10);
    let mut kisses = 0;
    // A thousand sources that each ask at one and a half times their rate, for a minute; their bursts last for
    // the first half of it.
    for tick in 0..60 * 24_u64 {
        for address in 0..1000 {
            kisses += u32::from(limiter.ask(address, SECOND + tick * SECOND / 24) == Decision::Kiss);
        }
    }
    assert!((8 * 25..=8 + 8 * 60).contains(&kisses), "{kisses}");
}

#[test]
fn a_source_a_little_over_its_rate_is_told() {
    let mut limiter = Limiter::new(16);
    let decisions: Vec<_> =
        (0..60 * 24_u64).map(|tick| limiter.ask(7, SECOND + tick * SECOND / 24)).collect();
    let refused = decisions.iter().filter(|decision| **decision != Decision::Answer).count();
    let kisses = decisions.iter().filter(|decision| **decision == Decision::Kiss).count();
    assert!(refused > 100 && kisses * 10 >= refused * 9, "{kisses} kisses of {refused} refusals");
}

#[test]
fn clients_that_retry_each_second_until_they_are_answered_are_content_soon() {
    // Three thousand of them behind one address, all at once; content for 64 s, half as many as the rate feeds.
    let mut limiter = Limiter::new(1 << 14).leaking(4);
    let mut waiting: Vec<u64> = (0..3000).map(|_| limiter.below(SECOND)).collect();
    let mut seconds = 0;
    while !waiting.is_empty() {
        waiting.sort_unstable();
        waiting.retain_mut(|due_ns| {
            let refused = !matches!(limiter.ask(7, SECOND + *due_ns), Decision::Answer | Decision::Leak);
            *due_ns += SECOND;
            refused
        });
        seconds += 1;
        assert!(seconds < 60, "{} still without an answer", waiting.len());
    }
}

/// An hour of what good clients really do, from many sources at once: nothing of it is refused.
#[test]
fn nothing_is_refused_in_an_hour_of_what_good_clients_do() {
    const HOUR: u64 = 3600 * SECOND;
    let mut limiter = Limiter::new(1 << 14);
    let mut requests: Vec<(u64, u32)> = Vec::new();
    // The pool's monitors: three requests two seconds apart every few minutes, a dozen of them, and two that
    // share an address.
    for monitor in 0..14_u32 {
        let mut at = limiter.below(300 * SECOND);
        while at < HOUR {
            requests.extend((0..3).map(|probe| (at + probe * 2 * SECOND, 100 + monitor.min(12))));
            at += 120 * SECOND + limiter.below(240 * SECOND);
        }
    }
    // ntpd and chrony: iburst of eight two seconds apart, then polls that go from 64 s to 1024 s.
    for client in 0..5000_u32 {
        let mut at = limiter.below(HOUR / 2);
        requests.extend((0..8).map(|number| (at + number * 2 * SECOND, 1000 + client)));
        let mut poll = 64;
        while at < HOUR {
            at += poll * SECOND;
            requests.push((at, 1000 + client));
            poll = (poll * 2).min(1024);
        }
    }
    // Clients that send eight within a second.
    for client in 0..500_u32 {
        let at = limiter.below(HOUR);
        requests.extend((0..8).map(|number| (at + number * SECOND / 8, 10_000 + client)));
    }
    // Two hundred clients behind one address: each polls every 64 s, and one in ten starts anew some time;
    // twenty start together after a power cut, half of them with eight requests in a second.
    for client in 0..200_u64 {
        let phase = limiter.below(64 * SECOND);
        requests.extend((0..56).map(|poll| (phase + poll * 64 * SECOND, 1)));
        if client % 10 == 0 {
            let at = limiter.below(HOUR);
            requests.extend((0..8).map(|number| (at + number * 2 * SECOND, 1)));
            let spacing = if client % 20 == 0 { 2 * SECOND } else { SECOND / 8 };
            let restart = 1800 * SECOND + limiter.below(SECOND);
            requests.extend((0..8).map(|number| (restart + number * spacing, 1)));
        }
        // At the top of the hour every one of them asks within the same second.
        requests.push((HOUR - 10 * SECOND + limiter.below(SECOND), 1));
    }
    requests.sort_unstable();
    let refused =
        requests.iter().filter(|(at, address)| limiter.ask(*address, SECOND + at) != Decision::Answer);
    assert_eq!(refused.count(), 0);
}

/// The next bit of a hash that an outsider could aim with would show as a set that fills faster than others.
#[test]
fn neighbours_are_spread_over_the_table_as_by_chance() {
    for step in [1_u32, 256, 65_536, 0x0100_0000, 0x0001_0001] {
        let mut limiter = Limiter::new(1 << 10);
        for number in 0..1024_u32 {
            limiter.ask(number.wrapping_mul(step), SECOND);
        }
        let words = limiter.table.sets.into_iter().map(|set| set.map(AtomicU64::into_inner));
        let used: Vec<_> = words.map(|set| in_use(&set, SECOND)).collect();
        let distinct = 1024.min(u64::from(u32::MAX) / u64::from(step) + 1) as usize;
        let (total, empty) = (used.iter().sum::<usize>(), used.iter().filter(|used| **used == 0).count());
        // Thrown at random, 1024 into 1024 sets of four leave 377 empty, give or take 16, and lose 4.
        assert!(total + 40 > distinct, "{step}: {total} of {distinct}");
        assert!(distinct < 1024 || (300..450).contains(&empty), "{step}: {empty} sets are empty");
    }
}

/// So nobody learns anything of the key from them, beside what chance lets through.
#[test]
fn what_is_answered_does_not_depend_on_the_key() {
    let decisions = |key| {
        let mut limiter = Limiter::new(1 << 14);
        limiter.policy.key = key;
        let asked = (0..50_000_u64).map(|number| {
            let (address, now_ns) = ((number * number % 61) as u32, SECOND + number * SECOND / 2000);
            limiter.ask(address, now_ns)
        });
        asked.collect::<Vec<_>>()
    };
    let first = decisions([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);
    assert!(first.contains(&Decision::Drop) && first.contains(&Decision::Kiss));
    for word in 1..20_u64 {
        let random = |salt: u64| (word + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) | 1 << 60;
        assert_eq!(decisions([random(0), random(100), random(200)]), first, "{word}");
    }
}

#[test]
fn another_key_puts_sources_elsewhere() {
    let place = |key| {
        let mut limiter = Limiter::new(1 << 14);
        limiter.policy.key = key;
        limiter.ask(7, SECOND);
        let sets = limiter.table.sets.into_iter().map(|set| set.map(AtomicU64::into_inner));
        sets.into_iter().position(|set| in_use(&set, SECOND) == 1).expect("one bucket")
    };
    let key = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0_u64];
    let changed = (0..3).map(|word| {
        let mut key = key;
        key[word] ^= 1 << 7;
        place(key)
    });
    let places: Vec<_> = changed.chain([place(key)]).collect();
    assert!(places.iter().enumerate().all(|(index, place)| !places[..index].contains(place)), "{places:?}");
}

/// Places that were never taken are taken first at any time that a machine may be up.
#[test]
fn an_abuser_is_known_while_there_is_room_however_long_the_machine_is_up() {
    for days in [0, 1, 103, 105, 150, 207, 209, 1000] {
        let mut limiter = Limiter::new(1);
        let now_ns = SECOND + days * 86_400 * SECOND;
        let spent = (0..1000).filter(|_| limiter.ask(7, now_ns) == Decision::Answer).count();
        assert_eq!(spent, 256, "{days} days");
        for other in 0..1000 {
            assert_eq!(limiter.ask(100 + other, now_ns + u64::from(other)), Decision::Answer);
        }
        assert_ne!(limiter.ask(7, now_ns + 2000), Decision::Answer, "{days} days");
    }
}

#[test]
fn a_bucket_is_as_good_as_new_after_any_time() {
    for days in [1, 104, 150, 208, 209, 4000] {
        let mut limiter = Limiter::new(1);
        for _ in 0..1000 {
            limiter.ask(7, SECOND);
        }
        assert_eq!(limiter.ask(7, SECOND + days * 86_400 * SECOND), Decision::Answer, "{days} days");
    }
}
