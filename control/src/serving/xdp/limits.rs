//! The limiter's and the access lists' maps.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, MapError};
use responder::access::BLOCK_WORDS;
use responder::limiter::{self, Policy, WAYS};
use responder::{Access, layout};
use tracing::warn;

use super::{Datapath, map_error, maps, open_pinned};
use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;
use crate::serving::limits::{Blocks, Maps};
use crate::sys::Plain;
use crate::sys::kernel_clock::monotonic_ns;

/// Sets that are looked at to say how full the table is: a call of the kernel for each.
const SAMPLE: u32 = 1024;

/// How full the limiter's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Buckets that there are.
    pub entries: u32,
    /// Buckets that are not full, by a sample of the table.
    pub in_use: u32,
}

impl Datapath {
    /// The limits in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.state.policy
    }

    /// Publishes limits. Key and numbers of sets are the tables' own, whatever the policy says.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn publish_policy(&mut self, policy: &Policy) -> Result<()> {
        let key = match self.state.policy.key {
            [0, 0, 0] => random_key()?,
            key => key,
        };
        let set_mask = sets(self.table_entries()).saturating_sub(1);
        let known_mask = responder::known::SETS - 1;
        self.state.policy = Policy { key, set_mask, known_mask, ..*policy };
        self.write_state()
    }

    /// Remembers the key of the tables beside the maps, for a daemon whose state has another layout. Without it, that
    /// one begins with tables that know nobody, so a failure is no reason not to serve.
    pub fn remember_key(&self) {
        if let Err(error) = remember_key(&self.directory, self.state.policy.key) {
            warn!("what the limiter knows will be lost in an upgrade to another layout of the maps: {error}");
        }
    }

    /// The access lists' maps, to be written to from a thread of their own.
    ///
    /// # Errors
    ///
    /// They are not pinned any more.
    pub fn access_maps(&self) -> Result<AccessMaps> {
        let open = |name| open_pinned(&self.directory, name);
        Ok(AccessMaps {
            blocks_ipv4: open(layout::BLOCKS_IPV4)?.try_into().map_err(map_error(layout::BLOCKS_IPV4))?,
            list_ipv4: open(layout::LIST_IPV4)?.try_into().map_err(map_error(layout::LIST_IPV4))?,
            list_ipv6: open(layout::LIST_IPV6)?.try_into().map_err(map_error(layout::LIST_IPV6))?,
        })
    }

    /// How full the limiter's table is, by a sample.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn occupancy(&self) -> Result<Occupancy> {
        let sets = self.buckets_map.len();
        let step = (sets / SAMPLE).max(1);
        let now_ns = monotonic_ns()?;
        let (mut looked_at, mut in_use) = (0, 0);
        for number in (0..sets).step_by(step as usize) {
            let Plain(set) = self.buckets_map.get(&number, 0).map_err(map_error(layout::BUCKETS))?;
            in_use += limiter::in_use(&set, now_ns) as u64;
            looked_at += 1_u64;
        }
        let in_use = in_use * u64::from(sets) / looked_at.max(1);
        Ok(Occupancy { entries: entries(sets), in_use: u32::try_from(in_use).unwrap_or(u32::MAX) })
    }

    /// Buckets of the table.
    #[must_use]
    pub fn table_entries(&self) -> u32 {
        entries(self.buckets_map.len())
    }
}

/// The access lists as the program has them.
pub struct AccessMaps {
    blocks_ipv4: Array<MapData, [u64; BLOCK_WORDS]>,
    list_ipv4: LpmTrie<MapData, [u8; 4], u32>,
    list_ipv6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Maps for AccessMaps {
    fn entries(&self) -> Result<Vec<(Prefix, Access)>> {
        let mut entries = Vec::new();
        for entry in &self.list_ipv4 {
            let (key, value) = entry.map_err(map_error(layout::LIST_IPV4))?;
            let (address, length): ([u8; 4], _) = (key.data(), key.prefix_len());
            entries.extend(entry_of(address.into(), length, value));
        }
        for entry in &self.list_ipv6 {
            let (key, value) = entry.map_err(map_error(layout::LIST_IPV6))?;
            let (address, length): ([u8; 16], _) = (key.data(), key.prefix_len());
            entries.extend(entry_of(address.into(), length, value));
        }
        Ok(entries)
    }

    fn blocks(&self) -> Result<Blocks> {
        let mut blocks = Blocks::default();
        for entry in 0..self.blocks_ipv4.len() {
            *blocks.words_mut(entry) =
                self.blocks_ipv4.get(&entry, 0).map_err(map_error(layout::BLOCKS_IPV4))?;
        }
        Ok(blocks)
    }

    fn set(&mut self, prefix: Prefix, access: Option<Access>) -> Result<()> {
        let Some(access) = access else {
            return match self.remove(prefix) {
                Err(error) if !is(&error, libc::ENOENT) => Err(failed("take", prefix, "out of", error)),
                _ => Ok(()),
            };
        };
        let inserted = match self.insert(prefix, access) {
            // A full list does not let kernels before 6.13 change an entry that it has. One that it has not is
            // refused for good.
            Err(error) if is(&error, libc::ENOSPC) && self.remove(prefix).is_ok() => {
                self.insert(prefix, access)
            }
            inserted => inserted,
        };
        inserted.map_err(|error| failed("put", prefix, "into", error))
    }

    fn set_block(&mut self, entry: u32, words: &[u64; BLOCK_WORDS]) -> Result<()> {
        self.blocks_ipv4.set(entry, words, 0).map_err(map_error(layout::BLOCKS_IPV4))
    }
}

impl AccessMaps {
    fn insert(&mut self, prefix: Prefix, access: Access) -> std::result::Result<(), MapError> {
        let (length, value) = (u32::from(prefix.length()), access as u32);
        match prefix.address() {
            IpAddr::V4(address) => self.list_ipv4.insert(&Key::new(length, address.octets()), value, 0),
            IpAddr::V6(address) => self.list_ipv6.insert(&Key::new(length, address.octets()), value, 0),
        }
    }

