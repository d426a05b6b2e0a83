//! The paths of an instance, and the lock that allows only one daemon per instance.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::error::{Code, Error, Result};

const NAME: &str = "pooltime-xdp";
/// The usual mount point of bpffs, which systemd uses as well.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The paths of an instance. Several instances run side by side under their own names, like the units of a
/// systemd template.
#[derive(Clone, Debug)]
pub struct Instance {
    directory: String,
}

impl Instance {
    /// Returns the instance of this name, or the unnamed one.
    ///
    /// # Errors
    ///
    /// The name, which becomes part of paths, has other characters than letters, digits, `-` and `_`.
    pub fn new(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else {
            return Ok(Self { directory: NAME.into() });
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(Error::new(Code::Usage, format_args!("`{name}` cannot name an instance"))
                .remedy("use 1 to 64 letters, digits, `-` and `_`"));
        }
        Ok(Self { directory: format!("{NAME}@{name}") })
    }

    /// Returns the beginning of commands for this instance.
    #[must_use]
    pub fn command(&self) -> String {
        match self.directory.split_once('@') {
            Some((program, name)) => format!("{program} --instance {name}"),
            None => NAME.into(),
        }
    }

    /// Returns the systemd unit of the daemon.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.directory
    }

    /// Returns the directory of sockets and locks.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        Path::new("/run").join(&self.directory)
    }

    /// Returns the daemon's control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_directory().join("control.sock")
    }

    /// Returns the directory of pinned maps and links.
    #[must_use]
    pub fn pin_directory(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.directory)
    }

    /// Returns the directory of state that is kept from one start to the next.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        Path::new("/var/lib").join(&self.directory)
    }

    /// Takes the instance for this process, until the lock is dropped or the process ends in any way.
    ///
    /// # Errors
    ///
    /// Another daemon holds it, or the runtime directory cannot be created.
    pub fn lock(&self) -> Result<Lock> {
        let directory = self.runtime_directory();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .map_err(|error| not_writable(&directory, &error, "RuntimeDirectory="))?;
        let path = directory.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever may open a file may lock it.
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                // An earlier version may have made it.
                file.set_permissions(Permissions::from_mode(0o600))?;
                Ok(file)
            })
            .map_err(|error| not_writable(&path, &error, "RuntimeDirectory="))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _unreadable = file.read_to_string(&mut holder);
                return Err(Error::new(
                    Code::Unavailable,
                    format_args!("a daemon is already running (process {})", holder.trim()),
                )
                .remedy(format_args!(
                    "see it with `{0} status`; end it with `{0} detach`; a second one on this host needs a \
                     name of its own: `--instance NAME`",
                    self.command()
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::because(Code::Io, format_args!("cannot lock {}", path.display()))(error));
            }
        }
        let pid = std::process::id();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{pid}"))
            .map_err(Error::because(Code::Io, format_args!("cannot write {}", path.display())))?;
        Ok(Lock { _file: file })
    }

    /// Returns the process that holds the instance: a daemon that runs, or that is starting or ending. The lock itself is
    /// not touched, because a daemon that starts at this moment would be refused.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        let lock = fs::metadata(self.runtime_directory().join("lock")).ok()?;
        let device = (major(lock.dev()), minor(lock.dev()));
        holder_of(device, lock.ino(), &fs::read_to_string("/proc/locks").ok()?)
    }

    /// Counts the daemons that were started since the runtime directory was created, including this one.
    ///
    /// # Errors
    ///
    /// The file system reports an error.
    pub fn count_start(&self, _lock: &Lock) -> Result<u64> {
        let path = self.runtime_directory().join("starts");
        let before = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let starts = before.unwrap_or(0).saturating_add(1);
        fs::write(&path, format!("{starts}\n"))
            .map_err(Error::because(Code::Io, format_args!("cannot write {}", path.display())))?;
        Ok(starts)
    }

    /// Removes the runtime directory. `lock` shows that nobody else uses it.
    pub fn clean_up(&self, _lock: Lock) {
        let _gone_or_in_use = fs::remove_dir_all(self.runtime_directory());
    }
}

