//! Keeps a core from going to sleep, so that no figure includes the time that a machine or its hypervisor
//! takes to wake up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use nix::unistd::gettid;

use super::lab;
use crate::failure::Failure;

/// A thread that runs whenever nothing else wants the core, for as long as this lives.
pub(super) struct AwakeCpu {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AwakeCpu {
    pub(super) fn keep(core: usize) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (identity, started) = crossbeam_channel::bounded(1);
        let thread = thread::spawn(move || {
            let _elsewhere_it_would_keep_another_awake = core_affinity::set_for_current(CoreId { id: core });
            let _receiver_waits = identity.send(gettid());
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let awake = Self { stop, thread: Some(thread) };
        // Sending its identity is the first thing that the thread does.
        started.recv().map_or(Ok(()), lab::give_least_priority)?;
        Ok(awake)
    }
}

impl Drop for AwakeCpu {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panic_is_shown_already = thread.join();
        }
    }
}
