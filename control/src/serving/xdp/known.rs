//! The map of known sources: how many there are, and how they are forgotten.
//!
//! A word says modulo three days when its source was last seen. So that a source which is long gone does not come back
//! with the next turn, its word is emptied. That takes a call of the kernel for each set: the table is walked through slowly.

use aya::maps::{Array, Map, MapData};
use responder::known;
use responder::layout;
use responder::limiter::WAYS;

use super::{Datapath, map_error};
use crate::error::Result;
use crate::sys::Plain;

/// Sets that are looked at in a step.
const STEP: u32 = 256;

/// The map, and how far the walk through it has come.
pub(super) struct Known {
    map: Array<MapData, Plain<[u64; WAYS]>>,
    next: u32,
    found: u32,
    last: Option<u32>,
}

impl Known {
    pub(super) fn of(map: Map) -> Result<Self> {
        let map = Array::try_from(map).map_err(map_error(layout::KNOWN))?;
        Ok(Self { map, next: 0, found: 0, last: None })
    }

    fn step(&mut self, epoch: u64) -> Result<()> {
        for number in self.next..(self.next + STEP).min(known::SETS) {
            let Plain(set) = self.map.get(&number, 0).map_err(map_error(layout::KNOWN))?;
            let kept = set.map(|word| if known::is_remembered(word, epoch) { word } else { 0 });
            if kept != set {
                // What a CPU writes to the set just now is lost: the vote of an epoch at most.
                self.map.set(number, Plain(kept), 0).map_err(map_error(layout::KNOWN))?;
            }
            self.found += kept.iter().map(|word| u32::from(known::is_known(*word, epoch))).sum::<u32>();
        }
        self.next += STEP;
        if self.next >= known::SETS {
            self.last = Some(self.found);
            (self.next, self.found) = (0, 0);
        }
        Ok(())
    }
}

impl Datapath {
    /// Takes a step through the table of known sources and forgets those that were not seen for a day. To be called
    /// a few times per second: the whole walk has 512 steps.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn forget_sources(&mut self, now_ns: u64) -> Result<()> {
        self.known.step(known::epoch(now_ns))
    }

    /// The number of known sources at the end of the last walk, or `None` before the first one has ended.
    #[must_use]
    pub const fn known_sources(&self) -> Option<u32> {
        self.known.last
    }
}