    fn remove(&mut self, prefix: Prefix) -> std::result::Result<(), MapError> {
        let length = u32::from(prefix.length());
        match prefix.address() {
            IpAddr::V4(address) => self.list_ipv4.remove(&Key::new(length, address.octets())),
            IpAddr::V6(address) => self.list_ipv6.remove(&Key::new(length, address.octets())),
        }
    }
}

fn failed(verb: &str, prefix: Prefix, preposition: &str, error: MapError) -> Error {
    Error::because(Code::Os, format_args!("cannot {verb} {prefix} {preposition} the access list"))(error)
}

fn entry_of(address: IpAddr, length: u32, value: u32) -> Option<(Prefix, Access)> {
    let prefix = Prefix::new(address, u8::try_from(length).ok()?).ok()?;
    Some((prefix, Access::from_u32(value)))
}

fn is(error: &MapError, errno: i32) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => errno == libc::ENOENT,
        MapError::SyscallError(call) => call.io_error.raw_os_error() == Some(errno),
        _ => false,
    }
}

const BUCKETS_IN_A_SET: u32 = 4;
const _: () = assert!(BUCKETS_IN_A_SET as usize == WAYS);

/// Sets of a table of so many buckets.
pub(super) fn sets(entries: u32) -> u32 {
    entries / BUCKETS_IN_A_SET
}

/// Buckets in so many sets.
pub(super) fn entries(sets: u32) -> u32 {
    sets.saturating_mul(BUCKETS_IN_A_SET)
}

fn random_key() -> Result<[u64; 3]> {
    let mut key = [0; 3];
    for word in &mut key {
        *word = getrandom::u64()
            .map_err(|error| Error::new(Code::Os, format_args!("no randomness from the kernel: {error}")))?;
    }
    Ok(key)
}

/// Where the key is kept beside the maps. It is in the state, too, where builds of other layouts do not find it, and
/// without it they could not go on with what the tables know. A symbolic link to its words: bpffs holds no files, and
/// this directory is root's alone.
const KEY_NOTE: &str = "bucket-key";

/// Remembers the key of the tables in the directory.
fn remember_key(directory: &Path, key: [u64; 3]) -> Result<()> {
    if remembered_key(directory) == Some(key) {
        return Ok(());
    }
    let path = directory.join(KEY_NOTE);
    let _not_there = fs::remove_file(&path);
    let [a, b, c] = key;
    symlink(format!("{a:016x}-{b:016x}-{c:016x}"), &path)
        .map_err(Error::because(Code::Os, format_args!("cannot create {}", path.display())))
}

/// The key of the tables that an earlier daemon has remembered.
pub(super) fn remembered_key(directory: &Path) -> Option<[u64; 3]> {
    let text = fs::read_link(directory.join(KEY_NOTE)).ok()?;
    let words = text.to_str()?.split('-').map(|word| u64::from_str_radix(word, 16).ok());
    words.collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// Unpins a table of another size, for one of this size to be made. Programs that run keep the old one until
/// they are replaced. A table that would take more than half of the memory that is left is refused.
pub(super) fn make_room(directory: &Path, table_entries: u32) -> Result<()> {
    let path = maps::pin(directory, layout::BUCKETS);
    if path.exists() {
        let info = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .map_err(Error::because(Code::Os, format_args!("cannot read {}", path.display())))?;
        if info.max_entries() == sets(table_entries) {
            return Ok(());
        }
    }
    if let Some(available) = available_memory() {
        check_room(table_entries, available)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::because(Code::Io, format_args!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn check_room(table_entries: u32, available: u64) -> Result<()> {
    let wanted = u64::from(table_entries) * 8;
    if wanted > available / 2 {
        return Err(Error::new(
            Code::Unavailable,
            format_args!(
                "limits.table_entries = {table_entries} takes {} MiB, and {} MiB of memory are left",
                wanted >> 20,
                available >> 20
            ),
        )
        .remedy("make it smaller: 65536 entries are enough for half a million new sources a second"));
    }
    Ok(())
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_remembered_replaced_and_read_by_the_next_daemon() {
        let directory = std::env::temp_dir().join(format!("pooltime-key-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        assert_eq!(remembered_key(&directory), None);
        for key in [[1, u64::MAX, 0x1234_5678_9abc_def0], [7, 0, 9]] {
            remember_key(&directory, key).unwrap();
            assert_eq!(remembered_key(&directory), Some(key));
        }
        for damaged in ["x", "1-2", "1-2-3-4", "1-2-x"] {
            fs::remove_file(directory.join(KEY_NOTE)).unwrap();
            symlink(damaged, directory.join(KEY_NOTE)).unwrap();
            assert_eq!(remembered_key(&directory), None, "{damaged}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_table_that_memory_cannot_hold_is_refused_by_its_key() {
        const MIB: u64 = 1 << 20;
        assert!(check_room(1 << 24, 256 * MIB).is_ok());
        let error = check_room(1 << 24, 255 * MIB).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("limits.table_entries = 16777216 takes 128 MiB, and 255 MiB"), "{text}");
        assert!(text.contains("make it smaller"), "{text}");
    }
}
