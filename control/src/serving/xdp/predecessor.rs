//! The published state of a build of another layout: what is understood of it, and how a new one takes its place.
//!
//! The programs that are attached hold the maps that they were loaded with, and answer by them until they are
//! replaced through their links. So a daemon makes the maps that are of other formats in its build, beside the old
//! ones, and replaces the state last:
//!
//! 1. The missing maps are made and pinned under names of their own ([`super::maps`]), the state as `PT_STATE-next`.
//! 2. The new state is written: its head is that of the old one.
//! 3. `PT_STATE-next` is renamed to `PT_STATE`. The kernel does this at once or not at all.
//! 4. The daemon fills the new maps, and replaces the programs on their links.
//! 5. The maps that only another build needs are unpinned.
//!
//! Whenever a daemon is killed, the next one of any build finds a whole state under its name, with the head that it
//! understands, and begins with the first step again. Maps of other formats stay until all programs are replaced: a
//! build that is started in between, and needs them, goes on with them.
//!
//! The program of the predecessor knows nothing of the new state. So that it answers by the present time however long
//! attaching takes, the clock line is published to the old state as well, until the last step.

use std::mem::offset_of;
use std::path::Path;

use aya::maps::MapData;
use responder::clock::WORDS;
use responder::layout::{self, Head, State};

use super::maps::{self, MAPS};
use crate::error::{Code, Error, Result};
use crate::sys::{first_value, set_first_value};

/// The state of another build.
pub(super) struct Predecessor {
    map: MapData,
    head: Head,
    /// The whole value, of which only the head is understood.
    value: Vec<u8>,
}

impl Predecessor {
    /// Looks at the pinned state. Returns nothing if there is none, or if it is of this build's format.
    ///
    /// # Errors
    ///
    /// It is no state of this server: says why.
    pub(super) fn look(directory: &Path) -> Result<Option<Box<Self>>, String> {
        let path = maps::pin(directory, layout::STATE);
        if !path.exists() {
            return Ok(None);
        }
        let foreign = |why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", layout::STATE);
        let map = MapData::from_pin(&path).map_err(|error| foreign(&error))?;
        let value = first_value(&map).map_err(|error| foreign(&error))?;
        let Some(head) = Head::of_any(&value) else {
            return Err(format!("{} has another layout than its name says", layout::STATE));
        };
        match (head.version(), value.len() == size_of::<State>()) {
            (layout::VERSION | 0, true) => Ok(None),
            (layout::VERSION, false) => {
                Err(format!("{} has another layout than its version says", layout::STATE))
            }
            _ => Ok(Some(Box::new(Self { map, head, value }))),
        }
    }

    /// The format of the state.
    pub(super) const fn version(&self) -> u32 {
        self.head.version()
    }

    /// A state that goes on with the clock line and the places of the interfaces. All else has to be published anew.
    pub(super) fn successor(&self) -> Box<State> {
        let mut state = Box::new(State::EMPTY);
        state.head = Head { magic: layout::MAGIC, ..self.head };
        state
    }

    /// Publishes a clock line to the programs that were not replaced yet. As in the own state, the slot that is not
    /// in force is written, and then the index.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub(super) fn publish_clock(&mut self, line: [u64; WORDS]) -> Result<()> {
        publish(&mut self.head, &mut self.value, line, |value| set_first_value(&self.map, value))
            .map_err(Error::because(Code::Os, "the state of the earlier layout"))
    }
}

/// Says what a daemon takes over of another build, and what begins anew: the maps that were not there. `version` is
/// that of the other state, if it is of another format; `others` are the pins of other formats. Nothing, if all goes
/// on.
pub(super) fn account(version: Option<u32>, kept: &[&str], others: &[String]) -> Option<String> {
    let (known, anew): (Vec<_>, Vec<_>) =
        MAPS.iter().filter(|(name, _)| *name != layout::STATE).partition(|(name, _)| kept.contains(name));
    if version.is_none() && (others.is_empty() || anew.is_empty()) {
        return None;
    }
    let of = |maps: Vec<&(&str, &str)>| match maps.as_slice() {
        [] => "nothing".to_owned(),
        maps => maps.iter().map(|(_, what)| *what).collect::<Vec<_>>().join(", "),
    };
    let from = match version {
        Some(version) => format!("layout {version}: this build has layout {}", layout::VERSION),
        None => format!("a build with maps of other formats: {}", others.join(", ")),
    };
    Some(format!(
        "took over from {from}; carried over: the clock line, the interfaces, {}; begun anew: {}",
        of(known),
        of(anew)
    ))
}

