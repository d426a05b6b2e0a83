//! No answer mixes two states of the clock, however often it is published and whenever it is asked.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use responder::clock::{DispersionRate, Rate};
use responder::verdict::Action;
use responder::{ClockState, NtpShort, NtpTimestamp};
use testlab::test_run::{Program, message_in, publish_clock, request_frame};

const DURATION: Duration = Duration::from_secs(10);
/// Of a timestamp, at a precision of 2^-25 s.
const NOISE_BITS: u32 = 7;

/// Every field follows from the number, so that one field of another state shows.
fn state(number: u32) -> ClockState {
    ClockState {
        sequence: number,
        monotonic_base_ns: 0,
        ntp_base: NtpTimestamp(spread(number, 1)),
        // Standing still, so that the timestamps are the state's own above the noise.
        rate: Rate(0),
        precision: -25,
        horizon_ns: u64::MAX,
        reference_time: NtpTimestamp(spread(number, 2)),
        root_delay: NtpShort(number),
        root_dispersion: NtpShort(!number),
        dispersion_rate: DispersionRate(0),
        reference_id: number.swap_bytes(),
        leap: low_byte(number) % 3,
        stratum: low_byte(number) % 15 + 1,
    }
}

fn spread(number: u32, factor: u64) -> u64 {
    (u64::from(number) << 32 | u64::from(!number)).wrapping_mul(2 * factor + 1)
}

fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_answer_is_of_one_state_of_the_clock() {
    let (program, mut datapath) = Program::load("clock-slot");
    publish_clock(&mut datapath, &state(0));
    let ended = AtomicBool::new(false);
    // The number that may be in force, and the one that must be or have been.
    let (begun, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let (answers, unread, seen) = thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(0);
            for number in 1.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                begun.store(number, Ordering::SeqCst);
                publish_clock(&mut datapath, &state(number));
                done.store(number, Ordering::SeqCst);
            }
        });
        let reader = scope.spawn(|| {
            pin_to(1);
            // A panic here must end the other thread as well.
            let _at_the_end = OnDrop(|| ended.store(true, Ordering::Relaxed));
            read(&program, &begun, &done)
        });
        reader.join().unwrap()
    });
    let published = done.load(Ordering::SeqCst);
    println!(
        "{published} states published, {answers} answers of {seen} of them, {unread} passed on for a torn slot"
    );
    assert!(published >= 200, "too few publications to mean something");
    assert!(answers >= u64::from(published) * 10, "too few answers to mean something");
    assert!(seen * 2 >= published as usize, "most of what was published was not seen");
    assert!(unread <= answers / 1000, "a torn slot is to be rare");
}

/// Gives the answers, the requests that were passed on for a torn slot, and the states that were seen.
fn read(program: &Program, begun: &AtomicU32, done: &AtomicU32) -> (u64, u64, usize) {
    let (mut answers, mut unread, mut seen) = (0, 0, HashSet::new());
    let request = request_frame(0x1234_5678_9abc_def0);
    let mut after = Vec::new();
    let started = Instant::now();
    while started.elapsed() < DURATION {
        let least = done.load(Ordering::SeqCst);
        let action = program.run(&request, &mut after);
        let most = begun.load(Ordering::SeqCst);
        if action == Action::Pass {
            unread += 1;
            continue;
        }
        assert_eq!(action, Action::Transmit);
        let message = message_in(&after);
        let number = message.root_delay;
        let state = state(number);
        let context = format!("state {number}, answer {message:x?}");
        assert_eq!(message.root_dispersion, state.root_dispersion.0, "root dispersion: {context}");
        assert_eq!(message.reference_id, state.reference_id, "reference id: {context}");
        assert_eq!(message.reference, state.reference_time.0, "reference time: {context}");
        let base = state.ntp_base.0 >> NOISE_BITS;
        assert_eq!(message.receive >> NOISE_BITS, base, "receive: {context}");
        assert_eq!(message.transmit >> NOISE_BITS, base, "transmit: {context}");
        assert_eq!(
            (message.leap, message.stratum),
            (state.leap, state.stratum),
            "leap and stratum: {context}"
        );
        assert!((least..=most).contains(&number), "{number} is not of {least} to {most}: {context}");
        answers += 1;
        seen.insert(number);
    }
    (answers, unread, seen.len())
}

/// Publisher and reader are to run at the same time. A machine with one CPU leaves both where they are.
fn pin_to(cpu: usize) {
    let mut cpus = CpuSet::new();
    if thread::available_parallelism().is_ok_and(|count| count.get() > cpu) && cpus.set(cpu).is_ok() {
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
