//! Capabilities that a thread gives up for ever.
//!
//! A thread that reads what comes from the network should have none. All threads share their memory, so that this is no
//! wall between them; but it takes code of an attacker's own to cross, and not only a call with wrong arguments.

use std::collections::HashSet;

use caps::CapSet;
pub(crate) use caps::Capability;
use tracing::warn;

/// Gives up all capabilities of the calling thread but these, as far as it has them. It cannot get them back. New threads
/// have what the thread has that starts them.
///
/// A failure is logged: the thread then has more than it needs, and does the same.
pub(crate) fn keep(kept: &[Capability]) {
    if let Err(error) = try_keep(kept) {
        let thread = std::thread::current();
        warn!(
            "the thread {} keeps capabilities that it does not need: {error}",
            thread.name().unwrap_or("main")
        );
    }
}

/// As [`keep`], for all but one.
pub(crate) fn give_up(capability: Capability) {
    let kept = caps::read(None, CapSet::Permitted).unwrap_or_default();
    keep(&kept.into_iter().filter(|kept| *kept != capability).collect::<Vec<_>>());
}

fn try_keep(kept: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> = kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    caps::clear(None, CapSet::Inheritable)?;
    // The effective ones have to be permitted, so they go first.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_up_what_it_does_not_keep_and_others_keep_theirs() {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        std::thread::spawn(|| {
            keep(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_TIME]);
            give_up(Capability::CAP_SYS_TIME);
            for set in [CapSet::Permitted, CapSet::Effective] {
                let left = caps::read(None, set).unwrap();
                assert!(left.iter().all(|capability| *capability == Capability::CAP_NET_ADMIN), "{left:?}");
            }
            keep(&[]);
            assert!(caps::read(None, CapSet::Permitted).unwrap().is_empty());
            // What is given up does not come back.
            keep(&[Capability::CAP_NET_ADMIN]);
            assert!(caps::read(None, CapSet::Effective).unwrap().is_empty());
        })
        .join()
        .unwrap();
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
    }
}
