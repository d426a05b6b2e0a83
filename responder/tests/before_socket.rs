//! What the NIC path does with requests that the socket answers, and with messages that nobody answers, before the
//! kernel spends anything on them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics says what it has to say"
)]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use responder::admission::Arrival;
use responder::budget::{Allowance, Cost};
use responder::limiter::{
    self, BUDGET, Buckets, Class, IPV4_LIST, IPV6_LIST, KISS_DENIED, NO_LEAK, Policy, SYMMETRIC, WAYS,
};
use responder::message::Request as Parsed;
use responder::sample::{Chances, Sample};
use responder::{Access, Action, Family, Verdict, pipeline};
use testinput::frames::{Host, NTP_PORT, Request, Tables, clock, message};

const SECOND: u64 = 1_000_000_000;
const SETS: u32 = 1 << 8;
const RATE: u32 = 16;
const BURST: u32 = 32;
const KEY: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0];

/// A host that limits, with these entries in its access list.
fn limiting(entries: Vec<(IpAddr, u8, Access)>) -> Host {
    let policy = Policy {
        key: KEY,
        ordinary: Class::new(RATE, BURST).expect("a class"),
        strict: Class::new(1, 4).expect("a class"),
        kiss: Class::new(1000, 1000).expect("a class"),
        set_mask: SETS - 1,
        leak: NO_LEAK,
        lists: IPV4_LIST | IPV6_LIST,
        ..Policy::OFF
    };
    let tables = Arc::new(Tables::new(SETS as usize, entries));
    Host { policy, tables, port_ours_until_ns: [u64::MAX; 2], ..Host::new() }
}

/// A request with an extension field, whose transmit timestamp is `number`.
fn long(request: &Request, number: u64) -> Request {
    let mut payload = message(4, 3, number).to_vec();
    payload.resize(48 + 28, 0);
    Request { payload, ..request.clone() }
}

/// The first of the fragments of a request.
fn fragment(request: &Request) -> Request {
    Request { more_fragments: true, ..long(request, 7) }
}

fn verdict(host: &Host, request: &Request) -> Verdict {
    let frame = request.build();
    let mut after = frame.clone();
    let verdict = host.respond(&mut after).verdict;
    assert!(after == frame || verdict.action() == Action::Transmit);
    verdict
}

#[test]
fn long_requests_and_fragments_of_denied_sources_are_dropped_even_where_denied_sources_are_told() {
    for options in [0, KISS_DENIED] {
        for request in Request::of_both_families() {
            let mut host = limiting(vec![(request.source, 24, Access::Denied)]);
            host.policy.options = options;
            let count = 1000;
            for number in 0..count {
                assert_eq!(verdict(&host, &long(&request, number)), Verdict::DropDenied);
            }
            let allowed = limiting(vec![(request.source, 24, Access::Unlimited)]);
            assert_eq!(verdict(&allowed, &long(&request, 7)), Verdict::PassLong);
            if request.source.is_ipv4() {
                assert_eq!(verdict(&host, &fragment(&request)), Verdict::DropDenied);
                assert_eq!(verdict(&allowed, &fragment(&request)), Verdict::PassFragment);
            }
        }
    }
}

#[test]
fn a_list_that_is_empty_is_not_asked() {
    for request in Request::of_both_families() {
        let mut host = limiting(vec![(request.source, 24, Access::Denied)]);
        host.policy.lists = 0;
        assert_eq!(verdict(&host, &long(&request, 7)), Verdict::PassLong);
    }
}

#[test]
fn fragments_of_a_source_over_its_rate_are_dropped() {
    let host = limiting(vec![]);
    let verdicts: Vec<_> = (0..100).map(|_| verdict(&host, &fragment(&Request::ipv4()))).collect();
    let passed = verdicts.iter().filter(|verdict| **verdict == Verdict::PassFragment).count();
    let dropped = verdicts.iter().filter(|verdict| **verdict == Verdict::DropLimited).count();
    assert_eq!((passed, dropped), (BURST as usize, 100 - BURST as usize));
}

/// They may be for another process that has the port.
#[test]
fn fragments_that_are_not_of_a_request_pass() {
    let host = limiting(vec![(Request::ipv4().source, 24, Access::Denied)]);
    for mode in [1, 2, 4, 5, 6, 7] {
        let mut fragment = fragment(&Request::ipv4());
        fragment.payload[0] = 0x20 | mode;
        assert_eq!(verdict(&host, &fragment), Verdict::PassFragment);
    }
    let cut = Request { payload: vec![], ..fragment(&Request::ipv4()) };
    assert_eq!(verdict(&host, &cut), Verdict::PassFragment);
}

