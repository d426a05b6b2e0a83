//! Resources that this process uses, and its wall clock.

use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};

/// Returns the resident set size.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    pages.unwrap_or(0).saturating_mul(page.unwrap_or(4096))
}

/// Returns the CPU time in user space and in the kernel.
#[expect(clippy::cast_precision_loss, reason = "for showing")]
pub(crate) fn cpu_s() -> f64 {
    let microseconds = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds())
    });
    microseconds as f64 / 1e6
}

/// Returns the wall clock's time in seconds since the Unix epoch.
pub(crate) fn unix_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Returns the host's name; empty if it cannot be read.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Identifies this boot of the machine (`Documentation/admin-guide/sysctl/kernel.rst`, `random`); empty without a procfs.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Returns the inode of this process's network namespace; `None` without a procfs.
pub(crate) fn network_namespace() -> Option<u64> {
    Some(std::fs::metadata("/proc/self/ns/net").ok()?.ino())
}

/// Returns the number of open file descriptors.
pub(crate) fn descriptors() -> u64 {
    // Reading the directory takes one descriptor.
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}
