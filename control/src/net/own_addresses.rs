//! Addresses that can never be an upstream, above all this host's own: a server must not believe itself.
//!
//! [`OwnAddresses::unusable`] is the only place that decides, and [`Netlink::own_addresses`] is the only
//! one that lists the host's addresses. The same set knows the reference IDs under which other servers name
//! this host, so that a loop over any of its addresses is seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::sys::utsname::uname;
use protocol::reference_id;

use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, Netlink};

/// Names that lead to loopback on any host.
const LOOPBACK_NAMES: [&str; 7] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "ip6-localhost",
    "ip6-loopback",
    "localhost6.localdomain6",
];

/// Why an address can never be an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// An interface of this host has the address, or it is configured to be served.
    Own,
    /// The name is that of this host.
    OwnName,
    /// The address is in 127.0.0.0/8, is `::1`, or is a name for one of them.
    Loopback,
    /// The address is `0.0.0.0` or `::`.
    Unspecified,
    /// A multicast address.
    Multicast,
    /// A broadcast address.
    Broadcast,
    /// An address in `fe80::/10` without the interface that it belongs to.
    NoInterface,
}

impl Unusable {
    /// Returns the reason as text that follows the address.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Own => "is an address of this host itself",
            Self::OwnName => "is the name of this host itself",
            Self::Loopback => "is a loopback address, which leads back to this host",
            Self::Unspecified => "is the unspecified address, which leads back to this host",
            Self::Multicast => "is a multicast address, not the address of one server",
            Self::Broadcast => "is a broadcast address, not the address of one server",
            Self::NoInterface => "is a link-local address without its interface",
        }
    }

    /// Returns what to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Own | Self::OwnName | Self::Loopback | Self::Unspecified => {
                "name another server, because this one must not follow itself; `source = \"system\"` in \
                 `[clock]` serves the time that another daemon of this host keeps"
            }
            Self::Multicast | Self::Broadcast => "name the server by its own address",
            Self::NoInterface => "append the interface, as in `fe80::1%eth0`",
        }
    }
}

/// The addresses of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    addresses: BTreeSet<IpAddr>,
    broadcast: BTreeSet<Ipv4Addr>,
    reference_ids: BTreeSet<u32>,
    name: Option<String>,
}

impl OwnAddresses {
    /// Makes the set from the interfaces' addresses and the additional served ones.
    #[must_use]
    pub fn new(interfaces: &Addresses, serve: &[IpAddr]) -> Self {
        let ipv4 = interfaces.ipv4.iter().map(|(_, address)| IpAddr::V4(*address));
        let ipv6 = interfaces.ipv6.iter().map(|(_, address)| IpAddr::V6(*address));
        let mut own = Self { broadcast: interfaces.broadcast.iter().copied().collect(), ..Self::default() };
        own.add(ipv4.chain(ipv6));
        own.add(serve.iter().copied());
        own
    }

