//! Which addresses are answered for in the NIC path, where there are more than the program's table has room for.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr};

use responder::ServedTable;
use responder::served::CAPACITY;
use responder::verdict::Family;
use serde::{Deserialize, Serialize};

use crate::net::interfaces::Addresses;

/// The addresses of a family that the program's table has no room for. The socket on port 123 answers for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutRoom {
    /// Label of the family, from [`Family::label`].
    pub family: String,
    /// Number of addresses that are to be answered for.
    pub wanted: usize,
    /// Number of broadcast addresses, which take a place each because they are never a client's.
    pub broadcast: usize,
    /// Number of addresses that have no place.
    pub number: usize,
    /// One of them.
    pub example: IpAddr,
}

impl Display for WithoutRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, broadcast, number, example, .. } = self;
        let family = if example.is_ipv4() { "IPv4" } else { "IPv6" };
        write!(f, "{wanted} {family} addresses")?;
        if *broadcast > 0 {
            write!(f, " and {broadcast} broadcast addresses")?;
        }
        write!(
            f,
            " are too many to serve in the NIC path, which has room for {CAPACITY}: requests to {number} of them, \
             such as {example}, are left to the socket; remove addresses that are not needed"
        )
    }
}

/// The addresses that are answered for in the NIC path, and those that are left to the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The table in which the program looks addresses up.
    pub table: ServedTable,
    /// The addresses that are not in the table because it is full, the smallest one first.
    pub without_room: Vec<IpAddr>,
    /// The same, counted: one for each family that has some, IPv4 first.
    pub told: Vec<WithoutRoom>,
}

impl Served {
    /// Chooses from the addresses of interfaces and from `also` as many of each family as there is room for. This
    /// never fails, so that an address that the host has lost is never answered for, however many others there are.
    ///
    /// Broadcast addresses come first: where one is not known, a request from it would be answered. Then come the
    /// addresses that `in_force` serves, so that what is answered today is answered tomorrow; then those of `also`,
    /// which somebody has asked for by name; then the others. The smaller address goes before the larger one.
    #[must_use]
    pub fn choose(addresses: &Addresses, also: &[IpAddr], in_force: &ServedTable) -> Self {
        let interfaces = addresses.ipv4.iter().map(|(_, address)| IpAddr::V4(*address));
        let interfaces = interfaces.chain(addresses.ipv6.iter().map(|(_, address)| IpAddr::V6(*address)));
        let mut wanted: Vec<IpAddr> =
            interfaces.chain(also.iter().copied()).filter(|address| !address.is_unspecified()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let is_in_force = |address: &IpAddr| match address {
            IpAddr::V4(address) => in_force.serves_ipv4(address.octets()),
            IpAddr::V6(address) => in_force.serves_ipv6(address.octets()),
        };
        // The sort is stable.
        wanted.sort_by_key(|address| (!is_in_force(address), !also.contains(address)));
        // Both ends of a /31 are hosts (RFC 3021), and some tools still set a broadcast address there.
        let is_broadcast = |address: &Ipv4Addr| {
            !address.is_unspecified() && !addresses.ipv4.iter().any(|(_, own)| own == address)
        };
        let mut broadcast: Vec<_> = addresses.broadcast.iter().copied().filter(is_broadcast).collect();
        broadcast.retain(|address| !also.contains(&IpAddr::V4(*address)));
        broadcast.sort_unstable();
        broadcast.dedup();
        Self::fit(&wanted, &broadcast)
    }

    /// Serves as many of these as fit, the first ones.
    fn fit(wanted: &[IpAddr], broadcast: &[Ipv4Addr]) -> Self {
        // As many as the capacity fit under some seed. Less room is only for addresses that somebody made to collide.
        let (room, table) = (0..=CAPACITY)
            .rev()
            .find_map(|room| Some((room, Self::table(wanted, broadcast, room)?)))
            .unwrap_or((0, ServedTable::EMPTY));
        let ipv4 = wanted.iter().filter(|address| address.is_ipv4()).skip(ipv4_room(broadcast, room));
        let ipv6 = wanted.iter().filter(|address| address.is_ipv6()).skip(room);
        let mut without_room: Vec<_> = ipv4.chain(ipv6).copied().collect();
        without_room.sort_unstable();
        let told = Family::ALL.iter().filter_map(|family| {
            let is_of = |address: &&IpAddr| address.is_ipv4() == (*family == Family::Ipv4);
            let mut left = without_room.iter().filter(is_of);
            Some(WithoutRoom {
                family: family.label().into(),
                example: *left.next()?,
                number: left.count() + 1,
                wanted: wanted.iter().filter(is_of).count(),
                broadcast: if *family == Family::Ipv4 { broadcast.len() } else { 0 },
            })
        });
        Self { table, told: told.collect(), without_room }
    }

    /// Makes the table of the first `room` places of each family, if there is one.
    fn table(wanted: &[IpAddr], broadcast: &[Ipv4Addr], room: usize) -> Option<ServedTable> {
        let ipv4 = wanted.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        });
        let ipv6 = wanted.iter().filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        });
        let ipv4: Vec<_> = ipv4.take(ipv4_room(broadcast, room)).collect();
        let ipv6: Vec<_> = ipv6.take(room).collect();
        let broadcast: Vec<_> = broadcast.iter().take(room).map(Ipv4Addr::octets).collect();
        ServedTable::new(&ipv4, &broadcast, &ipv6).ok()
    }
}

