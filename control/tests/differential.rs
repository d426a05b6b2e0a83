//! The eBPF program and the crate it is made of are the same function: for each of a million generated frames
//! the loaded object gives the verdict, the bytes and the counts that `responder::respond` gives.

use std::fmt::Write as _;

use responder::clock::{DispersionRate, Rate, WORDS};
use responder::layout::Count;
use responder::limiter::SYMMETRIC;
use responder::verdict::{COUNTERS, Family, VERSIONS};
use responder::{ClockState, Outcome, Policy, Verdict};
use testinput::frames::Host;
use testinput::generator::{Generator, SHORTEST, Target};
use testinput::random::Random;
use testlab::test_run::{LONGEST, Program, publish_clock};

const SEED: u64 = 0x7074_7864_7030_0001;
/// Clocks that are published one after the other.
const CLOCKS: u64 = 64;
/// Frames under each of them.
const FRAMES: u64 = 20_480;
/// Of a million frames, each verdict must come up at least this often.
const LEAST: u64 = 1000;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_program_does_with_a_million_frames_what_the_crate_says() {
    let (program, mut datapath) = Program::load("differential");
    let policy = Policy { options: SYMMETRIC, ..Policy::OFF };
    datapath.publish_policy(&policy).unwrap();
    let mut generator = Generator::new(SEED, Target::SERVER);
    let mut random = Random::new(!SEED);
    let mut expected = vec![Count::default(); COUNTERS];
    let (mut direct, mut from_program) = (Vec::new(), Vec::new());
    let (mut not_ntp, mut longest) = (0, 0);
    for clock in 0..CLOCKS {
        let clock_state = frozen(&mut random, clock);
        publish_clock(&mut datapath, &clock_state);
        // The clock stands still and its horizon is at either end of time: no reading makes a difference.
        // Likewise the port: ours alone for ever, or not at all.
        let port_ours_until_ns = [0, 1].map(|bit| if clock >> bit & 1 == 0 { u64::MAX } else { 0 });
        datapath.publish_port_ours_until(port_ours_until_ns).unwrap();
        let clock_in_force = Some(clock_state);
        let host = Host { policy, clock: clock_in_force, port_ours_until_ns, monotonic_ns: 1, ..Host::new() };
        for number in 0..FRAMES {
            let mut frame = generator.next().unwrap();
            // Frames longer than any request, up to the most that the kernel puts to a program.
            if number % 64 == 0 {
                let padding = random.index(LONGEST - frame.len());
                frame.resize(frame.len() + padding, 0x5a);
            }
            assert!((SHORTEST..=LONGEST).contains(&frame.len()));
            longest = longest.max(frame.len());
            direct.clone_from(&frame);
            let outcome = host.respond(&mut direct);
            let action = program.run(&frame, &mut from_program);
            assert!(
                action == outcome.verdict.action() && direct == from_program,
                "seed {SEED:#x}, clock {clock}, frame {number}: {}\n{:?}\n\
                 called directly: {outcome:?}\n{}\nthe program: {action:?}\n{}",
                hex(&frame),
                clock_state,
                hex(&direct),
                hex(&from_program)
            );
            if outcome.verdict == Verdict::NotNtp {
                not_ntp += 1;
            } else {
                let count = &mut expected[outcome.counter()];
                count.packets += 1;
                count.bytes += frame.len() as u64;
            }
        }
    }
    println!("seed {SEED:#x}: {} frames, of {SHORTEST} to {longest} bytes", CLOCKS * FRAMES);
    println!("{not_ntp:>9} {}", Verdict::NotNtp.label());
    assert!(not_ntp >= LEAST);
    compare_counters(&expected, &program.counters());
}

/// Every counter is what it should be, and each verdict came up often enough to mean something.
fn compare_counters(expected: &[Count], counted: &[Count]) {
    for verdict in Verdict::ALL.iter().copied() {
        let mut sum = 0;
        for family in Family::ALL.iter().copied() {
            for version in 0..u8::try_from(VERSIONS).unwrap() {
                let outcome = Outcome { verdict, family, version };
                let (expected, counted) = (expected[outcome.counter()], counted[outcome.counter()]);
                assert_eq!(counted, expected, "seed {SEED:#x}: {outcome:?}");
                sum += expected.packets;
            }
        }
        if verdict == Verdict::NotNtp {
            assert_eq!(sum, 0, "the host's other traffic is not counted");
            continue;
        }
        println!("{sum:>9} {}", verdict.label());
        // The clock can be found torn only while somebody writes it; nobody is limited here, and nothing is sent from
        // a socket.
        let is_elsewhere =
            matches!(verdict, Verdict::PassClock | Verdict::DropUnsent) || verdict.is_of_limits();
        let least = if is_elsewhere { 0 } else { LEAST };
        assert!(sum >= least, "seed {SEED:#x}: {} came up {sum} times", verdict.label());
    }
    let total = |counts: &[Count]| counts.iter().map(|count| count.packets).sum::<u64>();
    assert_eq!(total(counted), total(expected), "a counter that belongs to no verdict");
}

/// A clock that says the same whenever it is read, with anything in its other fields. Each leap indicator, a
/// stratum in and out of range, and both ends of time as the horizon take turns.
fn frozen(random: &mut Random, number: u64) -> ClockState {
    let words: [u64; WORDS] = std::array::from_fn(|_| random.bits());
    let any = ClockState::from_words(words);
    ClockState {
        rate: Rate(0),
        dispersion_rate: DispersionRate(0),
        horizon_ns: if number % 4 == 3 { 0 } else { u64::MAX },
        leap: if number % 8 == 4 { 3 } else { any.leap % 3 },
        stratum: if number % 8 == 5 { any.stratum } else { any.stratum % 15 + 1 },
        ..any
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
