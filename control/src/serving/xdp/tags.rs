//! VLAN tags stay in the frames that a native program sees.
//!
//! A NIC that takes the tag off in hardware tells the kernel about it beside the frame, where no XDP program
//! looks: the answer would go out without a tag, into another VLAN. So that is turned off before the program
//! goes on and turned on again after it went. Behind the driver, in generic mode, the kernel keeps the tag with
//! the socket buffer and puts it on the answer.

use std::path::Path;

use nix::net::if_::if_indextoname;

use super::notes::{self, Note};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::Interface;
use crate::safe_text::shell_word;
use crate::sys::ethtool::{Feature, Nic};

const FEATURES: [Feature; 2] = [Feature::StripTag, Feature::StripServiceTag];

/// Keeps the NIC from taking tags off, and remembers what was turned off for that. Says what that was.
///
/// # Errors
///
/// The NIC takes tags off and cannot be kept from it.
pub(super) fn keep(directory: &Path, interface: &Interface) -> Result<Vec<Feature>> {
    let nic = Nic(&interface.name);
    let mut turned_off = Vec::new();
    for feature in FEATURES {
        // Nothing that ethtool knows of takes tags off where it knows nothing of the interface.
        if !nic.has(feature).unwrap_or(false) {
            continue;
        }
        remember(directory, interface.index, feature)?;
        nic.set(feature, false).map_err(|error| {
            Error::new(
                Code::Unavailable,
                format_args!(
                    "the NIC takes VLAN tags off before a native program sees the frame, and keeps doing so \
                     ({}: {error}): answers would go out into the wrong VLAN",
                    feature.ethtool_name()
                ),
            )
        })?;
        turned_off.push(feature);
    }
    Ok(turned_off)
}

/// Before and not after: what was turned off and is not remembered would stay off.
fn remember(directory: &Path, interface: u32, feature: Feature) -> Result<()> {
    let mut names = Note::TurnedOff.read(directory, interface).unwrap_or_default();
    if !names.split(' ').any(|name| name == feature.ethtool_name()) {
        names = format!("{names} {}", feature.ethtool_name());
    }
    Note::TurnedOff.write(directory, interface, Some(names.trim_start()))
}

/// Turns on again what was turned off, and forgets it.
///
/// # Errors
///
/// The driver's: with the command that may do it later.
pub(super) fn give_back(directory: &Path, interface: u32) -> Result<()> {
    // An interface that is gone took its settings with it; one that is going has no name any more.
    let Some(name) = if_indextoname(interface).ok().filter(|name| !name.is_empty()) else {
        return Note::TurnedOff.write(directory, interface, None);
    };
    let name = name.to_string_lossy();
    restore(directory, interface, |feature| {
        Nic(&name).set(feature, true).map_err(|error| {
            Error::new(
                Code::Os,
                format_args!(
                    "cannot turn {} of {name} back on after attaching turned it off: {error}",
                    feature.ethtool_name()
                ),
            )
            .remedy(format_args!(
                "`ethtool -K {} {} on`",
                shell_word(&name),
                feature.ethtool_name()
            ))
        })
    })
}

/// Forgets a feature only when it is on again: whatever ends the process or fails in between, the next one to give back
/// still knows what is left to do.
fn restore(directory: &Path, interface: u32, mut turn_on: impl FnMut(Feature) -> Result<()>) -> Result<()> {
    let Some(names) = Note::TurnedOff.read(directory, interface) else {
        return Ok(());
    };
    let mut left: Vec<_> = FEATURES.iter().map(|feature| feature.ethtool_name()).collect();
    left.retain(|known| names.split(' ').any(|name| name == *known));
    let mut result = Ok(());
    for feature in FEATURES {
        if !left.contains(&feature.ethtool_name()) {
            continue;
        }
        match turn_on(feature) {
            Ok(()) => {
                left.retain(|name| *name != feature.ethtool_name());
                Note::TurnedOff.write(
                    directory,
                    interface,
                    (!left.is_empty()).then(|| left.join(" ")).as_deref(),
                )?;
            }
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// The same for all interfaces of a directory of pins.
///
/// # Errors
///
/// The first one; the others were tried.
pub(super) fn give_all_back(directory: &Path) -> Result<()> {
    let interfaces = notes::interfaces_with(directory, Note::TurnedOff);
    let results: Vec<_> = interfaces.into_iter().map(|interface| give_back(directory, interface)).collect();
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_turned_off_is_forgotten_when_it_is_on_again_and_not_before() {
        let directory = std::env::temp_dir().join(format!("pooltime-tags-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let noted = || Note::TurnedOff.read(&directory, 3);
        for feature in FEATURES {
            remember(&directory, 3, feature).unwrap();
        }

        let refused = restore(&directory, 3, |feature| {
            assert!(noted().unwrap().contains(feature.ethtool_name()), "forgotten too early");
            if feature == Feature::StripTag { Err(Error::new(Code::Os, "busy")) } else { Ok(()) }
        });
        assert_eq!(refused.unwrap_err().what, "busy");
        assert_eq!(noted().as_deref(), Some("rxvlan"), "what the driver refused is left to do");

        let mut turned_on = Vec::new();
        restore(&directory, 3, |feature| {
            turned_on.push(feature);
            Ok(())
        })
        .unwrap();
        assert_eq!((turned_on, noted()), (vec![Feature::StripTag], None));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
