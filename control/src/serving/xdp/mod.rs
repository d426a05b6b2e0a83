//! The eBPF program and its maps in the kernel: loaded, pinned, replaced, written to and read.
//!
//! Everything is pinned in one directory of bpffs, so that it outlives the daemon: the maps under their
//! names, the link of each interface under its index. A daemon that starts finds them, checks the layout
//! version and replaces the program through the link, which the kernel does between two packets.

mod attach;
mod bpffs;
mod flips;
mod foreign;
mod grants;
mod known;
mod limits;
mod link;
mod notes;
mod pins;
mod privileges;
mod refusal;
mod slots;
mod tags;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use responder::access::{BLOCK_ENTRIES, BLOCK_WORDS};
use responder::layout::{self, Count, Counters, FAMILIES, Grant, INTERFACES, Spent, State};
use responder::limiter::WAYS;
use responder::{ClockState, ServedTable, StationTable, verdict};

pub(crate) use attach::slow_transmit;
pub use attach::{Attachment, Links, ModeRequest};
pub use foreign::{open_program, program_name};
pub use limits::{AccessMaps, Occupancy};
pub use pins::Pins;
pub use privileges::{MissingPrivileges, require_privileges};
pub(crate) use refusal::{Condition, conditions, hypervisor_offloads};
pub use slots::Slot;

use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::sys::Plain;
use flips::Flips;

/// Names and sizes of the pinned maps, in the order they are pinned.
const MAPS: [&str; 11] = [
    layout::STATE,
    layout::COUNTERS,
    layout::BUCKETS,
    layout::KNOWN,
    layout::TRIES,
    layout::SPENT,
    layout::GRANTS,
    layout::SAMPLES,
    layout::BLOCKS_IPV4,
    layout::LIST_IPV4,
    layout::LIST_IPV6,
];

/// The maps of an instance, and what is attached.
pub struct Datapath {
    directory: PathBuf,
    state_map: Array<MapData, Plain<State>>,
    counters_map: PerCpuArray<MapData, Plain<Counters>>,
    buckets_map: Array<MapData, Plain<[u64; WAYS]>>,
    known: known::Known,
    spent_map: PerCpuArray<MapData, Plain<Spent>>,
    grants_map: PerCpuArray<MapData, Plain<Grant>>,
    samples_map: RingBuf<MapData>,
    state: Box<State>,
    clock_flips: Flips<ClockState>,
    table_flips: Flips<Box<ServedTable>>,
    /// The stations of interfaces by index, with a slot or without one yet.
    stations: BTreeMap<u32, StationTable>,
    links: Links,
}

