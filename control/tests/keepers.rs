//! What is served of a clock that chronyd or systemd-timesyncd keeps: the error is within the bound that is served,
//! whatever the keeper knows, and the clock is never unsynchronised without a cause.

use control::config::ClockConfig;
use control::sys::Adjtimex;
use control::sys::kernel_clock::CrossTimestamp;
use control::timekeeping::keeper::timesyncd::{Message, Properties, claim_of_silence};
use control::timekeeping::keeper::{Claim, Keeper, Remaining, chronyd};
use control::timekeeping::system_clock::{Observation, SystemClock, Unsynchronised};
use responder::NtpTimestamp;
use testinput::random::Random;

const SECOND_NS: u64 = 1_000_000_000;
/// True time when the machine starts.
const START_S: f64 = 1_790_000_000.0;
const BOOTED_S: f64 = 100.0;
/// What the reading of the clocks and the formats round away.
const ROUNDING_S: f64 = 50e-6;

/// A number between -1 and 1.
#[expect(clippy::cast_precision_loss, reason = "a random number")]
fn signed(random: &mut Random) -> f64 {
    random.below(2_000_001) as f64 / 1e6 - 1.0
}

/// A number between the two, evenly spread over its logarithm.
fn between(random: &mut Random, least: f64, most: f64) -> f64 {
    least * (most / least).powf(f64::midpoint(signed(random), 1.0))
}

/// A kernel whose clock has a phase-locked loop as Linux's, with an oscillator that wanders.
struct Kernel {
    /// Seconds of true time since the start.
    now_s: f64,
    /// How far the clock is ahead of true time in s.
    ahead_s: f64,
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, less that of the start, in s: steps.
    steps_s: f64,
    /// What the oscillator is too fast, and what the loop adds, in s/s.
    fast: f64,
    frequency: f64,
    offset_s: f64,
    constant: i32,
    /// How much of its second has passed whenever the clock is looked at, and what is still to be added in it, in s.
    phase: f64,
    pending_s: f64,
    max_error_us: i64,
}

impl Kernel {
    fn run_a_second(&mut self, random: &mut Random) {
        // Temperature: some ppm an hour.
        self.fast += signed(random) * 20e-9;
        let slewed_s = self.offset_s / f64::from(2 + self.constant).exp2();
        self.offset_s -= slewed_s;
        // What is added in a second has left the offset at its beginning.
        self.ahead_s += self.fast + self.frequency + self.pending_s + slewed_s * self.phase;
        self.pending_s = slewed_s * (1.0 - self.phase);
        self.max_error_us += 500;
        self.now_s += 1.0;
    }

    /// What adjtimex does for systemd-timesyncd.
    fn correct(&mut self, offset_s: f64, elapsed_s: f64, poll_log2: i32) {
        self.max_error_us = 0;
        if offset_s.abs() >= 0.4 {
            self.ahead_s += offset_s;
            self.steps_s += offset_s;
            self.offset_s = 0.0;
            return;
        }
        self.constant = poll_log2 - 4;
        let elapsed_s = elapsed_s.min(f64::from(3 + self.constant).exp2());
        self.frequency += offset_s * elapsed_s / f64::from(2 * (4 + self.constant)).exp2();
        self.frequency = self.frequency.clamp(-500e-6, 500e-6);
        self.offset_s = offset_s;
    }

    fn adjtimex(&self) -> Adjtimex {
        Adjtimex {
            state: libc::TIME_OK,
            status: libc::STA_PLL | libc::STA_NANO,
            max_error_us: self.max_error_us,
            estimated_error_us: 0,
            offset_ns: ns(self.offset_s),
            time_constant: self.constant.into(),
            frequency_scaled_ppm: 0,
            tick_us: 10_000,
            tai_offset_s: 0,
        }
    }

    fn clock_s(&self) -> f64 {
        self.now_s + self.ahead_s
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(ns(BOOTED_S + self.clock_s() - self.steps_s)).unwrap()
    }

