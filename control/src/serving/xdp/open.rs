//! Opening the maps of an instance, making those that are missing, taking over those of another build, and removing all
//! pins.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use responder::layout::{self, State};
use tracing::{info, warn};

use super::flips::Flips;
use super::known::Known;
use super::maps::{self, MAPS, map_error, open_pinned};
use super::predecessor::{self, Predecessor};
use super::privileges::{self, MissingPrivileges};
use super::{Datapath, Links, attach, bpffs, limits, link, tags};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::sys::Plain;

/// Why the maps of an instance cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The process lacks privileges.
    NotAllowed(MissingPrivileges),
    /// There is no bpffs, the maps are of another layout or somebody else's, or the kernel refuses.
    Failed(Error),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<MissingPrivileges> for OpenError {
    fn from(missing: MissingPrivileges) -> Self {
        Self::NotAllowed(missing)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotAllowed(missing) => missing.into(),
            OpenError::Failed(error) => error,
        }
    }
}

impl Datapath {
    /// Opens the instance's pinned maps, or makes and pins them; the limiter's with so many entries. Makes no
    /// difference to any interface. Of a build with another layout, it takes over what both understand;
    /// [`Datapath::end_take_over`] is to be called when all programs are replaced.
    ///
    /// # Errors
    ///
    /// Missing privileges, no bpffs, pins that are not this server's, or the kernel's refusal.
    pub fn open_or_create(instance: &Instance, table_entries: u32) -> Result<Self> {
        privileges::require_privileges(instance)?;
        bpffs::ensure_mounted()?;
        privileges::lift_memory_limit();
        let directory = instance.pin_directory();
        let was_there = directory.symlink_metadata().is_ok();
        if !was_there {
            bpffs::create_directory(&directory)?;
        }
        bpffs::require_own(&directory)?;
        let opened = Self::open_or_make_maps(directory.clone(), instance, table_entries);
        if opened.is_err() && !was_there {
            remove_pins(&directory)?;
        }
        opened
    }

    fn open_or_make_maps(directory: PathBuf, instance: &Instance, table_entries: u32) -> Result<Self> {
        let found = look(&directory, instance)?;
        limits::make_room(&directory, table_entries)?;
        let (kept, others) = (maps::there(&directory), maps::of_others(&directory));
        let tell = |version: Option<u32>| {
            if let Some(account) = predecessor::account(version, &kept, &others) {
                info!("{account}");
            }
        };
        let Some(predecessor) = found else {
            let mut object = load_object(&directory, 0, table_entries)?;
            tell(None);
            return Self::from_object(directory, &mut object);
        };
        let next = maps::next_state(&directory);
        let _not_there = fs::remove_file(&next);
        let mut object = load_object_with(&directory, &next, 0, table_entries)?;
        let mut datapath = Self::from_object(directory.clone(), &mut object)?;
        datapath.state = predecessor.successor();
        datapath.state.policy.key = limits::remembered_key(&directory).unwrap_or_default();
        datapath.write_state()?;
        let path = maps::pin(&directory, layout::STATE);
        fs::rename(&next, &path)
            .map_err(Error::because(Code::Os, format_args!("cannot replace {}", path.display())))?;
        tell(Some(predecessor.version()));
        datapath.predecessor = Some(predecessor);
        Ok(datapath)
    }

    /// Forgets the maps of other layouts: all programs are this build's now.
    pub fn end_take_over(&mut self) {
        self.predecessor = None;
        for name in maps::of_others(&self.directory) {
            if let Err(error) = fs::remove_file(self.directory.join(&name)) {
                warn!("cannot remove the map {name}, which another build has left: {error}");
            }
        }
    }

    /// Opens what an instance has pinned, if anything; for looking at it while no daemon runs.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::open_or_create`], and if the maps are of another layout.
    pub fn open(instance: &Instance) -> Result<Option<Self>, OpenError> {
        let directory = instance.pin_directory();
        match directory.try_exists() {
            Ok(false) => return Ok(None),
            // Only root can look into a bpffs that systemd mounted.
            Ok(true) | Err(_) => privileges::require_privileges(instance)?,
        }
        bpffs::require_own(&directory)?;
        if let Some(predecessor) = look(&directory, instance)? {
            return Err(of_another_build(&directory, instance, &predecessor).into());
        }
        Ok(Some(Self::from_maps(directory.clone(), |name| open_pinned(&directory, name))?))
    }

    fn from_object(directory: PathBuf, object: &mut Ebpf) -> Result<Self> {
        Self::from_maps(directory, |name| {
            object
                .take_map(name)
                .ok_or_else(|| Error::new(Code::Software, format_args!("the object has no map {name}")))
        })
    }

