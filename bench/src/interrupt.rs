//! Ctrl-C, and SIGTERM from a service manager. A command that hears them ends in its own way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::{Failure, INTERRUPTED};

/// Whether one of the signals has come.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Hears the signals from now on.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(Failure::Output)?;
        }
        Ok(Self(flag))
    }

    /// As [`Interrupt::listen`], but a second signal ends the process at once.
    pub(crate) fn listen_once() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the first signal finds the flag unset.
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&flag))
                .map_err(Failure::Output)?;
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(Failure::Output)?;
        }
        Ok(Self(flag))
    }

    /// Whether one of the signals has come.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
