//! The eBPF program and the crate it is made of are the same function: for each of a million generated frames
//! the loaded object gives the verdict, the bytes and the counts that `responder::respond` gives.
//!
//! With limits, the moment of a decision matters, which the program reads off the kernel's clock by itself. Nothing in
//! the program helps the test: each decision that the limiter or the budget had a part in is sampled, and a sample has the
//! moment. Where there is no sample, the crate has to come to the same result at some nanosecond between those before and
//! after the run. The state that results is compared each time, and all of it at the end of each part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use control::net::prefix::Prefix;
use control::serving::limits::{InForce, Lists};
use control::serving::xdp::Datapath;
use control::sys::kernel_clock::monotonic_ns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use responder::budget::{Cost, UNITS_IN_A_NS};
use responder::clock::{DispersionRate, Rate, WORDS};
use responder::layout::{Count, Grant, PROGRAM, PROGRAM_FRAGS};
use responder::limiter::{BUDGET, Class, KISS_DENIED, KNOWN, SYMMETRIC, TABLE_ENTRIES, WAYS};
use responder::sample::Chances;
use responder::verdict::{COUNTERS, Family, VERSIONS};
use responder::{Access, ClockState, Outcome, Policy, Verdict, known};
use testinput::frames::{Host, Tables, clock};
use testinput::generator::{Generator, SHORTEST, Target};
use testinput::random::Random;
use testlab::test_run::{FIRST_BUFFER, LONGEST, LONGEST_IN_FRAGMENTS, Program, publish_clock};

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
    million("differential", PROGRAM, LONGEST);
}

/// The program for drivers that spread a large frame over several buffers sees the first of them.
#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_program_for_frames_in_several_buffers_does_what_the_crate_says_of_the_first() {
    million("differential-frags", PROGRAM_FRAGS, LONGEST_IN_FRAGMENTS);
}

fn million(name: &str, variant: &'static str, longest_frame: usize) {
    let (program, mut datapath) = Program::load_variant(name, variant);
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
        let clock = Some(clock_state);
        let host = Host { policy, clock, port_ours_until_ns, monotonic_ns: 1, ..Host::new() };
        for number in 0..FRAMES {
            let mut frame = generator.next().unwrap();
            // Frames longer than any request, up to the most that the kernel puts to a program.
            if number % 64 == 0 {
                let padding = random.index(longest_frame - frame.len());
                frame.resize(frame.len() + padding, 0x5a);
            }
            assert!((SHORTEST..=longest_frame).contains(&frame.len()));
            longest = longest.max(frame.len());
            direct.clone_from(&frame);
            let in_first = frame.len().min(FIRST_BUFFER);
            let outcome = host.respond(&mut direct[..in_first]);
            let action = program.run(&frame, &mut from_program);
            assert!(
                action == outcome.verdict.action() && direct == from_program,
                "seed {SEED:#x}, frame {number}: {}\n{:?}\n\
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
                count.bytes += in_first as u64;
            }
        }
    }
    println!("seed {SEED:#x}: {} frames, of {SHORTEST} to {longest} bytes", CLOCKS * FRAMES);
    println!("{not_ntp:>9} {}", Verdict::NotNtp.label());
    assert!(not_ntp >= LEAST);
    // The clock can be found torn only while somebody writes it; nobody is limited here, and nothing is sent from a
    // socket.
    let is_elsewhere = |verdict: Verdict| {
        matches!(verdict, Verdict::PassClock | Verdict::DropUnsent) || verdict.is_of_limits()
    };
    compare_counters(&expected, &program.counters(), is_elsewhere);
}

/// Every counter is what it should be, and each verdict came up often enough to mean something, unless it cannot be.
fn compare_counters(expected: &[Count], counted: &[Count], cannot_be: impl Fn(Verdict) -> bool) {
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
        let least = if cannot_be(verdict) { 0 } else { LEAST };
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

/// Parts of the test with limits, each with a policy of its own, and the frames in each.
const PARTS: u64 = 112;
const FRAMES_IN_A_PART: u64 = 10_240;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn with_lists_limits_and_a_budget_the_program_decides_as_the_crate_does_at_the_same_moment() {
    // Kisses and budget are each CPU's own.
    let mut cpu = CpuSet::new();
    cpu.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpu).unwrap();
    let mut trial = Trial::new();
    for part in 0..PARTS {
        let policy = trial.begin(part);
        for number in 0..FRAMES_IN_A_PART {
            trial.run(&format!("part {part}, frame {number}, {policy:?}"));
        }
        trial.compare_state(&format!("part {part}, {policy:?}"));
        if part % 16 == 15 {
            assert!(trial.host.tables.known_words() == trial.program.known(), "part {part}: known sources");
        }
    }
    println!(
        "seed {SEED:#x}: {} frames; at {} moments that no sample told",
        PARTS * FRAMES_IN_A_PART,
        trial.sought
    );
    assert!(trial.searched > 100, "leaks of requests for the socket: {}", trial.searched);
    // The clock is good and in order; fragments are rare, and those that are no requests are tried without limits.
    let cannot_be = |verdict| {
        matches!(
            verdict,
            Verdict::Unsynchronised | Verdict::PassClock | Verdict::DropUnsent | Verdict::PassFragment
        )
    };
    compare_counters(&trial.expected, &trial.program.counters(), cannot_be);
}

