//! Lets the kernel run frames through a program on some CPUs, again and again until a given moment.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use core_affinity::CoreId;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;

use super::super::clock::monotonic_ns;
use super::super::watch::Watch;

/// Number of frames that circulate. What one round has made is sent together.
const BATCH: u32 = 64;
/// The shortest time in which a frame makes a round without becoming a request.
const LEAST_NS: u64 = 40;
/// The signal that ends a test run, and the interval at which it is repeated.
const END: Signal = Signal::SIGUSR1;
const SIGNALS: Duration = Duration::from_millis(5);
/// How often it looks whether it is interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Lets copies of a frame circulate on each of the cores until `end_ns` on `CLOCK_MONOTONIC`, or until `watch` is
/// interrupted.
///
/// A single call of the kernel does all of it if possible, and a signal ends the call. Between two calls
/// the kernel waits for milliseconds until nothing uses the program any more.
pub(super) fn circulate(
    program: &Xdp,
    cores: &[CoreId],
    frame: &[u8],
    end_ns: u64,
    watch: &Watch,
) -> Result<(), ProgramError> {
    let on = |core: CoreId| -> Result<(), ProgramError> {
        // The program counts the requests that it made separately for each CPU.
        if !core_affinity::set_for_current(core) {
            return Err(std::io::Error::last_os_error().into());
        }
        loop {
            let left_ns = end_ns.saturating_sub(monotonic_ns());
            if left_ns == 0 || watch.is_interrupted() {
                return Ok(());
            }
            let result = program.test_run(TestRunOptions {
                data_in: Some(frame),
                // The call ends even if no signal gets through.
                repeat: u32::try_from(left_ns / LEAST_NS).unwrap_or(u32::MAX).max(1),
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            });
            match result {
                Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::Interrupted => {
                }
                result => {
                    result?;
                }
            }
        }
    };
    // Without a handler, the signal would end the process.
    let heard = Arc::new(AtomicBool::new(false));
    let listener = signal_hook::flag::register(END as i32, heard)?;
    let (identities, started) = crossbeam_channel::unbounded();
    let (results, finished) = crossbeam_channel::unbounded();
    // The channel closes when everything is over. Until then each thread exists, so that the signal has a
    // recipient.
    let (open, closed) = crossbeam_channel::bounded::<()>(0);
    let outcome = thread::scope(|scope| {
        for core in cores {
            let (identities, results, closed) = (identities.clone(), results.clone(), closed.clone());
            scope.spawn(move || {
                let _receiver_waits = identities.send(word(pthread_self()));
                let _receiver_waits = results.send(on(*core));
                let _closed = closed.recv();
            });
        }
        drop((identities, results, closed));
        let threads: Vec<usize> = started.iter().take(cores.len()).collect();
        let mut outcome = Ok(());
        let mut running = threads.len();
        while running > 0 {
            let left =
                Duration::from_nanos(end_ns.saturating_sub(monotonic_ns())).min(LOOK_AGAIN).max(SIGNALS);
            let left = if watch.is_interrupted() { SIGNALS } else { left };
            match finished.recv_timeout(left) {
                Ok(result) => {
                    running -= 1;
                    outcome = outcome.and(result);
                }
                // The signal is repeated, because one that comes just before a call ends nothing.
                Err(_) if monotonic_ns() < end_ns && !watch.is_interrupted() => {}
                Err(_) => threads.iter().for_each(|thread| {
                    let _heard = pthread_kill(*thread as Pthread, END);
                }),
            }
        }
        drop(open);
        outcome
    });
    signal_hook::low_level::unregister(listener);
    outcome
}

/// Returns the identity of a thread as a word. Some C libraries use a number and others a pointer, which no
/// other thread is given.
#[allow(clippy::cast_possible_truncation, reason = "it is a word everywhere")]
fn word(thread: Pthread) -> usize {
    thread as usize
}
