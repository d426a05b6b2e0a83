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
use crate::interfaces::Interface;
use crate::nic::{Feature, Nic};

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
    let Some(names) = Note::TurnedOff.read(directory, interface) else {
        return Ok(());
    };
    Note::TurnedOff.write(directory, interface, None)?; // An interface that is gone took its settings with it; one that is going has no name any more.
    let Some(name) = if_indextoname(interface).ok().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let name = name.to_string_lossy();
    let noted = |feature: &Feature| names.split(' ').any(|name| name == feature.ethtool_name());
    for feature in FEATURES.into_iter().filter(noted) {
        Nic(&name).set(feature, true).map_err(|error| {
            Error::new(
                Code::Os,
                format_args!(
                    "cannot turn {} of {name} on again, which attaching turned off: {error}",
                    feature.ethtool_name()
                ),
            )
            .remedy(format_args!("`ethtool -K {name} {} on`", feature.ethtool_name()))
        })?;
    }
    Ok(())
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
