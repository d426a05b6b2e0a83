//! When the slot that is not in force may be written: not while a reader may still have it in hand.
//!
//! Clock and addresses have two slots each (see [`layout`]). A value that comes too soon after the last flip is kept
//! here, so that nobody has to sleep until its slot is free.

use std::time::{Duration, Instant};

use responder::layout;

const INTERVAL: Duration = Duration::from_millis(layout::FLIP_INTERVAL_MS);

/// The flips of a pair of slots, and the value that waits for the next one.
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
    /// Takes a value to be published, in place of one that still waits.
    pub(super) fn put(&mut self, value: T) {
        self.waiting = Some(value);
    }

    /// Drops a value that still waits: what is in force is to stay.
    pub(super) fn forget(&mut self) {
        self.waiting = None;
    }

    /// Gives the value, if its slot is free by now. The caller writes it and flips.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        let value = self.waiting.take()?;
        self.last = Some(now);
        Some(value)
    }

    /// When the value that waits may be written; nothing if none waits.
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
        assert_eq!(flips.take_due(start), Some(1), "the first one need not wait");
        assert_eq!(flips.due(), None, "nothing waits");

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
