//! Whatever comes in: no panic, no answer that is longer than its question, no frame changed but by an
//! answer.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics says what it has to say"
)]

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use responder::{Action, Family, Outcome, Verdict};
use testinput::checks;
use testinput::frames::{Answer, Host, Message, Request, SERVICE_VLAN, TAGS, VLAN};
use testinput::generator::{Generator, SHORTEST, Target};
use testinput::limit_checks;

/// Sends a frame and asserts what holds for all frames.
#[track_caller]
fn assert_harmless(host: &Host, frame: &[u8]) -> Outcome {
    let mut after = frame.to_vec();
    let outcome = host.respond(&mut after);
    if outcome.verdict.action() == Action::Transmit {
        let answer = Answer::take_apart(&after);
        assert_eq!(answer.message.mode, 4);
        assert_ne!(answer.message.transmit, answer.message.receive);
        assert_eq!(answer.destination_mac, frame[6..12]);
        // The packet of 48 bytes, and whatever padding was there.
        let headers = 14 + 4 * answer.vlans.len() + if answer.source.is_ipv4() { 28 } else { 48 };
        let request = Message::read(&frame[headers..headers + 48]);
        assert_eq!(answer.message.origin, request.transmit);
        assert_eq!(after[headers + 48..], frame[headers + 48..]);
    } else {
        assert_eq!(after, frame);
    }
    outcome
}

#[test]
fn a_frame_cut_off_anywhere_is_not_answered() {
    for request in Request::of_both_families() {
        for tags in TAGS {
            let frame = Request { tags: tags.to_vec(), ..request.clone() }.build();
            for length in 0..frame.len() {
                let outcome = assert_harmless(&Host::new(), &frame[..length]);
                assert_ne!(outcome.verdict.action(), Action::Transmit, "{length} bytes");
            }
            assert_eq!(assert_harmless(&Host::new(), &frame).verdict, Verdict::Answered);
        }
    }
}

#[test]
fn every_byte_may_have_any_value() {
    for request in Request::of_both_families() {
        for tags in [&[][..], &[SERVICE_VLAN, VLAN]] {
            let frame = Request { tags: tags.to_vec(), ..request.clone() }.build();
            for index in 0..frame.len() {
                for value in 0..=255 {
                    let mut frame = frame.clone();
                    frame[index] = value;
                    assert_harmless(&Host::new(), &frame);
                }
            }
        }
    }
}

#[test]
fn generated_requests_are_answered() {
    let mut generator = Generator::new(1, Target::SERVER);
    for _ in 0..10_000 {
        let frame = generator.request();
        assert_eq!(assert_harmless(&Host::new(), &frame).verdict, Verdict::Answered, "{frame:02x?}");
    }
}

#[test]
fn generated_frames_do_no_harm_and_meet_with_every_verdict() {
    let mut met = HashSet::new();
    let beside_others = Host::new();
    let alone = Host { port_ours_until_ns: [u64::MAX; 2], ..Host::new() };
    let hosts = [&beside_others, &alone].into_iter().cycle();
    for (frame, host) in Generator::new(2, Target::SERVER).take(50_000).zip(hosts) {
        assert!(frame.len() >= SHORTEST);
        let outcome = assert_harmless(host, &frame);
        met.insert((outcome.verdict.label(), outcome.family.label()));
    }
    for verdict in Verdict::ALL {
        for family in Family::ALL {
            let cannot_be = match verdict {
                // These depend on the host's state, or are the socket's.
                Verdict::Unsynchronised | Verdict::PassClock | Verdict::DropUnsent => true,
                // Of IPv4 only, or counted as if.
                Verdict::NotNtp | Verdict::PassFragment => *family == Family::Ipv6,
                _ => verdict.is_of_limits(),
            };
            let name = (verdict.label(), family.label());
            assert_eq!(met.contains(&name), !cannot_be, "{name:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_frames() {
    let frames = |seed| Generator::new(seed, Target::SERVER).take(1000).collect::<Vec<_>>();
    assert_eq!(frames(3), frames(3));
    assert_ne!(frames(3), frames(4));
}

prop_compose! {
    /// A request with some bytes changed, then cut off or padded.
    fn nearly_a_request()(
        seed: u64,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        length in 0..200_usize,
        keep_length: bool,
    ) -> Vec<u8> {
        let mut frame = Generator::new(seed, Target::SERVER).request();
        for (index, value) in changes {
            let index = index.index(frame.len());
            frame[index] = value;
        }
        if !keep_length {
            frame.resize(length, 0);
        }
        frame
    }
}

/// Bytes of a clock block and of a reading of `CLOCK_MONOTONIC`.
fn any_clock() -> impl Strategy<Value = [u8; checks::CLOCK]> {
    any::<[u64; checks::CLOCK / 8]>().prop_map(|words| {
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
        bytes.try_into().expect("as many bytes as words have")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn mutated_requests_do_no_harm(frame in nearly_a_request()) {
        assert_harmless(&Host::new(), &frame);
    }

    #[test]
    fn any_clock_block_does_no_harm(clock in any_clock(), seed: u64) {
        let outcome = checks::respond(&clock, &Generator::new(seed, Target::SERVER).request());
        prop_assert_eq!(outcome.verdict.action(), Action::Transmit);
    }

    #[test]
    fn any_payload_does_no_harm(
        clock in any_clock(),
        source_port: u16,
        payload in prop::collection::vec(any::<u8>(), 0..130),
    ) {
        checks::parse(&clock, source_port, &payload);
    }

    #[test]
    fn any_sequence_of_requests_is_limited_as_promised(
        header: [u8; limit_checks::HEADER],
        requests in prop::collection::vec(any::<u8>(), 0..100 * limit_checks::REQUEST),
        is_flood: bool,
    ) {
        let (mut header, mut requests) = (header, requests);
        if is_flood {
            // Small rates, bursts and budgets; in the second byte of each request is the exponent of the gap before it.
            header[4..7].iter_mut().for_each(|byte| *byte %= 4);
            requests.iter_mut().skip(1).step_by(limit_checks::REQUEST).for_each(|exponent| *exponent %= 16);
        }
        limit_checks::limiter(header, &requests);
        limit_checks::budget(header, &requests);
    }

    #[test]
    fn frames_of_nothing_but_noise_do_no_harm(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        assert_harmless(&Host::new(), &frame);
    }
}
