//! A NIC's settings: what ethtool shows, and the one kind that is changed.

use std::io;

use responder::verdict::Family;

use crate::sys::{EthtoolCommand, ethtool};

/// A setting that can be on or off, by the kernel's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The NIC takes the VLAN tag (802.1Q) off a frame.
    StripTag,
    /// The NIC takes the service tag (802.1ad) off a frame.
    StripServiceTag,
    /// The NIC joins received segments in a way that cannot be undone.
    LargeReceive,
    /// The NIC joins received segments as the kernel would; for a virtual one, the host does.
    HardwareJoin,
}

impl Feature {
    const fn kernel_name(self) -> &'static str {
        match self {
            Self::StripTag => "rx-vlan-hw-parse",
            Self::StripServiceTag => "rx-vlan-stag-hw-parse",
            Self::LargeReceive => "rx-lro",
            Self::HardwareJoin => "rx-gro-hw",
        }
    }

    /// What `ethtool -K` calls it.
    #[must_use]
    pub const fn ethtool_name(self) -> &'static str {
        match self {
            Self::StripTag => "rxvlan",
            Self::StripServiceTag => "rx-vlan-stag-hw-parse",
            Self::LargeReceive => "lro",
            Self::HardwareJoin => "rx-gro-hw",
        }
    }
}

/// How many queues are in use and could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Pairs of a receive and a transmit queue.
    pub combined: u32,
    /// As many as there could be.
    pub max_combined: u32,
}

/// An interface, by name, of this network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Nic<'a>(pub &'a str);

/// Kinds of flows, of `include/uapi/linux/ethtool.h`.
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// `RXH_L4_B_0_1 | RXH_L4_B_2_3`.
const HASH_PORTS: u32 = 1 << 6 | 1 << 7;
/// Of `enum ethtool_stringset`.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN` in words.
const NAME_WORDS: usize = 8;
/// Blocks of 32 features that there is room for. Linux has two.
const BLOCKS: u32 = 8;

impl Nic<'_> {
    /// The driver's name; software interfaces may have none.
    #[must_use]
    pub fn driver(self) -> Option<String> {
        let words = ethtool(self.0, EthtoolCommand::DriverInfo, &[]).ok()?;
        Some(text(words.get(..NAME_WORDS)?))
    }

    /// Its queues, where the driver tells.
    #[must_use]
    pub fn queues(self) -> Option<Queues> {
        // Largest numbers of receive, transmit, other and combined queues, then those in use.
        let words = ethtool(self.0, EthtoolCommand::Channels, &[]).ok()?;
        Some(Queues { max_combined: *words.get(3)?, combined: *words.get(7)? })
    }

    /// Whether a feature is on. A feature that this kernel does not know is off.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn has(self, feature: Feature) -> io::Result<bool> {
        let Some((block, bit)) = self.place(feature)? else {
            return Ok(false);
        };
        // After their number, blocks of: available, requested, active, never changed.
        let words = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?;
        Ok(words.get(1 + block * 4 + 2).is_some_and(|active| active & bit != 0))
    }

    /// Whether a feature is on and cannot be turned off.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn is_fixed(self, feature: Feature) -> io::Result<bool> {
        let Some((block, bit)) = self.place(feature)? else {
            return Ok(false);
        };
        let words = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?;
        let word = |at: usize| words.get(1 + block * 4 + at).copied().unwrap_or_default();
        let (available, active, never_changed) = (word(0), word(2), word(3));
        Ok(active & bit != 0 && (available & bit == 0 || never_changed & bit != 0))
    }

    /// Whether the receive queue of a UDP packet depends on its ports, where the driver tells.
    #[must_use]
    pub fn spreads_udp_by_ports(self, family: Family) -> Option<bool> {
        let flow = match family {
            Family::Ipv4 => UDP_V4_FLOW,
            Family::Ipv6 => UDP_V6_FLOW,
        };
        // After the kind of flow, 64 bits of what goes into the hash; on a little-endian machine the lower
        // half comes first.
        let words = ethtool(self.0, EthtoolCommand::FlowHash, &[flow]).ok()?;
        let fields = words.get(1)? | words.get(2)?;
        // Addresses are at least hashed wherever anything is.
        (fields != 0).then_some(fields & HASH_PORTS == HASH_PORTS)
    }

    /// Turns a feature on or off.
    ///
    /// # Errors
    ///
    /// The kernel's or the driver's, and that it stays as it is.
    pub fn set(self, feature: Feature, on: bool) -> io::Result<()> {
        if let Some((block, bit)) = self.place(feature)? {
            // After their number, which must be the kernel's, blocks of: to be changed, to what.
            let mut words = vec![0; 1 + 2 * BLOCKS as usize];
            words[0] = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?[0];
            words[1 + block * 2] = bit;
            words[2 + block * 2] = if on { bit } else { 0 };
            ethtool(self.0, EthtoolCommand::SetFeatures, &words)?;
        }
        // The kernel takes what it cannot do for a wish, and keeps it.
        if self.has(feature)? == on { Ok(()) } else { Err(io::Error::other("the driver did not change it")) }
    }

    /// Which bit of which block a feature is in this kernel.
    fn place(self, feature: Feature) -> io::Result<Option<(usize, u32)>> {
        let words = ethtool(self.0, EthtoolCommand::Strings, &[FEATURE_NAMES])?;
        let (head, names) = words.split_at(2);
        let names = names.chunks(NAME_WORDS).take(head[1] as usize);
        let at = names.map(text).position(|name| name == feature.kernel_name());
        Ok(at.filter(|at| at / 32 < BLOCKS as usize).map(|at| (at / 32, 1 << (at % 32))))
    }
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<_> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_tells_its_features_and_has_no_such_ones() {
        for feature in
            [Feature::StripTag, Feature::StripServiceTag, Feature::LargeReceive, Feature::HardwareJoin]
        {
            assert!(!Nic("lo").has(feature).unwrap(), "{feature:?}");
            assert!(!Nic("lo").is_fixed(feature).unwrap(), "{feature:?}");
            assert!(Nic("lo").place(feature).unwrap().is_some(), "{feature:?}");
        }
        assert_eq!(Nic("lo").queues(), None);
        assert_eq!(Nic("lo").spreads_udp_by_ports(Family::Ipv4), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error_and_not_a_no() {
        for name in ["none77", "a-name-that-is-much-too-long"] {
            assert!(Nic(name).has(Feature::StripTag).is_err());
            assert_eq!(Nic(name).driver(), None);
        }
    }
}
