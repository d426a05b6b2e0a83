//! A command that root runs, but that needs nothing of root.

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use super::{capabilities, syscall_filter};
use crate::error::{Code, Error, Result};

/// The user and the group of nobody, as in the kernel (`DEFAULT_OVERFLOWUID`).
const NOBODY: u32 = 65534;

/// Makes nobody of this process, if it is root, for ever: without capabilities, without groups, and with the system calls
/// of [`syscall_filter`] refused. Files that only root can read have to be read before. To be called before there are
/// threads.
///
/// The kernel lets no other process of nobody look into one that was root.
///
/// # Errors
///
/// The process may not change its user, as in some containers. It has no capabilities then, either.
pub(crate) fn give_up_root() -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let changed = setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user));
    // This also ends what a change of the user would leave, by the securebits of the process.
    capabilities::keep(&[]);
    let filtered = syscall_filter::refuse_unneeded();
    changed
        .map_err(Error::because(Code::Os, "this command goes on as root, because it cannot become nobody"))?;
    filtered
}
