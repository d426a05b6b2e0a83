//! The frame of a request: what all requests have in common, and where the addresses of clients go.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bench_ebpf::load_token::{CLIENT_IPV4, CLIENT_IPV6_HOST, CLIENT_IPV6_NETWORK, FRAME_WORDS, MAX_CLIENTS};

use super::target::is_private;
use crate::frames::{self, MESSAGE, Path};

/// Offset of the source address in a frame.
const IPV4_SOURCE: usize = 26;
const IPV6_SOURCE: usize = 22;

/// A network that requests should come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceNet {
    address: IpAddr,
    length: u32,
}

impl FromStr for SourceNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not a network, such as 10.64.0.0/10 or fd64::/32");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let (address, length): (IpAddr, u32) =
            address.parse().ok().zip(length.parse().ok()).ok_or_else(wrong)?;
        let (bits, whole) = match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        if length > whole {
            return Err(wrong());
        }
        if bits.checked_shl(length).unwrap_or(0) != 0 {
            return Err(format!("{text} has bits set after the first {length}: use the network's address"));
        }
        Ok(Self { address, length })
    }
}

/// Where requests come from, if that is not this host's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    net: SourceNet,
    clients: u32,
}

impl Sources {
    /// Takes all addresses of a network, as far as the limit allows. Over IPv6 it is one in each /64 if there
    /// are several.
    pub(crate) fn all(net: SourceNet) -> Self {
        let room = match net.address {
            IpAddr::V4(_) => 32 - net.length,
            IpAddr::V6(_) if net.length < 64 => 64 - net.length,
            IpAddr::V6(_) => 128 - net.length,
        };
        Self { net, clients: 1 << room.min(MAX_CLIENTS.ilog2()) }
    }

    /// Takes this number of clients in a network, rounded up to a power of two.
    pub(crate) fn new(net: SourceNet, clients: u32) -> Result<Self, String> {
        let clients = clients.max(1).checked_next_power_of_two().unwrap_or(u32::MAX);
        let room = match net.address {
            IpAddr::V4(_) => 32 - net.length,
            // Each client gets its own /64 if the network has enough of them.
            IpAddr::V6(_) if net.length + clients.ilog2() <= 64 => 64 - net.length,
            IpAddr::V6(_) => 128 - net.length,
        };
        if u64::from(clients) > MAX_CLIENTS || clients.ilog2() > room {
            return Err(format!(
                "{}/{} has no room for {clients} clients: use a larger network, or fewer clients (at most {MAX_CLIENTS})",
                net.address, net.length
            ));
        }
        Ok(Self { net, clients })
    }

    pub(super) fn clients(self) -> u32 {
        self.clients
    }

    /// Whether answers to these addresses stay within private networks.
    pub(super) fn is_private(self) -> bool {
        // A private network is contiguous: if the first and the last address are in it, so are all others.
        is_private(self.net.address) && is_private(self.last())
    }

    fn last(self) -> IpAddr {
        match self.net.address {
            IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) | (self.clients - 1)).into(),
            // The bits that tell clients apart come after those that say what is private.
            address @ IpAddr::V6(_) => address,
        }
    }

    pub(super) fn is_ipv4(self) -> bool {
        self.net.address.is_ipv4()
    }
}

/// A request's frame without source port, version, transmit timestamp and the part of the source address that
/// tells clients apart.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// The beginning of the frame, which is written anew for each request.
    pub(super) frame: [u64; FRAME_WORDS],
    /// The whole frame.
    pub(super) bytes: Vec<u8>,
    /// One's complement sums without what is left out; their complements are the checksums.
    pub(super) sum: u16,
    pub(super) header_sum: u16,
    /// Offset of the 32-bit word of the source address that is left out; the word for the first client
    /// follows.
    pub(super) client_at: u64,
    pub(super) first_client: u32,
    /// Number of clients, a power of two.
    pub(super) clients: u32,
}

