//! The host's interfaces and addresses over netlink, and notifications of their changes.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, Prop, XdpAttached,
};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, new_connection, new_multicast_connection};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::error::{Code, Error, Result, chain};
use crate::net::stations::{Link, Reception};
use crate::net::topology::{self, LinkRelations};
use crate::net::xdp_mode::Mode;

/// An XDP program on an interface, whoever attached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Where the program runs.
    pub mode: Mode,
    /// The kernel's ID of the program.
    pub program_id: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index; a rename does not change it.
    pub index: u32,
    /// Current name.
    pub name: String,
    /// Other names of it (`ip link property add altname`).
    pub other_names: Vec<String>,
    /// What its frames begin with.
    pub framing: Framing,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether its link carries frames.
    pub carrier: bool,
    /// How often the link has ceased to.
    pub carrier_losses: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is a bond or a team of other interfaces.
    pub is_bond: bool,
    /// The attached XDP program.
    pub xdp: Option<AttachedXdp>,
    /// State of the driver.
    pub driver: Driver,
}

/// What the frames of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// An Ethernet header, but no frame leaves the host.
    Loopback,
    /// Something else, or nothing, as with tunnels.
    Other,
}

impl Interface {
    /// Whether this is one of the interface's names.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }

    /// Returns why the program cannot serve on it, whatever its driver says, and what to do instead.
    #[must_use]
    pub const fn unservable(&self) -> Option<(&'static str, &'static str)> {
        const OTHER: &str = "attach to the interface on which its packets come from the network; \
                             the socket on port 123 answers what comes by this one";
        match self.framing {
            Framing::Ethernet => None,
            Framing::Loopback => Some((
                "it is the loopback interface: an answer there would not reach who asked",
                "nothing needs to be attached: the socket on port 123 answers this host's own requests",
            )),
            Framing::Other => Some(("its packets have no Ethernet header, which the program expects", OTHER)),
        }
    }
}

/// The error that no interface has a given name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The name that was looked up.
    pub name: String,
    /// The names of all interfaces of the host.
    pub present: Vec<String>,
}

impl Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no interface `{}`", self.name)
    }
}

impl From<Absent> for Error {
    fn from(absent: Absent) -> Self {
        let present = absent.present.join(", ");
        Self::new(Code::NoInput, absent).remedy(format_args!("there are: {present}"))
    }
}

/// Returns the interface with this name. An alternative name is as good.
///
/// # Errors
///
/// There is no such interface.
pub fn named<'a>(interfaces: &'a [Interface], name: &str) -> Result<&'a Interface, Absent> {
    interfaces.iter().find(|interface| interface.is_called(name)).ok_or_else(|| Absent {
        name: name.to_owned(),
        present: interfaces.iter().map(|interface| interface.name.clone()).collect(),
    })
}

/// A driver's queues, and the frames that it lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// Number of receive queues that the driver has allocated.
    pub receive_queues: u32,
    /// Number of transmit queues that the driver has allocated.
    pub transmit_queues: u32,
    /// Frames that were received and dropped, because there was no memory or no receiver.
    pub receive_dropped: u64,
    /// Frames that were not received because the rings were full.
    pub receive_missed: u64,
    /// Frames that were dropped while sending.
    pub transmit_dropped: u64,
}

/// The addresses of some interfaces and of all interfaces stacked on them, and the stations that they receive at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4 addresses, each with the index of the interface on which it is served.
    pub ipv4: Vec<(u32, Ipv4Addr)>,
    /// IPv4 broadcast addresses, which are never a client's.
    pub broadcast: Vec<Ipv4Addr>,
    /// IPv6 addresses, each with the index of the interface on which it is served.
    pub ipv6: Vec<(u32, Ipv6Addr)>,
    /// For each interface, by index, the stations that it receives at.
    pub receptions: BTreeMap<u32, Reception>,
}

impl Addresses {
    /// Returns the addresses that are served on an interface, IPv4 first.
    pub fn of(&self, interface: u32) -> impl Iterator<Item = IpAddr> + '_ {
        let ipv4 = self.ipv4.iter().map(|(index, address)| (*index, IpAddr::V4(*address)));
        let ipv6 = self.ipv6.iter().map(|(index, address)| (*index, IpAddr::V6(*address)));
        ipv4.chain(ipv6).filter(move |(index, _)| *index == interface).map(|(_, address)| address)
    }
}

/// A connection to the kernel's routing netlink.
///
/// A request may take seconds. The kernel handles most of them within the system call that sends them, and holds its
/// lock on network interfaces (RTNL) meanwhile. So the thread that publishes the clock must not use it.
pub struct Netlink {
    handle: Handle,
    messages: Pin<Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>>>,
    connection: tokio::task::JoinHandle<()>,
    /// When a connection was last made or failed.
    tried: Instant,
}

/// Interval between two attempts to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

