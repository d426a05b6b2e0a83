//! The route to the server: interface, source address and next hop, from the kernel's tables over netlink.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};

use super::LinkError;

/// How often the next hop's MAC address is looked up, and the interval between two attempts.
const LOOKS: u32 = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Every so many attempts, the kernel is asked again to resolve it: it gives up at once on an interface that
/// has just come up, while its own IPv6 address is still being checked for duplicates.
const TELL_AGAIN: u32 = 10;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(super) [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let is_byte = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
                u8::from_str_radix(part, 16).ok().filter(|_| is_byte)
            })
            .collect();
        let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        mac.map(Self).ok_or_else(|| format!("{text} is not a MAC address, such as 02:00:00:77:00:01"))
    }
}

/// What the command line says about the route, which overrides the kernel's tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    pub(crate) interface: Option<String>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) next_hop: Option<Mac>,
}

impl Choices {
    pub(in crate::load) fn are_made(&self) -> bool {
        self.interface.is_some() || self.gateway.is_some() || self.next_hop.is_some()
    }
}

/// The route; see the module.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) source: IpAddr,
    pub(super) source_mac: [u8; 6],
    pub(super) next_hop_mac: [u8; 6],
}

impl Route {
    /// Asks the kernel for the route, and has it resolve the next hop's MAC address if it does not know it
    /// yet.
    pub(super) fn find(target: SocketAddr, choices: &Choices) -> Result<Self, LinkError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| LinkError::Netlink(error.to_string()))?;
        runtime.block_on(async {
            let (connection, handle, _) =
                new_connection().map_err(|error| LinkError::Netlink(error.to_string()))?;
            let connection = tokio::spawn(connection);
            let found = Tables(handle).way(target, choices).await;
            connection.abort();
            found
        })
    }
}

/// An interface through which frames can be sent.
struct Port {
    name: String,
    index: u32,
    mac: [u8; 6],
}

/// The kernel's tables, over netlink.
struct Tables(Handle);

