//! For which stations frames are answered: by MAC address and VLAN. What is for others passes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics says what it has to say"
)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use responder::station::{CAPACITY, TableFull};
use responder::{Station, StationTable, Tags, Verdict};
use testinput::frames::{
    CLIENT_MAC, FIRST_VLAN, Host, Request, SERVER_MAC, SERVICE_VLAN, TAGS, VLAN, message, tags_of,
};

const UNTAGGED: Tags = Tags::NONE;
const VIRTUAL_ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];

/// A host that is these stations and no others.
fn host(stations: &[Station]) -> Host {
    Host { stations: StationTable::new(stations).expect("few"), ..Host::new() }
}

#[test]
fn frames_to_other_stations_pass_whatever_is_in_them() {
    let host = host(&[Station::new(SERVER_MAC, UNTAGGED)]);
    let groups = [[0xff; 6], [0x01, 0, 0x5e, 0, 1, 1], [0x33, 0x33, 0, 0, 1, 1]];
    // One bit is all the difference.
    let neighbours = (0..48).map(|bit| {
        let mut address = SERVER_MAC;
        address[bit / 8] ^= 1 << (bit % 8);
        address
    });
    let others: Vec<_> =
        groups.into_iter().chain(neighbours).chain([CLIENT_MAC, VIRTUAL_ROUTER, [0; 6]]).collect();
    for request in Request::of_both_families() {
        host.answer(&request);
        for destination_mac in others.iter().copied() {
            let request = Request { destination_mac, ..request.clone() };
            host.assert_unanswered(&request.build(), Verdict::PassStation);
            // To us all of these would be dropped.
            for wrong in [
                Request { source: request.destination, ..request.clone() },
                Request { source_mac: [0xff; 6], ..request.clone() },
                Request { payload: message(2, 6, 0).to_vec(), ..request.clone() },
                Request { payload: vec![0x23; 20], ..request.clone() },
            ] {
                host.assert_unanswered(&wrong.build(), Verdict::PassStation);
            }
        }
    }
}

#[test]
fn a_station_answers_under_the_tags_of_its_vlan_and_no_others() {
    for own in TAGS {
        let host = host(&[Station::new(SERVER_MAC, tags_of(own))]);
        for request in Request::of_both_families() {
            for tags in TAGS {
                let request = Request { tags: tags.to_vec(), ..request.clone() };
                if tags == own {
                    host.answer(&request);
                } else {
                    host.assert_unanswered(&request.build(), Verdict::PassStation);
                }
            }
        }
    }
}

/// A request under these tags: protocol identifier and control information, the outermost first.
fn tagged(request: &Request, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame =
        Request { tags: tags.iter().map(|(identifier, _)| *identifier).collect(), ..request.clone() }.build();
    for (number, (_, control)) in tags.iter().enumerate() {
        frame[14 + 4 * number..16 + 4 * number].copy_from_slice(&control.to_be_bytes());
    }
    frame
}

#[test]
fn priorities_make_no_difference_and_a_tag_with_nothing_else_counts_as_none() {
    let in_vlan = |host: &Host, tags: &[(u16, u16)]| {
        let verdicts =
            Request::of_both_families().map(|request| host.respond(&mut tagged(&request, tags)).verdict);
        assert_eq!(verdicts[0], verdicts[1]);
        verdicts[0] == Verdict::Answered
    };
    let untagged = host(&[Station::new(SERVER_MAC, UNTAGGED)]);
    let in_5 = host(&[Station::new(SERVER_MAC, UNTAGGED.with(5, false))]);
    for identifier in [VLAN, SERVICE_VLAN] {
        for priority in [0, 0x1000, 0x2000, 0xe000, 0xf000] {
            assert!(in_vlan(&untagged, &[(identifier, priority)]));
            assert!(in_vlan(&untagged, &[(identifier, priority), (VLAN, 0)]));
            assert!(!in_vlan(&in_5, &[(identifier, priority)]));
            assert!(in_vlan(&in_5, &[(VLAN, priority | 5)]));
            assert!(!in_vlan(&in_5, &[(VLAN, priority | 6)]));
            assert!(!in_vlan(&in_5, &[(SERVICE_VLAN, priority | 5)]));
            assert!(in_vlan(&in_5, &[(identifier, priority), (VLAN, 5)]));
            assert!(in_vlan(&in_5, &[(VLAN, 5), (identifier, priority)]));
            assert!(!in_vlan(&untagged, &[(identifier, priority | 5)]));
        }
    }
}