/// Number of places that broadcast addresses leave.
fn ipv4_room(broadcast: &[Ipv4Addr], room: usize) -> usize {
    room.saturating_sub(broadcast.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv6Addr;

    use testinput::random::Random;

    use super::*;

    fn serves(table: &ServedTable, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => table.serves_ipv4(address.octets()),
            IpAddr::V6(address) => table.serves_ipv6(address.octets()),
        }
    }

    /// Addresses of a few networks, as hosts have them.
    fn address(random: &mut Random) -> IpAddr {
        let (network, host) = (random.below(3), random.below(300));
        if random.chance(50) {
            Ipv4Addr::from_bits(0x0a50_0000 + u32::try_from(network << 16 | host).unwrap()).into()
        } else {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(network) << 64 | u128::from(host)).into()
        }
    }

    fn of_interfaces(set: &BTreeSet<IpAddr>, broadcast: Vec<Ipv4Addr>) -> Addresses {
        let mut addresses = Addresses { broadcast, ..Addresses::default() };
        for address in set {
            match address {
                IpAddr::V4(address) => addresses.ipv4.push((2, *address)),
                IpAddr::V6(address) => addresses.ipv6.push((3, *address)),
            }
        }
        addresses
    }

    #[test]
    fn whatever_comes_and_goes_only_present_addresses_are_served_as_many_as_fit_and_the_same_ones() {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mut before = ServedTable::EMPTY;
            let mut present: BTreeSet<_> = (0..random.index(400)).map(|_| address(&mut random)).collect();
            let mut overflowed = false;
            for _ in 0..60 {
                for _ in 0..random.index(50) {
                    present.insert(address(&mut random));
                }
                let leaving = random.index(30);
                for _ in 0..leaving {
                    let gone = random.index(present.len());
                    if let Some(gone) = present.iter().nth(gone).copied() {
                        present.remove(&gone);
                    }
                }
                let broadcast: Vec<_> = (0..random.index(3))
                    .map(|net| Ipv4Addr::new(10, 9, 9, u8::try_from(net).unwrap()))
                    .collect();
                let also: Vec<_> = present.iter().copied().filter(|_| random.chance(5)).collect();
                let served = Served::choose(&of_interfaces(&present, broadcast.clone()), &also, &before);

                for family in Family::ALL {
                    let is_of = |address: &&IpAddr| address.is_ipv4() == (*family == Family::Ipv4);
                    let places = CAPACITY - if *family == Family::Ipv4 { broadcast.len() } else { 0 };
                    let wanted = present.iter().filter(is_of).count();
                    let answered =
                        present.iter().filter(is_of).filter(|one| serves(&served.table, **one)).count();
                    assert_eq!(answered, wanted.min(places), "seed {seed}: the largest set that fits");
                    let told = served.told.iter().find(|told| told.family == family.label());
                    assert_eq!(told.map_or(0, |told| told.number), wanted - answered, "seed {seed}");
                    assert_eq!(served.without_room.iter().filter(is_of).count(), wanted - answered);
                    overflowed |= wanted > answered;

                    // What was answered is not given up for what is new, except for broadcast addresses.
                    let newly = present.iter().filter(is_of);
                    let newly = newly.filter(|one| serves(&served.table, **one) && !serves(&before, **one));
                    let given_up = served.without_room.iter().filter(is_of).any(|one| serves(&before, *one));
                    assert!(!given_up || newly.count() == 0, "seed {seed}");
                }
                for _ in 0..200 {
                    let one = address(&mut random);
                    assert!(
                        present.contains(&one) || !serves(&served.table, one),
                        "seed {seed}: {one} is gone"
                    );
                }
                assert!(broadcast.iter().all(|one| served.table.owns_ipv4(one.octets())), "seed {seed}");
                assert!(served.without_room.iter().all(|one| present.contains(one)));
                let again = Served::choose(&of_interfaces(&present, broadcast), &also, &served.table);
                assert_eq!(again.without_room, served.without_room, "seed {seed}: the choice is stable");
                before = served.table;
            }
            assert!(overflowed, "seed {seed} never had too many");
        }
    }

    #[test]
    fn configured_addresses_come_before_those_of_interfaces_and_after_what_is_answered_already() {
        let own: BTreeSet<IpAddr> = (0..150).map(|host| Ipv4Addr::new(10, 0, 0, host).into()).collect();
        let also = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let first = Served::choose(&of_interfaces(&own, Vec::new()), &also, &ServedTable::EMPTY);
        assert!(also.iter().all(|address| serves(&first.table, *address)));
        let late = ["192.0.2.3".parse().unwrap()];
        let then = Served::choose(&of_interfaces(&own, Vec::new()), &late, &first.table);
        assert!(serves(&then.table, late[0]), "the places of the two that are gone are free");
        let none = Served::choose(&of_interfaces(&own, Vec::new()), &also, &then.table);
        let names: Vec<_> = none.told.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "152 IPv4 addresses are too many to serve in the NIC path, which has room for 96: requests to 56 of them, \
              such as 10.0.0.95, are left to the socket; remove addresses that are not needed"
            ]
        );
    }

    #[test]
    fn no_request_from_a_broadcast_address_is_answered_however_many_there_are() {
        let own: BTreeSet<IpAddr> = [Ipv4Addr::new(10, 0, 0, 1).into()].into();
        let many: Vec<_> = (0..100).map(|net| Ipv4Addr::new(10, 1, net, 255)).collect();
        let served = Served::choose(&of_interfaces(&own, many), &[], &ServedTable::EMPTY);
        assert!(!served.table.serves_ipv4([10, 0, 0, 1]), "where some are not known, nothing is answered");
        assert_eq!((served.told[0].number, served.told[0].broadcast), (1, 100));
        // A broadcast address that is also a host's is that of the host.
        let both =
            Served::choose(&of_interfaces(&own, vec![Ipv4Addr::new(10, 0, 0, 1)]), &[], &ServedTable::EMPTY);
        assert!(both.table.serves_ipv4([10, 0, 0, 1]) && both.told.is_empty());
    }
}