    /// Asks the kernel for the addresses and the name of this host. Must not be called from within a runtime.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    pub fn of_this_host() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
        let addresses = runtime.block_on(async { Netlink::connect_to_ask()?.own_addresses().await })?;
        let name = uname().ok().and_then(|host| Some(host.nodename().to_str()?.to_ascii_lowercase()));
        Ok(Self { name: name.filter(|name| !name.is_empty()), ..Self::new(&addresses, &[]) })
    }

    /// Returns the set extended by these served addresses.
    #[must_use]
    pub fn serving(&self, serve: &[IpAddr]) -> Self {
        let mut own = self.clone();
        own.add(serve.iter().copied());
        own
    }

    fn add(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses.map(|address| address.to_canonical()) {
            // Any server may name its own local daemon by a loopback address.
            if !address.is_loopback() {
                self.reference_ids.insert(reference_id(address));
            }
            self.addresses.insert(address);
        }
    }

    /// Returns why an address cannot be an upstream, or `None` if it can. `has_interface` tells whether it
    /// came with the interface that it is on, which link-local addresses need.
    #[must_use]
    pub fn unusable(&self, address: IpAddr, has_interface: bool) -> Option<Unusable> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return Some(Unusable::Loopback);
        }
        let is_unspecified = match address {
            // All of 0.0.0.0/8 is "this host on this network" (RFC 1122, section 3.2.1.3).
            IpAddr::V4(address) => address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unspecified(),
        };
        if is_unspecified {
            return Some(Unusable::Unspecified);
        }
        if address.is_multicast() {
            return Some(Unusable::Multicast);
        }
        if self.addresses.contains(&address) {
            return Some(Unusable::Own);
        }
        match address {
            IpAddr::V4(address) if address.is_broadcast() || self.broadcast.contains(&address) => {
                Some(Unusable::Broadcast)
            }
            IpAddr::V6(address) if address.is_unicast_link_local() && !has_interface => {
                Some(Unusable::NoInterface)
            }
            _ => None,
        }
    }

    /// Works like [`OwnAddresses::unusable`] for an address that a name was resolved to.
    #[must_use]
    pub fn unusable_server(&self, server: SocketAddr) -> Option<Unusable> {
        let has_interface = matches!(server, SocketAddr::V6(server) if server.scope_id() != 0);
        self.unusable(server.ip(), has_interface)
    }

    /// Returns the first of a name's addresses that can be an upstream, or `None` if it has no address.
    ///
    /// # Errors
    ///
    /// None of them can be an upstream; the error says why.
    pub fn first_usable(&self, servers: &[SocketAddr]) -> std::result::Result<Option<SocketAddr>, String> {
        let usable = servers.iter().find(|server| self.unusable_server(**server).is_none());
        match (usable, servers) {
            (None, [_, ..]) => Err(self.reasons(servers)),
            (usable, _) => Ok(usable.copied()),
        }
    }

    /// Returns why these cannot be upstreams.
    #[must_use]
    pub fn reasons(&self, servers: &[SocketAddr]) -> String {
        let reason = |server: &SocketAddr| {
            Some(format!("{} {}", server.ip(), self.unusable_server(*server)?.reason()))
        };
        servers.iter().filter_map(reason).collect::<Vec<_>>().join(", ")
    }

    /// Works like [`OwnAddresses::unusable`] for an address as text or for a name, which is not resolved.
    #[must_use]
    pub fn unusable_name(&self, name: &str) -> Option<Unusable> {
        let (address, has_interface) =
            name.split_once('%').map_or((name, false), |(address, _)| (address, true));
        if let Ok(address) = address.parse() {
            return self.unusable(address, has_interface);
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if LOOPBACK_NAMES.contains(&name.as_str()) || name.ends_with(".localhost") {
            return Some(Unusable::Loopback);
        }
        (self.name.as_ref() == Some(&name)).then_some(Unusable::OwnName)
    }

    /// Returns the reference IDs of servers that take their time from this host.
    #[must_use]
    pub const fn reference_ids(&self) -> &BTreeSet<u32> {
        &self.reference_ids
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns the set of a host that has these addresses and the network 192.0.2.0/24.
    pub(crate) fn own(addresses: &[&str]) -> OwnAddresses {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let broadcast = vec![Ipv4Addr::new(192, 0, 2, 255)];
        OwnAddresses::new(&Addresses { broadcast, ..Addresses::default() }, &addresses)
    }

    fn unusable(own: &OwnAddresses, address: &str) -> Option<Unusable> {
        own.unusable_name(address)
    }

    #[test]
    fn each_kind_of_address_that_is_no_server_has_its_reason() {
        let own = own(&["192.0.2.1", "2001:db8::1", "fe80::1"]);
        for (address, reason) in [
            ("192.0.2.1", Some(Unusable::Own)),
            ("::ffff:192.0.2.1", Some(Unusable::Own)),
            ("2001:db8::1", Some(Unusable::Own)),
            ("2001:DB8:0::0:1", Some(Unusable::Own)),
            ("fe80::1%eth0", Some(Unusable::Own)),
            ("127.0.0.1", Some(Unusable::Loopback)),
            ("127.255.255.254", Some(Unusable::Loopback)),
            ("::1", Some(Unusable::Loopback)),
            ("::1%lo", Some(Unusable::Loopback)),
            ("::ffff:127.1.2.3", Some(Unusable::Loopback)),
            ("localhost", Some(Unusable::Loopback)),
            ("LocalHost.", Some(Unusable::Loopback)),
            ("ntp.localhost", Some(Unusable::Loopback)),
            ("0.0.0.0", Some(Unusable::Unspecified)),
            ("0.1.2.3", Some(Unusable::Unspecified)),
            ("::", Some(Unusable::Unspecified)),
            ("::ffff:0.0.0.0", Some(Unusable::Unspecified)),
            ("224.0.1.1", Some(Unusable::Multicast)),
            ("::ffff:224.0.1.1", Some(Unusable::Multicast)),
            ("ff02::101%eth0", Some(Unusable::Multicast)),
            ("255.255.255.255", Some(Unusable::Broadcast)),
            ("192.0.2.255", Some(Unusable::Broadcast)),
            ("::ffff:192.0.2.255", Some(Unusable::Broadcast)),
            ("fe80::2", Some(Unusable::NoInterface)),
            ("fe80::2%eth0", None),
            ("169.254.1.2", None),
            ("192.0.2.2", None),
            ("198.51.100.255", None),
            ("2001:db8::2", None),
            ("ntp.example.net", None),
            ("localhost.example.net", None),
        ] {
            assert_eq!(unusable(&own, address), reason, "{address}");
        }
    }

    #[test]
    fn the_host_s_own_name_is_the_host() {
        let own = OwnAddresses { name: Some("ntp1.example.net".into()), ..OwnAddresses::default() };
        assert_eq!(own.unusable_name("NTP1.example.net."), Some(Unusable::OwnName));
        assert_eq!(own.unusable_name("ntp1.example.org"), None);
    }

    /// Returns numbers that look random and are the same in each run (splitmix64).
    fn numbers() -> impl Iterator<Item = u64> {
        (1_u64..).map(|number| {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
    }

    #[test]
    fn whatever_the_host_has_is_never_usable_in_any_form_and_nothing_else_becomes_unusable_by_it() {
        let mut numbers = numbers();
        let mut next = || numbers.next().unwrap();
        let nobody = OwnAddresses::default();
        for _ in 0..5_000 {
            let ipv4 = Ipv4Addr::from_bits(u32::try_from(next() >> 32).unwrap());
            let ipv6 = std::net::Ipv6Addr::from_bits(u128::from(next()) << 64 | u128::from(next()));
            let own = OwnAddresses::default().serving(&[ipv4.into(), ipv6.into()]);
            for address in [IpAddr::V4(ipv4), ipv4.to_ipv6_mapped().into(), ipv6.into()] {
                for has_interface in [false, true] {
                    assert!(own.unusable(address, has_interface).is_some(), "{address}");
                }
                let server = SocketAddr::new(address, 123);
                assert_eq!(own.unusable_server(server), own.unusable_name(&address.to_string()), "{address}");
                let is_loopback = address.to_canonical().is_loopback();
                assert_eq!(own.reference_ids().contains(&reference_id(address)), !is_loopback, "{address}");
            }
            let other = Ipv4Addr::from_bits(u32::try_from(next() >> 32).unwrap());
            for address in [IpAddr::V4(other), other.to_ipv6_mapped().into()] {
                assert_eq!(own.unusable(address, false), nobody.unusable(address, false), "{address}");
            }
        }
    }

    #[test]
    fn reference_ids_of_all_addresses_are_a_loop_and_those_of_loopback_are_not() {
        let own = own(&["192.0.2.1", "198.51.100.7", "2001:db8::1", "127.0.0.1", "::1"]);
        for address in ["192.0.2.1", "198.51.100.7", "2001:db8::1"] {
            assert!(own.reference_ids().contains(&reference_id(address.parse().unwrap())), "{address}");
        }
        // The value was computed with md5sum.
        assert!(own.reference_ids().contains(&0x39ab_9b37));
        // The same bytes in reverse order belong to another server.
        assert!(!own.reference_ids().contains(&0x379b_ab39));
        for other in ["192.0.2.2", "127.0.0.1", "::1", "127.127.1.1", "2001:db8::2"] {
            assert!(!own.reference_ids().contains(&reference_id(other.parse().unwrap())), "{other}");
        }
        assert!(!own.reference_ids().contains(&u32::from_be_bytes(*b"LOCL")));
    }

    #[test]
    fn the_kernel_s_list_has_loopback() {
        let own = OwnAddresses::of_this_host().unwrap();
        assert!(own.addresses.iter().any(IpAddr::is_loopback), "{own:?}");
    }
}
