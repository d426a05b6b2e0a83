//! The pinned maps of an instance: names, formats and sizes, opened, checked and cleared away.
//!
//! The pin of a map has the map's format in its name, but for the first one: `PT_COUNTERS`, `PT_COUNTERS-2`. So the
//! maps of two builds stand side by side while one takes over from the other, and each opens its own. The state alone
//! has the same name in every build: there is one that is in force, and its head says of which format it is.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError};
use responder::access::{BLOCK_ENTRIES, BLOCK_WORDS};
use responder::known;
use responder::layout::{self, Counters, Grant, INTERFACES, Spent, State};
use responder::limiter::WAYS;

use crate::error::{Code, Error, Result};

/// The maps, in the order they are pinned, with what people call them.
pub(super) const MAPS: [(&str, &str); 11] = [
    (layout::STATE, "published state"),
    (layout::COUNTERS, "counters"),
    (layout::BUCKETS, "the limiter's buckets"),
    (layout::KNOWN, "known sources"),
    (layout::TRIES, "newcomers"),
    (layout::SPENT, "what was spent of the budget"),
    (layout::GRANTS, "the budget's grants"),
    (layout::SAMPLES, "samples"),
    (layout::BLOCKS_IPV4, "the IPv4 access list's /24s"),
    (layout::LIST_IPV4, "the IPv4 access list"),
    (layout::LIST_IPV6, "the IPv6 access list"),
];

/// What the names of all maps of this server begin with, whatever build made them.
const PREFIX: &str = "PT_";

/// Where a map of this build is pinned.
pub(super) fn pin(directory: &Path, name: &str) -> PathBuf {
    let format = layout::FORMATS.iter().find(|(of, _)| *of == name).map_or(1, |(_, format)| *format);
    directory.join(pin_name(name, format))
}

/// Dots in names are reserved by bpffs.
fn pin_name(name: &str, format: u32) -> String {
    if format == 1 { name.into() } else { format!("{name}-{format}") }
}

/// Where a new state waits until it is whole.
pub(super) fn next_state(directory: &Path) -> PathBuf {
    directory.join(format!("{}-next", layout::STATE))
}

/// The maps of this build that are pinned.
pub(super) fn there(directory: &Path) -> Vec<&'static str> {
    MAPS.iter().map(|(name, _)| *name).filter(|name| pin(directory, name).exists()).collect()
}

/// The names of pinned maps that this build has no use for: of other formats, or left by a start that was cut off.
pub(super) fn of_others(directory: &Path) -> Vec<String> {
    let own: Vec<_> = MAPS.iter().map(|(name, _)| pin(directory, name)).collect();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let others = entries.filter(|path| !own.contains(path));
    let mut names: Vec<_> = others.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.retain(|name| name.starts_with(PREFIX));
    names.sort();
    names
}

pub(super) fn open_pinned(directory: &Path, name: &str) -> Result<Map> {
    let path = pin(directory, name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .map_err(Error::because(Code::Os, format_args!("cannot open {}", path.display())))
}

/// Refuses pinned maps that have a name of this build's, and are something else. The state is not looked at, nor is
/// the number of the limiter's sets, which is the configuration's.
///
/// # Errors
///
/// Says what is wrong with which map.
pub(super) fn check(directory: &Path) -> Result<(), String> {
    for (name, _) in MAPS.iter().filter(|(name, _)| *name != layout::STATE) {
        let path = pin(directory, name);
        // Left out by a start that was cut off, or of another format; it will be made.
        if !path.exists() {
            continue;
        }
        let info = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .map_err(|error| format!("{name} cannot be read: {error}"))?;
        let (value, entries) = size(name);
        let other_number = entries.is_some_and(|entries| info.max_entries() as usize != entries);
        if info.value_size() as usize != value || other_number {
            return Err(format!("{name} has another layout than its name says"));
        }
    }
    Ok(())
}

/// The size of a value in bytes and the number of entries.
fn size(name: &str) -> (usize, Option<usize>) {
    match name {
        layout::STATE => (size_of::<State>(), Some(1)),
        layout::COUNTERS => (size_of::<Counters>(), Some(INTERFACES)),
        layout::BUCKETS => (size_of::<[u64; WAYS]>(), None),
        layout::KNOWN | layout::TRIES => (size_of::<[u64; WAYS]>(), Some(known::SETS as usize)),
        layout::SPENT => (size_of::<Spent>(), Some(1)),
        layout::GRANTS => (size_of::<Grant>(), Some(1)),
        layout::SAMPLES => (0, Some(layout::SAMPLES_BYTES)),
        layout::BLOCKS_IPV4 => (size_of::<[u64; BLOCK_WORDS]>(), Some(BLOCK_ENTRIES)),
        _ => (size_of::<u32>(), Some(layout::LIST_ENTRIES)),
    }
}

/// The kernel's own account of a map's memory, from the descriptor's fdinfo.
pub(super) fn memory(directory: &Path, name: &str) -> Result<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let map = MapData::from_pin(pin(directory, name)).map_err(map_error(name))?;
    let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&fdinfo)
        .map_err(Error::because(Code::Os, format_args!("cannot read {fdinfo}")))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| Error::new(Code::Os, format_args!("{fdinfo} does not report the memory of {name}")))
}

pub(super) fn map_error(name: &str) -> impl FnOnce(MapError) -> Error {
    Error::because(Code::Os, format!("map {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_but_the_state_has_a_format() {
        let names: Vec<_> = MAPS.iter().skip(1).map(|(name, _)| *name).collect();
        assert_eq!(names, layout::FORMATS.map(|(name, _)| name));
    }

    #[test]
    fn a_pin_names_the_format_but_for_the_first_one() {
        assert_eq!((pin_name("PT_X", 1).as_str(), pin_name("PT_X", 12).as_str()), ("PT_X", "PT_X-12"));
    }

    #[test]
    fn maps_of_other_formats_are_told_from_our_own_and_from_what_is_no_map() {
        let directory = std::env::temp_dir().join(format!("pooltime-maps-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let own = [layout::STATE, layout::KNOWN].map(|name| pin(&directory, name));
        let others = ["PT_KNOWN-77", "PT_NEW", "PT_STATE-next"];
        for path in others.iter().map(|name| directory.join(name)).chain(own) {
            fs::write(path, "").unwrap();
        }
        for name in ["link-7", "fallback-7", "bucket-key"] {
            fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(of_others(&directory), others);
        assert_eq!(there(&directory), [layout::STATE, layout::KNOWN]);
        fs::remove_dir_all(directory).unwrap();
    }
}
