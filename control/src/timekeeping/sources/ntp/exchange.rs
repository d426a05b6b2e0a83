//! One request to an upstream and its outcome, without blocking, with the kernel's timestamps.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, TimestampingFlag, recvmsg, setsockopt, sockopt,
};
use protocol::{Answer, Kiss, PendingRequest, Reject, ServerTime, Strictness, Times};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::timestamping::ExchangeTimestamps;
use crate::sys::kernel_clock::{CrossTimestamp, KernelClock as _, Machine, monotonic_ns};
use crate::sys::random;

/// Size of the receive buffer. Longer datagrams are cut off; they are too long to be an answer anyway.
const BUFFER: usize = 64;
/// After this many packets that are no answers the exchange is given up, because somebody floods the port.
const PATIENCE: u64 = 64;

/// The result of a request.
#[derive(Debug)]
pub struct Exchange {
    /// How it ended.
    pub outcome: ExchangeOutcome,
    /// Numbers of packets that were no answers to the request, by reason.
    pub refused: BTreeMap<Reject, u64>,
    /// The local address from which it was sent.
    pub local: Option<IpAddr>,
    /// From where an answer to the request came, if not from the server.
    pub elsewhere: Option<SocketAddr>,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum ExchangeOutcome {
    /// An answer came. Whether it can be used is decided by [`ServerTime::usable`].
    Time(ServerTime, Times),
    /// A kiss of death came.
    Kiss(Kiss),
    /// An answer came that contradicts itself.
    Rejected(Reject),
    /// No answer came in time.
    Silence,
    /// The network reported an error, such as no route or a closed port.
    Failed(io::Error),
}

/// Asks `server` once, from a new socket, so that each request has another source port (RFC 9109).
pub async fn exchange(server: SocketAddr, patience: Duration) -> Exchange {
    let mut exchange = Exchange {
        outcome: ExchangeOutcome::Silence,
        refused: BTreeMap::new(),
        local: None,
        elsewhere: None,
    };
    let deadline = Instant::now() + patience;
    let outcome = match timeout_at(deadline, exchange.run(server)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => ExchangeOutcome::Failed(error),
        Err(_too_late) => ExchangeOutcome::Silence,
    };
    Exchange { outcome, ..exchange }
}

impl Exchange {
    async fn run(&mut self, server: SocketAddr) -> io::Result<ExchangeOutcome> {
        let local = local_address(server)?;
        self.local = Some(local.ip());
        let socket = UdpSocket::from_std(open(local)?)?;
        let request = PendingRequest::new(random::bytes().map_err(io::Error::other)?);
        let before = Machine.cross_timestamp().map_err(io::Error::other)?;
        socket.send_to(&request.to_bytes(), server).await?;
        let handed_over_ns = monotonic_ns().map_err(io::Error::other)?;
        while self.refused.values().sum::<u64>() < PATIENCE {
            let Arrival { from, bytes, length, stamp_ns, after } = arrival(&socket).await?;
            let answer = request.read(&bytes[..length], Strictness::CLIENT);
            let is_elsewhere =
                from.is_some_and(|from| (from.ip(), from.port()) != (server.ip(), server.port()));
            if is_elsewhere && !answer.as_ref().is_err_and(|reject| reject.is_forgery()) {
                self.elsewhere = from;
                *self.refused.entry(Reject::Source).or_default() += 1;
                continue;
            }
            match answer {
                Err(reject) if reject.is_forgery() => *self.refused.entry(reject).or_default() += 1,
                Err(reject) => return Ok(ExchangeOutcome::Rejected(reject)),
                Ok(Answer::Kiss(kiss)) => return Ok(ExchangeOutcome::Kiss(kiss)),
                Ok(Answer::Time(time)) => {
                    let seen = ExchangeTimestamps {
                        before,
                        handed_over_ns,
                        transmit_stamp_ns: transmit_stamp_ns(&socket),
                        receive_stamp_ns: stamp_ns,
                        after,
                    };
                    return Ok(ExchangeOutcome::Time(time, seen.times()));
                }
            }
        }
        Ok(ExchangeOutcome::Silence)
    }
}

/// Opens a socket that keeps the kernel's timestamping on. The kernel turns it on some time after the first
/// socket has asked for it, which would be too late for the socket of a single request.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_stamping() -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    ask_for_stamps(&socket)?;
    Ok(socket)
}

/// Returns the address from which this host would ask a server, with any port. Sends nothing.
fn local_address(server: SocketAddr) -> io::Result<SocketAddr> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    let mut local = socket.local_addr()?;
    local.set_port(0);
    Ok(local)
}

/// Opens a socket with a local address. It is not connected: an answer from another address than the one that was asked
/// is refused, but the operator is told of it. The kernel reports a closed port all the same.
fn open(local: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    if local.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    // It works without timestamps as well, but less precisely.
    let _without = ask_for_stamps(&socket);
    Ok(socket)
}

fn ask_for_stamps(socket: &std::net::UdpSocket) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    Ok(setsockopt(socket, sockopt::Timestamping, &flags)?)
}

/// Whether the host has a route to an address at all. Sends nothing.
#[must_use]
pub fn has_route(server: SocketAddr) -> bool {
    local_address(server).is_ok()
}

struct Arrival {
    from: Option<SocketAddr>,
    bytes: [u8; BUFFER],
    length: usize,
    stamp_ns: Option<i128>,
    after: CrossTimestamp,
}

