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

/// What was turned off, and where: an index may be another device's in another network namespace, or after this one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TurnedOff {
    /// As `/proc/self/ns/net` has it.
    namespace: String,
    /// The interface's name.
    name: String,
    /// ethtool's names of the features.
    features: Vec<&'static str>,
}

impl TurnedOff {
    fn read(directory: &Path, interface: u32) -> Option<Self> {
        let text = Note::TurnedOff.read(directory, interface)?;
        let mut words = text.split(' ').map(ToOwned::to_owned);
        let (namespace, name) = (words.next()?, words.next()?);
        let words: Vec<_> = words.collect();
        let known = FEATURES.iter().map(|feature| feature.ethtool_name());
        Some(Self {
            namespace,
            name,
            features: known.filter(|known| words.iter().any(|word| word == known)).collect(),
        })
    }

    /// Forgets it where nothing is left.
    fn write(&self, directory: &Path, interface: u32) -> Result<()> {
        let text = format!("{} {} {}", self.namespace, self.name, self.features.join(" "));
        Note::TurnedOff.write(directory, interface, (!self.features.is_empty()).then_some(&*text))
    }
}

/// Returns the network namespace of this thread. The kernel has no other names for namespaces than these.
fn namespace() -> Result<String> {
    let path = "/proc/thread-self/ns/net";
    let link =
        std::fs::read_link(path).map_err(Error::because(Code::Os, format_args!("cannot read {path}")))?;
    Ok(link.to_string_lossy().into_owned())
}

