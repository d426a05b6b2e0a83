use std::collections::BTreeSet;

use super::*;

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const VIRTUAL_ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];

/// An Ethernet interface that is up. The last byte of its address is its index.
fn link(index: u32, role: Role) -> Link {
    Link {
        relations: LinkRelations { index, ..LinkRelations::default() },
        name: format!("if{index}"),
        up: true,
        address: Some(mac(index)),
        role,
        port: Port::Unknown,
    }
}

fn mac(index: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(index).unwrap()]
}

impl Link {
    fn over(self, lower: u32) -> Self {
        Self { relations: LinkRelations { lower: Some(lower), ..self.relations }, ..self }
    }

    fn port_of(self, master: u32, port: Port) -> Self {
        Self { relations: LinkRelations { master: Some(master), ..self.relations }, port, ..self }
    }

    fn at(self, address: [u8; 6]) -> Self {
        Self { address: Some(address), ..self }
    }

    fn down(self) -> Self {
        Self { up: false, ..self }
    }
}

fn nic(index: u32) -> Link {
    link(index, Role::Other)
}

fn vlan(index: u32, id: u16) -> Link {
    link(index, Role::Vlan { id, is_service: false })
}

const MACVLAN: Role = Role::MacVlan { takes_all: false, is_tap: false };
const BRIDGE: Role = Role::Bridge { filters_vlans: false };

/// The stations of an interface, as they are shown.
fn stations(interface: u32, links: &[Link]) -> BTreeSet<String> {
    let reception = Reception::of(interface, links);
    let stations: BTreeSet<_> = reception.stations.iter().map(ToString::to_string).collect();
    assert_eq!(stations.len(), reception.stations.len(), "none comes twice");
    assert!(reception.stations.iter().all(|place| reception.table().has(place.station())));
    stations
}

fn set(stations: &[&str]) -> BTreeSet<String> {
    stations.iter().map(ToString::to_string).collect()
}

#[test]
fn an_interface_receives_at_its_own_address_without_a_tag() {
    assert_eq!(stations(ETH0, &[nic(ETH0), nic(ETH1)]), set(&["02:00:00:00:00:02"]));
    assert_eq!(stations(9, &[nic(ETH0)]), set(&[]));
    let tunnel = Link { address: None, ..nic(ETH0) };
    assert_eq!(stations(ETH0, &[tunnel]), set(&[]));
}

#[test]
fn a_vlan_device_that_is_up_receives_in_its_vlan_at_the_addresses_of_the_interface_and_its_own() {
    let stacked = link(7, Role::Vlan { id: 30, is_service: true });
    let links =
        |vlan: Link| [nic(ETH0), vlan.over(ETH0), stacked.clone().over(ETH0), self::vlan(8, 5).over(7)];
    let all = set(&[
        "02:00:00:00:00:02",
        "02:00:00:00:00:02 VLAN 5",
        "02:00:00:00:00:06 VLAN 5",
        "02:00:00:00:00:02 802.1ad VLAN 30",
        "02:00:00:00:00:07 802.1ad VLAN 30",
        "02:00:00:00:00:02 802.1ad VLAN 30 VLAN 5",
        "02:00:00:00:00:07 802.1ad VLAN 30 VLAN 5",
        "02:00:00:00:00:08 802.1ad VLAN 30 VLAN 5",
    ]);
    assert_eq!(stations(ETH0, &links(vlan(6, 5))), all);
    let without_5 =
        all.iter().filter(|station| !station.ends_with("0:02 VLAN 5") && !station.contains("06")).cloned();
    assert_eq!(stations(ETH0, &links(vlan(6, 5).down())), without_5.collect());
    // Attached to the VLAN device itself, whose frames have no tag any more.
    assert_eq!(stations(6, &links(vlan(6, 5))), set(&["02:00:00:00:00:06"]));
}

#[test]
fn a_macvlan_has_its_own_frames_such_as_those_of_a_virtual_router() {
    let vrrp = link(6, MACVLAN).over(ETH0).at(VIRTUAL_ROUTER);
    let both = set(&["02:00:00:00:00:02", "00:00:5e:00:01:0a"]);
    assert_eq!(stations(ETH0, &[nic(ETH0), vrrp.clone()]), both);
    assert_eq!(stations(ETH0, &[nic(ETH0), vrrp.clone().down()]), set(&["02:00:00:00:00:02"]));
    let in_vlan = [nic(ETH0), vlan(5, 7).at(mac(ETH0)).over(ETH0), Link { ..vrrp }.over(5)];
    let expected = set(&["02:00:00:00:00:02", "02:00:00:00:00:02 VLAN 7", "00:00:5e:00:01:0a VLAN 7"]);
    assert_eq!(stations(ETH0, &in_vlan), expected);
}

