//! One request to an upstream and what came of it, without blocking, with the kernel's time stamps.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, setsockopt, sockopt};
use protocol::{Answer, Kiss, PendingRequest, Reject, ServerTime, Strictness, Times};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::stamp::Seen;
use crate::sys::kernel_clock::{CrossTimestamp, KernelClock as _, Machine, monotonic_ns};
use crate::sys::random;

/// Longer datagrams are cut off; they are too long to be an answer anyway.
const BUFFER: usize = 64;
/// After so many packets that are no answers the exchange is given up: somebody floods the port.
const PATIENCE: u64 = 64;

/// What came of a request.
#[derive(Debug)]
pub struct Exchange {
    /// In the end.
    pub outcome: Outcome,
    /// Packets that were no answers to the request, by reason.
    pub refused: BTreeMap<Reject, u64>,
    /// The address that was asked from.
    pub local: Option<IpAddr>,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Outcome {
    /// With an answer. Whether it can be used is [`ServerTime::usable`]'s to say.
    Time(ServerTime, Times),
    /// With a kiss of death.
    Kiss(Kiss),
    /// With an answer that contradicts itself.
    Rejected(Reject),
    /// Nothing came in time.
    Silence,
    /// With an error of the network's: no route, port closed.
    Failed(io::Error),
}

/// Asks `server` once, from a socket of its own, so that each request has another source port (RFC 9109).
pub async fn exchange(server: SocketAddr, patience: Duration) -> Exchange {
    let mut exchange = Exchange { outcome: Outcome::Silence, refused: BTreeMap::new(), local: None };
    let deadline = Instant::now() + patience;
    let outcome = match timeout_at(deadline, exchange.run(server)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_too_late) => Outcome::Silence,
    };
    Exchange { outcome, ..exchange }
}

impl Exchange {
    async fn run(&mut self, server: SocketAddr) -> io::Result<Outcome> {
        let socket = UdpSocket::from_std(open(server)?)?;
        self.local = socket.local_addr().ok().map(|address| address.ip());
        let request = PendingRequest::new(random::bytes().map_err(io::Error::other)?);
        let before = Machine.cross_timestamp().map_err(io::Error::other)?;
        socket.send(&request.to_bytes()).await?;
        let handed_over_ns = monotonic_ns().map_err(io::Error::other)?;
        while self.refused.values().sum::<u64>() < PATIENCE {
            let Arrival { bytes, length, stamp_ns, after } = arrival(&socket).await?;
            match request.read(&bytes[..length], Strictness::CLIENT) {
                Err(reject) if reject.is_forgery() => *self.refused.entry(reject).or_default() += 1,
                Err(reject) => return Ok(Outcome::Rejected(reject)),
                Ok(Answer::Kiss(kiss)) => return Ok(Outcome::Kiss(kiss)),
                Ok(Answer::Time(time)) => {
                    let seen = Seen {
                        before,
                        handed_over_ns,
                        transmit_stamp_ns: transmit_stamp_ns(&socket),
                        receive_stamp_ns: stamp_ns,
                        after,
                    };
                    return Ok(Outcome::Time(time, seen.times()));
                }
            }
        }
        Ok(Outcome::Silence)
    }
}

/// A socket that keeps the kernel stamping packets: it begins to some time after the first socket has asked for
/// it, and a socket for a single request would be too early.
///
/// # Errors
///
/// The kernel's.
pub fn keep_stamping() -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    ask_for_stamps(&socket)?;
    Ok(socket)
}

/// Connected, so that the kernel drops what comes from elsewhere and reports a closed port.
fn open(server: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    // Without stamps it works as well, only less precisely.
    let _without = ask_for_stamps(&socket);
    socket.connect(server)?;
    Ok(socket)
}

fn ask_for_stamps(socket: &std::net::UdpSocket) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
    Ok(setsockopt(socket, sockopt::Timestamping, &flags)?)
}

/// Whether the host has a way to an address at all. Sends nothing.
#[must_use]
pub fn has_route(server: SocketAddr) -> bool {
    open(server).is_ok()
}

struct Arrival {
    bytes: [u8; BUFFER],
    length: usize,
    stamp_ns: Option<i128>,
    after: CrossTimestamp,
}

async fn arrival(socket: &UdpSocket) -> io::Result<Arrival> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        // `try_io` knows single interests only.
        let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let mut bytes = [0; BUFFER];
        match socket.try_io(interest, || receive(socket, &mut bytes, MsgFlags::MSG_DONTWAIT)) {
            Ok((length, stamp_ns)) => {
                let after = Machine.cross_timestamp().map_err(io::Error::other)?;
                return Ok(Arrival { bytes, length: length.min(BUFFER), stamp_ns, after });
            }
            // The request's stamp wakes up, too.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The stamp on the request is there before the answer is: the kernel made it when the request went.
fn transmit_stamp_ns(socket: &UdpSocket) -> Option<i128> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
    receive(socket, &mut [0; BUFFER], flags).ok()?.1
}

/// Takes a packet with its stamp, by `CLOCK_REALTIME`, in ns since 1970. One that was cut off is as long as the
/// buffer, which no answer is.
fn receive(socket: &UdpSocket, bytes: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Option<i128>)> {
    let mut slices = [IoSliceMut::new(bytes)];
    let mut control =
        nix::cmsg_space!([libc::timespec; 3], libc::sock_extended_err, libc::sockaddr_in6, libc::c_int);
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let stamp_ns = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampsns(stamps) => {
            let stamp = stamps.system;
            let ns = i128::from(stamp.tv_sec()) * 1_000_000_000 + i128::from(stamp.tv_nsec());
            (ns != 0).then_some(ns)
        }
        _ => None,
    });
    Ok((received.bytes, stamp_ns))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;

    use responder::message::LENGTH;

    use super::*;

    /// Long enough for anything; only a test that fails waits for it.
    const LONG: Duration = Duration::from_secs(10);

    /// A server on loopback that answers each request by these packets, and what came of asking it.
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
            let Outcome::Time(time, times) = exchange.outcome else { panic!("{exchange:?}") };
            assert_eq!((time.stratum, exchange.local), (1, Some("127.0.0.1".parse().unwrap())));
            assert!(times.sent_ns < times.received_ns, "{times:?}");
            // Without them it is never as small.
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
        assert!(matches!(exchange.outcome, Outcome::Time(..)), "{exchange:?}");
        assert_eq!(exchange.refused, [(Reject::Length, 2), (Reject::Origin, 1)].into());
    }

    #[test]
    fn a_flood_of_forgeries_is_given_up_on() {
        let exchange = asked(|_| vec![vec![0x24; 48]; 100], LONG);
        assert!(matches!(exchange.outcome, Outcome::Silence), "{exchange:?}");
        assert_eq!(exchange.refused, [(Reject::Origin, PATIENCE)].into());
    }

    #[test]
    fn silence_and_a_closed_port_are_told_apart() {
        let exchange = asked(|_| vec![], Duration::from_millis(50));
        assert!(matches!(exchange.outcome, Outcome::Silence), "{exchange:?}");
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let exchange = ask(closed, LONG);
        let Outcome::Failed(error) = exchange.outcome else { panic!("{exchange:?}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
