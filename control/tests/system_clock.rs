//! What is served of a system clock, by what the kernel and the local daemon say of it.

use control::config::ClockConfig;
use control::sys::Adjtimex;
use control::sys::kernel_clock::CrossTimestamp;
use control::timekeeping::keeper::Claim;
use control::timekeeping::system_clock::{Observation, SystemClock, Unsynchronised};
use protocol::{Reading, ServerTime};
use responder::clock::{DispersionRate, NtpShort, NtpTimestamp, Rate};
use testinput::random::Random;

const SECOND_NS: u64 = 1_000_000_000;
/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, on a day of 2026.
const DIFFERENCE_NS: i128 = 1_790_000_000_123_456_789;
const PRECISION: i8 = -24;

/// A reading of both clocks at this moment of `CLOCK_MONOTONIC`, that took no time.
fn at(monotonic_ns: u64, difference_ns: i128) -> CrossTimestamp {
    CrossTimestamp {
        monotonic_before_ns: monotonic_ns,
        realtime_ns: i128::from(monotonic_ns) + difference_ns,
        monotonic_after_ns: monotonic_ns,
    }
}

/// A kernel whose clock is kept within a millisecond.
const KEPT: Adjtimex = Adjtimex {
    state: libc::TIME_OK,
    status: libc::STA_PLL,
    max_error_us: 1000,
    estimated_error_us: 100,
    offset_ns: 0,
    time_constant: 2,
    frequency_scaled_ppm: 0,
    tick_us: 10_000,
    tai_offset_s: 37,
};

/// A kernel whose clock nobody keeps: as after a boot.
const UNKEPT: Adjtimex =
    Adjtimex { state: libc::TIME_ERROR, status: libc::STA_UNSYNC, max_error_us: 16_000_000, ..KEPT };

/// The answer of a daemon to an NTP request over loopback.
#[derive(Clone, Copy)]
struct LocalDaemon {
    reading: Reading,
    monotonic_ns: u64,
}

impl LocalDaemon {
    const fn claim(&self) -> Claim {
        Claim::of_answer(&self.reading, self.monotonic_ns)
    }
}

/// A daemon that said this at `monotonic_ns`.
fn daemon(monotonic_ns: u64) -> LocalDaemon {
    let server = ServerTime {
        stratum: 3,
        precision: -25,
        root_delay: NtpShort::from_nanos(20_000_000),
        root_dispersion: NtpShort::from_nanos(5_000_000),
        reference_id: 0xc633_6401,
        reference_time: unix(DIFFERENCE_NS + i128::from(monotonic_ns) - 77 * i128::from(SECOND_NS)),
        ..ServerTime::default()
    };
    LocalDaemon { reading: Reading { server, offset_ns: 300, delay_ns: 40_000 }, monotonic_ns }
}

fn unix(ns: i128) -> NtpTimestamp {
    let second = i128::from(SECOND_NS);
    NtpTimestamp::from_unix(
        i64::try_from(ns.div_euclid(second)).unwrap(),
        u32::try_from(ns.rem_euclid(second)).unwrap(),
    )
}

/// The first observation, ten seconds after boot.
fn observe(kernel: &Adjtimex, daemon: Option<&LocalDaemon>, config: &ClockConfig) -> Observation {
    let claim = daemon.map(LocalDaemon::claim);
    SystemClock::new(PRECISION).observe(&at(10 * SECOND_NS, DIFFERENCE_NS), kernel, claim.as_ref(), config)
}

/// What the line says at a moment, less the truth, in nanoseconds.
fn error_ns(observation: &Observation, monotonic_ns: u64, difference_ns: i128) -> i64 {
    let truth = unix(i128::from(monotonic_ns) + difference_ns);
    let units = i128::from(observation.state.time_at(monotonic_ns).since(truth));
    i64::try_from((units * i128::from(SECOND_NS)) >> 32).unwrap()
}

#[track_caller]
fn assert_served_as_unsynchronised(observation: &Observation, reason: Unsynchronised) {
    assert_eq!(observation.unsynchronised, Some(reason));
    assert_eq!(observation.state.leap, 3);
    assert!(!observation.state.is_synchronised_at(observation.state.monotonic_base_ns));
}