/// Keeps the NIC from taking tags off, and remembers what was turned off for that. Says what that was.
///
/// # Errors
///
/// The NIC takes tags off and cannot be kept from it.
pub(super) fn keep(directory: &Path, interface: &Interface) -> Result<Vec<Feature>> {
    follow_name(directory, interface)?;
    let nic = Nic(&interface.name);
    let mut turned_off = Vec::new();
    for feature in FEATURES {
        // Nothing that ethtool knows of takes tags off where it knows nothing of the interface.
        if !nic.has(feature).unwrap_or(false) {
            continue;
        }
        remember(directory, interface, feature)?;
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

/// Takes note of the present name of an interface that the program is on.
fn follow_name(directory: &Path, interface: &Interface) -> Result<()> {
    let Some(mut noted) = TurnedOff::read(directory, interface.index) else { return Ok(()) };
    if noted.name == interface.name || noted.namespace != namespace()? {
        return Ok(());
    }
    noted.name.clone_from(&interface.name);
    noted.write(directory, interface.index)
}

/// Before and not after: what was turned off and is not remembered would stay off.
fn remember(directory: &Path, interface: &Interface, feature: Feature) -> Result<()> {
    let namespace = namespace()?;
    let known = TurnedOff::read(directory, interface.index)
        .filter(|noted| noted.namespace == namespace && noted.name == interface.name);
    let mut noted =
        known.unwrap_or_else(|| TurnedOff { namespace, name: interface.name.clone(), features: Vec::new() });
    if !noted.features.contains(&feature.ethtool_name()) {
        noted.features.push(feature.ethtool_name());
    }
    noted.write(directory, interface.index)
}

/// Turns on again what was turned off, and forgets it. The settings of another device that has the index now, or has it
/// in this network namespace, are left alone.
///
/// # Errors
///
/// The driver's, or the interface is in another network namespace: with the command that may do it there, or later.
pub(super) fn give_back(directory: &Path, interface: u32) -> Result<()> {
    let Some(noted) = TurnedOff::read(directory, interface) else { return Ok(()) };
    let word = shell_word(&noted.name);
    if noted.namespace != namespace()? {
        let features =
            noted.features.iter().map(|feature| format!("{feature} on")).collect::<Vec<_>>().join(" ");
        let what = format!(
            "{} of {} stays off: attaching turned it off, and the interface is in another network namespace",
            noted.features.join(" "),
            noted.name
        );
        return Err(Error::new(Code::Unavailable, what).remedy(format_args!(
            "turn it on there: `nsenter --net=/run/netns/NAME ethtool -K {word} {features}`"
        )));
    }
    // An interface that is gone took its settings with it; one that is going has no name any more.
    if if_indextoname(interface).ok().is_none_or(|name| name.to_bytes() != noted.name.as_bytes()) {
        return Note::TurnedOff.write(directory, interface, None);
    }
    restore(directory, interface, noted, |name, feature| {
        Nic(name).set(feature, true).map_err(|error| {
            Error::new(
                Code::Os,
                format_args!(
                    "cannot turn {} of {name} back on after attaching turned it off: {error}",
                    feature.ethtool_name()
                ),
            )
            .remedy(format_args!("`ethtool -K {word} {} on`", feature.ethtool_name()))
        })
    })
}

/// Forgets a feature only when it is on again: whatever ends the process or fails in between, the next one to give back
/// still knows what is left to do.
fn restore(
    directory: &Path,
    interface: u32,
    mut left: TurnedOff,
    mut turn_on: impl FnMut(&str, Feature) -> Result<()>,
) -> Result<()> {
    let mut result = Ok(());
    for feature in FEATURES {
        if !left.features.contains(&feature.ethtool_name()) {
            continue;
        }
        match turn_on(&left.name, feature) {
            Ok(()) => {
                left.features.retain(|name| *name != feature.ethtool_name());
                left.write(directory, interface)?;
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
    use crate::net::interfaces::{Driver, Framing};

    /// A directory of notes that is removed with this.
    struct Notes(std::path::PathBuf);

    impl Notes {
        fn new(test: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("pooltime-{test}-{}", std::process::id()));
            std::fs::create_dir(&directory).unwrap();
            Self(directory)
        }

        fn features(&self, interface: u32) -> Option<Vec<&'static str>> {
            TurnedOff::read(&self.0, interface).map(|noted| noted.features)
        }
    }

    impl Drop for Notes {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.into(),
            other_names: Vec::new(),
            framing: Framing::Ethernet,
            up: true,
            carrier: true,
            carrier_losses: 0,
            mtu: 1500,
            is_bond: false,
            xdp: None,
            driver: Driver::default(),
        }
    }

    #[test]
    fn what_was_turned_off_is_forgotten_when_it_is_on_again_and_not_before() {
        let kept = Notes::new("tags");
        for feature in FEATURES {
            remember(&kept.0, &interface(3, "eth0"), feature).unwrap();
        }
        let noted = || TurnedOff::read(&kept.0, 3).unwrap();

        let refused = restore(&kept.0, 3, noted(), |name, feature| {
            assert_eq!(name, "eth0");
            assert!(noted().features.contains(&feature.ethtool_name()), "forgotten too early");
            if feature == Feature::StripTag { Err(Error::new(Code::Os, "busy")) } else { Ok(()) }
        });
        assert_eq!(refused.unwrap_err().what, "busy");
        assert_eq!(noted().features, ["rxvlan"], "what the driver refused is left to do");

        let mut turned_on = Vec::new();
        restore(&kept.0, 3, noted(), |_, feature| {
            turned_on.push(feature);
            Ok(())
        })
        .unwrap();
        assert_eq!((turned_on, kept.features(3)), (vec![Feature::StripTag], None));
    }

    /// The index of `lo`, in each network namespace.
    const LOOPBACK: u32 = 1;

    #[test]
    fn what_another_device_with_the_index_has_is_left_alone() {
        let kept = Notes::new("strangers");
        remember(&kept.0, &interface(LOOPBACK, "eth0"), Feature::StripTag).unwrap();
        give_back(&kept.0, LOOPBACK).unwrap();
        assert_eq!(kept.features(LOOPBACK), None, "eth0 is gone, and lo has its index");

        let elsewhere =
            TurnedOff { namespace: "net:[1]".into(), name: "lo".into(), features: vec!["rxvlan"] };
        elsewhere.write(&kept.0, LOOPBACK).unwrap();
        let error = give_back(&kept.0, LOOPBACK).unwrap_err();
        assert!(error.what.contains("another network namespace"), "{error}");
        assert!(error.remedy.unwrap().contains("ethtool -K lo rxvlan on"));
        assert_eq!(TurnedOff::read(&kept.0, LOOPBACK), Some(elsewhere), "there it is left to do");
    }

    #[test]
    fn a_renamed_interface_is_known_by_its_new_name() {
        let kept = Notes::new("renamed");
        remember(&kept.0, &interface(3, "eth0"), Feature::StripTag).unwrap();
        follow_name(&kept.0, &interface(3, "lan0")).unwrap();
        let noted = TurnedOff::read(&kept.0, 3).unwrap();
        assert_eq!((&*noted.name, noted.features), ("lan0", vec!["rxvlan"]));
    }
}