#[test]
fn what_a_macvlan_takes_is_no_longer_the_interfaces() {
    let over = |takes_all, is_tap| link(6, Role::MacVlan { takes_all, is_tap }).over(ETH0);
    assert_eq!(stations(ETH0, &[nic(ETH0), over(true, false)]), set(&["02:00:00:00:00:06"]));
    // What has opened a macvtap answers for itself.
    assert_eq!(stations(ETH0, &[nic(ETH0), over(true, true)]), set(&[]));
    assert_eq!(stations(ETH0, &[nic(ETH0), over(false, true)]), set(&["02:00:00:00:00:02"]));
    assert_eq!(stations(ETH0, &[nic(ETH0), over(false, true).at(mac(ETH0))]), set(&[]));
    assert_eq!(stations(ETH0, &[nic(ETH0), over(false, false).at(mac(ETH0)).down()]), set(&[]));
    // VLAN devices come before macvlans.
    let with_vlan = [nic(ETH0), over(true, true), vlan(7, 5).at(mac(ETH0)).over(ETH0)];
    assert_eq!(stations(ETH0, &with_vlan), set(&["02:00:00:00:00:02 VLAN 5"]));
}

#[test]
fn a_bridge_receives_at_its_address_and_the_ports_unless_the_port_is_blocked() {
    let links = |port, bridge: Link| {
        [nic(ETH0).port_of(9, port), nic(ETH1).port_of(9, Port::Open), bridge, vlan(5, 7).over(9)]
    };
    let bridge = link(9, BRIDGE);
    let all = set(&[
        "02:00:00:00:00:02",
        "02:00:00:00:00:09",
        "02:00:00:00:00:02 VLAN 7",
        "02:00:00:00:00:09 VLAN 7",
        "02:00:00:00:00:05 VLAN 7",
    ]);
    assert_eq!(stations(ETH0, &links(Port::Open, bridge.clone())), all);
    let blocked = Reception::of(ETH0, &links(Port::Idle, bridge.clone()));
    assert_eq!(blocked.stations, []);
    assert_eq!(blocked.idle.unwrap(), "the spanning tree of if9 blocks if2");
    assert_eq!(blocked.trouble, None);
    assert_eq!(stations(ETH0, &links(Port::Open, bridge.clone().down())), set(&[]));
    let filtering = Reception::of(ETH0, &links(Port::Open, link(9, Role::Bridge { filters_vlans: true })));
    assert_eq!(filtering.stations, []);
    assert!(filtering.trouble.unwrap().contains("if9 filters VLANs"));
}

#[test]
fn only_the_active_port_of_a_bond_receives_and_at_its_own_address() {
    let links = |port| {
        [
            nic(ETH0).at(mac(9)).port_of(9, port),
            nic(ETH1).at(mac(9)).port_of(9, Port::Open),
            link(9, Role::Bond),
            vlan(5, 7).at(mac(9)).over(9),
        ]
    };
    let both = set(&["02:00:00:00:00:09", "02:00:00:00:00:09 VLAN 7"]);
    assert_eq!(stations(ETH1, &links(Port::Idle)), both);
    assert_eq!(stations(ETH0, &links(Port::Open)), both);
    assert_eq!(stations(9, &links(Port::Open)), both);
    let backup = Reception::of(ETH0, &links(Port::Idle));
    assert_eq!((backup.stations, backup.trouble), (vec![], None));
    assert_eq!(backup.idle.unwrap(), "if2 is a backup port of if9");
    // Adaptive load balancing: each port has an address of its own, and the stack takes what comes to it there.
    let alb = [
        nic(ETH0).port_of(9, Port::Open),
        nic(ETH1).port_of(9, Port::Open),
        link(9, Role::Bond).at(mac(ETH0)),
    ];
    assert_eq!(stations(ETH1, &alb), set(&["02:00:00:00:00:03"]));
    assert_eq!(stations(9, &alb), set(&["02:00:00:00:00:02", "02:00:00:00:00:03"]));
}

#[test]
fn a_vrf_changes_nothing_and_what_is_not_known_is_left_to_the_kernel() {
    let under = |role| [nic(ETH0).port_of(9, Port::Unknown), link(9, role)];
    assert_eq!(stations(ETH0, &under(Role::Vrf)), set(&["02:00:00:00:00:02"]));
    for role in [Role::Other, BRIDGE, Role::Bond] {
        let reception = Reception::of(ETH0, &under(role));
        assert_eq!(reception.stations, []);
        assert!(reception.trouble.unwrap().contains("it is a port of if9"));
    }
}

#[test]
fn groups_are_no_stations_and_interfaces_that_seem_to_stand_on_each_other_end_the_walk() {
    assert_eq!(stations(ETH0, &[nic(ETH0).at([0xff; 6])]), set(&[]));
    let circle = [nic(ETH0).port_of(9, Port::Open), link(9, BRIDGE).port_of(ETH0, Port::Open)];
    assert_eq!(stations(ETH0, &circle), set(&[]));
    let towers = [link(ETH0, MACVLAN).over(ETH1), link(ETH1, MACVLAN).over(ETH0)];
    stations(ETH0, &towers);
}