#[test]
fn the_clock_is_not_needed_for_what_the_socket_answers() {
    for request in Request::of_both_families() {
        let host = Host { clock: None, ..limiting(vec![]) };
        assert_eq!(verdict(&host, &long(&request, 7)), Verdict::PassLong);
    }
}

#[test]
fn a_broken_packet_costs_its_source_nothing() {
    for request in Request::of_both_families() {
        let host = limiting(vec![]);
        let mut broken = long(&request, 7).build();
        // The IPv4 header's checksum, or the UDP checksum over IPv6.
        if request.source.is_ipv4() {
            broken[24] ^= 1;
        } else {
            broken[60..62].fill(0);
        }
        let words = host.tables.words();
        assert_eq!(host.respond(&mut broken).verdict, Verdict::DropChecksum);
        assert_eq!(host.tables.words(), words);
    }
}

/// Kisses are sent, the budget is charged and admitted requests are sampled where the answer is made.
#[test]
fn a_request_for_the_socket_takes_no_kiss_and_nothing_of_the_budget_and_is_sampled_only_if_it_is_dropped() {
    for request in Request::of_both_families() {
        let mut host = limiting(vec![]);
        host.policy.options = BUDGET | KISS_DENIED;
        host.policy.chances = Chances { request: u64::MAX, source: u64::MAX };
        host.tables.grant(Cost { answer: u64::MAX >> 8, byte: 0 });
        let mut dropped = 0;
        for number in 0..1000 {
            match verdict(&host, &long(&request, number)) {
                Verdict::PassLong => {}
                Verdict::DropLimited => dropped += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(dropped, 1000 - BURST as usize);
        let (_, kisses, answers) = host.tables.words();
        assert_eq!((kisses, answers), (0, 0));
        let samples = host.tables.take_samples();
        assert_eq!(samples.len(), dropped);
        assert!(samples.iter().all(|sample| sample.verdict == Verdict::DropLimited as u8));
        // For short ones, all of it counts.
        let host = Host { tables: limiting(vec![]).tables, ..host };
        host.tables.grant(Cost { answer: 1, byte: 0 });
        let verdicts: Vec<_> = (0..=BURST).map(|_| verdict(&host, &request)).collect();
        assert_eq!((verdicts[0], verdicts[BURST as usize]), (Verdict::Answered, Verdict::KissRate));
        let (_, kisses, answers) = host.tables.words();
        assert!(kisses != 0 && answers != 0);
        assert_eq!(host.tables.take_samples().len(), verdicts.len());
    }
}

proptest! {
    /// One bucket for both kinds: asking in another way gives nobody more.
    #[test]
    fn long_and_short_requests_of_a_source_share_its_rate(
        requests in prop::collection::vec((0..SECOND / 4, any::<bool>()), 1..400),
        ipv6: bool,
    ) {
        let mut host = limiting(vec![]);
        let request = if ipv6 { Request::ipv6() } else { Request::ipv4() };
        let mut reference = limiting(vec![]);
        for (number, (gap, is_long)) in requests.into_iter().enumerate() {
            host.monotonic_ns += gap;
            reference.monotonic_ns = host.monotonic_ns;
            let expected = verdict(&reference, &request) == Verdict::Answered;
            let request = if is_long { long(&request, number as u64) } else { request.clone() };
            let met = verdict(&host, &request);
            prop_assert!(
                if expected {
                    matches!(met, Verdict::Answered | Verdict::PassLong)
                } else {
                    matches!(met, Verdict::DropLimited | Verdict::KissRate)
                },
                "{:?}",
                met
            );
            // What the limiter knows of the source is the same, whichever way it asks.
            prop_assert_eq!(host.tables.words().0, reference.tables.words().0);
        }
    }

    #[test]
    fn the_shares_of_a_leak_are_the_whole_of_it(leak: u8) {
        let [first, second] = limiter::divided(leak);
        if leak >= NO_LEAK {
            prop_assert!(first >= NO_LEAK && second >= NO_LEAK);
        } else {
            prop_assert_eq!(first + second, leak);
            prop_assert!(second <= first);
        }
    }
}

/// The socket behind the NIC path, with a table of its own.
struct Socket<'a> {
    tables: &'a Tables,
    now_ns: u64,
}

impl Buckets for Socket<'_> {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.tables.set(number)
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        None
    }

    fn leak(&self, leak: u8) -> u8 {
        let [_, at_socket] = limiter::divided(leak);
        at_socket
    }

    fn report(&self, _sample: Sample) {}
}

