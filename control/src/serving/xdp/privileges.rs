//! What the kernel asks of a process that loads eBPF programs.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tracing::debug;

use crate::error::{Code, Error, Result};
use crate::instance::Instance;

/// The privileges that the process lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrivileges {
    /// Names of the missing capabilities, at least one.
    capabilities: Vec<&'static str>,
    /// How commands for the instance begin.
    command: String,
}

impl From<MissingPrivileges> for Error {
    fn from(missing: MissingPrivileges) -> Self {
        let what = format!("missing privilege: {}", missing.capabilities.join(", "));
        Self::new(Code::NoPermission, what)
            .remedy(format_args!("run it as root: `sudo {} ...`", missing.command))
    }
}

/// Says which privilege is missing, before the kernel says only that something is.
///
/// # Errors
///
/// Names the capabilities that are missing.
pub fn require_privileges(instance: &Instance) -> Result<(), MissingPrivileges> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_SYS_ADMIN: u32 = 21;
    // Without it the verifier refuses the program.
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        // Without procfs there is nothing to say in advance.
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 != 0;
    let missing: Vec<_> = [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
    ]
    .into_iter()
    .filter_map(|(name, there)| (!there).then_some(name))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(MissingPrivileges { capabilities: missing, command: instance.command() })
}

/// Kernels before 5.11 count maps against the limit of locked memory; later ones do not.
pub(super) fn lift_memory_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        debug!("cannot raise the locked-memory limit: {error}");
    }
}