/// Returns the process that has locked a file, by its device and its inode. `locks` are lines as in `/proc/locks`: number,
/// kind of lock, two words on how it is held, process, device and inode, and the range of bytes.
fn holder_of((major, minor): (u64, u64), inode: u64, locks: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, file, ..] = words.as_slice() else { return None };
        let [of_major, of_minor, of_inode]: [&str; 3] =
            file.split(':').collect::<Vec<_>>().try_into().ok()?;
        let is_it = u64::from_str_radix(of_major, 16) == Ok(major)
            && u64::from_str_radix(of_minor, 16) == Ok(minor)
            && of_inode.parse() == Ok(inode);
        is_it.then(|| process.parse().ok())?
    })
}

/// Makes an error about a file or directory that cannot be created. `setting` is what lets a systemd unit
/// write there.
pub(crate) fn not_writable(path: &Path, error: &std::io::Error, setting: &str) -> Error {
    let failed = Error::new(Code::Io, format_args!("cannot create {}: {error}", path.display()));
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            let there = path.ancestors().find(|directory| directory.exists()).unwrap_or(path).display();
            failed.remedy(format_args!(
                "`mount -o remount,rw $(findmnt -no TARGET --target {there})`; in a systemd unit, set `{setting}`"
            ))
        }
        ErrorKind::StorageFull => failed.remedy("`df -h` shows which file system is full"),
        _ => failed,
    }
}

/// Replaces a file and creates its directory, so that a crash at any moment leaves the old content or the new one.
///
/// # Errors
///
/// The file system reports an error.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// The lock that the one daemon of an instance holds.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_read_only_file_system_is_told_with_what_makes_it_writable() {
        let path = std::env::temp_dir().join("not/there");
        let error = not_writable(&path, &ErrorKind::ReadOnlyFilesystem.into(), "StateDirectory=");
        let remedy = error.remedy.unwrap();
        let there = format!("--target {})", std::env::temp_dir().display());
        assert!(remedy.contains(&there) && remedy.contains("StateDirectory="), "{remedy}");
        assert_eq!(not_writable(&path, &ErrorKind::NotADirectory.into(), "").remedy, None);
    }

    #[test]
    fn the_holder_of_a_lock_is_the_process_that_has_locked_that_file_and_does_not_wait_for_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:1a:99 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 11 00:1b:99 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 12 00:1a:9 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 00:1a:99 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 14 00:1a:99 0 EOF\n\n5: FLOCK\n6: FLOCK a b c 00:1a 0 EOF\n";
        assert_eq!(holder_of((0, 0x1a), 99, locks), Some(13));
        assert_eq!(holder_of((0, 0x1b), 99, locks), Some(11));
        assert_eq!(holder_of((0, 0x1b), 9, locks), None);
        // As the kernel shows it.
        let path = std::env::temp_dir().join(format!("pooltime-lock-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let holder = || {
            let found = file.metadata().unwrap();
            let locks = fs::read_to_string("/proc/locks").unwrap();
            holder_of((major(found.dev()), minor(found.dev())), found.ino(), &locks)
        };
        assert_eq!(holder(), None);
        file.lock().unwrap();
        assert_eq!(holder(), Some(std::process::id()));
        file.unlock().unwrap();
        assert_eq!(holder(), None);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", "../x", "a/b", "a b", &"x".repeat(65)] {
            assert!(Instance::new(Some(name)).is_err(), "{name:?}");
        }
        assert_eq!(Instance::new(Some("lab-1")).unwrap().command(), "pooltime-xdp --instance lab-1");
        assert_eq!(Instance::new(None).unwrap().pin_directory(), Path::new("/sys/fs/bpf/pooltime-xdp"));
    }
}
