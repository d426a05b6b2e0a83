//! Requests as the socket in user space reads them: payloads, without a frame around.
#![allow(clippy::indexing_slicing, reason = "a test that panics says what it has to say")]

use proptest::prelude::*;
use responder::limiter::SYMMETRIC;
use responder::message::{Request as Parsed, answer};
use responder::{Action, Policy, Verdict};
use testinput::frames::{CLIENT_PORT, Host, Message, NTP_PORT, ORIGIN, Request, clock, message};

fn verdict(payload: &[u8]) -> Result<u8, Verdict> {
    Parsed::parse(payload, CLIENT_PORT, &Policy::OFF).map(Parsed::version)
}

#[test]
fn requests_of_48_bytes_and_whole_words_more_are_read() {
    for length in 0..400 {
        let mut payload = message(4, 3, ORIGIN).to_vec();
        payload.resize(length, 0x11);
        let expected = if length >= 48 && length % 4 == 0 { Ok(4) } else { Err(Verdict::DropLength) };
        assert_eq!(verdict(&payload), expected, "{length} bytes");
    }
}

#[test]
fn what_follows_the_message_changes_nothing_in_the_answer() {
    let short = message(4, 3, ORIGIN).to_vec();
    let mut long = short.clone();
    long.resize(48 + 28, 0xee);
    let [short, long] = [short, long].map(|payload| {
        let request = Parsed::parse(&payload, CLIENT_PORT, &Policy::OFF).expect("a request");
        answer(request, &clock(), clock().horizon_ns, clock().horizon_ns).to_bytes()
    });
    assert_eq!(short, long);
}

#[test]
fn versions_and_modes_are_told_apart_as_in_a_frame() {
    for request in Request::of_both_families() {
        for first in 0..=255 {
            for source_port in [CLIENT_PORT, NTP_PORT] {
                let mut payload = request.payload.clone();
                payload[0] = first;
                let from_socket = Parsed::parse(&payload, source_port, &Policy::OFF);
                let request = Request { source_port, payload, ..request.clone() };
                let outcome = Host::new().respond(&mut request.build());
                assert_eq!(outcome.version, first >> 3 & 7);
                match from_socket {
                    Ok(_) => assert_eq!(outcome.verdict.action(), Action::Transmit),
                    Err(verdict) => assert_eq!(outcome.verdict, verdict),
                }
            }
        }
    }
}

#[test]
fn symmetric_active_peers_are_answered_as_passive_ones_where_that_is_wanted_on_both_paths() {
    let host = Host { policy: Policy { options: SYMMETRIC, ..Policy::OFF }, ..Host::new() };
    for request in Request::of_both_families() {
        for version in 0..=7 {
            for source_port in [CLIENT_PORT, NTP_PORT] {
                let payload = message(version, 1, ORIGIN).to_vec();
                let request = Request { payload: payload.clone(), source_port, ..request.clone() };
                Host::new().assert_unanswered(&request.build(), Verdict::PassMode);
                assert_eq!(Parsed::parse(&payload, source_port, &Policy::OFF), Err(Verdict::PassMode));
                if !(1..=4).contains(&version) {
                    host.assert_unanswered(&request.build(), Verdict::PassVersion);
                    assert_eq!(Parsed::parse(&payload, source_port, &host.policy), Err(Verdict::PassVersion));
                    continue;
                }
                let from_frame = host.answer(&request).message;
                assert_eq!((from_frame.version, from_frame.mode), (version, 2));
                let client = Request { payload: message(version, 3, ORIGIN).to_vec(), ..request.clone() };
                assert_eq!(Message { mode: 4, ..from_frame }, host.answer(&client).message);
                let parsed = Parsed::parse(&payload, source_port, &host.policy).unwrap();
                let answer = answer(parsed, &clock(), host.monotonic_ns, host.monotonic_ns);
                assert_eq!(Message::read(&answer.to_bytes()), from_frame);
                // The answer is not answered: no two servers can keep each other busy.
                let back = answer.to_bytes();
                assert_eq!(Parsed::parse(&back, NTP_PORT, &host.policy), Err(Verdict::PassMode));
            }
        }
    }
}

#[test]
fn a_control_message_is_one_whatever_its_length() {
    for length in 1..100 {
        assert_eq!(verdict(&vec![0x16; length]), Err(Verdict::DropControl));
        assert_eq!(verdict(&vec![0x17; length]), Err(Verdict::DropControl));
    }
    assert_eq!(verdict(&[]), Err(Verdict::DropLength));
}

#[test]
fn the_socket_gives_the_answer_that_the_frame_gets() {
    let host = Host::new();
    for request in Request::of_both_families() {
        let from_frame = host.answer(&request).message;
        let parsed = Parsed::parse(&request.payload, request.source_port, &Policy::OFF).expect("a request");
        let now_ns = host.monotonic_ns;
        let from_socket = answer(parsed, &clock(), now_ns, now_ns);
        assert_eq!(Message::read(&from_socket.to_bytes()), from_frame);
    }
}

proptest! {
    #[test]
    fn no_payload_is_too_odd_to_read(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        source_port: u16,
        now_ns: u64,
        later_ns in 0..1_000_000_000_u64,
    ) {
        match Parsed::parse(&payload, source_port, &Policy::OFF) {
            Ok(request) => {
                prop_assert!(payload.len() >= 48 && payload.len() % 4 == 0);
                let answer = answer(request, &clock(), now_ns, now_ns.wrapping_add(later_ns));
                let message = Message::read(&answer.to_bytes());
                prop_assert_eq!(message.origin.to_be_bytes(), &payload[40..48]);
                prop_assert_eq!((message.version, message.mode), (payload[0] >> 3 & 7, 4));
            }
            Err(verdict) => prop_assert_ne!(verdict.action(), Action::Transmit),
        }
    }
}
