//! Keeps a core from going to sleep, so that no figure has the way in it in which a machine, or its host, wakes up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use nix::unistd::gettid;

use super::lab;
use crate::failure::Failure;

/// A thread that runs whenever nobody else wants the core; as long as this lives.
pub(super) struct Awake {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Awake {
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
        // The thread sends it first of all.
        started.recv().map_or(Ok(()), lab::give_least_priority)?;
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panic_is_shown_already = thread.join();
        }
    }
}
