//! The stations that the host is on an interface: at which MAC addresses, and in which VLANs, the kernel's own stack
//! receives what comes in there.
//!
//! The program sees a frame before the kernel does, so it has to know what the kernel will do with it. This follows
//! `__netif_receive_skb_core`: first a VLAN device takes the frames with its tag, then the one handler of the interface
//! takes the rest (a bridge, a bond, macvlans), and what is left is the interface's own if it is to its MAC address
//! (`eth_type_trans`). A further unicast address that the NIC lets through makes no difference to the stack. Whenever
//! it is not sure that the stack receives a frame, there is no station for it, and the frame is passed on: the kernel
//! decides, and the sockets answer.

use std::fmt::{self, Display};

use responder::station::CAPACITY;
use responder::{Station, StationTable, Tags};
use rtnetlink::packet_route::link::{
    BondPortState, BridgePortState, InfoBondPort, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoMacVlan, InfoMacVtap, InfoPortData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode, VlanProtocol,
};

use super::topology::{LinkRelations, kind};

/// Interfaces above each other that are followed.
const DEEPEST: usize = 8;

/// An interface, as far as it matters for what it receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    relations: LinkRelations,
    name: String,
    up: bool,
    /// None where it is no Ethernet.
    address: Option<[u8; 6]>,
    role: Role,
    port: Port,
}

/// What an interface is to the one below it, or to its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Takes the frames with its tag.
    Vlan {
        id: u16,
        is_service: bool,
    },
    /// Takes the frames to its own address, or all of them. They go to the stack, or as those of a macvtap to whoever
    /// has opened it, a virtual machine for example.
    MacVlan {
        takes_all: bool,
        is_tap: bool,
    },
    /// Takes what comes in by a port if it is to its own address or to the port's.
    Bridge {
        filters_vlans: bool,
    },
    /// Takes what comes in by an active port.
    Bond,
    /// Is only where its ports' routes are looked up.
    Vrf,
    Other,
}

/// The state of an interface as a port of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// What comes in goes on.
    Open,
    /// What comes in is discarded: the port is the backup of a bond, or the spanning tree blocks it.
    Idle,
    Unknown,
}

impl Link {
    pub(crate) fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            relations: LinkRelations::of(message),
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            address: None,
            role: match kind(message) {
                Some(InfoKind::Bond) => Role::Bond,
                Some(InfoKind::Vrf) => Role::Vrf,
                _ => Role::Other,
            },
            port: Port::Unknown,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(address) => link.address = address.as_slice().try_into().ok(),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| match info {
                    LinkInfo::Data(data) => link.role = role(data).unwrap_or(link.role),
                    LinkInfo::PortData(data) => link.port = port(data),
                    _ => {}
                }),
                _ => {}
            }
        }
        link
    }
}

fn role(data: &InfoData) -> Option<Role> {
    let macvlan = |mode: Option<&MacVlanMode>, is_tap| match mode {
        // It takes copies of what certain sources send, and leaves the frames to the others.
        Some(MacVlanMode::Source) | None => Role::Other,
        Some(mode) => Role::MacVlan { takes_all: *mode == MacVlanMode::Passthrough, is_tap },
    };
    Some(match data {
        InfoData::Vlan(facts) => {
            let id =
                facts.iter().find_map(|fact| if let InfoVlan::Id(id) = fact { Some(*id) } else { None })?;
            let is_service = facts.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
            Role::Vlan { id, is_service }
        }
        InfoData::MacVlan(facts) => macvlan(
            facts.iter().find_map(|fact| if let InfoMacVlan::Mode(mode) = fact { Some(mode) } else { None }),
            false,
        ),
        InfoData::MacVtap(facts) => macvlan(
            facts.iter().find_map(|fact| if let InfoMacVtap::Mode(mode) = fact { Some(mode) } else { None }),
            true,
        ),
        InfoData::Bridge(facts) => {
            Role::Bridge { filters_vlans: facts.contains(&InfoBridge::VlanFiltering(true)) }
        }
        _ => return None,
    })
}