impl Template {
    /// Makes the frame of requests that have `extension` behind their messages.
    pub(super) fn new(path: &Path, sources: Option<Sources>, extension: &[u8]) -> Self {
        let mut path = *path;
        let mut clients = 1;
        if let Some(sources) = sources {
            path.source = sources.net.address;
            clients = sources.clients;
        }
        let (source_at, client_at) = match (path.source, sources) {
            (IpAddr::V4(_), _) => (IPV4_SOURCE, CLIENT_IPV4),
            (IpAddr::V6(_), Some(sources)) if sources.net.length + clients.ilog2() <= 64 => {
                (IPV6_SOURCE, CLIENT_IPV6_NETWORK)
            }
            (IpAddr::V6(_), _) => (IPV6_SOURCE, CLIENT_IPV6_HOST),
        };
        let word_at = usize::try_from(client_at).unwrap_or_default() - source_at;
        let mut first = [0; 4];
        match &mut path.source {
            IpAddr::V4(address) => {
                first = address.octets();
                *address = 0.into();
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                first.copy_from_slice(&octets[word_at..word_at + 4]);
                octets[word_at..word_at + 4].fill(0);
                // The address of a network is not the address of a host in it.
                octets[15] |= u8::from(sources.is_some() && client_at == CLIENT_IPV6_NETWORK);
                *address = octets.into();
            }
        }
        let bytes = frames::udp(&path, &[&[0; MESSAGE], extension].concat());
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut frame = [0; FRAME_WORDS];
        for (word, bytes) in frame.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        Self {
            frame,
            sum: !number(bytes.len() - extension.len() - MESSAGE - 2),
            header_sum: !number(24),
            bytes,
            client_at,
            first_client: u32::from_be_bytes(first),
            clients,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(net: &str, clients: u32) -> Result<Sources, String> {
        Sources::new(net.parse()?, clients)
    }

    #[test]
    fn a_network_is_written_as_one() {
        assert!("10.64.0.0/10".parse::<SourceNet>().is_ok() && "fd64::/32".parse::<SourceNet>().is_ok());
        for wrong in ["10.64.0.1/10", "10.0.0.0", "10.0.0.0/33", "fd64::1/64", "fd64::/129", "net/8", ""] {
            assert!(wrong.parse::<SourceNet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn clients_have_to_fit_into_their_network() {
        assert_eq!(sources("10.0.0.0/24", 200).unwrap().clients(), 256);
        assert!(sources("10.0.0.0/24", 257).is_err());
        assert!(sources("fd64::/120", 257).is_err());
        let all = |net: &str| Sources::all(net.parse().unwrap()).clients();
        assert_eq!(
            ["10.0.0.0/24", "fd64::/48", "fd64::/124", "fd00::/8"].map(all),
            [256, 1 << 16, 16, 1 << 24]
        );
        assert!(sources("10.0.0.0/8", 1 << 24).is_ok() && sources("fd64::/16", (1 << 24) + 1).is_err());
    }

    #[test]
    fn clients_that_reach_beyond_a_private_network_are_not_private() {
        assert!(sources("172.16.0.0/12", 1 << 20).unwrap().is_private());
        assert!(!sources("169.254.0.0/15", 1 << 17).unwrap().is_private());
        assert!(!Sources::all("192.168.0.0/15".parse().unwrap()).is_private());
        assert!(Sources::all("10.0.0.0/8".parse().unwrap()).is_private());
        assert!(Sources::all("fd00::/8".parse().unwrap()).is_private());
        assert!(!sources("2001:db8::/32", 4).unwrap().is_private());
    }

    #[test]
    fn the_word_of_the_clients_is_left_out_of_the_frame() {
        let path = Path::between;
        let own = Template::new(&path("10.1.2.3", "10.1.2.4"), None, &[]);
        assert_eq!((own.first_client, own.clients, own.bytes.len()), (0x0a01_0203, 1, 90));
        let many = Template::new(&path("10.1.2.3", "10.1.2.4"), sources("10.64.0.0/10", 1024).ok(), &[]);
        assert_eq!((many.first_client, many.clients, many.sum), (0x0a40_0000, 1024, own.sum));
        let subnets = Template::new(&path("fd00::1", "fd00::2"), sources("fd64::/32", 1024).ok(), &[]);
        assert_eq!((subnets.client_at, subnets.first_client), (CLIENT_IPV6_NETWORK, 0));
        let hosts = Template::new(&path("fd00::1", "fd00::2"), sources("fd64::/64", 1024).ok(), &[]);
        assert_eq!((hosts.client_at, hosts.first_client), (CLIENT_IPV6_HOST, 0));
        let own = Template::new(&path("fd00::1:2", "fd00::2"), None, &[]);
        assert_eq!((own.client_at, own.first_client, own.bytes.len()), (CLIENT_IPV6_HOST, 0x0001_0002, 110));
    }
}