impl Netlink {
    /// Connects, and subscribes to changes of links and addresses. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel refuses the connection.
    pub fn connect() -> Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = new_multicast_connection(&groups)
            .map_err(Error::because(Code::Os, "cannot open a netlink socket"))?;
        Ok(Self {
            handle,
            messages: Box::pin(messages),
            connection: tokio::spawn(connection),
            tried: Instant::now(),
        })
    }

    /// Connects for requests only, without a subscription to changes. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel refuses the connection.
    pub fn connect_to_ask() -> Result<Self> {
        let (connection, handle, messages) =
            new_connection().map_err(Error::because(Code::Os, "cannot open a netlink socket"))?;
        Ok(Self {
            handle,
            messages: Box::pin(messages),
            connection: tokio::spawn(connection),
            tried: Instant::now(),
        })
    }

    /// Waits until something changed. A connection that ended is made anew, and what changed meanwhile is not known: so
    /// that counts as a change. Nothing is lost if the wait is given up and begun again.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            self.reconnect().await;
            return;
        }
        // One change comes as several messages, so all pending ones are taken.
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
    }

    async fn reconnect(&mut self) {
        loop {
            tokio::time::sleep_until((self.tried + RECONNECT_INTERVAL).into()).await;
            match Self::connect() {
                Ok(connected) => {
                    warn!("the netlink connection ended; reconnected to follow interfaces and addresses");
                    *self = connected;
                    return;
                }
                Err(error) => {
                    error!("the netlink connection ended: {error}");
                    self.tried = Instant::now();
                }
            }
        }
    }

    /// Returns all interfaces.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        Ok(self.links().await?.iter().map(interface).collect())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>> {
        self.handle.link().get().execute().try_collect().await.map_err(failed("list the interfaces"))
    }

    /// The usable addresses of these interfaces and of all that stand on them: not those still being checked
    /// for duplicates. And the stations that these interfaces receive at.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub async fn addresses(&self, interfaces: &[u32]) -> Result<Addresses> {
        let messages = self.address_messages().await?;
        let links = self.links().await?;
        let relations: Vec<_> = links.iter().map(LinkRelations::of).collect();
        let links: Vec<_> = links.iter().map(Link::of).collect();
        let mut addresses = Addresses::default();
        for interface in interfaces {
            addresses.receptions.insert(*interface, Reception::of(*interface, &links));
            let stack = topology::stacked_on(*interface, &relations);
            for message in messages.iter().filter(|message| stack.contains(&message.header.index)) {
                add(&mut addresses, *interface, message);
            }
        }
        Ok(addresses)
    }

    /// Returns the usable addresses of every interface, whether it is served on or not.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    pub async fn own_addresses(&self) -> Result<Addresses> {
        let mut addresses = Addresses::default();
        for message in self.address_messages().await? {
            add(&mut addresses, message.header.index, &message);
        }
        Ok(addresses)
    }

    /// Returns every address as the kernel describes it.
    pub(crate) async fn address_messages(&self) -> Result<Vec<AddressMessage>> {
        self.handle.address().get().execute().try_collect().await.map_err(failed("list the addresses"))
    }

    /// Returns which interfaces are stacked on which.
    pub(crate) async fn relations(&self) -> Result<Vec<LinkRelations>> {
        Ok(self.links().await?.iter().map(LinkRelations::of).collect())
    }

    /// Detaches a program from an interface that was attached over netlink.
    ///
    /// # Errors
    ///
    /// The kernel refuses, for example because a BPF link holds the program.
    pub async fn remove_xdp(&self, interface: &Interface, mode: Mode) -> Result<()> {
        self.set_xdp(interface, mode, -1).await.map_err(|error| {
            Error::new(
                Code::Unavailable,
                format_args!("cannot detach the XDP program from {}: {}", interface.name, chain(&error)),
            )
            .remedy(
                "a program that a BPF link holds has to be detached by its owner: see `bpftool link list`",
            )
        })
    }

    /// Attaches a program to an interface over netlink.
    ///
    /// # Errors
    ///
    /// The kernel or the driver refuses.
    pub async fn put_xdp(&self, interface: &Interface, mode: Mode, program: BorrowedFd<'_>) -> Result<()> {
        self.set_xdp(interface, mode, program.as_raw_fd())
            .await
            .map_err(failed(&format!("attach an XDP program to {}", interface.name)))
    }

    async fn set_xdp(
        &self,
        interface: &Interface,
        mode: Mode,
        program: RawFd,
    ) -> std::result::Result<(), rtnetlink::Error> {
        const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
        const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
        let flags = match mode {
            Mode::Native => XDP_FLAGS_DRV_MODE,
            Mode::Generic => XDP_FLAGS_SKB_MODE,
        };
        let message = LinkUnspec::new_with_index(interface.index)
            .append_extra_attribute(LinkAttribute::Xdp(vec![LinkXdp::Fd(program), LinkXdp::Flags(flags)]))
            .build();
        self.handle.link().set(message).execute().await
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn failed(what: &str) -> impl FnOnce(rtnetlink::Error) -> Error {
    Error::because(Code::Os, format!("cannot {what} over netlink"))
}

fn interface(message: &LinkMessage) -> Interface {
    let (mut name, mut other_names) = (String::new(), Vec::new());
    let (mut mtu, mut xdp, mut driver) = (0, None, Driver::default());
    let mut carrier_losses = 0;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name.clone_from(found),
            LinkAttribute::PropList(properties) => {
                other_names.extend(properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            LinkAttribute::Mtu(found) => mtu = *found,
            LinkAttribute::Xdp(found) => xdp = attached(found),
            LinkAttribute::CarrierDownCount(number) => carrier_losses = *number,
            LinkAttribute::NumRxQueues(number) => driver.receive_queues = *number,
            LinkAttribute::NumTxQueues(number) => driver.transmit_queues = *number,
            LinkAttribute::Stats64(statistics) => {
                driver.receive_dropped = statistics.rx_dropped;
                driver.receive_missed = statistics.rx_missed_errors;
                driver.transmit_dropped = statistics.tx_dropped;
            }
            _ => {}
        }
    }
    Interface {
        index: message.header.index,
        name,
        other_names,
        framing: match message.header.link_layer_type {
            LinkLayerType::Ether => Framing::Ethernet,
            LinkLayerType::Loopback => Framing::Loopback,
            _ => Framing::Other,
        },
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        carrier_losses,
        mtu,
        is_bond: matches!(topology::kind(message), Some(InfoKind::Bond | InfoKind::Team)),
        xdp,
        driver,
    }
}

fn attached(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Mode::Generic),
        LinkXdp::Attached(XdpAttached::None | XdpAttached::Other(_)) => None,
        LinkXdp::Attached(_) => Some(Mode::Native),
        _ => None,
    })?;
    let program_id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(AttachedXdp { mode, program_id })
}

