//! The pace at which a pair of slots is flipped.
//!
//! Clock and addresses have two slots each (see [`layout`]). After a flip, the program may still read the slot that is
//! no longer in force, so this slot must not be written for [`layout::FLIP_INTERVAL_MS`]. A value that comes earlier is
//! kept here, so that no thread has to sleep.

use std::time::{Duration, Instant};

use responder::layout;

const INTERVAL: Duration = Duration::from_millis(layout::FLIP_INTERVAL_MS);

/// When a pair of slots was last flipped, and the value that waits for the next flip.
#[derive(Debug)]
pub(super) struct Flips<T> {
    waiting: Option<T>,
    last: Option<Instant>,
}

impl<T> Default for Flips<T> {
    fn default() -> Self {
        Self { waiting: None, last: None }
    }
}

impl<T> Flips<T> {
    /// Takes a value to publish. It replaces one that still waits.
    pub(super) fn put(&mut self, value: T) {
        self.waiting = Some(value);
    }

    /// Returns the value that waits.
    pub(super) const fn waiting(&self) -> Option<&T> {
        self.waiting.as_ref()
    }

    /// Drops the value that waits, because the value in force is to stay.
    pub(super) fn forget(&mut self) {
        self.waiting = None;
    }

    /// Returns the value if its slot may be written now. The caller writes the slot and flips.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        if self.blocked_until(now).is_some() {
            return None;
        }
        let value = self.waiting.take()?;
        self.last = Some(now);
        Some(value)
    }

    /// Returns until when no slot may be written, or nothing if one may be written now.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.last.map(|last| last + INTERVAL).filter(|free| now < *free)
    }

    /// Returns when the value that waits may be written, or nothing if none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.as_ref()?;
        Some(self.last.map_or_else(Instant::now, |last| last + INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_written_again_only_after_the_interval_and_then_with_the_latest_value() {
        let mut flips = Flips::default();
        assert_eq!((flips.take_due(Instant::now()), flips.due()), (None, None));
        let start = Instant::now();
        flips.put(1);
        assert_eq!(flips.blocked_until(start), None);
        assert_eq!(flips.take_due(start), Some(1), "the first one need not wait");
        assert_eq!((flips.due(), flips.blocked_until(start)), (None, Some(start + INTERVAL)));
        assert_eq!(flips.blocked_until(start + INTERVAL), None);

        flips.put(2);
        flips.put(3);
        assert_eq!(flips.due(), Some(start + INTERVAL));
        assert_eq!(flips.take_due(start + INTERVAL / 2), None);
        assert_eq!(flips.take_due(start + INTERVAL), Some(3));
        assert_eq!((flips.take_due(start + 2 * INTERVAL), flips.due()), (None, None), "it is published once");

        flips.put(4);
        flips.forget();
        assert_eq!(flips.due(), None);
    }
}
