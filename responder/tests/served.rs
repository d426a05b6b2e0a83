//! The table of served addresses against a set.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test that panics says what it has to say"
)]

use std::collections::HashSet;

use proptest::collection::{hash_set, vec};
use proptest::prelude::*;
use responder::ServedTable;
use responder::served::{CAPACITY, TableFull};

/// An IPv4 address of anywhere, or of one network, as a host's addresses often are.
fn ipv4() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![any::<[u8; 4]>(), any::<[u8; 2]>().prop_map(|[third, fourth]| [10, 20, third & 3, fourth])]
        .prop_filter("free places are zero", |address| *address != [0; 4])
}

/// An IPv6 address of anywhere, of one network with small host numbers, or of many networks with one.
fn ipv6() -> impl Strategy<Value = [u8; 16]> {
    let near = |network: u16, host: u16| {
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, network & 0xff, 0, 0, 0, host & 0x1ff).octets()
    };
    prop_oneof![
        any::<[u8; 16]>(),
        any::<u16>().prop_map(move |host| near(0, host)),
        any::<u16>().prop_map(move |network| near(network, 1)),
        any::<(u16, u16)>().prop_map(move |(network, host)| near(network, host)),
    ]
    .prop_filter("free places are zero", |address| *address != [0; 16])
}

/// The addresses with one bit different: what a sloppy comparison would take for them.
fn neighbours<const N: usize>(address: [u8; N]) -> impl Iterator<Item = [u8; N]> {
    (0..8 * N).map(move |bit| {
        let mut neighbour = address;
        neighbour[bit / 8] ^= 1 << (bit % 8);
        neighbour
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_is_the_set_of_its_addresses(
        ipv4 in hash_set(ipv4(), 0..=CAPACITY),
        ipv6 in hash_set(ipv6(), 0..=CAPACITY),
        broadcasts in 0..=CAPACITY,
        others in vec((any::<[u8; 4]>(), any::<[u8; 16]>()), 100),
    ) {
        let all: Vec<[u8; 4]> = ipv4.iter().copied().collect();
        let (broadcast, served) = all.split_at(broadcasts.min(all.len()));
        let served_ipv6: Vec<[u8; 16]> = ipv6.iter().copied().collect();
        let table = ServedTable::new(served, broadcast, &served_ipv6);
        prop_assert!(table.is_ok());
        let table = table.unwrap_or_default();

        let is_served: HashSet<_> = served.iter().copied().collect();
        let others_ipv4 = others.iter().map(|(address, _)| *address);
        for address in all.iter().copied().chain(all.iter().copied().flat_map(neighbours)).chain(others_ipv4) {
            prop_assert_eq!(table.serves_ipv4(address), is_served.contains(&address));
            prop_assert!(address == [0; 4] || table.owns_ipv4(address) == ipv4.contains(&address));
        }
        let others_ipv6 = others.iter().map(|(_, address)| *address);
        let near_ipv6 = served_ipv6.iter().copied().flat_map(neighbours);
        for address in served_ipv6.iter().copied().chain(near_ipv6).chain(others_ipv6) {
            prop_assert_eq!(table.serves_ipv6(address), ipv6.contains(&address));
            prop_assert_eq!(table.owns_ipv6(address), ipv6.contains(&address));
        }
    }

    #[test]
    fn as_many_addresses_as_the_capacity_fit_and_no_more(
        ipv4 in hash_set(ipv4(), CAPACITY + 1),
        ipv6 in hash_set(ipv6(), CAPACITY + 1),
    ) {
        let ipv4: Vec<_> = ipv4.into_iter().collect();
        let ipv6: Vec<_> = ipv6.into_iter().collect();
        prop_assert!(ServedTable::new(&ipv4[1..], &[], &ipv6[1..]).is_ok());
        prop_assert_eq!(ServedTable::new(&ipv4, &[], &ipv6[1..]), Err(TableFull));
        prop_assert_eq!(ServedTable::new(&ipv4[1..], &ipv4[..1], &[]), Err(TableFull));
        prop_assert_eq!(ServedTable::new(&[], &ipv4, &[]), Err(TableFull));
        prop_assert_eq!(ServedTable::new(&[], &[], &ipv6), Err(TableFull));
    }
}

#[test]
fn an_empty_table_serves_nothing() {
    let table = ServedTable::new(&[], &[], &[]).expect("nothing fits");
    assert!(!table.serves_ipv4([0; 4]) && !table.serves_ipv6([0; 16]));
    assert!(!table.serves_ipv4([192, 0, 2, 1]) && !table.owns_ipv4([192, 0, 2, 1]));
    assert!(!table.owns_ipv6([0; 16]));
    assert!(!ServedTable::EMPTY.serves_ipv4([0; 4]) && !ServedTable::EMPTY.serves_ipv6([0; 16]));
}

#[test]
fn the_unspecified_address_is_never_served() {
    let table = ServedTable::new(&[[0; 4], [10, 0, 0, 1]], &[[0; 4]], &[[0; 16], [1; 16]]).expect("room");
    assert!(!table.serves_ipv4([0; 4]) && !table.serves_ipv6([0; 16]));
    assert!(table.serves_ipv4([10, 0, 0, 1]) && table.serves_ipv6([1; 16]));
}

#[test]
fn a_broadcast_address_is_owned_but_not_served() {
    let table = ServedTable::new(&[[10, 0, 0, 1]], &[[10, 0, 0, 255]], &[]).expect("room");
    assert!(table.owns_ipv4([10, 0, 0, 255]) && !table.serves_ipv4([10, 0, 0, 255]));
}

#[test]
fn an_address_that_is_also_a_broadcast_address_is_served() {
    // Both ends of a /31 are hosts (RFC 3021), and some tools still set a broadcast address there.
    let table = ServedTable::new(&[[10, 0, 0, 1]], &[[10, 0, 0, 1]], &[]).expect("room");
    assert!(table.serves_ipv4([10, 0, 0, 1]));
}

#[test]
fn addresses_in_a_row_fit_wherever_the_row_begins() {
    for first in (0..=0xffff).step_by(1999) {
        let row = |stride: u32| -> Vec<[u8; 4]> {
            (0..CAPACITY as u32).map(|number| (0x0a00_0000 + first + number * stride).to_be_bytes()).collect()
        };
        for stride in [1, 2, 4, 8, 64, 256, 4096, 65_536] {
            assert!(ServedTable::new(&row(stride), &[], &[]).is_ok(), "from {first} by {stride}");
        }
    }
}

#[test]
fn an_address_given_more_than_once_takes_one_place() {
    // A link-local address may be the same on every interface.
    let ipv6 = [[0xfe; 16]; CAPACITY + 1];
    let ipv4 = [[10, 0, 0, 1]; CAPACITY + 1];
    let table = ServedTable::new(&ipv4, &ipv4, &ipv6).expect("one address of each family");
    assert!(table.serves_ipv4(ipv4[0]) && table.serves_ipv6(ipv6[0]));
}
