//! Settings of a NIC: reads what ethtool shows, and changes features.

use std::io;

use responder::verdict::Family;

use crate::sys::{EthtoolCommand, ethtool, ethtool_with_room};

/// A setting that can be on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The NIC strips the VLAN tag (802.1Q) from frames.
    StripTag,
    /// The NIC strips the service tag (802.1ad) from frames.
    StripServiceTag,
    /// The NIC merges received segments in a way that cannot be undone (LRO).
    LargeReceive,
    /// The NIC merges received segments as the kernel would (hardware GRO); for a virtual NIC the hypervisor
    /// does it.
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

    /// Returns the name that `ethtool -K` uses.
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

/// Numbers of queues in use and available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Pairs of a receive and a transmit queue.
    pub combined: u32,
    /// Largest possible number of such pairs.
    pub max_combined: u32,
}

/// An interface of this network namespace, by name.
#[derive(Clone, Copy, Debug)]
pub struct Nic<'a>(pub &'a str);

/// Kinds of flows, from `include/uapi/linux/ethtool.h`.
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// `RXH_L4_B_0_1 | RXH_L4_B_2_3`.
const HASH_PORTS: u32 = 1 << 6 | 1 << 7;
/// From `enum ethtool_stringset`.
const FEATURE_NAMES: u32 = 4;
const STATISTICS_NAMES: u32 = 1;
/// `ETH_GSTRING_LEN` in words.
const NAME_WORDS: usize = 8;
/// Number of blocks of 32 features for which there is room. Linux has two.
const BLOCKS: u32 = 8;

