//! Clock arithmetic against wider integers, and the time formats against their definitions.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use proptest::prelude::*;
use responder::clock::{DispersionRate, Rate};
use responder::{ClockState, NtpShort, NtpTimestamp};
use testinput::frames::clock;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: i64 = 86_400_000_000_000;

/// The line, multiplied out in 128 bits.
fn time_on_line(clock: &ClockState, monotonic_ns: u64) -> NtpTimestamp {
    let elapsed_ns = i128::from(monotonic_ns) - i128::from(clock.monotonic_base_ns);
    let units = (elapsed_ns * i128::from(clock.rate.0)) >> 32;
    NtpTimestamp((i128::from(clock.ntp_base.0) + units).rem_euclid(1 << 64) as u64)
}

fn rates() -> impl Strategy<Value = Rate> {
    let deviation = Rate::NOMINAL.0 / 2000;
    (Rate::NOMINAL.0 - deviation..=Rate::NOMINAL.0 + deviation).prop_map(Rate)
}

fn any_state() -> impl Strategy<Value = ClockState> {
    (any::<[u64; 5]>(), any::<[u32; 5]>(), 0..4_u8, any::<u8>(), any::<i8>()).prop_map(
        |(long, short, leap, stratum, precision)| ClockState {
            sequence: short[0],
            monotonic_base_ns: long[0],
            ntp_base: NtpTimestamp(long[1]),
            rate: Rate(long[2]),
            horizon_ns: long[3],
            reference_time: NtpTimestamp(long[4]),
            root_delay: NtpShort(short[1]),
            root_dispersion: NtpShort(short[2]),
            dispersion_rate: DispersionRate(short[3]),
            reference_id: short[4],
            leap,
            stratum,
            precision,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_time_is_on_the_line(
        monotonic_base_ns in 0..1_u64 << 62,
        ntp_base: u64,
        rate in rates(),
        elapsed_ns in prop_oneof![-30 * DAY_NS..30 * DAY_NS, -5_000_000_000_i64..5_000_000_000, -2..3_i64],
    ) {
        let clock = ClockState { monotonic_base_ns, ntp_base: NtpTimestamp(ntp_base), rate, ..clock() };
        prop_assume!(monotonic_base_ns.checked_add_signed(elapsed_ns).is_some());
        let monotonic_ns = monotonic_base_ns.wrapping_add_signed(elapsed_ns);
        prop_assert_eq!(clock.time_at(monotonic_ns), time_on_line(&clock, monotonic_ns));
    }

    #[test]
    fn any_rate_at_all_is_multiplied_out(
        monotonic_base_ns in 0..i64::MAX.cast_unsigned(),
        monotonic_ns in 0..i64::MAX.cast_unsigned(),
        ntp_base: u64,
        rate: u64,
    ) {
        let rate = Rate(rate);
        let clock = ClockState { monotonic_base_ns, ntp_base: NtpTimestamp(ntp_base), rate, ..clock() };
        prop_assert_eq!(clock.time_at(monotonic_ns), time_on_line(&clock, monotonic_ns));
    }

    #[test]
    fn time_never_runs_backwards(
        monotonic_ns in 0..1_u64 << 60,
        later_ns in 0..SECOND_NS * 1000,
        rate in rates(),
    ) {
        let clock = ClockState { rate, ..clock() };
        prop_assert!(clock.time_at(monotonic_ns + later_ns).since(clock.time_at(monotonic_ns)) >= 0);
    }

    #[test]
    fn the_nominal_rate_is_a_second_a_second(elapsed_s in 0..10_000_000_u64) {
        let clock = ClockState { rate: Rate::NOMINAL, ..clock() };
        let now = clock.time_at(clock.monotonic_base_ns + elapsed_s * SECOND_NS);
        let error = now.since(clock.ntp_base) - (elapsed_s << 32).cast_signed();
        // 2^64 / 10^9 is rounded by 0.016 parts in 10^9.
        prop_assert!(error.unsigned_abs() <= (elapsed_s << 32) / 50_000_000_000 + 1, "{}", error);
    }

    #[test]
    fn a_state_survives_the_map(state in any_state()) {
        prop_assert_eq!(ClockState::from_words(state.to_words()), state);
    }

    #[test]
    fn any_words_are_a_state(words: [u64; 8], now_ns: u64) {
        let state = ClockState::from_words(words);
        prop_assert!(state.leap <= 3);
        prop_assert_eq!(ClockState::from_words(state.to_words()), state);
        let _no_panic = (state.time_at(now_ns), state.root_dispersion_at(now_ns), state.is_synchronised_at(now_ns));
    }

    #[test]
    fn unix_time_is_rounded_to_the_nearest_unit(seconds in -2_208_988_800..4_102_444_800_i64, nanos in 0..SECOND_NS) {
        let timestamp = NtpTimestamp::from_unix(seconds, nanos as u32).0;
        prop_assert_eq!(timestamp >> 32, (seconds + 2_208_988_800).cast_unsigned() & 0xffff_ffff);
        let doubled_error = (i128::from(timestamp & 0xffff_ffff) * 1_000_000_000 - (i128::from(nanos) << 32)) * 2;
        prop_assert!(doubled_error.abs() <= 1_000_000_000);
    }

    #[test]
    fn distances_are_right_across_the_era(base: u64, distance: i64) {
        let (earlier, later) = (NtpTimestamp(base), NtpTimestamp(base.wrapping_add_signed(distance)));
        prop_assert_eq!(later.since(earlier), distance);
    }

    #[test]
    fn short_intervals_are_rounded_up_by_less_than_a_unit(nanos in 0..65_535 * SECOND_NS) {
        let NtpShort(units) = NtpShort::from_nanos(nanos);
        let exact = u128::from(nanos) << 16;
        let found = u128::from(units) * u128::from(SECOND_NS);
        prop_assert!(found >= exact && found < exact + u128::from(SECOND_NS));
    }

    #[test]
    fn short_intervals_survive_nanoseconds(units: u32) {
        prop_assert_eq!(NtpShort::from_nanos(NtpShort(units).as_nanos()), NtpShort(units));
    }

    #[test]
    fn dispersion_rates_are_rounded_up_by_little_more_than_a_unit(ppb in 0..232_000_000_u64) {
        let DispersionRate(units) = DispersionRate::from_ppb(ppb);
        // One part in 10^9 is 2^64 / 10^9 units in 10^9.
        let exact = u128::from(ppb) << 64;
        let found = u128::from(units) * u128::from(SECOND_NS) * u128::from(SECOND_NS);
        prop_assert!(found >= exact && found < exact + u128::from(SECOND_NS) * u128::from(SECOND_NS) * 11 / 10);
    }

    #[test]
    fn dispersion_is_what_its_rate_says_to_within_a_unit(
        root_dispersion in 0..0x8000_0000_u32,
        ppb in 0..1_000_000_u64,
        elapsed_ns in 0..3 * DAY_NS.cast_unsigned(),
    ) {
        let clock = ClockState {
            root_dispersion: NtpShort(root_dispersion),
            dispersion_rate: DispersionRate::from_ppb(ppb),
            ..clock()
        };
        let NtpShort(bound) = clock.root_dispersion_at(clock.monotonic_base_ns + elapsed_ns);
        // In 10^-18 s. The line's age counts in whole 2^16 ns: a part in 230 of a unit at the fastest of these rates.
        let (aged_ns, exact) = (elapsed_ns >> 16 << 16, u128::from(elapsed_ns) * u128::from(ppb));
        let least = u128::from(aged_ns) * u128::from(ppb);
        let grown = (u128::from(bound - root_dispersion) * 1_000_000_000_000_000_000) >> 16;
        let unit = 1_000_000_000_000_000_000_u128 >> 16;
        // Above it by no more than the rounding up of the rate, a part in 10^9 at most.
        prop_assert!(grown + unit + 1 >= least && grown <= exact + u128::from(elapsed_ns));
    }

    #[test]
    fn dispersion_never_shrinks_with_age(
        root_dispersion: u32,
        rate: u32,
        age_ns: u64,
        later_ns in 0..DAY_NS.cast_unsigned(),
    ) {
        let clock = ClockState {
            monotonic_base_ns: 0,
            root_dispersion: NtpShort(root_dispersion),
            dispersion_rate: DispersionRate(rate),
            ..clock()
        };
        let age_ns = age_ns >> 2;
        prop_assert!(clock.root_dispersion_at(age_ns) <= clock.root_dispersion_at(age_ns + later_ns));
        prop_assert!(clock.root_dispersion_at(age_ns) >= clock.root_dispersion);
    }
}

#[test]
fn the_epochs_are_70_years_apart() {
    assert_eq!(NtpTimestamp::from_unix(0, 0).0, 2_208_988_800 << 32);
    assert_eq!(NtpTimestamp::from_unix(-2_208_988_800, 0).0, 0);
    assert_eq!(NtpTimestamp::from_unix(0, 500_000_000).0 & 0xffff_ffff, 1 << 31);
}

#[test]
fn the_era_ends_on_7_february_2036() {
    // 06:28:16 UTC.
    assert_eq!(NtpTimestamp::from_unix(2_085_978_496, 0).0, 0);
    let before = NtpTimestamp::from_unix(2_085_978_495, 999_999_999);
    assert_eq!(NtpTimestamp::from_unix(2_085_978_496, 0).since(before), 4);
}

#[test]
fn intervals_too_long_for_the_format_saturate() {
    assert_eq!(NtpShort::from_nanos(65_535 * SECOND_NS), NtpShort(65_535 << 16));
    assert_eq!(NtpShort::from_nanos(65_535 * SECOND_NS + 999_999_999), NtpShort(u32::MAX));
    assert_eq!(NtpShort::from_nanos(65_536 * SECOND_NS), NtpShort(u32::MAX));
    assert_eq!(NtpShort::from_nanos(u64::MAX), NtpShort(u32::MAX));
    assert_eq!(DispersionRate::from_ppb(u64::MAX), DispersionRate(u32::MAX));
}

#[test]
fn dispersion_saturates() {
    let clock = ClockState {
        root_dispersion: NtpShort(u32::MAX - 1),
        dispersion_rate: DispersionRate(u32::MAX),
        ..clock()
    };
    assert_eq!(clock.root_dispersion_at(clock.monotonic_base_ns + (1 << 60)), NtpShort(u32::MAX));
}

#[test]
fn before_the_base_dispersion_is_that_of_the_base() {
    for early_ns in [1, SECOND_NS, clock().monotonic_base_ns] {
        let now_ns = clock().monotonic_base_ns - early_ns;
        assert_eq!(clock().root_dispersion_at(now_ns), clock().root_dispersion);
    }
}

#[test]
fn the_horizon_is_the_last_moment_of_synchrony() {
    let clock = clock();
    assert!(clock.is_synchronised_at(clock.monotonic_base_ns));
    assert!(clock.is_synchronised_at(clock.horizon_ns));
    assert!(!clock.is_synchronised_at(clock.horizon_ns + 1));
    assert!(!clock.is_synchronised_at(u64::MAX));
}

#[test]
fn strata_1_to_15_are_synchronised() {
    for stratum in 0..=255 {
        let clock = ClockState { stratum, ..clock() };
        assert_eq!(clock.is_synchronised_at(clock.horizon_ns), (1..=15).contains(&stratum));
    }
}