/// Writes the value with the line in the other slot, and again with the index of that slot.
fn publish<E>(
    head: &mut Head,
    value: &mut [u8],
    line: [u64; WORDS],
    mut write: impl FnMut(&mut [u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let other = head.clock & 1 ^ 1;
    let [first, second] = &mut head.clocks;
    *(if other == 0 { first } else { second }) = line;
    let slots = offset_of!(Head, clocks);
    let bytes = head.clocks.iter().flatten().flat_map(|word| word.to_ne_bytes());
    for (byte, new) in value[slots..].iter_mut().zip(bytes) {
        *byte = new;
    }
    write(value)?;
    let index = offset_of!(Head, clock);
    value[index..index + size_of::<u32>()].copy_from_slice(&other.to_ne_bytes());
    head.clock = other;
    write(value)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_is_carried_over_and_what_begins_anew_is_told() {
        let all: Vec<_> = MAPS.iter().map(|(name, _)| *name).collect();
        let without_counters: Vec<_> = all.iter().copied().filter(|name| *name != layout::COUNTERS).collect();
        let others = ["PT_COUNTERS-77".to_owned()];
        assert_eq!(account(None, &all, &[]), None);
        assert_eq!(account(None, &[], &[]), None, "the first start");
        assert_eq!(account(None, &all, &others), None, "the rest of a take-over that was cut off");
        let told = account(Some(7), &without_counters, &others).unwrap();
        assert!(told.starts_with("took over from layout 7: this build has layout "), "{told}");
        assert!(
            told.contains("carried over: the clock line, the interfaces, the limiter's buckets, known"),
            "{told}"
        );
        assert!(told.ends_with("begun anew: counters"), "{told}");
        assert!(account(Some(7), &all, &[]).unwrap().ends_with("begun anew: nothing"));
        let told = account(None, &without_counters, &others).unwrap();
        assert!(
            told.contains("formats: PT_COUNTERS-77;") && told.ends_with("begun anew: counters"),
            "{told}"
        );
    }

    #[test]
    fn a_line_is_in_the_other_slot_before_the_index_says_so_and_nothing_else_changes() {
        let first =
            Head { clock: 6, served: 1, interfaces: [7; 8], clocks: [[1; WORDS], [2; WORDS]], ..Head::EMPTY };
        let mut value = Vec::new();
        value.extend(first.magic.to_ne_bytes());
        value.extend([6_u32, 1].into_iter().flat_map(u32::to_ne_bytes));
        value.extend([7_u32; 8].into_iter().flat_map(u32::to_ne_bytes));
        value.extend(first.clocks.iter().flatten().flat_map(|word| word.to_ne_bytes()));
        value.extend([5; 40]);
        let (mut head, length) = (first, value.len());
        let mut written = Vec::new();
        for line in [[3; WORDS], [4; WORDS]] {
            publish(&mut head, &mut value, line, |value| {
                assert_eq!((value.len(), &value[length - 40..]), (length, &[5; 40][..]));
                written.push(Head::of_any(value).unwrap());
                Ok::<_, Infallible>(())
            })
            .unwrap();
        }
        let clocks = [[1, 3], [1, 3], [4, 3], [4, 3]].map(|slots| slots.map(|word| [word; WORDS]));
        let indices = [6, 1, 1, 0];
        assert_eq!(written.iter().map(|head| head.clocks).collect::<Vec<_>>(), clocks);
        assert_eq!(written.iter().map(|head| head.clock).collect::<Vec<_>>(), indices);
        for head in &written {
            assert_eq!((head.magic, head.served, head.interfaces), (first.magic, 1, [7; 8]));
        }
        assert_eq!(head.line(), [4; WORDS]);
    }
}
