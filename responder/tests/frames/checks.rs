//! What holds for every input, for fuzz targets and for tests over random inputs.
#![allow(dead_code, reason = "a fuzz target makes one of the checks")]
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a check that panics says what it has to say"
)]

use responder::message::{self, Request};
use responder::{Action, ClockState, Outcome, Published, ServedTable, Server, clock};

/// Bytes of a clock block and of a reading of `CLOCK_MONOTONIC`.
pub(crate) const CLOCK: usize = 8 * clock::WORDS + 8;

pub(crate) const IPV4: [u8; 4] = [192, 0, 2, 123];
pub(crate) const BROADCAST: [u8; 4] = [192, 0, 2, 255];
pub(crate) const IPV6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x23];

struct Host {
    served: ServedTable,
    clock: ClockState,
    monotonic_ns: u64,
}

impl Published for &Host {
    fn served(&self) -> &ServedTable {
        &self.served
    }

    fn clock(&self) -> Option<ClockState> {
        Some(self.clock)
    }
}

impl responder::limiter::Buckets for Host {
    type Bucket = std::sync::atomic::AtomicU64;
}

impl Server for Host {
    type Published<'a> = &'a Self;

    fn published(&self) -> Option<&Self> {
        Some(self)
    }
}

impl responder::Host for Host {
    fn received_ns(&self) -> u64 {
        self.monotonic_ns
    }
}

/// Answers a frame: it must not change unless it is sent back, and what is sent back must be an answer to
/// it, from us, in the same frame.
pub(crate) fn respond(clock: &[u8; CLOCK], frame: &[u8]) -> Outcome {
    let (clock, monotonic_ns) = read_clock(clock);
    let served = ServedTable::new(&[IPV4], &[BROADCAST], &[IPV6]).expect("three addresses fit");
    let mut after = frame.to_vec();
    let outcome = responder::respond(&mut &mut after[..], &Host { served, clock, monotonic_ns });
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
        assert_eq!(after[ip + 12..ip + 16], IPV4);
        assert_eq!(after[ip + 16..ip + 20], frame[ip + 12..ip + 16]);
        assert_eq!(internet_sum([&after[ip..ip + 20]]), 0xffff);
        (ip + 20, &after[ip + 12..ip + 20])
    } else {
        assert_eq!(after[ip + 8..ip + 24], IPV6);
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

/// Reads a payload from a socket, and answers it if it is a request.
pub(crate) fn parse(clock: &[u8; CLOCK], source_port: u16, payload: &[u8]) {
    let (clock, monotonic_ns) = read_clock(clock);
    match Request::parse(payload, source_port) {
        Ok(request) => {
            assert!(payload.len() >= 48 && payload.len().is_multiple_of(4));
            let answer = message::answer(request, &clock, monotonic_ns, monotonic_ns);
            assert_eq!(answer.verdict().action(), Action::Transmit);
            check_answer(payload, &answer.to_bytes(), &clock, monotonic_ns);
        }
        Err(verdict) => assert_ne!(verdict.action(), Action::Transmit),
    }
}

/// Checks the message of an answer against that of its request.
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