impl Nic<'_> {
    /// Returns the driver's name; software interfaces may have none.
    #[must_use]
    pub fn driver(self) -> Option<String> {
        let words = ethtool(self.0, EthtoolCommand::DriverInfo, &[]).ok()?;
        Some(text(words.get(..NAME_WORDS)?))
    }

    /// Returns the numbers of queues, if the driver reports them.
    #[must_use]
    pub fn queues(self) -> Option<Queues> {
        // The words are the largest numbers of receive, transmit, other and combined queues, then those in
        // use.
        let words = ethtool(self.0, EthtoolCommand::Channels, &[]).ok()?;
        Some(Queues { max_combined: *words.get(3)?, combined: *words.get(7)? })
    }

    /// Whether a feature is on. A feature that this kernel does not know is off.
    ///
    /// # Errors
    ///
    /// The kernel does not report the features.
    pub fn has(self, feature: Feature) -> io::Result<bool> {
        let Some((block, bit)) = self.place(feature)? else {
            return Ok(false);
        };
        // The number of blocks is followed by blocks of four words: available, requested, active, never
        // changed.
        let words = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?;
        Ok(words.get(1 + block * 4 + 2).is_some_and(|active| active & bit != 0))
    }

    /// Whether a feature is on and cannot be turned off.
    ///
    /// # Errors
    ///
    /// The kernel does not report the features.
    pub fn is_fixed(self, feature: Feature) -> io::Result<bool> {
        let Some((block, bit)) = self.place(feature)? else {
            return Ok(false);
        };
        let words = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?;
        let word = |at: usize| words.get(1 + block * 4 + at).copied().unwrap_or_default();
        let (available, active, never_changed) = (word(0), word(2), word(3));
        Ok(active & bit != 0 && (available & bit == 0 || never_changed & bit != 0))
    }

    /// Whether the receive queue of a UDP packet depends on its ports; `None` if the driver does not report
    /// it.
    #[must_use]
    pub fn spreads_udp_by_ports(self, family: Family) -> Option<bool> {
        let flow = match family {
            Family::Ipv4 => UDP_V4_FLOW,
            Family::Ipv6 => UDP_V6_FLOW,
        };
        // The kind of flow is followed by 64 bits for what goes into the hash; on a little-endian machine the
        // lower half comes first.
        let words = ethtool(self.0, EthtoolCommand::FlowHash, &[flow]).ok()?;
        let fields = words.get(1)? | words.get(2)?;
        // Whatever hashes anything hashes at least the addresses.
        (fields != 0).then_some(fields & HASH_PORTS == HASH_PORTS)
    }

    /// Returns how many frames the driver was handed by XDP programs (`XDP_TX`) and did not send, by its own counters;
    /// `None` if it has none for that. Drivers name them differently.
    #[must_use]
    pub fn xdp_transmit_errors(self) -> Option<u64> {
        let sizes = ethtool(self.0, EthtoolCommand::SetSizes, &[0, 1 << STATISTICS_NAMES, 0]).ok()?;
        // Of a reserved word, the mask of the sets that there are, and their sizes.
        let count = usize::try_from(*sizes.get(3)?)
            .ok()
            .filter(|_| sizes.get(1) == Some(&(1 << STATISTICS_NAMES)))?;
        let names = self.counters(EthtoolCommand::Strings, &[STATISTICS_NAMES], count * NAME_WORDS)?;
        let values = self.counters(EthtoolCommand::Statistics, &[], count * 2)?;
        let names = names.get(2..)?.chunks_exact(NAME_WORDS).take(count).map(text);
        let values = values.get(1..)?.chunks_exact(2);
        let errors = names.zip(values).filter(|(name, _)| is_xdp_transmit_error(name));
        errors.map(|(_, words)| u64_of(words)).reduce(u64::saturating_add)
    }

    /// With twice the room, in case that queues are added meanwhile.
    fn counters(self, command: EthtoolCommand, arguments: &[u32], words: usize) -> Option<Vec<u32>> {
        ethtool_with_room(self.0, command, arguments, 2 * words + 1024).ok()
    }

    /// Turns a feature on or off.
    ///
    /// # Errors
    ///
    /// The kernel or the driver refuses, or the feature stays as it is.
    pub fn set(self, feature: Feature, on: bool) -> io::Result<()> {
        if let Some((block, bit)) = self.place(feature)? {
            // The number of blocks, which must be the kernel's, is followed by blocks of two words: which to
            // change, and to what.
            let mut words = vec![0; 1 + 2 * BLOCKS as usize];
            words[0] = ethtool(self.0, EthtoolCommand::Features, &[BLOCKS])?[0];
            words[1 + block * 2] = bit;
            words[2 + block * 2] = if on { bit } else { 0 };
            ethtool(self.0, EthtoolCommand::SetFeatures, &words)?;
        }
        // The kernel accepts what it cannot do as a request for later.
        if self.has(feature)? == on { Ok(()) } else { Err(io::Error::other("the driver did not change it")) }
    }

    /// Returns the block and the bit of a feature in this kernel.
    fn place(self, feature: Feature) -> io::Result<Option<(usize, u32)>> {
        let words = ethtool(self.0, EthtoolCommand::Strings, &[FEATURE_NAMES])?;
        let (head, names) = words.split_at(2);
        let names = names.chunks(NAME_WORDS).take(head[1] as usize);
        let at = names.map(text).position(|name| name == feature.kernel_name());
        Ok(at.filter(|at| at / 32 < BLOCKS as usize).map(|at| (at / 32, 1 << (at % 32))))
    }
}

/// As in `rx_queue_0_xdp_tx_errors` (veth), `rx_queue_0_xdp_tx_drops` (virtio-net), `rx0_xdp_tx_full` (mlx5), `xdp_tx_err`.
fn is_xdp_transmit_error(name: &str) -> bool {
    name.split_once("xdp_tx")
        .is_some_and(|(_, rest)| ["err", "drop", "full"].iter().any(|word| rest.contains(word)))
}

/// Of two words in the machine's order.
fn u64_of(words: &[u32]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.try_into().map_or(0, u64::from_ne_bytes)
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
    fn counters_of_frames_that_were_not_sent_are_known_by_their_names() {
        for name in ["rx_queue_0_xdp_tx_errors", "rx_queue_3_xdp_tx_drops", "rx0_xdp_tx_full", "xdp_tx_err"] {
            assert!(is_xdp_transmit_error(name), "{name}");
        }
        for name in
            ["rx_queue_0_xdp_tx", "rx_queue_0_xdp_drops", "tx_errors", "xdp_tx", "rx_xdp_redirect_fail"]
        {
            assert!(!is_xdp_transmit_error(name), "{name}");
        }
        assert_eq!(Nic("lo").xdp_transmit_errors(), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error_and_not_a_no() {
        for name in ["none77", "a-name-that-is-much-too-long"] {
            assert!(Nic(name).has(Feature::StripTag).is_err());
            assert_eq!(Nic(name).driver(), None);
        }
    }
}
