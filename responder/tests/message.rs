//! The fields of an answer's message, by RFC 5905 section 7.3 and the house's rules for them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use std::collections::HashSet;

use proptest::prelude::*;
use responder::clock::{DispersionRate, Rate};
use responder::message::{Request as Parsed, answer};
use responder::{ClockState, NtpShort, NtpTimestamp, Policy, Verdict};
use testinput::frames::{Answer, CLIENT_PORT, Host, Message, ORIGIN, Request, clock, message};

/// What a clock makes of a request received and answered at these times.
fn answered(clock: &ClockState, origin: u64, received_ns: u64, transmitted_ns: u64) -> Message {
    let request = Parsed::parse(&message(4, 3, origin), CLIENT_PORT, &Policy::OFF).expect("a request");
    Message::read(&answer(request, clock, received_ns, transmitted_ns).to_bytes())
}

/// The bits of a timestamp below 2^`precision` seconds.
fn below(precision: i8) -> u64 {
    (1 << (32 + i32::from(precision))) - 1
}

#[test]
fn the_origin_is_the_requests_transmit_timestamp_bit_for_bit() {
    for origin in [0, 1, ORIGIN, u64::MAX, 1 << 63] {
        for request in Request::of_both_families() {
            let request = Request { payload: message(4, 3, origin).to_vec(), ..request };
            assert_eq!(Host::new().answer(&request).message.origin, origin);
        }
    }
}

#[test]
fn the_poll_interval_is_the_requests() {
    for poll in [0, 6, 17, 0xff] {
        let mut payload = message(4, 3, ORIGIN).to_vec();
        payload.splice(2..3, [poll]);
        assert_eq!(Host::new().answer(&Request { payload, ..Request::ipv4() }).message.poll, poll);
    }
}

#[test]
fn the_clocks_fields_are_in_the_answer() {
    for request in Request::of_both_families() {
        let message = Host::new().answer(&request).message;
        assert_eq!(message.leap, clock().leap);
        assert_eq!(message.stratum, clock().stratum);
        assert_eq!(message.precision, clock().precision);
        assert_eq!(message.root_delay, clock().root_delay.0);
        assert_eq!(message.reference_id, clock().reference_id);
        assert_eq!(message.reference, clock().reference_time.0);
    }
}

#[test]
fn every_synchronised_leap_and_stratum_is_passed_on() {
    for leap in 0..=2 {
        for stratum in 1..=15 {
            let clock = ClockState { leap, stratum, ..clock() };
            let message = answered(&clock, ORIGIN, clock.monotonic_base_ns, clock.monotonic_base_ns);
            assert_eq!((message.leap, message.stratum), (leap, stratum));
            assert_eq!(message.reference_id, clock.reference_id);
        }
    }
}

/// Asserts that the host answers, and says that it is not synchronised.
#[track_caller]
fn assert_unsynchronised(host: &Host) {
    for request in Request::of_both_families() {
        let mut frame = request.build();
        assert_eq!(host.respond(&mut frame).verdict, Verdict::Unsynchronised);
        let message = Answer::take_apart(&frame).message;
        assert_eq!((message.leap, message.stratum, message.reference_id), (3, 0, 0));
        assert_eq!((message.mode, message.origin), (4, ORIGIN));
    }
}

#[test]
fn a_clock_that_does_not_claim_to_be_synchronised_is_not() {
    for (leap, stratum) in [(3, 2), (0, 0), (0, 16), (1, 255), (3, 0), (3, 16)] {
        let clock = Some(ClockState { leap, stratum, ..clock() });
        assert_unsynchronised(&Host { clock, ..Host::new() });
    }
}

#[test]
fn past_the_horizon_the_answer_says_unsynchronised() {
    let horizon_ns = clock().horizon_ns;
    let host = Host { monotonic_ns: horizon_ns, ..Host::new() };
    assert_eq!(host.answer(&Request::ipv4()).message.leap, clock().leap);
    for late_ns in [1, 1_000_000_000, 1 << 50] {
        assert_unsynchronised(&Host { monotonic_ns: horizon_ns + late_ns, ..Host::new() });
    }
    assert_unsynchronised(&Host { monotonic_ns: u64::MAX, ..Host::new() });
}

#[test]
fn a_new_clock_state_ends_the_time_past_the_horizon() {
    let mut host = Host { monotonic_ns: clock().horizon_ns + 1, ..Host::new() };
    assert_unsynchronised(&host);
    host.clock = Some(ClockState { horizon_ns: host.monotonic_ns, sequence: 8, ..clock() });
    assert_eq!(host.answer(&Request::ipv4()).message.stratum, clock().stratum);
}

#[test]
fn a_clock_block_that_nobody_has_written_is_not_synchronised() {
    let clock = Some(ClockState::from_words([0; responder::clock::WORDS]));
    assert_unsynchronised(&Host { clock, ..Host::new() });
    assert_unsynchronised(&Host { clock, monotonic_ns: 0, ..Host::new() });
}