impl responder::Host for Socket<'_> {
    fn received_ns(&self) -> u64 {
        self.now_ns
    }
}

/// Ten seconds of requests from one address to NIC path and socket: how many are answered in the end, and how many by
/// chance.
fn through_both(per_s: u64, leak: u8) -> (u64, u64) {
    let mut host = limiting(vec![]);
    host.policy.leak = leak;
    let behind = Tables::new(SETS as usize, vec![]);
    let start = host.monotonic_ns;
    let (mut answered, mut leaked) = (0, 0);
    for number in 0..10 * per_s {
        host.monotonic_ns = start + number * SECOND / per_s;
        let request = long(&Request::ipv4(), number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if verdict(&host, &request) != Verdict::PassLong {
            continue;
        }
        // Some microseconds later.
        let socket = Socket { tables: &behind, now_ns: host.monotonic_ns + 20_000 + number % 7 * 1000 };
        let parsed = Parsed::parse(&request.payload, request.source_port, &host.policy).expect("a request");
        let IpAddr::V4(source) = request.source else { panic!("IPv4") };
        let policy = &host.policy;
        match pipeline::answer(
            parsed,
            source.octets(),
            Arrival::default(),
            90,
            policy,
            || Some(clock()),
            &socket,
        ) {
            Ok(answer) if answer.verdict() == Verdict::Answered => answered += 1,
            Ok(answer) => {
                assert_eq!(answer.verdict(), Verdict::Leaked);
                leaked += 1;
            }
            Err(verdict) => assert_eq!(verdict, Verdict::DropLimited),
        }
    }
    (answered, leaked)
}

#[test]
fn the_socket_refuses_nothing_that_is_within_the_rate() {
    // Half of the rate, and all of it.
    for per_s in [8, 16] {
        assert_eq!(through_both(per_s, NO_LEAK), (10 * per_s, 0));
    }
}

#[test]
fn of_requests_beyond_the_rate_as_many_are_answered_behind_both_tables_as_behind_one() {
    for leak in [0, 1, 3, 4, 5] {
        let per_s = 20_000;
        let (answered, leaked) = through_both(per_s, leak);
        let within = u64::from(BURST + 10 * RATE);
        assert!((within - 3..=within).contains(&answered), "{leak}: {answered}");
        let expected = (10 * per_s - within) >> leak;
        assert!(
            leaked * 10 > expected * 9 && leaked * 10 < expected * 11,
            "{leak}: {leaked}, not {expected}"
        );
    }
}

#[test]
fn what_nobody_answers_is_dropped_where_the_port_is_ours_and_while_that_is_known() {
    let beside_others = Host::new();
    for request in Request::of_both_families() {
        let family = if request.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let mut alone = Host::new();
        alone.port_ours_until_ns[family as usize] = alone.monotonic_ns + 1;
        let of_the_other = Host { port_ours_until_ns: [alone.monotonic_ns + 1; 2], ..Host::new() };
        let of_the_other = {
            let mut host = of_the_other;
            host.port_ours_until_ns[family as usize] = 0;
            host
        };
        let mut over = alone.clone();
        over.monotonic_ns += 1;
        for first in 0..=255 {
            for source_port in [NTP_PORT, request.source_port] {
                for length in [48, 52, 76] {
                    let mut payload = request.payload.clone();
                    payload[0] = first;
                    payload.resize(length, 0);
                    let request = Request { payload, source_port, ..request.clone() };
                    let passed = verdict(&beside_others, &request);
                    let dropped = match passed {
                        Verdict::PassMode | Verdict::PassVersion => Verdict::DropUnanswered,
                        other => other,
                    };
                    assert_eq!(dropped.action() == Action::Pass, passed == Verdict::PassLong);
                    assert_eq!(verdict(&alone, &request), dropped, "{first:#x}");
                    assert_eq!(verdict(&of_the_other, &request), passed, "{first:#x}");
                    assert_eq!(verdict(&over, &request), passed, "{first:#x}");
                }
            }
        }
    }
}

#[test]
fn peers_that_are_to_be_answered_are_answered_where_the_port_is_ours_alone() {
    let policy = Policy { options: SYMMETRIC, ..Policy::OFF };
    let host = Host { policy, port_ours_until_ns: [u64::MAX; 2], ..Host::new() };
    for request in Request::of_both_families() {
        let peer = Request { payload: message(4, 1, 7).to_vec(), ..request };
        assert_eq!(verdict(&host, &peer), Verdict::Answered);
    }
}
