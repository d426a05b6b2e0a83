//! What a daemon holds of its instance's pins, so that it can put them back: whoever empties `/sys/fs/bpf` by hand takes
//! neither the program off the interfaces nor the maps from the next daemon.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};

use super::maps::{self, MAPS};
use super::{attach, bpffs};
use crate::error::{Code, Error, Result, chain};

/// Descriptors of the pinned maps and links, and the notes beside them.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// By their pins.
    maps: Vec<(PathBuf, MapData)>,
    /// By the name of the pin. Each has two descriptors: an attempt to pin one that fails closes it, and the last one
    /// keeps the program on its interface.
    links: BTreeMap<OsString, Vec<PinnedLink>>,
    /// Name and text.
    notes: Vec<(OsString, PathBuf)>,
}

impl Pins {
    /// Holds what is pinned in the directory.
    ///
    /// # Errors
    ///
    /// A map is not pinned, or cannot be opened.
    pub fn hold(directory: PathBuf) -> Result<Self> {
        let mut held = Vec::new();
        for (name, _) in MAPS {
            let path = maps::pin(&directory, name);
            let map = MapData::from_pin(&path)
                .map_err(Error::because(Code::Os, format_args!("cannot open {}", path.display())))?;
            held.push((path, map));
        }
        let mut pins = Self { directory, maps: held, links: BTreeMap::new(), notes: Vec::new() };
        for name in pins.names() {
            if attach::is_link_pin(&pins.directory.join(&name)) {
                pins.hold_link_named(name);
            }
        }
        pins.note();
        Ok(pins)
    }

    /// Holds the link of an interface as it is pinned now. Without a pin, what is held of it stays: nobody but this may
    /// keep the program on the interface.
    pub fn hold_link(&mut self, interface: u32) {
        self.hold_link_named(attach::pin_name(interface).into());
        self.note();
    }

    fn hold_link_named(&mut self, name: OsString) {
        let path = self.directory.join(&name);
        let open = || PinnedLink::from_pin(&path);
        if let (Ok(one), Ok(other)) = (open(), open()) {
            self.links.insert(name, vec![one, other]);
        }
    }

    /// Lets go of the link of an interface: the last holder of one that is to be removed must not be this.
    pub fn release_link(&mut self, interface: u32) {
        self.links.remove(OsStr::new(&attach::pin_name(interface)));
    }

    /// Takes note of what stands beside the links now. Where nothing does because all is gone, the last notes stay.
    pub fn note(&mut self) {
        let text = |name: OsString| Some((name.clone(), fs::read_link(self.directory.join(name)).ok()?));
        if self.directory.exists() {
            self.notes = self.names().into_iter().filter_map(text).collect();
        }
    }

    fn names(&self) -> Vec<OsString> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect()
    }

    /// Puts back what is missing, and tells whether anything was.
    ///
    /// # Errors
    ///
    /// The file system is gone, or somebody else could write to it; the program answers all the same until the daemon
    /// ends.
    pub fn restore(&mut self) -> Result<bool> {
        let is_missing = |name: &OsString| !self.directory.join(name).exists();
        let links: Vec<_> = self.links.keys().filter(|name| is_missing(name)).cloned().collect();
        let maps: Vec<_> = self.maps.iter().filter(|(pin, _)| !pin.exists()).collect();
        if links.is_empty() && maps.is_empty() {
            return Ok(false);
        }
        bpffs::require_mounted()?;
        if !self.directory.exists() {
            bpffs::create_directory(&self.directory)?;
        }
        bpffs::require_own(&self.directory)?;
        let failed = |path: &Path, error: &dyn std::error::Error| {
            Error::new(Code::Os, format_args!("cannot pin {}: {}", path.display(), chain(error)))
        };
        for (path, map) in maps {
            map.pin(path).map_err(|error| failed(path, &error))?;
        }
        for (name, text) in &self.notes {
            // One that is still there stays.
            let _there = symlink(text, self.directory.join(name));
        }
        for name in links {
            let path = self.directory.join(&name);
            let spare = self.links.get_mut(&name).filter(|held| held.len() > 1);
            let Some((held, link)) = spare.and_then(|held| held.pop().map(|link| (held, link))) else {
                let what = format_args!("cannot pin {}: an earlier attempt has failed", path.display());
                return Err(Error::new(Code::Os, what));
            };
            let pinned = FdLink::from(link).pin(&path).map_err(|error| failed(&path, &error))?;
            held.push(pinned);
        }
        Ok(true)
    }
}