#[test]
fn the_interfaces_own_station_comes_first() {
    let links = [link(5, MACVLAN).over(ETH0), vlan(6, 5).over(ETH0), nic(ETH0)];
    let first = Reception::of(ETH0, &links).stations.swap_remove(0);
    assert_eq!(first, Place { address: mac(ETH0), vlans: vec![] });
}

#[test]
fn more_stations_than_there_is_room_for_are_told_and_the_interfaces_own_is_among_those_that_are_kept() {
    let vlans = (1..=CAPACITY).map(|id| Link {
        relations: LinkRelations { index: 100 + u32::try_from(id).unwrap(), lower: Some(ETH0), master: None },
        ..vlan(9, u16::try_from(id).unwrap()).at(mac(ETH0))
    });
    let links: Vec<_> = [nic(ETH0)].into_iter().chain(vlans).collect();
    let fits = Reception::of(ETH0, &links[..CAPACITY]);
    assert_eq!((fits.stations.len(), &fits.trouble), (CAPACITY, &None));
    let full = Reception::of(ETH0, &links);
    assert_eq!(full.stations.len(), CAPACITY);
    let trouble = full.trouble.as_ref().unwrap();
    assert!(trouble.contains(&format!("if2 has {} MAC addresses and VLANs", CAPACITY + 1)), "{trouble}");
    assert!(full.table().has(Station::new(mac(ETH0), Tags::NONE)));
    assert!(full.table().has(Station::new(mac(ETH0), Tags::NONE.with(1, false))));
}

#[test]
fn what_the_kernel_says_of_an_interface_is_read() {
    let read = |infos: Vec<LinkInfo>| {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(mac(7).to_vec()),
            LinkAttribute::LinkInfo(infos),
        ];
        Link::of(&message)
    };
    let of = |kind: InfoKind, data: InfoData| read(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]).role;
    let vlan = |protocol| InfoData::Vlan(vec![InfoVlan::Protocol(protocol), InfoVlan::Id(30)]);
    let tagged = |is_service| Role::Vlan { id: 30, is_service };
    assert_eq!(of(InfoKind::Vlan, vlan(VlanProtocol::Ieee8021Q)), tagged(false));
    assert_eq!(of(InfoKind::Vlan, vlan(VlanProtocol::Ieee8021Ad)), tagged(true));
    for (mode, role) in [
        (MacVlanMode::Private, MACVLAN),
        (MacVlanMode::Vepa, MACVLAN),
        (MacVlanMode::Bridge, MACVLAN),
        (MacVlanMode::Passthrough, Role::MacVlan { takes_all: true, is_tap: false }),
        (MacVlanMode::Source, Role::Other),
    ] {
        assert_eq!(of(InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])), role);
        let tap = match role {
            Role::MacVlan { takes_all, .. } => Role::MacVlan { takes_all, is_tap: true },
            other => other,
        };
        assert_eq!(of(InfoKind::MacVtap, InfoData::MacVtap(vec![InfoMacVtap::Mode(mode)])), tap);
    }
    for filters_vlans in [false, true] {
        let bridge = InfoData::Bridge(vec![InfoBridge::VlanFiltering(filters_vlans)]);
        assert_eq!(of(InfoKind::Bridge, bridge), Role::Bridge { filters_vlans });
    }
    assert_eq!(of(InfoKind::Bond, InfoData::Bond(vec![])), Role::Bond);
    assert_eq!(of(InfoKind::Vrf, InfoData::Vrf(vec![])), Role::Vrf);
    assert_eq!(of(InfoKind::Team, InfoData::Other(vec![])), Role::Other);

    let port = |data| read(vec![LinkInfo::PortData(data)]).port;
    let of_bond = |state| port(InfoPortData::BondPort(vec![InfoBondPort::BondPortState(state)]));
    assert_eq!([of_bond(BondPortState::Active), of_bond(BondPortState::Backup)], [Port::Open, Port::Idle]);
    let of_bridge = |state| port(InfoPortData::BridgePort(vec![InfoBridgePort::State(state)]));
    assert_eq!(of_bridge(BridgePortState::Forwarding), Port::Open);
    for state in [
        BridgePortState::Blocking,
        BridgePortState::Learning,
        BridgePortState::Listening,
        BridgePortState::Disabled,
    ] {
        assert_eq!(of_bridge(state), Port::Idle);
    }
    assert_eq!(port(InfoPortData::TeamPort(vec![])), Port::Unknown);
    let plain = read(vec![]);
    assert_eq!((plain.role, plain.port, plain.up), (Role::Other, Port::Unknown, true));
    assert_eq!((plain.name.as_str(), plain.address), ("eth0", Some(mac(7))));
}
