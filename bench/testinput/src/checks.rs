//! Assertions that hold for every input to `responder`. Fuzz targets and tests over random inputs make them.

use responder::message::{self, Request};
use responder::{Action, ClockState, Outcome, Policy, clock};

use crate::frames::{Host, SERVER_IPV4, SERVER_IPV6};

/// Length in bytes of a clock block and a reading of `CLOCK_MONOTONIC`.
pub const CLOCK: usize = 8 * clock::WORDS + 8;

/// Calls [`responder::respond`] on a frame. The frame must not change unless it is sent back; one that is sent back
/// must be an answer of the server to the request in it.
pub fn respond(clock: &[u8; CLOCK], frame: &[u8]) -> Outcome {
    let (clock, monotonic_ns) = read_clock(clock);
    let host = Host { clock: Some(clock), monotonic_ns, ..Host::new() };
    let mut after = frame.to_vec();
    let outcome = host.respond(&mut after);
    assert!(outcome.counter() < responder::verdict::COUNTERS);
    if outcome.verdict.action() != Action::Transmit {
        assert_eq!(after, frame);
        return outcome;
    }
    assert_eq!(after[..6], frame[6..12]);
    assert_eq!(after[6..12], frame[..6]);
    let ip = (12..=20).step_by(4).find(|offset| !is_tag(&frame[*offset..])).expect("two tags at most") + 2;
    assert_eq!(after[12..ip], frame[12..ip]);
    let (udp, addresses) = if after[ip] >> 4 == 4 {
        assert_eq!(after[ip + 12..ip + 16], SERVER_IPV4.octets());
        assert_eq!(after[ip + 16..ip + 20], frame[ip + 12..ip + 16]);
        assert_eq!(internet_sum([&after[ip..ip + 20]]), 0xffff);
        (ip + 20, &after[ip + 12..ip + 20])
    } else {
        assert_eq!(after[ip + 8..ip + 24], SERVER_IPV6.octets());
        assert_eq!(after[ip + 24..ip + 40], frame[ip + 8..ip + 24]);
        (ip + 40, &after[ip + 8..ip + 40])
    };
    assert_eq!(after[udp..udp + 2], 123_u16.to_be_bytes());
    assert_eq!(after[udp + 2..udp + 4], frame[udp..udp + 2]);
    assert_ne!(after[udp + 6..udp + 8], [0, 0]);
    assert_eq!(internet_sum([addresses, &[0, 17, 0, 56], &after[udp..udp + 56]]), 0xffff);
    check_answer(&frame[udp + 8..udp + 56], &after[udp + 8..udp + 56], &clock, monotonic_ns);
    assert_eq!(after[udp + 56..], frame[udp + 56..]);
    outcome
}

/// Parses a payload as one from a socket and, if it is a request, checks the answer to it.
pub fn parse(clock: &[u8; CLOCK], source_port: u16, payload: &[u8]) {
    let (clock, monotonic_ns) = read_clock(clock);
    match Request::parse(payload, source_port, &Policy::OFF) {
        Ok(request) => {
            assert!(payload.len() >= 48 && payload.len().is_multiple_of(4));
            let answer = message::answer(request, &clock, monotonic_ns, monotonic_ns);
            assert_eq!(answer.verdict().action(), Action::Transmit);
            check_answer(payload, &answer.to_bytes(), &clock, monotonic_ns);
        }
        Err(verdict) => assert_ne!(verdict.action(), Action::Transmit),
    }
}

/// Checks the message of an answer against its request.
fn check_answer(request: &[u8], answer: &[u8], clock: &ClockState, monotonic_ns: u64) {
    let version = request[0] & 0x38;
    assert!((0x08..=0x20).contains(&version));
    assert_eq!(answer[0] & 0x3f, version | 4);
    assert_eq!(answer[2], request[2]);
    assert_eq!(answer[24..32], request[40..48]);
    if clock.is_synchronised_at(monotonic_ns) {
        assert!(answer[0] >> 6 != 3 && (1..=15).contains(&answer[1]));
    } else {
        assert!(answer[0] >> 6 == 3 && answer[1] == 0 && answer[12..16] == [0; 4]);
    }
    // A precision of many years is nobody's, and its mask is not that of a timestamp.
    if clock.precision < 32 {
        let timestamp =
            |offset: usize| u64::from_be_bytes(answer[offset..offset + 8].try_into().expect("eight"));
        assert!(timestamp(40).wrapping_sub(timestamp(32)).cast_signed() > 0);
    }
}

fn read_clock(bytes: &[u8; CLOCK]) -> (ClockState, u64) {
    let word = |index: usize| u64::from_ne_bytes(bytes[8 * index..8 * index + 8].try_into().expect("eight"));
    (ClockState::from_words(std::array::from_fn(word)), word(clock::WORDS))
}

fn is_tag(ethertype: &[u8]) -> bool {
    ethertype.starts_with(&[0x81, 0]) || ethertype.starts_with(&[0x88, 0xa8])
}

/// The one's complement sum of RFC 1071 over parts of whole 16-bit words.
fn internet_sum<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}