fn port(data: &InfoPortData) -> Port {
    match data {
        InfoPortData::BondPort(facts) => {
            let is = |state| facts.contains(&InfoBondPort::BondPortState(state));
            match (is(BondPortState::Active), is(BondPortState::Backup)) {
                (true, _) => Port::Open,
                (_, true) => Port::Idle,
                _ => Port::Unknown,
            }
        }
        InfoPortData::BridgePort(facts) => facts
            .iter()
            .find_map(|fact| match fact {
                InfoBridgePort::State(BridgePortState::Forwarding) => Some(Port::Open),
                InfoBridgePort::State(_) => Some(Port::Idle),
                _ => None,
            })
            .unwrap_or(Port::Unknown),
        _ => Port::Unknown,
    }
}

/// A station, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The MAC address.
    pub address: [u8; 6],
    /// The VLAN IDs, the outermost first, and whether the tag is one of IEEE 802.1ad.
    pub vlans: Vec<(u16, bool)>,
}

impl Place {
    /// Returns the station for the program.
    #[must_use]
    pub fn station(&self) -> Station {
        let tags = self.vlans.iter().fold(Tags::NONE, |tags, (id, is_service)| tags.with(*id, *is_service));
        Station::new(self.address, tags)
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.address.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))?;
        for (id, is_service) in &self.vlans {
            write!(f, " {} {id}", if *is_service { "802.1ad VLAN" } else { "VLAN" })?;
        }
        Ok(())
    }
}

/// What the host receives on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// The stations that requests are answered for in the NIC path, at most [`CAPACITY`].
    pub stations: Vec<Place>,
    /// Number of stations that there is no room for.
    pub without_room: usize,
    /// Why nothing is received that comes in, where that is as it should be.
    pub idle: Option<String>,
    /// Why requests are left to the sockets, where that is not as it should be.
    pub trouble: Option<String>,
}

impl Reception {
    /// Works it out for an interface of these.
    pub(crate) fn of(interface: u32, links: &[Link]) -> Self {
        let mut walk = Walk { links, reception: Self::default() };
        if let Some(link) = links.iter().find(|link| link.relations.index == interface) {
            let mut addresses: Vec<_> = link.address.into_iter().collect();
            // A program on a bond sees what comes in by its ports, to their addresses.
            if link.role == Role::Bond {
                let ports = links.iter().filter(|port| port.relations.master == Some(interface));
                addresses
                    .extend(ports.filter(|port| port.port == Port::Open).filter_map(|port| port.address));
            }
            walk.receive(link, &addresses, &[], 0);
        }
        walk.reception.within_capacity(interface, links)
    }

    fn within_capacity(mut self, interface: u32, links: &[Link]) -> Self {
        let number = self.stations.len();
        if number > CAPACITY {
            let left = self.stations.split_off(CAPACITY);
            self.without_room = left.len();
            let name =
                links.iter().find(|link| link.relations.index == interface).map_or("", |link| &link.name);
            self.trouble = Some(format!(
                "{name} has {number} MAC addresses and VLANs, and the NIC path answers for {CAPACITY}: requests to the \
                 others, such as {}, are left to the socket; remove those that are not needed, or attach to the VLAN \
                 devices themselves",
                left.first().map_or_else(String::new, ToString::to_string)
            ));
        }
        self
    }

    /// Makes the table in which the program looks up stations.
    #[must_use]
    pub fn table(&self) -> StationTable {
        let stations: Vec<_> = self.stations.iter().map(Place::station).collect();
        // There are not too many, and a table of none answers nothing.
        StationTable::new(&stations).unwrap_or(StationTable::EMPTY)
    }
}

/// The way of frames from an interface upwards.
struct Walk<'a> {
    links: &'a [Link],
    reception: Reception,
}

