//! Which interfaces are stacked on which: VLANs on a NIC, a bond or a bridge over its ports.
//!
//! A frame for an address of an upper interface comes in through a lower one, and the program on the lower
//! one sees it first. So the addresses of everything stacked on an attached interface are served there.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// The relations of an interface to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkRelations {
    pub(super) index: u32,
    /// The bond, bridge or VRF of which it is a port.
    pub(super) master: Option<u32>,
    /// The interface through which its frames go, unchanged or with a tag.
    pub(super) lower: Option<u32>,
}

impl LinkRelations {
    pub(crate) fn of(message: &LinkMessage) -> Self {
        let mut relations = Self { index: message.header.index, ..Self::default() };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Controller(master) => relations.master = Some(*master),
                // For a tunnel or a veth the attribute means something else.
                LinkAttribute::Link(lower) if is_on_another(message) => relations.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                _ => {}
            }
        }
        relations.lower = relations.lower.filter(|_| !elsewhere);
        relations
    }
}

/// Returns the kind of interface according to the kernel; a NIC has none.
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

/// Returns this interface and all that are stacked on it, directly or not.
pub(crate) fn stacked_on(interface: u32, relations: &[LinkRelations]) -> Vec<u32> {
    let mut found = vec![interface];
    let mut next = 0;
    while let Some(&current) = found.get(next) {
        next += 1;
        let upper = relations.iter().filter(|link| link.lower == Some(current)).map(|link| link.index);
        let master = relations.iter().filter(|link| link.index == current).filter_map(|link| link.master);
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

    fn relations(index: u32, master: Option<u32>, lower: Option<u32>) -> LinkRelations {
        LinkRelations { index, master, lower }
    }

    #[test]
    fn vlans_on_a_bond_stand_on_each_of_its_ports_and_on_no_other_nic() {
        let (eth0, eth1, eth2, bond, vlan, inner) = (2, 3, 4, 5, 6, 7);
        let relations = [
            relations(eth0, Some(bond), None),
            relations(eth1, Some(bond), None),
            relations(eth2, None, None),
            relations(bond, None, None),
            relations(vlan, None, Some(bond)),
            relations(inner, None, Some(vlan)),
        ];
        assert_eq!(stacked_on(eth0, &relations), [eth0, bond, vlan, inner]);
        assert_eq!(stacked_on(eth1, &relations), [eth1, bond, vlan, inner]);
        assert_eq!(stacked_on(eth2, &relations), [eth2]);
        assert_eq!(stacked_on(vlan, &relations), [vlan, inner]);
    }

    #[test]
    fn interfaces_that_seem_to_stand_on_each_other_end_the_search() {
        assert_eq!(stacked_on(1, &[relations(1, Some(2), Some(2)), relations(2, Some(1), Some(1))]), [1, 2]);
        assert_eq!(stacked_on(9, &[]), [9]);
    }
}
