//! The file system that pins live in, and who may change them.

use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{info, warn};

use crate::error::{Code, Error, Result};
use crate::instance::{BPFFS, not_writable};

/// The write bits of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// In such a directory, only its owner and those of the entries may rename or remove entries.
const STICKY: u32 = 0o1000;

/// Mounts bpffs where nothing did so yet. systemd does at boot; containers and small inits do not.
pub(super) fn ensure_mounted() -> Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    // As systemd mounts it. Left to itself, the kernel lets everybody write there.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700")).map_err(|error| {
        Error::new(Code::Os, format_args!("{BPFFS} is not a bpffs and cannot be mounted: {error}"))
            .remedy(format_args!("mount it: `mount -t bpf -o mode=0700 bpf {BPFFS}`"))
    })?;
    info!("mounted bpffs on {BPFFS}");
    if in_private_mount_namespace() {
        warn!(
            "this process has a mount namespace of its own: the pins under {BPFFS} vanish with it, and with them \
             the program; `ip netns exec` makes such namespaces, `nsenter --net=/run/netns/NAME` does not"
        );
    }
    Ok(())
}

/// Refuses to go on where bpffs was unmounted while the server runs.
///
/// # Errors
///
/// It is not mounted.
pub(super) fn require_mounted() -> Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    Err(Error::new(Code::Os, format_args!("{BPFFS} is no bpffs any more"))
        .remedy(format_args!("mount it: `mount -t bpf -o mode=0700 bpf {BPFFS}`")))
}

fn is_mounted() -> Result<bool> {
    let status = statfs(Path::new(BPFFS)).map_err(|error| {
        Error::new(Code::Os, format_args!("cannot check {BPFFS}: {error}")).remedy(
            "mount sysfs and bpffs: `mount -t sysfs sysfs /sys && mount -t bpf -o mode=0700 bpf /sys/fs/bpf`",
        )
    })?;
    Ok(status.filesystem_type() == BPF_FS_MAGIC)
}

/// Creates the directory of an instance's pins.
pub(super) fn create_directory(directory: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|error| not_writable(directory, &error, "ReadWritePaths=/sys/fs/bpf"))?;
    // Between the look and the creation somebody else may have changed what is above it.
    require_own(directory)
}

/// Refuses a directory of pins that somebody else than root could have filled: who pins a link there decides what is on
/// the interfaces, and who removes one takes the program off. Nothing in it may be read or removed before this.
///
/// # Errors
///
/// Names the directory, what is wrong with it, and the way out.
pub(super) fn require_own(directory: &Path) -> Result<()> {
    let look = |path: &Path| {
        path.symlink_metadata()
            .map_err(Error::because(Code::Io, format_args!("cannot look at {}", path.display())))
    };
    let refused = |path: &Path, reason: &str| {
        Error::new(
            Code::NoPermission,
            format_args!("{} {reason}: its pins cannot be trusted", path.display()),
        )
    };
    let above = directory.parent().unwrap_or(directory);
    if let Some(reason) = distrust(&look(above)?, true) {
        return Err(refused(above, &reason).remedy(format_args!(
            "`chown 0:0 {0} && chmod 0700 {0}` leaves it to root; look at what is in it first",
            above.display()
        )));
    }
    if let Some(reason) = distrust(&look(directory)?, false) {
        return Err(refused(directory, &reason).remedy(format_args!(
            "look at what is in it (`ls -la {0}`), and remove it: `rm -r {0}`; a program that a link there holds goes \
             off its interface",
            directory.display()
        )));
    }
    Ok(())
}

/// Says why others than root may change what is in a directory. One that only holds others' directories may be writable
/// if nobody can replace those.
fn distrust(metadata: &Metadata, holds_directories: bool) -> Option<String> {
    let mode = metadata.mode();
    if !metadata.is_dir() {
        Some("is not a directory".into())
    } else if metadata.uid() != 0 {
        Some(format!("belongs to user {}, and not to root", metadata.uid()))
    } else if mode & OTHERS_WRITE != 0 && !(holds_directories && mode & STICKY != 0) {
        Some(format!("is writable for others than root (mode {:04o})", mode & 0o7777))
    } else {
        None
    }
}

fn in_private_mount_namespace() -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    of("self") != of("1")
}
