//! What a process may do, as /proc shows it to everybody: its capabilities, user IDs and user namespace.

use std::path::Path;

use super::capabilities::Capability;

/// The credentials of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    effective: u64,
    /// Real, effective, saved and file system user ID.
    user_ids: [u32; 4],
    /// As `uid_map`: the IDs of its user namespace, and those that this process knows them by.
    user_map: String,
}

impl Credentials {
    /// Reads them from a directory of /proc. Returns `None` if there is no such process, if it has ended, or without a
    /// procfs.
    pub(crate) fn of(process: &Path) -> Option<Self> {
        let read = |file| std::fs::read_to_string(process.join(file)).ok();
        Self::parse(&read("status")?, &read("uid_map").unwrap_or_default())
    }

    fn parse(status: &str, user_map: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        if field("State:").is_some_and(|state| state.trim_start().starts_with(['Z', 'X'])) {
            return None;
        }
        let effective = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
        let user_ids = field("Uid:")?.split_whitespace().map_while(|id| id.parse().ok()).collect::<Vec<_>>();
        Some(Self { effective, user_ids: user_ids.try_into().ok()?, user_map: user_map.to_owned() })
    }

    /// Whether the capability is effective, in the user namespace of the process.
    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.effective & capability.bitmask() != 0
    }

    /// Whether the process is in the initial user namespace. Its map, and no other that a user can make, has all IDs: a
    /// user may map ranges that root has given, and nobody gives all. The link `ns/user` would say it as well, but may be
    /// read with `CAP_SYS_PTRACE` alone, which the daemon does not have.
    pub(crate) fn is_in_initial_user_namespace(&self) -> bool {
        self.user_map.split_whitespace().eq(["0", "0", "4294967295"])
    }

    /// Whether the process was started with the IDs that it has, and not by another user from a set-user-ID program.
    pub(crate) fn is_its_own_user(&self) -> bool {
        let [real, others @ ..] = self.user_ids;
        others.iter().all(|id| *id == real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_IDS: &str = "         0          0 4294967295\n";

    #[test]
    fn credentials_are_read_from_what_proc_says() {
        let status = "Name:\tchronyd\nState:\tS (sleeping)\nUid:\t106\t106\t106\t106\nCapInh:\t0\nCapEff:\t0000000002000400\n";
        let read = Credentials::parse(status, ALL_IDS).unwrap();
        assert!(read.has(Capability::CAP_SYS_TIME) && !read.has(Capability::CAP_SYS_ADMIN), "{read:?}");
        assert!(read.is_its_own_user() && read.is_in_initial_user_namespace(), "{read:?}");
        let other = Credentials::parse(&status.replace("106", "1000"), "").unwrap();
        assert!(other.is_its_own_user(), "{other:?}");
        let set_user_id = status.replace("106\t106\t106\t106", "1000\t0\t0\t0");
        assert!(!Credentials::parse(&set_user_id, ALL_IDS).unwrap().is_its_own_user());
        for map in ["", "0 1000 1", "0 100000 65536", "0 0 65536", "0 1000 1\n1 100000 65536"] {
            assert!(!Credentials::parse(status, map).unwrap().is_in_initial_user_namespace(), "{map}");
        }
        assert_eq!(Credentials::parse(&status.replace("S (sleeping)", "Z (zombie)"), ALL_IDS), None);
        for broken in ["", "CapEff:\tx\nUid:\t0\t0\t0\t0\n", "CapEff:\t0\nUid:\t0\t0\n"] {
            assert_eq!(Credentials::parse(broken, ALL_IDS), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_credentials() {
        assert!(Credentials::of(Path::new("/proc/self")).is_some());
        assert_eq!(Credentials::of(Path::new("/proc/nobody")), None);
    }
}