async fn arrival(socket: &UdpSocket) -> io::Result<Arrival> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        // `try_io` accepts single interests only.
        let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let mut bytes = [0; BUFFER];
        match socket.try_io(interest, || receive(socket, &mut bytes, MsgFlags::MSG_DONTWAIT)) {
            Ok((length, stamp_ns, from)) => {
                let after = Machine.cross_timestamp().map_err(io::Error::other)?;
                return Ok(Arrival { from, bytes, length: length.min(BUFFER), stamp_ns, after });
            }
            // The request's timestamp also wakes the socket up.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the timestamp of the request. It is there before the answer is, because the kernel made it when
/// the request was sent.
fn transmit_stamp_ns(socket: &UdpSocket) -> Option<i128> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
    receive(socket, &mut [0; BUFFER], flags).ok()?.1
}

/// Receives a packet with its timestamp by `CLOCK_REALTIME`, in ns since 1970, and its source. A packet that was cut off is
/// as long as the buffer, which no answer is.
fn receive(
    socket: &UdpSocket,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Option<i128>, Option<SocketAddr>)> {
    let mut slices = [IoSliceMut::new(bytes)];
    let mut control =
        nix::cmsg_space!([libc::timespec; 3], libc::sock_extended_err, libc::sockaddr_in6, libc::c_int);
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let stamp_ns = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampsns(stamps) => {
            let stamp = stamps.system;
            let ns = i128::from(stamp.tv_sec()) * 1_000_000_000 + i128::from(stamp.tv_nsec());
            (ns != 0).then_some(ns)
        }
        _ => None,
    });
    Ok((received.bytes, stamp_ns, received.address.as_ref().and_then(socket_address)))
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = address.as_sockaddr_in().map(|ipv4| SocketAddr::V4((*ipv4).into()));
    ipv4.or_else(|| address.as_sockaddr_in6().map(|ipv6| SocketAddr::V6((*ipv6).into())))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;

    use responder::message::LENGTH;

    use super::*;

    /// Longer than anything takes; only a failing test waits for it.
    const LONG: Duration = Duration::from_secs(10);

    /// Runs a server on loopback that answers each request with these packets, and returns the result of
    /// asking it.
    fn asked(
        answers: impl Fn(&[u8; LENGTH]) -> Vec<Vec<u8>> + Send + 'static,
        patience: Duration,
    ) -> Exchange {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut request = [0; LENGTH];
            let (_, client) = server.recv_from(&mut request).unwrap();
            for answer in answers(&request) {
                server.send_to(&answer, client).unwrap();
            }
        });
        ask(address, patience)
    }

    fn ask(address: SocketAddr, patience: Duration) -> Exchange {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(exchange(address, patience))
    }

    fn answer(request: &[u8; LENGTH]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[0] = 4 << 3 | 4;
        bytes[1] = 1;
        bytes[24..32].copy_from_slice(&request[40..]);
        bytes[32..40].copy_from_slice(&(4_000_000_000_u64 << 32).to_be_bytes());
        bytes[40..].copy_from_slice(&(4_000_000_000_u64 << 32).to_be_bytes());
        bytes
    }

    #[test]
    fn an_answer_comes_with_the_kernel_s_stamps() {
        let _kept = keep_stamping().unwrap();
        let stamped = (0..100).any(|_| {
            let exchange = asked(|request| vec![answer(request)], LONG);
            let ExchangeOutcome::Time(time, times) = exchange.outcome else { panic!("{exchange:?}") };
            assert_eq!((time.stratum, exchange.local), (1, Some("127.0.0.1".parse().unwrap())));
            assert!(times.sent_ns < times.received_ns, "{times:?}");
            // Without timestamps the error is never this small.
            times.error_s < 20e-6
        });
        assert!(stamped);
    }

    #[test]
    fn forgeries_are_counted_and_the_answer_is_waited_for() {
        let exchange = asked(
            |request| {
                let mut forged = answer(request);
                forged[24] ^= 1;
                vec![vec![], vec![0x24; 1400], forged, answer(request)]
            },
            LONG,
        );
        assert!(matches!(exchange.outcome, ExchangeOutcome::Time(..)), "{exchange:?}");
        assert_eq!(exchange.refused, [(Reject::Length, 2), (Reject::Origin, 1)].into());
    }

    #[test]
    fn a_flood_of_forgeries_is_given_up_on() {
        let exchange = asked(|_| vec![vec![0x24; 48]; 100], LONG);
        assert!(matches!(exchange.outcome, ExchangeOutcome::Silence), "{exchange:?}");
        assert_eq!(exchange.refused, [(Reject::Origin, PATIENCE)].into());
    }

    #[test]
    fn an_answer_from_another_address_is_refused_and_told() {
        let (asked, other) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.2:0").unwrap());
        let (address, elsewhere) = (asked.local_addr().unwrap(), other.local_addr().unwrap());
        thread::spawn(move || {
            let mut request = [0; LENGTH];
            let (_, client) = asked.recv_from(&mut request).unwrap();
            other.send_to(&answer(&request), client).unwrap();
        });
        let exchange = ask(address, Duration::from_millis(300));
        assert!(matches!(exchange.outcome, ExchangeOutcome::Silence), "{exchange:?}");
        assert_eq!(exchange.refused, [(Reject::Source, 1)].into());
        assert_eq!(exchange.elsewhere, Some(elsewhere));
    }

    #[test]
    fn silence_and_a_closed_port_are_told_apart() {
        let exchange = asked(|_| vec![], Duration::from_millis(50));
        assert!(matches!(exchange.outcome, ExchangeOutcome::Silence), "{exchange:?}");
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let exchange = ask(closed, LONG);
        let ExchangeOutcome::Failed(error) = exchange.outcome else { panic!("{exchange:?}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
