//! Which interfaces stand on which: VLANs on a NIC, a bond or a bridge over its ports.
//!
//! A frame for an address of an upper interface comes in by a lower one, and the program on that one sees it
//! first. So the addresses of all that stands on an attached interface are served there.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// An interface's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    index: u32,
    /// The bond, bridge or VRF that it is a port of.
    master: Option<u32>,
    /// The interface that its frames go through as they are or with a tag.
    lower: Option<u32>,
}

impl Place {
    pub(crate) fn of(message: &LinkMessage) -> Self {
        let mut place = Self { index: message.header.index, ..Self::default() };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Controller(master) => place.master = Some(*master),
                // Of a tunnel or a veth it is something else.
                LinkAttribute::Link(lower) if is_on_another(message) => place.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                _ => {}
            }
        }
        place.lower = place.lower.filter(|_| !elsewhere);
        place
    }
}

/// What kind of interface the kernel says it is; nothing of a NIC.
pub(crate) fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}

fn is_on_another(message: &LinkMessage) -> bool {
    matches!(
        kind(message),
        Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)
    )
}

/// This interface and all that stand on it, directly or not.
pub(crate) fn from(interface: u32, places: &[Place]) -> Vec<u32> {
    let mut found = vec![interface];
    let mut next = 0;
    while let Some(&current) = found.get(next) {
        next += 1;
        let upper = places.iter().filter(|place| place.lower == Some(current)).map(|place| place.index);
        let master = places.iter().filter(|place| place.index == current).filter_map(|place| place.master);
        for above in upper.chain(master) {
            if !found.contains(&above) {
                found.push(above);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: u32, master: Option<u32>, lower: Option<u32>) -> Place {
        Place { index, master, lower }
    }

    #[test]
    fn vlans_on_a_bond_stand_on_each_of_its_ports_and_on_no_other_nic() {
        let (eth0, eth1, eth2, bond, vlan, inner) = (2, 3, 4, 5, 6, 7);
        let places = [
            place(eth0, Some(bond), None),
            place(eth1, Some(bond), None),
            place(eth2, None, None),
            place(bond, None, None),
            place(vlan, None, Some(bond)),
            place(inner, None, Some(vlan)),
        ];
        assert_eq!(from(eth0, &places), [eth0, bond, vlan, inner]);
        assert_eq!(from(eth1, &places), [eth1, bond, vlan, inner]);
        assert_eq!(from(eth2, &places), [eth2]);
        assert_eq!(from(vlan, &places), [vlan, inner]);
    }

    #[test]
    fn interfaces_that_seem_to_stand_on_each_other_end_the_search() {
        assert_eq!(from(1, &[place(1, Some(2), Some(2)), place(2, Some(1), Some(1))]), [1, 2]);
        assert_eq!(from(9, &[]), [9]);
    }
}