/// Access lists of both families: of half of the generator's clients in IPv4, and of half in IPv6.
const ENTRIES: [(&str, Access); 10] = [
    ("198.51.100.0/26", Access::Denied),
    ("198.51.100.0/29", Access::Ordinary),
    ("198.51.100.64/27", Access::Strict),
    ("198.51.100.96/27", Access::Unlimited),
    ("10.0.0.0/8", Access::Denied),
    ("2001:db8::/35", Access::Denied),
    ("2001:db8::/38", Access::Ordinary),
    ("2001:db8:2000::/36", Access::Strict),
    ("2001:db8:3000::/36", Access::Unlimited),
    ("2001:db9::/32", Access::Denied),
];

/// The program with all its maps, and the crate with the same in memory.
struct Trial {
    program: Program,
    datapath: Datapath,
    host: Host,
    generator: Generator,
    expected: Vec<Count>,
    /// Frames whose moment was not told by a sample, and those for which each nanosecond was tried.
    sought: u64,
    searched: u64,
}

impl Trial {
    fn new() -> Self {
        let (program, mut datapath) = Program::load("differential-limits");
        let clock_state =
            ClockState { rate: Rate(0), dispersion_rate: DispersionRate(0), horizon_ns: u64::MAX, ..clock() };
        publish_clock(&mut datapath, &clock_state);
        let entries: BTreeMap<Prefix, Access> =
            ENTRIES.iter().map(|(prefix, access)| (prefix.parse().unwrap(), *access)).collect();
        let in_memory = entries.iter().map(|(prefix, access)| (prefix.address(), prefix.length(), *access));
        let sets = usize::try_from(*TABLE_ENTRIES.start()).unwrap() / WAYS;
        let tables = Arc::new(Tables::new(sets, in_memory.collect()).with_known(known::SETS as usize));
        let mut lists = Lists::default();
        lists.configure(entries);
        let maps = datapath.access_maps().unwrap();
        InForce::inheriting(maps, Arc::default()).unwrap().put(&lists).unwrap();
        Self {
            program,
            datapath,
            host: Host { clock: Some(clock_state), tables, ..Host::new() },
            generator: Generator::new(!SEED, Target::SERVER),
            expected: vec![Count::default(); COUNTERS],
            sought: 0,
            searched: 0,
        }
    }

    /// Puts another policy in force. Rates are on either side of what sources ask for, which differs from machine to
    /// machine.
    fn begin(&mut self, part: u64) -> Policy {
        let of_part = |values: &[u32]| values[usize::try_from(part).unwrap() % values.len()];
        let rate = of_part(&[5, 20, 50, 100, 200, 400, 800]);
        let policy = Policy {
            ordinary: Class::new(rate, of_part(&[1, 8, 16])).unwrap(),
            strict: Class::new(1, 4).unwrap(),
            kiss: Class::new(50_000, 50_000).unwrap(),
            ipv4_mask: Policy::ipv4_mask_of(if part % 4 == 3 { 32 } else { 29 }),
            // Each address another source, or sixty-four of them.
            ipv6_mask: Policy::ipv6_mask_of(if part % 4 == 3 { 64 } else { 38 }),
            leak: u8::try_from(of_part(&[4, 2, 3, 1, 64])).unwrap(),
            kiss_poll: 6,
            options: u8::try_from(part).unwrap() & (KISS_DENIED | BUDGET | SYMMETRIC | KNOWN),
            known_share: u8::try_from(of_part(&[0, 179, 255])).unwrap(),
            lists: u8::try_from(part >> 1).unwrap() & 3,
            chances: Chances { request: u64::MAX, source: u64::MAX >> (part % 3) },
            ..Policy::OFF
        };
        self.datapath.publish_policy(&policy).unwrap();
        let answers_per_s = u64::from(of_part(&[300, 3000, 1000]));
        let cost = Cost { answer: 1_000_000_000 * UNITS_IN_A_NS / answers_per_s, byte: part << 20 };
        let cpus = self.datapath.spent().unwrap().len();
        self.datapath.grant(&vec![Grant { cost, samples: u64::MAX }; cpus]).unwrap();
        self.host.tables.grant(cost);
        // Each part is an epoch of its own for what is learnt of sources, and all of them are new to the limiter: whoever
        // has a bucket that was full before is known to have had its vote in this epoch of the machine's clock.
        if !part.is_multiple_of(4) {
            self.host.tables.forget_buckets();
            self.program.forget_buckets();
        }
        for (number, words) in self.host.tables.age_known() {
            self.program.set_known(u32::try_from(number).unwrap(), words);
        }
        let port_ours_until_ns = [0, 1].map(|bit| if part >> bit & 1 == 0 { u64::MAX } else { 0 });
        self.datapath.publish_port_ours_until(port_ours_until_ns).unwrap();
        // With the key and the number of sets that are the table's own.
        let policy = *self.datapath.policy();
        self.host = Host { policy, port_ours_until_ns, ..self.host.clone() };
        policy
    }