#[test]
fn a_host_without_stations_answers_nothing() {
    let host = host(&[]);
    for request in Request::of_both_families() {
        host.assert_unanswered(&request.build(), Verdict::PassStation);
        // Free rows are zeros.
        host.assert_unanswered(&Request { destination_mac: [0; 6], ..request }.build(), Verdict::PassStation);
    }
}

#[test]
fn frames_for_addresses_that_are_not_served_are_counted_as_that_whatever_station_they_are_for() {
    let host = host(&[]);
    for request in Request::of_both_families() {
        let source = request.source;
        let request = Request { destination: source, ..request };
        host.assert_unanswered(&request.build(), Verdict::PassForOthers);
    }
}

fn tags() -> impl Strategy<Value = Tags> {
    let tag = || (0..4096_u16, any::<bool>());
    prop_oneof![
        Just(UNTAGGED),
        tag().prop_map(|(id, service)| UNTAGGED.with(id, service)),
        (tag(), tag()).prop_map(|(outer, inner)| UNTAGGED.with(outer.0, outer.1).with(inner.0, inner.1)),
    ]
}

/// Stations as hosts have them: few addresses, which differ little, in many VLANs.
fn stations(number: usize) -> impl Strategy<Value = Vec<Station>> {
    let address = prop_oneof![any::<[u8; 6]>(), (0..4_u8).prop_map(|last| [2, 0, 0, 0, 0, last])];
    proptest::collection::vec(
        (address, tags()).prop_map(|(address, tags)| Station::new(address, tags)),
        number,
    )
}

proptest! {
    #[test]
    fn the_table_has_what_was_put_in_and_nothing_else(
        ours in (0..=CAPACITY).prop_flat_map(stations),
        others in stations(200),
    ) {
        let table = StationTable::new(&ours).unwrap();
        for station in &ours {
            prop_assert_eq!(table.has(*station), !station.is_group());
        }
        for station in others {
            prop_assert_eq!(table.has(station), ours.contains(&station) && !station.is_group());
        }
    }

    #[test]
    fn more_than_the_capacity_is_refused_however_they_are(ours in stations(3 * CAPACITY)) {
        let different: BTreeSet<_> = ours.iter().copied().filter(|station| !station.is_group()).collect();
        let table = StationTable::new(&ours);
        if different.len() > CAPACITY {
            prop_assert_eq!(table, Err(TableFull));
        } else {
            prop_assert!(table.is_ok());
        }
    }
}

#[test]
fn as_many_stations_fit_as_is_said_one_address_in_a_row_of_vlans_or_many_addresses() {
    let vlans: Vec<_> =
        (FIRST_VLAN..).take(CAPACITY).map(|id| Station::new(SERVER_MAC, UNTAGGED.with(id, false))).collect();
    let stacked: Vec<_> = (FIRST_VLAN..)
        .take(CAPACITY)
        .map(|id| Station::new(SERVER_MAC, UNTAGGED.with(7, true).with(id, false)))
        .collect();
    let addresses: Vec<_> =
        (0..).take(CAPACITY).map(|last| Station::new([0, 0, 0x5e, 0, 1, last], UNTAGGED)).collect();
    for stations in [vlans, stacked, addresses] {
        let table = StationTable::new(&stations).unwrap();
        assert!(stations.iter().all(|station| table.has(*station)));
        let one_more = [stations, vec![Station::new(CLIENT_MAC, UNTAGGED)]].concat();
        assert_eq!(StationTable::new(&one_more), Err(TableFull));
    }
}
