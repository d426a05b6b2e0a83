//! A step of the clock is served by both paths at once. The clock that steps is a made-up one: the machine's
//! own is read and never set.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use control::config::Config;
use control::daemon::publisher::Publisher;
use control::error::Result;
use control::net::query::exchange;
use control::serving::userspace::UserspacePath;
use control::sys::kernel_clock::{ClockReadings, CrossTimestamp, KernelClock, Machine, realtime_ns};
use control::sys::{Adjtimex, ClockChange};
use control::timekeeping::system_clock::Observation;
use control::timekeeping::timekeeper::{Host, Timekeeper};
use nix::sched::{CloneFlags, unshare};
use responder::NtpTimestamp;
use responder::verdict::Action;
use testlab::test_run::{Program, message_in, request_frame, wait_for_flips};

/// From noticing a step to an answer that follows it.
const LIMIT: Duration = Duration::from_millis(50);
/// An answer may be off by this much for what passes between two readings of the clock on a busy machine.
const TOLERANCE_NS: i64 = 20_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// The machine's clock and a little more, well disciplined.
#[derive(Clone)]
struct Stepped(Arc<AtomicI64>);

impl KernelClock for Stepped {
    fn cross_timestamp(&self) -> Result<CrossTimestamp> {
        let sample = Machine.cross_timestamp()?;
        Ok(CrossTimestamp {
            realtime_ns: sample.realtime_ns + i128::from(self.0.load(Ordering::SeqCst)),
            ..sample
        })
    }

    fn discipline(&self) -> Result<Adjtimex> {
        Ok(Adjtimex {
            state: libc::TIME_OK,
            status: 0,
            max_error_us: 1000,
            estimated_error_us: 100,
            offset_ns: 0,
            time_constant: 2,
            frequency_scaled_ppm: 0,
            tick_us: 10_000,
            tai_offset_s: 37,
        })
    }

    fn clock_readings(&self) -> Result<ClockReadings> {
        Machine.clock_readings()
    }

    fn change(&self, change: &ClockChange) -> Result<()> {
        panic!("a clock that is mirrored is not to be changed: {change:?}")
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_step_is_served_within_50_ms_of_being_noticed() {
    // The sockets are on port 123, which the host's own daemon may have. The thread's network is its own.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        step_back_and_forth();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn step_back_and_forth() {
    let (program, mut datapath) = Program::load("step");
    let sockets = UserspacePath::start().unwrap();
    let ports = sockets.ports.all();
    assert!(ports.iter().any(|port| port.failure.is_none()), "{ports:?}");
    let total_ns = Arc::new(AtomicI64::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stepped = Stepped(Arc::clone(&total_ns));
    let (config, host) = (Config::default(), Host::default());
    let mut timekeeper = runtime.block_on(Timekeeper::begin(stepped, &config, &host)).unwrap();
    let mut publisher = Publisher::default();
    publisher.publish(observe(&mut timekeeper), &mut datapath, &sockets.shared).unwrap();

    let (mut longest, mut steps) = (Duration::ZERO, 0);
    for round in 0..5 {
        for step_ns in [
            3600 * SECOND_NS,
            -3600 * SECOND_NS,
            -86_400 * 365 * SECOND_NS,
            SECOND_NS,
            -SECOND_NS,
            86_400 * 365 * SECOND_NS,
            SECOND_NS / 10,
            -SECOND_NS / 10,
        ] {
            assert_near(program_offset_ns(&program), total_ns.load(Ordering::SeqCst), "before the step");
            // Sometime between two publications; in the last round just after one, when readers may still have the slot
            // in hand that is about to be written.
            thread::sleep(Duration::from_millis(7 * (4 - round)));
            if round == 4 {
                publisher.publish(observe(&mut timekeeper), &mut datapath, &sockets.shared).unwrap();
            }
            total_ns.fetch_add(step_ns, Ordering::SeqCst);
            let noticed = Instant::now();
            publisher.publish(observe(&mut timekeeper), &mut datapath, &sockets.shared).unwrap();
            wait_for_flips(&mut datapath);
            let offset_ns = program_offset_ns(&program);
            let took = noticed.elapsed();
            assert_near(offset_ns, total_ns.load(Ordering::SeqCst), "the program, after the step");
            assert!(took < LIMIT, "a step of {step_ns} ns was served after {took:?}");
            longest = longest.max(took);
            steps += 1;
            assert_eq!(publisher.steps(), steps);
            assert_eq!(publisher.unsynchronised(), None);
            let socket = exchange(SocketAddr::from((Ipv4Addr::LOCALHOST, 123)), Duration::from_secs(1));
            assert_near(socket.unwrap().offset_ns, total_ns.load(Ordering::SeqCst), "the socket");
        }
    }
    println!("{steps} steps, served within {:.1} ms of being noticed", longest.as_secs_f64() * 1e3);
}

fn observe(timekeeper: &mut Timekeeper<Stepped>) -> Observation {
    timekeeper.look().unwrap();
    timekeeper.steer().unwrap();
    timekeeper.state().unwrap()
}

/// The clock of the program's answers less the machine's.
fn program_offset_ns(program: &Program) -> i64 {
    let mut after = Vec::new();
    assert_eq!(program.run(&request_frame(1), &mut after), Action::Transmit);
    let now_ns = realtime_ns().unwrap();
    let seconds = i64::try_from(now_ns / i128::from(SECOND_NS)).unwrap();
    let nanos = u32::try_from(now_ns % i128::from(SECOND_NS)).unwrap();
    let transmit = NtpTimestamp(message_in(&after).transmit);
    let units = i128::from(transmit.since(NtpTimestamp::from_unix(seconds, nanos)));
    i64::try_from((units * i128::from(SECOND_NS)) >> 32).unwrap()
}

#[track_caller]
fn assert_near(offset_ns: i64, expected_ns: i64, what: &str) {
    assert!(
        (offset_ns - expected_ns).abs() < TOLERANCE_NS,
        "{what}: off by {offset_ns} ns, not {expected_ns} ns"
    );
}