fn add(addresses: &mut Addresses, index: u32, message: &AddressMessage) {
    if message.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed)
        && !message.header.flags.contains(AddressHeaderFlags::Optimistic)
    {
        return;
    }
    // On a point-to-point link IFA_ADDRESS is the peer's address and IFA_LOCAL ours. On other links IPv6 has
    // only the first, and IPv4 has the same in both.
    let (mut local, mut network) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => network = Some(*found),
            AddressAttribute::Broadcast(broadcast) => addresses.broadcast.push(*broadcast),
            _ => {}
        }
    }
    match local.or(network) {
        Some(IpAddr::V4(found)) => addresses.ipv4.push((index, found)),
        Some(IpAddr::V6(found)) => addresses.ipv6.push((index, found)),
        None => {}
    }
    if let Some(IpAddr::V4(network)) = network {
        addresses.broadcast.extend(network_broadcast(network, message.header.prefix_len));
    }
}

/// Returns the last address of a network. The kernel treats it as a broadcast address whether it is
/// configured as one or not (`fib_add_ifaddr`), except in networks of one or two addresses (RFC 3021).
fn network_broadcast(address: Ipv4Addr, prefix_length: u8) -> Option<Ipv4Addr> {
    let host_bits = u32::MAX.checked_shr(prefix_length.into()).unwrap_or(0);
    (prefix_length < 31).then(|| Ipv4Addr::from_bits(address.to_bits() | host_bits))
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_name_that_no_interface_has_is_told_with_those_that_there_are() {
        let interface = |index, name: &str| Interface {
            index,
            name: name.into(),
            other_names: vec![format!("{name}-by-another-name")],
            framing: Framing::Ethernet,
            up: true,
            carrier: true,
            carrier_losses: 0,
            mtu: 1500,
            is_bond: false,
            xdp: None,
            driver: Driver::default(),
        };
        let interfaces = [interface(1, "lo"), interface(2, "eth0")];
        assert_eq!(named(&interfaces, "eth0").unwrap().index, 2);
        assert_eq!(named(&interfaces, "eth0-by-another-name").unwrap().index, 2);
        let error = Error::from(named(&interfaces, "eth1").unwrap_err());
        assert_eq!(error.to_string(), "there is no interface `eth1`\n  there are: lo, eth0");
        assert_eq!(error.code, Code::NoInput);
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_made_anew_however_often_the_wait_for_it_is_given_up() {
        let mut netlink = Netlink::connect().unwrap();
        netlink.connection.abort();
        let start = Instant::now();
        // This happens in the daemon's loop, whose timers are due several times per second.
        while timeout(Duration::from_millis(100), netlink.changed()).await.is_err() {
            assert!(start.elapsed() < 10 * RECONNECT_INTERVAL, "no new connection");
        }
        let interfaces = netlink.interfaces().await.unwrap();
        assert!(interfaces.iter().any(|interface| interface.name == "lo"));
    }
}