#[test]
fn a_kernel_that_was_told_of_no_error_is_not_believed_without_the_keeper_s_word() {
    let config = ClockConfig::default();
    // As ntpd leaves it when it starts, and systemd-timesyncd always, and some seconds later.
    for (estimated_error_us, max_error_us) in [(16, 16), (16, 3516), (0, 0), (0, 20_000)] {
        let untold = Adjtimex { estimated_error_us, max_error_us, ..KEPT };
        assert_served_as_unsynchronised(&observe(&untold, None, &config), Unsynchronised::NoEstimate);
        assert_eq!(observe(&untold, Some(&daemon(10 * SECOND_NS)), &config).unsynchronised, None);
    }
    // As chronyd leaves it that follows a clock of the machine.
    for (estimated_error_us, max_error_us) in [(0, 502), (1, 1500), (16, 2017)] {
        let told = Adjtimex { estimated_error_us, max_error_us, ..KEPT };
        assert_eq!(observe(&told, None, &config).unsynchronised, None);
    }
}

#[test]
fn the_line_goes_through_the_reading_at_the_nominal_rate() {
    let observation = observe(&KEPT, None, &ClockConfig::default());
    let state = observation.state;
    assert_eq!(state.rate, Rate::NOMINAL);
    assert_eq!(state.precision, PRECISION);
    assert_eq!(state.dispersion_rate, DispersionRate::from_ppb(15_000));
    for later_s in [0, 1, 20] {
        assert!(error_ns(&observation, (10 + later_s) * SECOND_NS, DIFFERENCE_NS).abs() <= 2);
    }
    assert_eq!((observation.unsynchronised, observation.stepped_ns), (None, None));
    assert!(state.is_synchronised_at(10 * SECOND_NS));
}

#[test]
fn no_line_claims_to_be_synchronised_past_a_leap_second_or_while_the_kernel_is_late_to_take_it() {
    let day_ns = 86_400 * i128::from(SECOND_NS);
    let end_ns = (DIFFERENCE_NS / day_ns + 1) * day_ns;
    for (state, leap_ns, leap) in
        [(libc::TIME_INS, end_ns, 1), (libc::TIME_DEL, end_ns - i128::from(SECOND_NS), 2)]
    {
        let kernel = Adjtimex { state, ..KEPT };
        let observe = |before_leap_ns: i128| {
            let sample = at(10 * SECOND_NS, leap_ns - before_leap_ns - 10 * i128::from(SECOND_NS));
            SystemClock::new(PRECISION).observe(&sample, &kernel, None, &ClockConfig::default())
        };
        let before = observe(5 * i128::from(SECOND_NS));
        assert_eq!((before.unsynchronised, before.state.leap), (None, leap));
        assert_eq!(before.state.horizon_ns, 15 * SECOND_NS - 1_000_000, "5 s less the bound");
        for late_ns in [-500_000, 0, 4_000_000, 10_000_000] {
            assert_served_as_unsynchronised(&observe(-late_ns), Unsynchronised::LeapSecond);
        }
    }
}

#[test]
fn a_clock_that_lost_time_is_not_served_as_good_until_its_keeper_has_corrected_it() {
    let mut clock = SystemClock::new(PRECISION);
    let mut observe = |second: u64, max_error_us: i64, lost: bool| {
        if lost {
            clock.time_lost();
        }
        let kernel = Adjtimex { max_error_us, ..KEPT };
        clock.observe(&at(second * SECOND_NS, DIFFERENCE_NS), &kernel, None, &ClockConfig::default())
    };
    assert_eq!(observe(10, 1000, false).unsynchronised, None);
    assert_served_as_unsynchronised(&observe(11, 1500, true), Unsynchronised::TimeLost);
    assert_served_as_unsynchronised(&observe(20, 6000, false), Unsynchronised::TimeLost);
    assert_eq!(observe(21, 900, false).unsynchronised, None, "the keeper has set the error bound anew");
}