    fn from_maps(directory: PathBuf, mut take: impl FnMut(&str) -> Result<Map>) -> Result<Self> {
        let buckets_map = Array::try_from(take(layout::BUCKETS)?).map_err(map_error(layout::BUCKETS))?;
        let mut datapath = Self {
            links: Links::new(directory.clone(), limits::entries(buckets_map.len())),
            directory,
            buckets_map,
            state_map: Array::try_from(take(layout::STATE)?).map_err(map_error(layout::STATE))?,
            counters_map: PerCpuArray::try_from(take(layout::COUNTERS)?)
                .map_err(map_error(layout::COUNTERS))?,
            known: Known::of(take(layout::KNOWN)?)?,
            spent_map: PerCpuArray::try_from(take(layout::SPENT)?).map_err(map_error(layout::SPENT))?,
            grants_map: PerCpuArray::try_from(take(layout::GRANTS)?).map_err(map_error(layout::GRANTS))?,
            samples_map: RingBuf::try_from(take(layout::SAMPLES)?).map_err(map_error(layout::SAMPLES))?,
            state: Box::new(State::EMPTY),
            clock_flips: Flips::default(),
            table_flips: Flips::default(),
            stations: BTreeMap::new(),
            predecessor: None,
        };
        let Plain(found) = datapath.state_map.get(&0, 0).map_err(map_error(layout::STATE))?;
        if found.head.magic == layout::MAGIC {
            *datapath.state = found;
        } else {
            datapath.write_state()?;
        }
        Ok(datapath)
    }
}

/// Removes all pins of an instance, whatever layout they are of. The program is off the interfaces after it,
/// and their settings are what they were.
///
/// # Errors
///
/// Somebody else than root may have made them, or the file system's.
pub fn remove_pins(directory: &Path) -> Result<()> {
    let failed =
        |error| Error::because(Code::Io, format_args!("cannot remove {}", directory.display()))(error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    bpffs::require_own(directory)?;
    // Links first: a program whose maps are gone from bpffs still holds them.
    let paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(failed)?;
    let (links, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| attach::is_link_pin(path));
    for link in links {
        link::remove(&link)?;
    }
    let given_back = tags::give_all_back(directory);
    for path in others.iter().filter(|path| path.is_symlink() || path.exists()) {
        fs::remove_file(path).map_err(failed)?;
    }
    fs::remove_dir(directory).map_err(failed)?;
    given_back
}

/// Looks at what is pinned, and refuses what this build would misread.
fn look(directory: &Path, instance: &Instance) -> Result<Option<Box<Predecessor>>> {
    let found = maps::check(directory).and_then(|()| Predecessor::look(directory));
    found.map_err(|why| {
        Error::new(
            Code::Unavailable,
            format_args!("{}: {why}: the pins are not all this server's", directory.display()),
        )
        .remedy(format_args!(
            "`{} detach` removes them (answers stop until the next attach), then attach again",
            instance.command()
        ))
    })
}

fn of_another_build(directory: &Path, instance: &Instance, predecessor: &Predecessor) -> Error {
    Error::new(
        Code::Unavailable,
        format_args!(
            "{} has layout version {}, and this build uses {}",
            directory.display(),
            predecessor.version(),
            layout::VERSION
        ),
    )
    .remedy(format_args!(
        "start the daemon: it takes over, and no answer is lost; or `{} detach`, and answers stop",
        instance.command()
    ))
}

/// Loads the object for the interface that counts in `slot`, on the pinned maps; makes those that are
/// missing.
pub(super) fn load_object(directory: &Path, slot: u32, table_entries: u32) -> Result<Ebpf> {
    load_object_with(directory, &maps::pin(directory, layout::STATE), slot, table_entries)
}

/// The same with another pin for the state.
fn load_object_with(directory: &Path, state: &Path, slot: u32, table_entries: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(layout::BUCKETS, limits::sets(table_entries));
    loader.override_global(layout::INTERFACE_SLOT, &slot, true);
    for (name, _) in MAPS {
        let path = if name == layout::STATE { state.to_owned() } else { maps::pin(directory, name) };
        loader.map_pin_path(name, path);
    }
    loader.load(xdp_ebpf::POOLTIME).map_err(|error| {
        Error::because(Code::Os, "the kernel rejected the maps of the eBPF program")(error)
            .remedy("Linux 5.10 or later with CONFIG_BPF_SYSCALL is needed; `dmesg | tail` may say more")
    })
}