impl<'a> Walk<'a> {
    /// Follows frames that have come to an interface, out of these VLANs. The stack takes those to `addresses`.
    fn receive(&mut self, at: &Link, addresses: &[[u8; 6]], vlans: &[(u16, bool)], depth: usize) {
        if depth > DEEPEST {
            return;
        }
        // First, so that these are kept where there is no room for all.
        self.receive_the_rest(at, addresses, vlans, depth);
        for above in self.above(at) {
            if let Role::Vlan { id, is_service } = above.role
                && above.up
                && vlans.len() < 2
                && id != 0
            {
                let vlans = [vlans, &[(id, is_service)]].concat();
                self.receive(above, &with(addresses, above.address), &vlans, depth + 1);
            }
        }
    }

    /// Follows the frames that no VLAN device has taken.
    fn receive_the_rest(&mut self, at: &Link, addresses: &[[u8; 6]], vlans: &[(u16, bool)], depth: usize) {
        let macvlans = || self.above(at).filter(|above| matches!(above.role, Role::MacVlan { .. }));
        if !macvlans().any(|above| matches!(above.role, Role::MacVlan { takes_all: true, .. })) {
            let is_taken = |address: &[u8; 6]| macvlans().any(|above| above.address == Some(*address));
            let rest: Vec<_> = addresses.iter().copied().filter(|address| !is_taken(address)).collect();
            match at.relations.master {
                Some(master) => self.receive_by_port(at, master, &rest, vlans, depth),
                None => self.receive_here(&rest, vlans),
            }
        }
        for above in self.above(at) {
            if above.up && matches!(above.role, Role::MacVlan { is_tap: false, .. }) {
                self.receive(above, &with(&[], above.address), vlans, depth + 1);
            }
        }
    }

    /// Follows frames that have come to a port.
    fn receive_by_port(
        &mut self,
        at: &Link,
        master: u32,
        addresses: &[[u8; 6]],
        vlans: &[(u16, bool)],
        depth: usize,
    ) {
        let Some(master) = self.links.iter().find(|link| link.relations.index == master) else { return };
        let (port, upper) = (&at.name, &master.name);
        match (master.role, at.port) {
            (Role::Vrf, _) => self.receive_here(addresses, vlans),
            (Role::Bridge { .. }, Port::Idle) => {
                self.reception.idle = Some(format!("the spanning tree of {upper} blocks {port}"));
            }
            (Role::Bond, Port::Idle) => {
                self.reception.idle = Some(format!("{port} is a backup port of {upper}"));
            }
            (Role::Bridge { filters_vlans: true }, _) => {
                self.reception.trouble = Some(format!(
                    "requests that come in by {port} are left to the socket: {upper} filters VLANs, and which ones it \
                     receives itself is not known; attach to {upper} instead, or set its vlan_filtering to 0"
                ));
            }
            (Role::Bridge { filters_vlans: false }, Port::Open) if master.up => {
                self.receive(master, &with(addresses, master.address), vlans, depth + 1);
            }
            (Role::Bond, Port::Open) if master.up => self.receive(master, addresses, vlans, depth + 1),
            (Role::Bridge { .. } | Role::Bond, Port::Open) => {
                self.reception.idle = Some(format!("{upper} is down"));
            }
            _ => {
                self.reception.trouble = Some(format!(
                    "requests that come in by {port} are left to the socket: it is a port of {upper}, and what that \
                     receives by it is not known; attach to {upper} instead"
                ));
            }
        }
    }

    fn receive_here(&mut self, addresses: &[[u8; 6]], vlans: &[(u16, bool)]) {
        for address in addresses {
            let place = Place { address: *address, vlans: vlans.to_vec() };
            if !self.reception.stations.contains(&place) && !place.station().is_group() {
                self.reception.stations.push(place);
            }
        }
    }

    fn above(&self, at: &Link) -> impl Iterator<Item = &'a Link> + use<'a> {
        let index = at.relations.index;
        self.links.iter().filter(move |link| link.relations.lower == Some(index))
    }
}

/// These addresses and another one.
fn with(addresses: &[[u8; 6]], another: Option<[u8; 6]>) -> Vec<[u8; 6]> {
    let mut all = addresses.to_vec();
    all.extend(another.filter(|another| !addresses.contains(another)));
    all
}

#[cfg(test)]
mod tests;
