//! The file system that pins live in.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{info, warn};

use crate::error::{Code, Error, Result};
use crate::instance::BPFFS;

/// Mounts bpffs where nothing did so yet. systemd does at boot; containers and small inits do not.
pub(super) fn ensure_mounted() -> Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
        Error::new(Code::Os, format_args!("{BPFFS} is not a bpffs and cannot be mounted: {error}"))
            .remedy(format_args!("mount it: `mount -t bpf bpf {BPFFS}`"))
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

fn is_mounted() -> Result<bool> {
    let status = statfs(Path::new(BPFFS)).map_err(|error| {
        Error::new(Code::Os, format_args!("cannot check {BPFFS}: {error}"))
            .remedy("mount sysfs and bpffs: `mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf`")
    })?;
    Ok(status.filesystem_type() == BPF_FS_MAGIC)
}

fn in_private_mount_namespace() -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    of("self") != of("1")
}