#[test]
fn the_keeper_s_own_leap_indicator_counts_where_the_kernel_has_not_been_told() {
    let mut keeper = daemon(10 * SECOND_NS);
    keeper.reading.server.leap = 1;
    let observation = observe(&KEPT, Some(&keeper), &ClockConfig::default());
    assert_eq!((observation.unsynchronised, observation.state.leap), (None, 1));
}

#[test]
fn without_a_daemon_the_configuration_says_stratum_and_reference() {
    let config = ClockConfig {
        stratum: 2,
        reference: Some(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        ..ClockConfig::default()
    };
    let state = observe(&KEPT, None, &config).state;
    assert_eq!((state.stratum, state.reference_id), (2, 0xc000_0201));
    assert_eq!(state.root_delay, NtpShort(0));
    assert_eq!(state.root_dispersion, NtpShort::from_nanos(1_000_000), "the kernel's error bound");
}

#[test]
fn a_clock_that_the_kernel_calls_unsynchronised_is_served_with_leap_3() {
    for kernel in [
        UNKEPT,
        Adjtimex { max_error_us: 0, ..UNKEPT },
        Adjtimex { status: libc::STA_UNSYNC, ..KEPT },
        Adjtimex { state: libc::TIME_ERROR, ..KEPT },
    ] {
        assert_served_as_unsynchronised(
            &observe(&kernel, None, &ClockConfig::default()),
            Unsynchronised::Kernel,
        );
        let daemon = daemon(10 * SECOND_NS);
        let observation = observe(&kernel, Some(&daemon), &ClockConfig::default());
        assert_served_as_unsynchronised(&observation, Unsynchronised::Kernel);
    }
}

#[test]
fn a_daemon_that_calls_itself_unsynchronised_is_believed() {
    let mut daemon = daemon(10 * SECOND_NS);
    for (leap, stratum) in [(3, 0), (3, 3), (0, 0), (0, 16)] {
        (daemon.reading.server.leap, daemon.reading.server.stratum) = (leap, stratum);
        let observation = observe(&KEPT, Some(&daemon), &ClockConfig::default());
        assert_served_as_unsynchronised(&observation, Unsynchronised::Daemon);
    }
}

#[test]
fn a_local_stratum_also_serves_a_clock_whose_keeper_has_died() {
    // The kernel lets its maximum error grow for hours before it says that nobody keeps the clock.
    let config = ClockConfig { local_stratum: Some(10), max_error_ms: 1_000, ..ClockConfig::default() };
    let observation = observe(&Adjtimex { max_error_us: 2_000_000, ..KEPT }, None, &config);
    assert_eq!(observation.unsynchronised, None);
    assert_eq!((observation.state.leap, observation.state.stratum), (0, 10));
}

#[test]
fn a_local_stratum_serves_what_is_not_synchronised() {
    let config = ClockConfig { local_stratum: Some(10), ..ClockConfig::default() };
    let mut unsynchronised = daemon(10 * SECOND_NS);
    unsynchronised.reading.server.leap = 3;
    for (kernel, daemon) in [(UNKEPT, None), (UNKEPT, Some(unsynchronised)), (KEPT, Some(unsynchronised))] {
        let observation = observe(&kernel, daemon.as_ref(), &config);
        let state = observation.state;
        assert_eq!(observation.unsynchronised, None);
        assert_eq!((state.leap, state.stratum, state.reference_id), (0, 10, 0x7f7f_0101));
        assert_eq!((state.root_delay, state.root_dispersion), (NtpShort(0), NtpShort(0)));
        assert!(state.is_synchronised_at(10 * SECOND_NS));
    }
    let better = observe(&KEPT, Some(&daemon(10 * SECOND_NS)), &config).state;
    assert_eq!(better.stratum, 3, "a clock that is synchronised is not made worse");
}

#[test]
fn a_daemon_s_word_on_its_source_is_mirrored() {
    let daemon = daemon(10 * SECOND_NS);
    let observation = observe(&KEPT, Some(&daemon), &ClockConfig::default());
    let (state, reading) = (observation.state, daemon.reading);
    assert_eq!(observation.unsynchronised, None);
    assert_eq!((state.stratum, state.reference_id), (reading.server.stratum, reading.server.reference_id));
    assert_eq!(state.reference_time, reading.server.reference_time);
    assert_at_most_a_unit_above(state.root_delay, reading.server.root_delay);
    assert_at_most_a_unit_above(state.root_dispersion, reading.server.root_dispersion);
    assert_eq!(state.precision, PRECISION, "of reading the clock, which is not the daemon's doing");
}

#[test]
fn dispersion_grows_from_the_daemon_s_word_on() {
    let daemon = daemon(10 * SECOND_NS);
    let mut clock = SystemClock::new(PRECISION);
    for age_s in [0, 1, 8, 64, 1000] {
        let now_ns = (10 + age_s) * SECOND_NS;
        let observation =
            clock.observe(&at(now_ns, DIFFERENCE_NS), &KEPT, Some(&daemon.claim()), &ClockConfig::default());
        // 15 parts in 10^6 (RFC 5905's PHI).
        let expected =
            NtpShort(daemon.reading.server.root_dispersion.0 + NtpShort::from_nanos(15_000 * age_s).0);
        let seen = observation.state.root_dispersion;
        assert!(expected.0.abs_diff(seen.0) <= 2, "after {age_s} s: {seen:?}, not {expected:?}");
        let later = observation.state.root_dispersion_at(now_ns + 100 * SECOND_NS);
        assert!(
            (later.0 - seen.0).abs_diff(NtpShort::from_nanos(1_500_000).0) <= 2,
            "{later:?} after {seen:?}"
        );
    }
}

#[test]
fn a_daemon_that_speaks_for_another_clock_is_ignored() {
    // Its error bound is 15 ms; a millisecond is for the noise of the query.
    let mut daemon = daemon(10 * SECOND_NS);
    for offset_ns in [16_500_000, -16_500_000, i64::MAX, i64::MIN] {
        daemon.reading.offset_ns = offset_ns;
        let observation = observe(&KEPT, Some(&daemon), &ClockConfig::default());
        assert_eq!(observation.unsynchronised, None);
        assert_eq!(
            observation.state,
            observe(&KEPT, None, &ClockConfig::default()).state,
            "off by {offset_ns} ns"
        );
    }
    for offset_ns in [15_500_000, -15_500_000, 0] {
        daemon.reading.offset_ns = offset_ns;
        assert_eq!(
            observe(&KEPT, Some(&daemon), &ClockConfig::default()).state.stratum,
            3,
            "off by {offset_ns} ns"
        );
    }
}

#[test]
fn an_error_bound_above_the_limit_is_unsynchronised() {
    let config = ClockConfig { max_error_ms: 100, ..ClockConfig::default() };
    let kernel = |max_error_us| Adjtimex { max_error_us, ..KEPT };
    assert_eq!(observe(&kernel(100_000), None, &config).unsynchronised, None);
    assert_served_as_unsynchronised(&observe(&kernel(100_001), None, &config), Unsynchronised::ErrorBound);
    assert_served_as_unsynchronised(&observe(&kernel(i64::MAX), None, &config), Unsynchronised::ErrorBound);

    // Of a daemon: half the delay and the dispersion, whatever the kernel's own bound is.
    let mut daemon = daemon(10 * SECOND_NS);
    daemon.reading.server.root_delay = NtpShort::from_nanos(120_000_000);
    daemon.reading.server.root_dispersion = NtpShort::from_nanos(39_000_000);
    assert_eq!(observe(&kernel(500_000), Some(&daemon), &config).unsynchronised, None);
    daemon.reading.server.root_dispersion = NtpShort::from_nanos(41_000_000);
    assert_served_as_unsynchronised(&observe(&KEPT, Some(&daemon), &config), Unsynchronised::ErrorBound);
}

#[test]
fn the_horizon_comes_earlier_where_the_error_bound_would_pass_its_limit() {
    let config = ClockConfig { max_error_ms: 100, horizon_ms: 20_000, ..ClockConfig::default() };
    let horizon_ns = |max_error_us| {
        let state = observe(&Adjtimex { max_error_us, ..KEPT }, None, &config).state;
        let at_horizon = state.root_dispersion_at(state.horizon_ns);
        // Two units of 15 microseconds for what was rounded up.
        assert!(at_horizon.0 <= NtpShort::from_nanos(100_000_000).0 + 2, "{at_horizon:?} at the horizon");
        state.horizon_ns - state.monotonic_base_ns
    };
    assert_eq!(horizon_ns(1000), 20 * SECOND_NS);
    // 300 microseconds are 20 s of drift at 15 parts in 10^6.
    assert_eq!(horizon_ns(99_699), 20 * SECOND_NS);
    assert!(horizon_ns(99_850).abs_diff(10 * SECOND_NS) < SECOND_NS / 1000);
    assert_eq!(horizon_ns(100_000), 0);
}

#[test]
fn leap_indicators_are_the_kernel_s() {
    let daemon = daemon(10 * SECOND_NS);
    for daemon in [None, Some(&daemon)] {
        for (state, leap) in [
            (libc::TIME_OK, 0),
            (libc::TIME_INS, 1),
            (libc::TIME_DEL, 2),
            (libc::TIME_OOP, 0),
            (libc::TIME_WAIT, 0),
        ] {
            let observation = observe(&Adjtimex { state, ..KEPT }, daemon, &ClockConfig::default());
            assert_eq!((observation.state.leap, observation.unsynchronised), (leap, None), "state {state}");
        }
    }
}

#[test]
fn a_step_is_noticed_by_the_difference_of_the_clocks_alone() {
    let mut clock = SystemClock::new(PRECISION);
    let (mut now_ns, mut difference_ns) = (10 * SECOND_NS, DIFFERENCE_NS);
    let mut observe = |now_ns, difference_ns| {
        clock.observe(&at(now_ns, difference_ns), &KEPT, None, &ClockConfig::default())
    };
    assert_eq!(observe(now_ns, difference_ns).stepped_ns, None);
    for step_ns in [1_000_000_000, -1_000_000_000, 2000, -2000, 3_600_000_000_000, -86_400_000_000_000_000] {
        now_ns += SECOND_NS / 4;
        assert_eq!(observe(now_ns, difference_ns).stepped_ns, None, "nothing happened");
        difference_ns += step_ns;
        now_ns += SECOND_NS / 4;
        let observation = observe(now_ns, difference_ns);
        assert_eq!(observation.stepped_ns, Some(step_ns));
        assert!(error_ns(&observation, now_ns, difference_ns).abs() <= 2, "served at once");
        assert_eq!(observation.unsynchronised, None, "the clock's keeper may step it");
    }
}

#[test]
fn the_reference_time_is_never_later_than_the_time() {
    // RFC 5905 (A.5.1.1, packet) has clients refuse answers whose reference time is in the future.
    let hour_ns = 3600 * i128::from(SECOND_NS);
    let isolated = ClockConfig { local_stratum: Some(10), ..ClockConfig::default() };
    let daemon = daemon(10 * SECOND_NS);
    for (kernel, daemon, config) in [
        (UNKEPT, None, &isolated),
        (KEPT, None, &ClockConfig::default()),
        (KEPT, Some(&daemon), &ClockConfig::default()),
    ] {
        let mut clock = SystemClock::new(PRECISION);
        let claim = daemon.map(LocalDaemon::claim);
        for (after_s, difference_ns) in
            [(0, DIFFERENCE_NS), (1, DIFFERENCE_NS - hour_ns), (2, DIFFERENCE_NS - hour_ns)]
        {
            let now_ns = (10 + after_s) * SECOND_NS;
            let state = clock.observe(&at(now_ns, difference_ns), &kernel, claim.as_ref(), config).state;
            let age = state.time_at(now_ns).since(state.reference_time);
            assert!(age >= 0, "{after_s} s on: {} s in the future", -(age >> 32));
        }
    }
}

#[test]
fn the_clock_counts_as_corrected_when_the_kernel_s_error_bound_falls() {
    let mut clock = SystemClock::new(PRECISION);
    let mut reference_time = |now_s: u64, max_error_us| {
        let kernel = Adjtimex { max_error_us, ..KEPT };
        let sample = at(now_s * SECOND_NS, DIFFERENCE_NS);
        clock.observe(&sample, &kernel, None, &ClockConfig::default()).state.reference_time
    };
    let time = |now_s: u64| unix(i128::from(now_s * SECOND_NS) + DIFFERENCE_NS);
    assert_eq!(reference_time(10, 1000), time(10));
    assert_eq!(reference_time(11, 1500), time(10));
    assert_eq!(reference_time(12, 2000), time(10));
    assert_eq!(reference_time(13, 1000), time(13));
    assert_eq!(reference_time(14, 1000), time(13));
}

#[test]
fn states_are_numbered() {
    let mut clock = SystemClock::new(PRECISION);
    let mut sequence = |now_s: u64| {
        let sample = at(now_s * SECOND_NS, DIFFERENCE_NS);
        clock.observe(&sample, &KEPT, None, &ClockConfig::default()).state.sequence
    };
    assert_eq!([sequence(10), sequence(11), sequence(12)], [1, 2, 3], "0 is that of a map not written yet");
}

/// A reading of both clocks that took its time: mostly tens of nanoseconds, now and then what an interrupt or
/// a stolen CPU takes. Any moment of it may be that of the inner reading.
fn jittery(random: &mut Random, monotonic_ns: u64, difference_ns: i128) -> CrossTimestamp {
    let longest = match random.bits() % 100 {
        0 => 5_000_000,
        1..10 => 20_000,
        _ => 60,
    };
    let (before, after) = (random.bits() % longest, random.bits() % longest);
    CrossTimestamp {
        monotonic_before_ns: monotonic_ns - before,
        realtime_ns: i128::from(monotonic_ns) + difference_ns,
        monotonic_after_ns: monotonic_ns + after,
    }
}

#[test]
fn narrowing_the_difference_never_excludes_the_truth() {
    for seed in 0..200 {
        let random = &mut Random::new(seed);
        let mut clock = SystemClock::new(PRECISION);
        let mut difference_ns = DIFFERENCE_NS + i128::from(random.bits() % SECOND_NS);
        let (mut now_ns, mut narrowest_ns) = (10 * SECOND_NS, u64::MAX);
        for number in 0..500 {
            now_ns += 1 + random.bits() % (SECOND_NS / 2);
            // More than two of the longest readings, so that it contradicts whatever came before.
            let step_ns = match random.bits() % 100 {
                0 => 20_000_000 + i128::from(random.bits() % (10 * SECOND_NS)),
                1 => -20_000_000 - i128::from(random.bits() % (10 * SECOND_NS)),
                _ => 0,
            };
            let sample = jittery(random, now_ns, difference_ns + step_ns);
            let observation = clock.observe(&sample, &KEPT, None, &ClockConfig::default());
            difference_ns += step_ns;
            let context = format!("seed {seed}, reading {number}");
            if number == 0 || step_ns != 0 {
                let before_ns = narrowest_ns;
                narrowest_ns = sample.width_ns();
                if number != 0 {
                    let seen_ns =
                        observation.stepped_ns.unwrap_or_else(|| panic!("{context}: a step not seen"));
                    let off_by = (seen_ns - step_ns).unsigned_abs();
                    assert!(
                        off_by <= u128::from(before_ns / 2 + narrowest_ns / 2 + 2),
                        "{context}: by {off_by} ns"
                    );
                }
            } else {
                narrowest_ns = narrowest_ns.min(sample.width_ns());
                assert_eq!(observation.stepped_ns, None, "{context}");
            }
            // The middle of what is left is no further from the truth than half the narrowest reading, if the
            // truth is in it. Three nanoseconds are for rounding.
            let error_ns = error_ns(&observation, now_ns, difference_ns);
            assert!(
                error_ns.unsigned_abs() <= narrowest_ns / 2 + 3,
                "{context}: {error_ns} ns, {narrowest_ns} ns"
            );
        }
    }
}

/// Rounded up at most once more on its way.
#[track_caller]
fn assert_at_most_a_unit_above(seen: NtpShort, said: NtpShort) {
    assert!(seen.0 == said.0 || seen.0 == said.0 + 1, "{seen:?}, not {said:?}");
}