    fn reading(&self) -> CrossTimestamp {
        let monotonic_ns = self.monotonic_ns();
        CrossTimestamp {
            monotonic_before_ns: monotonic_ns,
            realtime_ns: i128::from(monotonic_ns)
                + i128::from(ns(START_S - BOOTED_S))
                + i128::from(ns(self.steps_s)),
            monotonic_after_ns: monotonic_ns,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded")]
fn ns(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded")]
fn us(seconds: f64) -> u64 {
    (seconds * 1e6).floor() as u64
}

/// The error bound that an answer carries at this moment, in s.
fn bound_s(observation: &Observation, monotonic_ns: u64) -> f64 {
    let state = observation.state;
    let seconds = |short: responder::NtpShort| f64::from(short.0) / 65_536.0;
    seconds(state.root_delay) / 2.0 + seconds(state.root_dispersion_at(monotonic_ns))
}

/// systemd-timesyncd as its source has it: when it asks, what it takes for an outlier, and what it does then.
struct Timesyncd {
    poll_log2: i32,
    next_s: f64,
    last_s: f64,
    properties: Properties,
    previous_offset_s: f64,
}

/// A server, and the way to it.
#[expect(clippy::struct_field_names, reason = "the unit is in the name")]
struct Upstream {
    root_delay_s: f64,
    root_dispersion_s: f64,
    round_trip_s: f64,
    /// How far its clock is off.
    ahead_s: f64,
}

impl Timesyncd {
    #[expect(clippy::cast_precision_loss, reason = "less than a second")]
    fn ask(&mut self, kernel: &mut Kernel, upstream: &Upstream, random: &mut Random) {
        let round_trip_s = upstream.round_trip_s * (1.0 + 0.2 * signed(random));
        // Anything is possible between a packet that took no time to get there and one that took none to come back.
        let there_s = round_trip_s * f64::midpoint(signed(random), 1.0);
        let origin_s = START_S + kernel.clock_s() - round_trip_s;
        let server_s = START_S + kernel.now_s - round_trip_s + there_s + upstream.ahead_s;
        let mut message = Message {
            leap: 0,
            stratum: 2,
            root_delay_us: us(upstream.root_delay_s),
            root_dispersion_us: us(upstream.root_dispersion_s),
            origin_us: us(origin_s),
            receive_us: us(server_s),
            transmit_us: us(server_s),
            destination_us: us(START_S + kernel.clock_s()),
            ignored: false,
            packets: self.properties.message.map_or(0, |message| message.packets) + 1,
            jitter_us: 0,
        };
        let offset_s = message.offset_ns() as f64 / 1e9;
        // The first offset is not among the samples that jitter is taken from.
        if message.packets > 1 {
            message.jitter_us = us((offset_s - self.previous_offset_s).abs() / 7_f64.sqrt());
        }
        message.ignored = message.packets > 3 && random.chance(5);
        self.previous_offset_s = offset_s;
        if offset_s.abs() > 0.2 {
            self.poll_log2 = 5;
        } else if offset_s.abs() < 0.05 {
            self.poll_log2 = (self.poll_log2 + 1).min(11);
        } else if message.ignored || offset_s.abs() > 0.15 {
            self.poll_log2 = (self.poll_log2 - 1).max(5);
        }
        self.properties.message = Some(message);
        self.properties.poll_us = 1_000_000 << self.poll_log2;
        if !message.ignored {
            kernel.correct(offset_s, kernel.now_s - self.last_s, self.poll_log2);
            self.last_s = kernel.now_s;
        }
        self.next_s = kernel.now_s + f64::from(self.poll_log2).exp2();
    }
}

#[test]
fn a_clock_that_timesyncd_keeps_is_within_its_bound_and_stays_synchronised() {
    const HOURS: u32 = 9;
    for seed in 0..60 {
        let random = &mut Random::new(seed);
        let mut kernel = Kernel {
            now_s: 0.0,
            ahead_s: signed(random),
            steps_s: 0.0,
            fast: 150e-6 * signed(random),
            frequency: 0.0,
            offset_s: 0.0,
            constant: 1,
            phase: f64::midpoint(signed(random), 1.0),
            pending_s: 0.0,
            max_error_us: 0,
        };
        kernel.steps_s = kernel.ahead_s;
        let mut upstream = Upstream {
            root_delay_s: between(random, 1e-4, 0.06),
            root_dispersion_s: between(random, 1e-4, 0.02),
            round_trip_s: between(random, 1e-4, 0.03),
            ahead_s: 0.0,
        };
        upstream.ahead_s = signed(random) * (upstream.root_delay_s / 2.0 + upstream.root_dispersion_s);
        let mut timesyncd = Timesyncd {
            poll_log2: 5,
            next_s: 3.0,
            last_s: 0.0,
            properties: Properties {
                message: None,
                server: None,
                poll_us: 32_000_000,
                least_poll_us: 32_000_000,
            },
            previous_offset_s: 0.0,
        };
        let mut clock = SystemClock::new(-24);
        let mut claim: Option<Claim> = None;
        let (mut longest_poll, mut widest_s) = (0, 0.0_f64);
        // Some daemons start while timesyncd is in its first slew, some long afterwards.
        let starts_s = if random.chance(2) { 3.0 } else { between(random, 4.0, 20_000.0) };
        for _ in 0..HOURS * 3600 {
            kernel.run_a_second(random);
            let mut corrected = false;
            if kernel.now_s >= timesyncd.next_s {
                timesyncd.ask(&mut kernel, &upstream, random);
                corrected = true;
            }
            if kernel.now_s < starts_s
                || !(corrected || claim.is_none() || random.chance(12) || kernel.now_s < 60.0)
            {
                continue;
            }
            if corrected || claim.is_none() {
                let told = claim.filter(|claim| claim.keeper == Keeper::Timesyncd);
                let heard = timesyncd.properties.claim(&kernel.adjtimex(), &kernel.reading(), told.as_ref());
                claim = heard.or_else(|| Some(claim_of_silence(&kernel.adjtimex(), kernel.monotonic_ns())));
            }
            let now_ns = kernel.monotonic_ns();
            let observed =
                clock.observe(&kernel.reading(), &kernel.adjtimex(), claim.as_ref(), &ClockConfig::default());
            let bound_s = bound_s(&observed, now_ns);
            let context = format!("seed {seed}, {} s: {} s ahead, {claim:#?}", kernel.now_s, kernel.ahead_s);
            assert!(kernel.ahead_s.abs() <= bound_s + ROUNDING_S, "{context}\nbound {bound_s}");
            let is_told = claim.is_some_and(|claim| claim.keeper == Keeper::Timesyncd);
            let reason = observed.unsynchronised;
            assert!(!is_told || reason.is_none(), "{context}\n{reason:?}, bound {bound_s}");
            longest_poll = longest_poll.max(timesyncd.poll_log2);
            if is_told {
                widest_s = widest_s.max(bound_s);
            }
        }
        assert_eq!(longest_poll, 11, "seed {seed}: it never got to the longest interval");
        assert!(widest_s > 0.0, "seed {seed}");
    }
}

/// chronyd as its clients know it: what it says of the clock is true, and it slews as it says.
#[test]
fn a_clock_that_chronyd_keeps_is_within_its_bound() {
    for seed in 0..200 {
        let random = &mut Random::new(seed);
        let (mut now_s, mut ahead_s, mut correction_s) = (0.0, 0.05 * signed(random), 0.0);
        let (delay_s, mut dispersion_s) = (between(random, 1e-5, 0.1), 0.0);
        let (mut skew, mut next_s) = (between(random, 1e-6, 300e-6), 1.0);
        // What it is wrong about the frequency is within its skew.
        let mut wrong = 0.0;
        let mut claim: Option<Claim> = None;
        let mut clock = SystemClock::new(-24);
        for second in 0..4000_u64 {
            now_s += 1.0;
            let slewed_s: f64 = f64::clamp(correction_s, -0.08, 0.08);
            correction_s -= slewed_s;
            ahead_s += slewed_s + wrong;
            dispersion_s += skew + 1e-6;
            if now_s >= next_s {
                dispersion_s = between(random, 1e-5, 0.02);
                let bound_s: f64 = delay_s / 2.0 + dispersion_s;
                correction_s = -ahead_s + signed(random) * bound_s;
                skew = between(random, 1e-7, 300e-6);
                wrong = signed(random) * skew;
                next_s = now_s + between(random, 16.0, 1024.0).round();
                claim = None;
            }
            let realtime_ns = i128::from(ns(START_S)) + i128::from(ns(now_s)) + i128::from(ns(ahead_s));
            let monotonic_ns = u64::try_from(realtime_ns - i128::from(ns(START_S - BOOTED_S))).unwrap();
            if claim.is_none() || second % 8 == 0 {
                let tracking = tracking(correction_s, delay_s, dispersion_s, skew);
                claim = Some(tracking.claim(&asked(monotonic_ns)));
            }
            let reading = CrossTimestamp {
                monotonic_before_ns: monotonic_ns,
                realtime_ns,
                monotonic_after_ns: monotonic_ns,
            };
            let observed = clock.observe(&reading, &KEPT, claim.as_ref(), &ClockConfig::default());
            let bound_s = bound_s(&observed, monotonic_ns);
            assert!(
                ahead_s.abs() <= bound_s + ROUNDING_S,
                "seed {seed}, {now_s} s: {ahead_s} s, bound {bound_s}"
            );
            assert_eq!(
                (observed.unsynchronised, observed.state.stratum),
                (None, 3),
                "seed {seed}, {now_s} s"
            );
        }
    }
}

const KEPT: Adjtimex = Adjtimex {
    state: libc::TIME_OK,
    status: 0,
    max_error_us: 1000,
    estimated_error_us: 100,
    offset_ns: 0,
    time_constant: 2,
    frequency_scaled_ppm: 0,
    tick_us: 10_000,
    tai_offset_s: 37,
};
const UNKEPT: Adjtimex =
    Adjtimex { state: libc::TIME_ERROR, status: libc::STA_UNSYNC, max_error_us: 16_000_000, ..KEPT };

/// The clocks when chronyd was asked. What `CLOCK_REALTIME` reads matters only while chronyd knows no frequency.
fn asked(monotonic_ns: u64) -> CrossTimestamp {
    CrossTimestamp { monotonic_before_ns: monotonic_ns, realtime_ns: 0, monotonic_after_ns: monotonic_ns }
}

fn tracking(correction_s: f64, root_delay_s: f64, root_dispersion_s: f64, skew: f64) -> chronyd::Tracking {
    chronyd::Tracking {
        reference_id: 0xc000_0201,
        stratum: 3,
        leap: 0,
        reference_time: (1_790_000_000, 0),
        correction_s,
        last_offset_s: 0.0,
        rms_offset_s: 0.0,
        frequency_ppm: 0.0,
        residual_ppm: 0.0,
        skew_ppm: skew * 1e6,
        root_delay_s,
        root_dispersion_s,
        interval_s: 64.0,
    }
}

fn at(uptime_s: u64, step_ns: i128) -> CrossTimestamp {
    let monotonic_ns = uptime_s * SECOND_NS;
    CrossTimestamp {
        monotonic_before_ns: monotonic_ns,
        realtime_ns: i128::from(monotonic_ns) + 1_790_000_100 * i128::from(SECOND_NS) + step_ns,
        monotonic_after_ns: monotonic_ns,
    }
}

fn observe(kernel: &Adjtimex, claim: &Claim) -> Observation {
    SystemClock::new(-24).observe(&at(10, 0), kernel, Some(claim), &ClockConfig::default())
}

#[test]
fn chronyd_is_believed_without_the_kernel_unless_it_follows_nothing_but_the_clock() {
    let claim = tracking(0.0, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
    let observed = observe(&UNKEPT, &claim);
    let state = observed.state;
    assert_eq!((observed.unsynchronised, state.stratum, state.reference_id), (None, 3, 0xc000_0201));
    let local = Claim { reference_id: Some(protocol::reference::LOCAL), ..claim };
    assert_eq!(observe(&UNKEPT, &local).unsynchronised, Some(Unsynchronised::Kernel));
    assert_eq!(observe(&KEPT, &local).unsynchronised, None);
    let unsynchronised = Claim { synchronised: false, ..claim };
    assert_eq!(observe(&KEPT, &unsynchronised).unsynchronised, Some(Unsynchronised::Daemon));
    let leap = Claim { leap: 1, ..claim };
    assert_eq!(observe(&KEPT, &leap).state.leap, 1);
}

#[test]
fn what_is_still_to_be_slewed_counts() {
    let bound = |correction_s| {
        let claim = tracking(correction_s, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
        bound_s(&observe(&KEPT, &claim), 10 * SECOND_NS)
    };
    for correction_s in [0.25, -0.25] {
        assert!((bound(correction_s) - bound(0.0) - 0.25).abs() < ROUNDING_S);
    }
    let claim = tracking(-2.0, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
    assert_eq!(observe(&KEPT, &claim).unsynchronised, Some(Unsynchronised::ErrorBound));
}

#[test]
fn a_keeper_that_follows_this_host_is_not_believed() {
    let claim = tracking(0.0, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
    let own = [0xc000_0201].into();
    assert_eq!(observe(&KEPT, &claim.with_own(&own)).unsynchronised, Some(Unsynchronised::Loop));
    assert_eq!(observe(&KEPT, &claim.with_own(&[1].into())).unsynchronised, None);
    let primary = Claim { stratum: Some(1), ..claim };
    assert_eq!(observe(&KEPT, &primary.with_own(&own)).unsynchronised, None, "it names no address");
}

#[test]
fn a_step_widens_the_bound_until_the_keeper_has_corrected_the_clock() {
    let claim = tracking(0.0, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
    let mut clock = SystemClock::new(-24);
    let mut observe = |claim: &Claim, monotonic_s, step_ns| {
        let observed = clock.observe(&at(monotonic_s, step_ns), &KEPT, Some(claim), &ClockConfig::default());
        (bound_s(&observed, monotonic_s * SECOND_NS), observed.unsynchronised)
    };
    let (before_s, _) = observe(&claim, 10, 0);
    let (after_s, unsynchronised) = observe(&claim, 11, 300_000_000);
    assert!((after_s - before_s - 0.3).abs() < 1e-3 && unsynchronised.is_none(), "{after_s}");
    // It says the same again, and does not know of the step.
    let again = Claim { since_ns: 12 * SECOND_NS, ..claim };
    assert!(observe(&again, 12, 300_000_000).0 > 0.3);
    assert_eq!(observe(&again, 13, 2_300_000_000).1, Some(Unsynchronised::ErrorBound));
    let corrected = Claim { reference_time: NtpTimestamp(claim.reference_time.0 + (13 << 32)), ..again };
    assert!(observe(&corrected, 14, 2_300_000_000).0 < 0.1);
}

#[test]
fn a_leap_second_that_the_kernel_takes_is_no_step_away_from_the_keeper() {
    let claim = tracking(0.0, 0.01, 0.001, 0.0).claim(&asked(10 * SECOND_NS));
    for (state, reason) in [(libc::TIME_OOP, None), (libc::TIME_OK, Some(Unsynchronised::ErrorBound))] {
        let mut clock = SystemClock::new(-24);
        let mut observe = |state, monotonic_s, step_ns| {
            let kernel = Adjtimex { state, ..KEPT };
            let sample = at(monotonic_s, step_ns);
            clock.observe(&sample, &kernel, Some(&claim), &ClockConfig::default()).unsynchronised
        };
        assert_eq!(observe(libc::TIME_OK, 10, 0), None);
        assert_eq!(observe(state, 11, -1_000_000_000), reason);
    }
}

#[test]
fn of_a_timesyncd_that_says_nothing_the_worst_is_served_or_refused() {
    let kernel = Adjtimex { max_error_us: 0, ..KEPT };
    let claim = claim_of_silence(&kernel, 10 * SECOND_NS);
    assert_eq!(observe(&kernel, &claim).unsynchronised, Some(Unsynchronised::ErrorUnknown));
    let config = ClockConfig { max_error_ms: 12_000, ..ClockConfig::default() };
    let observed = SystemClock::new(-24).observe(&at(10, 0), &kernel, Some(&claim), &config);
    assert_eq!((observed.unsynchronised, observed.state.stratum), (None, config.stratum));
    assert!(bound_s(&observed, 10 * SECOND_NS) >= 10.0);
}

#[test]
fn a_keeper_whose_upstreams_are_gone_is_seen_by_its_last_correction() {
    let claim = tracking(0.0, 0.01, 0.001, 0.0).claim(&asked(0));
    let corrected_ns = 1_790_000_000 * i128::from(SECOND_NS);
    let minutes = |count: i128| corrected_ns + count * 60 * i128::from(SECOND_NS);
    assert!(!claim.is_overdue(minutes(60)) && claim.is_overdue(minutes(61)));
    let rare = Claim { interval_ns: Some(2048 * SECOND_NS), ..claim };
    assert!(!rare.is_overdue(minutes(102)) && rare.is_overdue(minutes(103)));
    assert!(!Claim { remaining: Remaining::InKernel, interval_ns: None, ..claim }.is_overdue(minutes(900)));
}