#[test]
fn root_dispersion_grows_with_the_age_of_the_line() {
    let clock = ClockState { dispersion_rate: DispersionRate::from_ppb(15_000), ..clock() };
    let dispersion_after = |seconds: u64| {
        let now_ns = clock.monotonic_base_ns + seconds * 1_000_000_000;
        NtpShort(answered(&clock, ORIGIN, now_ns, now_ns).root_dispersion).as_nanos()
    };
    let at_base = clock.root_dispersion.as_nanos();
    assert_eq!(dispersion_after(0), at_base);
    // 15 ppm, give or take one unit of 2^-16 s.
    for seconds in [1, 10, 64, 1024, 86_400] {
        let grown = dispersion_after(seconds) - at_base;
        assert!(grown.abs_diff(15_000 * seconds) <= 15_259, "{grown} ns after {seconds} s");
    }
}

#[test]
fn receive_and_transmit_are_the_times_of_receipt_and_of_sending() {
    let clock = clock();
    let received_ns = clock.monotonic_base_ns + 1_000_000_000;
    let message = answered(&clock, ORIGIN, received_ns, received_ns + 500_000_000);
    let second = clock.ntp_base.0 + (1 << 32);
    assert!(message.receive.abs_diff(second) <= below(clock.precision) + 2);
    assert!(message.transmit.abs_diff(second + (1 << 31)) <= below(clock.precision) + 2);
}

#[test]
fn the_noise_has_no_pattern() {
    let clock = ClockState { precision: -16, ..clock() };
    let low_bits = |timestamp: u64| timestamp & below(clock.precision);
    let mut receives = HashSet::new();
    let mut transmits = HashSet::new();
    for now_ns in (clock.monotonic_base_ns..).step_by(1000).take(1000) {
        let message = answered(&clock, ORIGIN, now_ns, now_ns);
        receives.insert(low_bits(message.receive));
        transmits.insert(low_bits(message.transmit));
    }
    // 1000 throws at 2^15 numbers: some 15 meet.
    assert!(receives.len() > 950 && transmits.len() > 950, "{} {}", receives.len(), transmits.len());
}

prop_compose! {
    /// Any line that a daemon could publish.
    fn any_line()(
        monotonic_base_ns in 0..1_u64 << 60,
        ntp_base: u64,
        rate in rates(),
        precision in -32_i8..=0,
    ) -> ClockState {
        ClockState { monotonic_base_ns, ntp_base: NtpTimestamp(ntp_base), rate, precision, ..clock() }
    }
}

fn rates() -> impl Strategy<Value = Rate> {
    let deviation = Rate::NOMINAL.0 / 2000;
    (Rate::NOMINAL.0 - deviation..=Rate::NOMINAL.0 + deviation).prop_map(Rate)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn transmit_is_always_later_than_receive(
        clock in any_line(),
        precision: i8,
        origin: u64,
        age_ns in -1_000_000_000_i64..1_000_000_000_000_000,
        residence_ns in prop_oneof![Just(0), 0..100_u64, 0..1_000_000_000_u64],
    ) {
        // From "finer than a timestamp" to a minute.
        let clock = ClockState { precision: precision.min(6), ..clock };
        let received_ns = clock.monotonic_base_ns.wrapping_add_signed(age_ns);
        let message = answered(&clock, origin, received_ns, received_ns.wrapping_add(residence_ns));
        prop_assert!(NtpTimestamp(message.transmit).since(NtpTimestamp(message.receive)) > 0);
    }

    #[test]
    fn noise_is_below_the_precision_only(
        clock in any_line(),
        origin: u64,
        age_ns in 0..1_000_000_000_000_000_u64,
        residence_ns in 0..1_000_000_000_u64,
    ) {
        let clock = ClockState { precision: clock.precision.max(-31), ..clock };
        let received_ns = clock.monotonic_base_ns + age_ns;
        let transmitted_ns = received_ns + residence_ns;
        let message = answered(&clock, origin, received_ns, transmitted_ns);
        let above = !below(clock.precision);
        prop_assert_eq!(message.receive & above, clock.time_at(received_ns).0 & above);
        prop_assert_eq!(message.transmit & above, clock.time_at(transmitted_ns).0 & above);
    }

    #[test]
    fn an_answer_repeats_nothing_but_version_poll_and_transmit_time(
        payload in prop::array::uniform32(any::<u8>()),
        transmit: [u8; 8],
    ) {
        let clock = clock();
        let now_ns = clock.monotonic_base_ns;
        let mut request = message(4, 3, u64::from_be_bytes(transmit));
        let plain = answer(Parsed::parse(&request, CLIENT_PORT, &Policy::OFF).expect("a request"), &clock, now_ns, now_ns);
        // All between the poll interval and the transmit timestamp.
        request[3..35].copy_from_slice(&payload);
        request[1] = payload[0];
        let other = answer(Parsed::parse(&request, CLIENT_PORT, &Policy::OFF).expect("a request"), &clock, now_ns, now_ns);
        prop_assert_eq!(plain.to_bytes(), other.to_bytes());
    }
}