impl Tables {
    async fn way(&self, target: SocketAddr, choices: &Choices) -> Result<Route, LinkError> {
        let chosen = match &choices.interface {
            Some(name) => Some(self.interface(|_, found| found == name.as_str(), name).await?),
            None => None,
        };
        let scope = match target {
            SocketAddr::V6(target) => target.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let index = chosen.as_ref().map_or(scope, |port| port.index);
        let hop = match self.route(target.ip(), index).await {
            Ok(hop) => hop,
            // A user who says where to send needs no route.
            Err(_) if index != 0 && (choices.gateway.is_some() || choices.next_hop.is_some()) => {
                Hop { index, source: None, gateway: None }
            }
            Err(error) => return Err(error),
        };
        let port = match chosen {
            Some(port) => port,
            None => self.interface(|index, _| index == hop.index, &hop.index.to_string()).await?,
        };
        let source = match hop.source {
            Some(source) => source,
            None => self.source_on(&port, target.ip()).await?,
        };
        let next_hop_mac = match choices.next_hop {
            Some(mac) => mac.0,
            None => self.resolve(&port, choices.gateway.or(hop.gateway).unwrap_or(target.ip())).await?,
        };
        Ok(Route { interface: port.name, index: port.index, source, source_mac: port.mac, next_hop_mac })
    }

    /// Returns the interface that is `wanted`, if frames can be sent through it.
    async fn interface(&self, wanted: impl Fn(u32, &str) -> bool, called: &str) -> Result<Port, LinkError> {
        let links: Vec<LinkMessage> = self.0.link().get().execute().try_collect().await.map_err(failed)?;
        let name = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })
        };
        let found = links.iter().find_map(|link| {
            name(link).filter(|name| wanted(link.header.index, name)).map(|name| (link, name))
        });
        let Some((link, name)) = found else {
            let known: Vec<String> = links.iter().filter_map(name).collect();
            return Err(LinkError::NoInterface { interface: called.into(), known: known.join(", ") });
        };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(LinkError::Down(name));
        }
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
            _ => None,
        });
        match mac.filter(|_| link.header.link_layer_type == LinkLayerType::Ether) {
            Some(mac) => Ok(Port { name, index: link.header.index, mac }),
            None => Err(LinkError::NoEthernet(name)),
        }
    }

    /// Asks the routing table, only for routes through this interface if the index is not 0.
    async fn route(&self, target: IpAddr, index: u32) -> Result<Hop, LinkError> {
        let whole = if target.is_ipv4() { 32 } else { 128 };
        let mut question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(target, whole)
            .map_err(|error| LinkError::Netlink(error.to_string()))?
            .build();
        if index != 0 {
            question.attributes.push(RouteAttribute::Oif(index));
        }
        let refused = |reason: String| LinkError::NoRoute { target, reason };
        let answer = self.0.route().get(question).execute().next().await;
        let route = match answer {
            Some(Ok(route)) => route,
            Some(Err(rtnetlink::Error::NetlinkError(error))) => {
                return Err(refused(error.to_io().to_string()));
            }
            Some(Err(error)) => return Err(refused(error.to_string())),
            None => return Err(refused("the kernel did not say".into())),
        };
        match route.header.kind {
            RouteType::Unicast => Hop::of(&route).ok_or_else(|| refused("it has no interface".into())),
            RouteType::Local => Err(LinkError::ThisHost(target)),
            kind => Err(refused(format!("it is of the type {kind:?}"))),
        }
    }

    /// Returns an address of the interface, of the target's family.
    async fn source_on(&self, port: &Port, target: IpAddr) -> Result<IpAddr, LinkError> {
        let request = self.0.address().get().set_link_index_filter(port.index);
        let addresses: Vec<_> = request.execute().try_collect().await.map_err(failed)?;
        let of_message = addresses.iter().filter_map(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        let family = if target.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut fitting = of_message.filter(|address| address.is_ipv4() == target.is_ipv4());
        fitting.next().ok_or_else(|| LinkError::NoAddress { interface: port.name.clone(), family })
    }

    /// Returns the MAC address of a neighbour from the table, and has the kernel resolve it if it is missing.
    async fn resolve(&self, port: &Port, address: IpAddr) -> Result<[u8; 6], LinkError> {
        for look in 0..LOOKS {
            if let Some(mac) = self.neighbour(port.index, address).await? {
                return Ok(mac);
            }
            if look % TELL_AGAIN == 0 {
                let provoked = self.0.neighbours().add(port.index, address);
                let provoked = provoked.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
                provoked.execute().await.map_err(failed)?;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(LinkError::NoNeighbour { address, interface: port.name.clone() })
    }

    async fn neighbour(&self, index: u32, address: IpAddr) -> Result<Option<[u8; 6]>, LinkError> {
        let all: Vec<NeighbourMessage> =
            self.0.neighbours().get().execute().try_collect().await.map_err(failed)?;
        let is_it = |message: &&NeighbourMessage| {
            message.header.ifindex == index
                && is_known(message.header.state)
                && message.attributes.iter().any(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address == *found,
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address == *found,
                    _ => false,
                })
        };
        Ok(all.iter().find(is_it).and_then(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
                _ => None,
            })
        }))
    }
}

/// One hop of a route.
struct Hop {
    index: u32,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Hop {
    fn of(route: &RouteMessage) -> Option<Self> {
        let mut hop = Self { index: 0, source: None, gateway: None };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => hop.index = *index,
                RouteAttribute::PrefSource(address) => hop.source = plain(address),
                RouteAttribute::Gateway(address) => hop.gateway = plain(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => hop.gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => hop.gateway = Some((*address).into()),
                _ => {}
            }
        }
        (hop.index != 0).then_some(hop)
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Whether the kernel itself would use the MAC address of an entry in this state.
fn is_known(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    matches!(state, Reachable | Stale | Delay | Probe | Permanent)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: rtnetlink::Error) -> LinkError {
    LinkError::Netlink(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_six_bytes() {
        assert_eq!("02:00:00:77:00:fe".parse(), Ok(Mac([2, 0, 0, 0x77, 0, 0xfe])));
        for wrong in [
            "",
            "02:00:00:77:00",
            "02:00:00:77:00:01:02",
            "2:0:0:77:0:1",
            "02-00-00-77-00-01",
            "+2:00:00:77:00:01",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