    /// A frame to the program, and to the crate at the same moment.
    fn run(&mut self, context: &str) {
        let mut frame = self.generator.next().unwrap();
        // Most come by the same router: only then does a source have a usual path.
        if frame.get(40).is_some_and(|byte| byte & 3 != 0) {
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        }
        let mut from_program = Vec::new();
        let before_ns = monotonic_ns().unwrap();
        let action = self.program.run(&frame, &mut from_program);
        let after_ns = monotonic_ns().unwrap();
        let samples = self.datapath.take_samples();
        assert!(samples.len() <= 1, "{samples:?}: {context}");
        let mut direct = Vec::new();
        let mut program_says_so = |host: &mut Host, at_ns: u64| {
            host.tables.take_back();
            host.monotonic_ns = at_ns;
            direct.clone_from(&frame);
            let outcome = host.respond(&mut direct);
            let is_same = outcome.verdict.action() == action
                && direct == from_program
                && host.tables.take_samples() == samples
                && host
                    .tables
                    .set_in_use()
                    .is_none_or(|(number, words)| words == self.program.set(u32::try_from(number).unwrap()))
                && host.tables.known_in_use().is_none_or(|(number, words)| {
                    words == self.program.known_set(u32::try_from(number).unwrap())
                });
            is_same.then_some(outcome)
        };
        // The kernel may read its clock by another way, which differs from this one while the kernel corrects it.
        let (from_ns, to_ns) = (before_ns - 2000, after_ns + 2000);
        let host = &mut self.host;
        let told = samples.first().filter(|sample| sample.at_ns != 0);
        let outcome = if let Some(sample) = told {
            assert!((from_ns..=to_ns).contains(&sample.at_ns), "{sample:?}: {context}");
            program_says_so(host, sample.at_ns)
        } else {
            self.sought += 1;
            let at_ends = [before_ns, after_ns].into_iter().find_map(|at_ns| program_says_so(host, at_ns));
            at_ends.or_else(|| {
                self.searched += 1;
                (from_ns..=to_ns).find_map(|at_ns| program_says_so(host, at_ns))
            })
        };
        let Some(outcome) = outcome else {
            let mut direct = frame.clone();
            host.tables.take_back();
            host.monotonic_ns = told.map_or(before_ns, |sample| sample.at_ns);
            let outcome = host.respond(&mut direct);
            panic!(
                "seed {SEED:#x}, {context}: {}\ncalled directly: {outcome:?}, {:?}, {:x?}\n{}\n\
                 the program: {action:?}, {samples:?}\n{}",
                hex(&frame),
                host.tables.take_samples(),
                host.tables.set_in_use(),
                hex(&direct),
                hex(&from_program)
            )
        };
        host.tables.keep();
        if outcome.verdict != Verdict::NotNtp {
            let count = &mut self.expected[outcome.counter()];
            count.packets += 1;
            count.bytes += frame.len() as u64;
        }
    }

    /// All buckets, and what this CPU has spent.
    fn compare_state(&self, context: &str) {
        let (sets, kisses, answers) = self.host.tables.words();
        assert!(sets == self.program.sets(), "{context}");
        let spent = self.datapath.spent().unwrap()[0];
        assert_eq!((spent.kisses, spent.answers), (kisses, answers), "{context}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
