//! A single HTTP GET that is limited in size and time. It goes over a given family and from a given address
//! of this host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use ureq::config::IpFamily;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};

use crate::error::{Code, Error, Result, chain};

/// Timeout for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Largest page that is read; the largest score pages have some hundred KiB.
const MAX_BYTES: u64 = 4 << 20;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct From {
    /// The family, or `None` for the one that the kernel prefers.
    pub(super) family: Option<Family>,
    /// The address of this host, or `None` for the kernel's choice.
    pub(super) address: Option<IpAddr>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// Returns a page as text.
pub(super) fn get(url: &str, from: From) -> Result<String> {
    let failed = |error: ureq::Error| {
        let error = match error {
            ureq::Error::StatusCode(404) => "not found (HTTP status 404)".to_owned(),
            error => chain(&error),
        };
        Error::new(Code::Unavailable, format_args!("{url}: {error}"))
    };
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .ip_family(match from.family {
            Some(Family::Ipv4) => IpFamily::Ipv4Only,
            Some(Family::Ipv6) => IpFamily::Ipv6Only,
            None => IpFamily::Any,
        })
        .user_agent(concat!("pooltime-xdp/", env!("CARGO_PKG_VERSION")))
        .build();
    let connector = FromAddress(from.address).chain(RustlsConnector::default());
    let agent = ureq::Agent::with_parts(config, connector, DefaultResolver::default());
    let mut response = agent.get(url).call().map_err(failed)?;
    response.body_mut().with_config().limit(MAX_BYTES).read_to_string().map_err(failed)
}

/// Connects over TCP, from a given address if there is one.
#[derive(Debug)]
struct FromAddress(Option<IpAddr>);

impl Connector for FromAddress {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _chained: Option<()>,
    ) -> std::result::Result<Option<Connection>, ureq::Error> {
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for server in &details.addrs {
            match self.open(*server) {
                Ok(stream) => {
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Connection { stream, buffers }));
                }
                Err(error) => last = error,
            }
        }
        Err(ureq::Error::Io(last))
    }
}

impl FromAddress {
    fn open(&self, server: SocketAddr) -> std::io::Result<TcpStream> {
        let stream = match self.0 {
            None => TcpStream::connect_timeout(&server, TIMEOUT)?,
            Some(address) => {
                let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
                // The timeout of sending also limits connect(2).
                let timeout = TimeVal::seconds(i64::try_from(TIMEOUT.as_secs()).unwrap_or(i64::MAX));
                setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
                bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0)))?;
                connect(socket.as_raw_fd(), &SockaddrStorage::from(server))?;
                TcpStream::from(socket)
            }
        };
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }
}

/// A connection. The library's own type cannot be made from a socket that is already connected.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        _timeout: NextTimeout,
    ) -> std::result::Result<(), ureq::Error> {
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        // The time that is left of the whole exchange also ends a server that sends a byte now and then.
        let left = timeout.not_zero().map_or(TIMEOUT, |left| *left);
        self.stream.set_read_timeout(Some(left))?;
        let amount = match self.stream.read(self.buffers.input_append_buf()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(ureq::Error::Timeout(timeout.reason));
            }
            amount => amount?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Only matters for connections that are kept for another request; none is.
    fn is_open(&mut self) -> bool {
        false
    }
}