/// Why the maps of an instance cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The process lacks privileges.
    NotAllowed(MissingPrivileges),
    /// There is no bpffs, the maps are of another layout version, or the kernel refuses.
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
    /// difference to any interface.
    ///
    /// # Errors
    ///
    /// Missing privileges, no bpffs, pinned maps of another layout version, or the kernel's refusal.
    pub fn open_or_create(instance: &Instance, table_entries: u32) -> Result<Self> {
        privileges::require_privileges(instance)?;
        bpffs::ensure_mounted()?;
        privileges::lift_memory_limit();
        let directory = instance.pin_directory();
        let was_there = directory.symlink_metadata().is_ok();
        if was_there {
            bpffs::require_own(&directory)?;
            check_layout(&directory, instance)?;
        } else {
            bpffs::create_directory(&directory)?;
        }
        let opened = limits::make_room(&directory, table_entries)
            .and_then(|()| load_object(&directory, 0, table_entries))
            .and_then(|mut object| Self::from_object(directory.clone(), &mut object));
        if opened.is_err() && !was_there {
            remove_pins(&directory)?;
        }
        opened
    }

    /// Opens what an instance has pinned, if anything; for looking at it while no daemon runs.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::open_or_create`].
    pub fn open(instance: &Instance) -> Result<Option<Self>, OpenError> {
        let directory = instance.pin_directory();
        match directory.try_exists() {
            Ok(false) => return Ok(None),
            // Only root can look into a bpffs that systemd mounted.
            Ok(true) | Err(_) => privileges::require_privileges(instance)?,
        }
        bpffs::require_own(&directory)?;
        check_layout(&directory, instance)?;
        let map = |name: &str| open_pinned(&instance.pin_directory(), name);
        Ok(Some(Self::from_maps(directory.clone(), map)?))
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
            known: known::Known::of(take(layout::KNOWN)?)?,
            spent_map: PerCpuArray::try_from(take(layout::SPENT)?).map_err(map_error(layout::SPENT))?,
            grants_map: PerCpuArray::try_from(take(layout::GRANTS)?).map_err(map_error(layout::GRANTS))?,
            samples_map: RingBuf::try_from(take(layout::SAMPLES)?).map_err(map_error(layout::SAMPLES))?,
            state: Box::new(State::EMPTY),
            clock_flips: Flips::default(),
            table_flips: Flips::default(),
            stations: BTreeMap::new(),
        };
        let Plain(found) = datapath.state_map.get(&0, 0).map_err(map_error(layout::STATE))?;
        if found.magic == layout::MAGIC {
            *datapath.state = found;
        } else {
            datapath.write_state()?;
        }
        Ok(datapath)
    }

    /// Publishes a clock line. The program answers by it from the next packet on.
    ///
    /// This never waits. A line that comes less than [`layout::FLIP_INTERVAL_MS`] ms after the last one is kept, and
    /// [`Datapath::publish_waiting`] publishes it at the time that [`Datapath::next_flip`] returns. A later line
    /// replaces one that is kept.
    ///
    /// # Errors
    ///
    /// The map cannot be written. The line is not kept then.
    pub fn publish_clock(&mut self, clock: &ClockState) -> Result<()> {
        self.clock_flips.put(*clock);
        self.publish_waiting()
    }

    /// Publishes the stations of interfaces, by index, if they have changed. They are in force at once.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn publish_stations(&mut self, stations: BTreeMap<u32, StationTable>) -> Result<()> {
        self.stations = stations;
        if self.place_stations() { self.write_state() } else { Ok(()) }
    }

    /// Publishes the addresses that are answered for, if they have changed. Like [`Datapath::publish_clock`], this
    /// never waits.
    ///
    /// # Errors
    ///
    /// The map cannot be written. The table is not kept then.
    pub fn publish_served(&mut self, table: &ServedTable) -> Result<()> {
        let [first, second] = &self.state.tables;
        let in_force = if self.state.served & 1 == 0 { first } else { second };
        if in_force == table {
            self.table_flips.forget();
            return Ok(());
        }
        self.table_flips.put(Box::new(*table));
        self.publish_waiting()
    }

    /// Publishes until when nobody else is known to wait for what comes to port 123, by family, as
    /// [`State::port_ours_until_ns`] has it.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn publish_port_ours_until(&mut self, until_ns: [u64; FAMILIES]) -> Result<()> {
        if self.state.port_ours_until_ns == until_ns {
            return Ok(());
        }
        self.state.port_ours_until_ns = until_ns;
        self.write_state()
    }

    /// The addresses that are answered for: those in force, or those that are kept and will be.
    #[must_use]
    pub fn served(&self) -> &ServedTable {
        let [first, second] = &self.state.tables;
        let in_force = if self.state.served & 1 == 0 { first } else { second };
        self.table_flips.waiting().map_or(in_force, |kept| &**kept)
    }

    /// Publishes what was kept, as far as it is due.
    ///
    /// # Errors
    ///
    /// As [`Datapath::publish_clock`].
    pub fn publish_waiting(&mut self) -> Result<()> {
        let now = Instant::now();
        if let Some(clock) = self.clock_flips.take_due(now) {
            let [first, second] = &mut self.state.clocks;
            *(if self.state.clock & 1 == 0 { second } else { first }) = clock.to_words();
            self.write_and_flip(|state| &mut state.clock)?;
        }
        if let Some(table) = self.table_flips.take_due(now) {
            let [first, second] = &mut self.state.tables;
            *(if self.state.served & 1 == 0 { second } else { first }) = *table;
            self.write_and_flip(|state| &mut state.served)?;
        }
        Ok(())
    }

    /// Returns until when a line of the clock would be kept, or nothing if it would be in force at once.
    #[must_use]
    pub fn clock_blocked_until(&self) -> Option<Instant> {
        self.clock_flips.blocked_until(Instant::now())
    }

    /// Returns when [`Datapath::publish_waiting`] has something to publish, or nothing if nothing is kept.
    #[must_use]
    pub fn next_flip(&self) -> Option<Instant> {
        self.clock_flips.due().into_iter().chain(self.table_flips.due()).min()
    }

    /// Whether the addresses that were published last are in force, and not kept.
    #[must_use]
    pub fn serves_what_was_published(&self) -> bool {
        self.table_flips.due().is_none()
    }

    /// Takes note of what another thread or process has published since; for those that only look.
    ///
    /// # Errors
    ///
    /// The kernel's, for a read of a map.
    pub fn reread(&mut self) -> Result<()> {
        let Plain(state) = self.state_map.get(&0, 0).map_err(map_error(layout::STATE))?;
        *self.state = state;
        Ok(())
    }

    /// The clock line in force.
    #[must_use]
    pub fn clock(&self) -> ClockState {
        let [first, second] = self.state.clocks;
        ClockState::from_words(if self.state.clock & 1 == 0 { first } else { second })
    }

    /// The counters of an interface, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's, for a read of a map.
    pub fn counters(&self, interface: u32) -> Result<Box<Counters>> {
        let mut sum = Box::new([Count::default(); verdict::COUNTERS]);
        let Some(slot) = self.slot_of(interface) else {
            return Ok(sum);
        };
        let per_cpu = self.counters_map.get(&slot, 0).map_err(map_error(layout::COUNTERS))?;
        for Plain(counters) in per_cpu.iter() {
            for (total, count) in sum.iter_mut().zip(counters) {
                total.packets = total.packets.wrapping_add(count.packets);
                total.bytes = total.bytes.wrapping_add(count.bytes);
            }
        }
        Ok(sum)
    }

    /// The kernel's number of the map of counters. Within a boot, no other map gets it.
    ///
    /// # Errors
    ///
    /// The map is not pinned any more.
    pub fn counters_id(&self) -> Result<u32> {
        let map = MapData::from_pin(self.directory.join(layout::COUNTERS));
        Ok(map.and_then(|map| map.info()).map_err(map_error(layout::COUNTERS))?.id())
    }

    /// What each map costs in kernel memory, in bytes, as the kernel accounts for it. One that is not pinned any more is
    /// left out: somebody has removed it, and the server works without the pin.
    #[must_use]
    pub fn map_memory(&self) -> Vec<(&'static str, u64)> {
        MAPS.iter().filter_map(|name| Some((*name, map_memory(&self.directory, name).ok()?))).collect()
    }

    /// The indices of the interfaces that have a place in the counters.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.state.interfaces.iter().copied().filter(|index| *index != 0)
    }

    /// The links that hold the instance's programs on interfaces.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Writes the slot that is not in force, and then the index that puts it in force. If the index cannot be written,
    /// the copy of it in this process is not changed either.
    fn write_and_flip(&mut self, index: fn(&mut State) -> &mut u32) -> Result<()> {
        self.write_state()?;
        *index(&mut self.state) ^= 1;
        self.write_state().inspect_err(|_| *index(&mut self.state) ^= 1)
    }

    fn write_state(&mut self) -> Result<()> {
        self.state_map.set(0, Plain(*self.state), 0).map_err(map_error(layout::STATE))
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

/// Loads the object for the interface that counts in `slot`, on the pinned maps; makes those that are
/// missing.
fn load_object(directory: &Path, slot: u32, table_entries: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(layout::BUCKETS, limits::sets(table_entries));
    loader.override_global(layout::INTERFACE_SLOT, &slot, true);
    for name in MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    loader.load(xdp_ebpf::POOLTIME).map_err(|error| {
        Error::because(Code::Os, "the kernel rejected the maps of the eBPF program")(error)
            .remedy("Linux 5.10 or later with CONFIG_BPF_SYSCALL is needed; `dmesg | tail` may say more")
    })
}

fn open_pinned(directory: &Path, name: &str) -> Result<Map> {
    let path = directory.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .map_err(Error::because(Code::Os, format_args!("cannot open {}", path.display())))
}

/// Refuses pinned maps that this build would misread.
fn check_layout(directory: &Path, instance: &Instance) -> Result<()> {
    let other = |found: String| {
        Error::new(
            Code::Unavailable,
            format_args!(
                "{} has {found}, but this build uses layout version {}",
                directory.display(),
                layout::VERSION
            ),
        )
        .remedy(format_args!(
            "`{0} detach` removes it (answers stop until the next attach), then attach again",
            instance.command()
        ))
    };
    let sizes = [
        (layout::STATE, size_of::<State>(), Some(1)),
        (layout::COUNTERS, size_of::<Counters>(), Some(INTERFACES)),
        (layout::BUCKETS, size_of::<[u64; WAYS]>(), None),
        (layout::KNOWN, size_of::<[u64; WAYS]>(), Some(responder::known::SETS as usize)),
        (layout::TRIES, size_of::<[u64; WAYS]>(), Some(responder::known::SETS as usize)),
        (layout::SPENT, size_of::<Spent>(), Some(1)),
        (layout::GRANTS, size_of::<Grant>(), Some(1)),
        (layout::SAMPLES, 0, Some(layout::SAMPLES_BYTES)),
        (layout::BLOCKS_IPV4, size_of::<[u64; BLOCK_WORDS]>(), Some(BLOCK_ENTRIES)),
        (layout::LIST_IPV4, size_of::<u32>(), Some(layout::LIST_ENTRIES)),
        (layout::LIST_IPV6, size_of::<u32>(), Some(layout::LIST_ENTRIES)),
    ];
    for (name, value, entries) in sizes {
        let path = directory.join(name);
        if !path.exists() {
            // Left by a start that was cut off; it will be made.
            continue;
        }
        let info = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .map_err(Error::because(Code::Os, format_args!("cannot read {}", path.display())))?;
        let other_number = entries.is_some_and(|entries| info.max_entries() as usize != entries);
        if info.value_size() as usize != value || other_number {
            return Err(other(format!("another layout ({name})")));
        }
    }
    if directory.join(layout::STATE).exists() {
        let state: Array<_, Plain<State>> =
            Array::try_from(open_pinned(directory, layout::STATE)?).map_err(map_error(layout::STATE))?;
        let Plain(state) = state.get(&0, 0).map_err(map_error(layout::STATE))?;
        if state.magic != layout::MAGIC && state.magic != 0 {
            return Err(other(format!("layout version {}", state.magic & 0xffff_ffff)));
        }
    }
    Ok(())
}

/// The kernel's own account of a map's memory, from the descriptor's fdinfo.
fn map_memory(directory: &Path, name: &str) -> Result<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let path = directory.join(name);
    let map = MapData::from_pin(&path).map_err(map_error(name))?;
    let fdinfo = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&fdinfo)
        .map_err(Error::because(Code::Os, format_args!("cannot read {fdinfo}")))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .ok_or_else(|| Error::new(Code::Os, format_args!("{fdinfo} does not report the memory of {name}")))
}

fn map_error(name: &str) -> impl FnOnce(MapError) -> Error {
    Error::because(Code::Os, format!("map {name}"))
}
