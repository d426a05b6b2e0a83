//! The userspace path: UDP sockets on port 123 that answer what the program passes up.
//!
//! Requests with extension fields or a MAC, fragments, IP options, and the host's own over loopback. A
//! thread of its own, so that a flood of such packets cannot hold up the publication of the clock; the
//! same `responder` code as in the kernel. Control messages ([`crate::serving::mode6`]) are answered over loopback only.

mod others;
mod ports;
mod shared;

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use responder::admission::Arrival;
use responder::budget::Allowance;
use responder::limiter::{Buckets, WAYS, divided};
use responder::message::{Answer, LENGTH, MODE_CONTROL, Request};
use responder::sample::Sample;
use responder::udp::NTP_PORT;
use responder::verdict::{Family, Outcome, Verdict};
use responder::{Access, Host, NtpTimestamp, Policy, pipeline};
use tracing::warn;

use crate::error::{Code, Error, Result};
use crate::serving::mode6;
use crate::sys::capabilities::{self, Capability};
use crate::sys::kernel_clock::{KernelClock as _, Machine, monotonic_ns, realtime_ns};

use others::Others;
use ports::AwaitedPort;
pub use ports::{Listening, Ports};
use shared::Limits;
pub use shared::{MOST_SAMPLES, Shared};

/// Longer datagrams are cut off; no NTP message is that long.
const BUFFER: usize = 1500;
/// A kernel timestamp further back than this is not believed: the clock was stepped since.
const LONGEST_WAIT_NS: i128 = 1_000_000_000;
/// A reading of the clocks that took longer was interrupted, and is made again with more care.
const WIDEST_READING_NS: u64 = 2_000;

/// Bytes of an answer's Ethernet frame, without the tags that it may get on its way.
const FRAME_IPV4: usize = 14 + 20 + 8 + LENGTH;
const FRAME_IPV6: usize = 14 + 40 + 8 + LENGTH;

/// The index of `lo`, in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

/// The sockets and their thread, which ends with the process.
pub struct UserspacePath {
    /// Shared with the thread.
    pub shared: Arc<Shared>,
    /// Whether the ports are ours.
    pub ports: Ports,
}

impl UserspacePath {
    /// Opens the sockets that can be opened and starts to answer on them.
    ///
    /// # Errors
    ///
    /// No thread could be started. A port in use is not an error: it is told in `ports`, and tried again.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::new());
        let ports = Ports::default();
        let (mut sockets, mut awaited) = (Vec::new(), Vec::new());
        for family in Family::ALL.iter().copied() {
            match open(family) {
                Ok(socket) => {
                    sockets.push((family, socket));
                    ports.set(family, None);
                }
                Err(Errno::EADDRINUSE) => awaited.push(AwaitedPort::new(family, &ports)),
                Err(error) => ports.set(family, Some(why_not(error))),
            }
        }
        if !(sockets.is_empty() && awaited.is_empty()) {
            let (shared, ports) = (Arc::clone(&shared), ports.clone());
            // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
            std::thread::Builder::new()
                .name("userspace-path".into())
                .stack_size(256 * 1024)
                .spawn(move || serve(sockets, awaited, &ports, &shared))
                .map_err(Error::because(Code::Os, "cannot start the thread of the userspace path"))?;
        }
        Ok(Self { shared, ports })
    }
}

fn why_not(error: Errno) -> String {
    match error {
        Errno::EAFNOSUPPORT => "the kernel does not support this address family".into(),
        error => error.desc().to_owned(),
    }
}

fn open(family: Family) -> nix::Result<OwnedFd> {
    let address_family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(address_family, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    match family {
        Family::Ipv4 => {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, NTP_PORT))?;
        }
        Family::Ipv6 => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new([0; 16].into(), NTP_PORT, 0, 0)))?;
        }
    }
    // Only now, so that a daemon that has the port already is noticed. One that keeps the clock and is started later can
    // have it: it asks for the same, and what it binds to single addresses goes to it.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    Ok(socket)
}

const fn table(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "udp",
        Family::Ipv6 => "udp6",
    }
}

fn serve(mut sockets: Vec<(Family, OwnedFd)>, mut awaited: Vec<AwaitedPort>, ports: &Ports, shared: &Shared) {
    capabilities::keep(&[Capability::CAP_NET_BIND_SERVICE]);
    let mut may_bind = true;
    let mut others = Others::unknown();
    loop {
        if awaited.is_empty() && may_bind {
            capabilities::keep(&[]);
            may_bind = false;
        }
        wait(&sockets, awaited.iter().map(AwaitedPort::due).chain([others.due()]).min());
        for (family, socket) in &sockets {
            // As many as are there, but not for ever: the other family has its turn.
            for _ in 0..64 {
                if answer_one(*family, socket, shared).is_none() {
                    break;
                }
            }
        }
        awaited.retain_mut(|port| match port.try_again(ports) {
            Some(socket) => {
                sockets.push((port.family(), socket));
                false
            }
            None => true,
        });
        others.look(&sockets, ports);
    }
}

/// Waits for packets, until a time if there is one.
fn wait(sockets: &[(Family, OwnedFd)], until: Option<Instant>) {
    let mut waiting: Vec<_> =
        sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        let left = until.saturating_duration_since(Instant::now());
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut waiting, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => {
            warn!("the userspace path cannot wait for packets: {error}");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Takes one datagram and answers it; `None` when none is left. An answer that cannot be sent is lost, as
/// it might be on the way: there is nobody to tell. It is counted as what it is, and takes nothing from the limits.
fn answer_one(family: Family, socket: &OwnedFd, shared: &Shared) -> Option<()> {
    let mut payload = [0; BUFFER];
    let mut slices = [IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, libc::timespec, libc::c_int);
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())
            .ok()?;
    let (length, source) = (received.bytes, received.address);
    let mut local = Local::default();
    let (mut realtime_ns, mut hops) = (None, 0);
    for message in received.cmsgs().into_iter().flatten() {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => local.ipv4 = Some(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => local.ipv6 = Some(info),
            ControlMessageOwned::Ipv4Ttl(number) | ControlMessageOwned::Ipv6HopLimit(number) => {
                hops = u8::try_from(number).unwrap_or(0);
            }
            ControlMessageOwned::ScmTimestampns(time) => {
                realtime_ns = Some(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()));
            }
            _ => {}
        }
    }
    let payload = payload.get(..length)?;
    let Some((source, port)) = source.and_then(|source| with_port(&source)) else {
        return Some(());
    };
    let is_control = payload.first().is_some_and(|first| first & 7 == MODE_CONTROL);
    if is_control && source.ip().is_loopback() && local.is_loopback() {
        let host_time = host_time()?;
        for fragment in mode6::answer(payload, &shared.peers(), host_time) {
            let _lost = local.send(socket, &source, &fragment);
        }
        // The host's own questions about its server: no client's, so counted nowhere.
        return Some(());
    }
    let version = payload.first().map_or(0, |first| responder::message::version(*first));
    let limits = shared.limits();
    let arrival = Arrival { port, hops, ingress: local.interface() };
    let answered = Request::parse(payload, port, &limits.policy).and_then(|request| {
        let received_ns = received_at(realtime_ns).ok_or(Verdict::PassClock)?;
        let host = RequestHost::new(shared, received_ns, payload.len());
        Ok((decide(request, source.ip(), arrival, &limits, &host)?, host))
    });
    let verdict = match answered {
        Ok((answer, _)) if local.send(socket, &source, &answer.to_bytes()) => answer.verdict(),
        Ok((_, host)) => {
            host.take_back();
            Verdict::DropUnsent
        }
        Err(verdict) => verdict,
    };
    shared.count(Outcome { verdict, family, version }, length);
    Some(())
}

/// Takes a request through the program's steps. The host itself is always answered.
fn decide(
    request: Request,
    source: IpAddr,
    arrival: Arrival,
    limits: &Limits,
    host: &RequestHost<'_>,
) -> std::result::Result<Answer, Verdict> {
    let policy = if source.is_loopback() { &Policy::OFF } else { &limits.policy };
    let clock = || host.shared.clock();
    match source {
        IpAddr::V4(address) => {
            pipeline::answer(request, address.octets(), arrival, FRAME_IPV4, policy, clock, host)
        }
        IpAddr::V6(address) => {
            pipeline::answer(request, address.octets(), arrival, FRAME_IPV6, policy, clock, host)
        }
    }
}

/// The sockets as the host of one request.
struct RequestHost<'a> {
    shared: &'a Shared,
    received_ns: u64,
    /// Whether the program limits such requests, too, before they come here.
    is_long: bool,
    /// The buckets that the request may have been taken out of, with what was in them.
    before: RefCell<Vec<(&'a AtomicU64, u64)>>,
}

impl<'a> RequestHost<'a> {
    /// The request is of so many bytes.
    const fn new(shared: &'a Shared, received_ns: u64, length: usize) -> Self {
        Self { shared, received_ns, is_long: length > LENGTH, before: RefCell::new(Vec::new()) }
    }

    /// Takes note of what is in these buckets. Nobody but this thread writes to them.
    fn note(&self, buckets: impl IntoIterator<Item = &'a AtomicU64>) {
        let with_words = buckets.into_iter().map(|bucket| (bucket, bucket.load(Ordering::Relaxed)));
        self.before.borrow_mut().extend(with_words);
    }

    /// Puts back what the request took out of the buckets.
    fn take_back(&self) {
        for (bucket, word) in self.before.borrow_mut().drain(..) {
            bucket.store(word, Ordering::Relaxed);
        }
    }
}

impl Host for RequestHost<'_> {
    fn received_ns(&self) -> u64 {
        self.received_ns
    }

    fn transmit_ns(&self, received_ns: u64) -> u64 {
        monotonic_ns().map_or(received_ns, |now_ns| now_ns.max(received_ns))
    }

    fn access_ipv4(&self, source: [u8; 4]) -> Access {
        self.shared.access(source.into())
    }

    fn access_ipv6(&self, source: [u8; 16]) -> Access {
        self.shared.access(source.into())
    }
}

impl Buckets for RequestHost<'_> {
    type Bucket = AtomicU64;

    fn set(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.shared.table.set(number).inspect(|set| self.note(*set))
    }

    fn leak(&self, leak: u8) -> u8 {
        let [_, at_socket] = divided(leak);
        if self.is_long { at_socket } else { leak }
    }

    fn known(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.shared.table.known(number).inspect(|set| self.note(*set))
    }

    fn tries(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.shared.table.tries(number).inspect(|set| self.note(*set))
    }

    fn kisses(&self) -> Option<&AtomicU64> {
        self.shared.table.kisses().inspect(|bucket| self.note([*bucket]))
    }

    fn allowance(&self) -> Option<Allowance<'_, AtomicU64>> {
        self.shared.table.allowance().inspect(|allowance| self.note([allowance.bucket]))
    }

    fn report(&self, sample: Sample) {
        self.shared.table.report(sample);
    }
}

/// `CLOCK_REALTIME`, as NTP has it.
fn host_time() -> Option<NtpTimestamp> {
    realtime_ns().ok().map(protocol::time::from_unix_ns)
}

/// `CLOCK_MONOTONIC` when the kernel took the packet off the interface.
fn received_at(realtime_ns: Option<i128>) -> Option<u64> {
    let reading = Machine::reading().ok()?;
    let now =
        if reading.width_ns() < WIDEST_READING_NS { reading } else { Machine.cross_timestamp().ok()? };
    let waited_ns = realtime_ns.map_or(0, |realtime_ns| now.realtime_ns - realtime_ns);
    let waited_ns =
        if (0..LONGEST_WAIT_NS).contains(&waited_ns) { u64::try_from(waited_ns).ok()? } else { 0 };
    Some(now.monotonic_before_ns.saturating_sub(waited_ns))
}

/// The address that the request was sent to: the answer has to come from there.
#[derive(Default)]
struct Local {
    ipv4: Option<libc::in_pktinfo>,
    ipv6: Option<libc::in6_pktinfo>,
}

impl Local {
    /// Whether the packet came by `lo`, to an address of loopback.
    fn is_loopback(&self) -> bool {
        let ipv4 = self.ipv4.is_some_and(|info| {
            IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()).is_loopback()
                && info.ipi_ifindex == LOOPBACK_INDEX.cast_signed()
        });
        let ipv6 = self.ipv6.is_some_and(|info| {
            IpAddr::from(info.ipi6_addr.s6_addr).is_loopback() && info.ipi6_ifindex == LOOPBACK_INDEX
        });
        ipv4 || ipv6
    }

    /// Returns eight bits of the index of the interface that the packet came by; 0 where it is not known.
    fn interface(&self) -> u8 {
        let index = match (&self.ipv4, &self.ipv6) {
            (Some(info), _) => info.ipi_ifindex.cast_unsigned(),
            (None, Some(info)) => info.ipi6_ifindex,
            (None, None) => 0,
        };
        let [lowest, ..] = index.to_le_bytes();
        lowest
    }

    /// Returns whether it was sent.
    fn send(&self, socket: &OwnedFd, to: &SocketAddr, message: &[u8]) -> bool {
        let slices = [IoSlice::new(message)];
        let ipv4 =
            self.ipv4.map(|info| libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ..info });
        let control = match (&ipv4, &self.ipv6) {
            (Some(info), _) => vec![ControlMessage::Ipv4PacketInfo(info)],
            (None, Some(info)) => vec![ControlMessage::Ipv6PacketInfo(info)],
            (None, None) => vec![],
        };
        let to = SockaddrStorage::from(*to);
        sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::MSG_DONTWAIT, Some(&to)).is_ok()
    }
}

fn with_port(address: &SockaddrStorage) -> Option<(SocketAddr, u16)> {
    let address = if let Some(ipv4) = address.as_sockaddr_in() {
        SocketAddr::V4(SocketAddrV4::from(*ipv4))
    } else {
        SocketAddr::V6(SocketAddrV6::from(*address.as_sockaddr_in6()?))
    };
    Some((address, address.port()))
}

#[cfg(test)]
mod tests {
    use responder::ClockState;
    use responder::budget::Cost;

    use super::*;
    use crate::config::{Denied, LimitsConfig};

    #[test]
    fn the_sockets_limit_and_deny_as_the_program_does_but_never_the_host_itself() {
        let shared = Shared::new();
        let clock = ClockState { horizon_ns: u64::MAX / 2, stratum: 2, ..ClockState::from_words([0; 8]) };
        shared.publish_clock(clock);
        let config = LimitsConfig { burst: 8, kod: 0, leak: 16, ..LimitsConfig::default() };
        let lists = [("192.0.2.0/24".parse().unwrap(), Access::Denied)];
        *shared.lists.write().unwrap() = lists.into_iter().collect();
        let policy = Policy { key: [3, 5, 7], lists: 3, ..config.policy(Denied::Drop, 1).unwrap() };
        shared.publish_limits(&policy);
        let mut payload = [0; LENGTH];
        payload[0] = 0x23;
        let request = Request::parse(&payload, 40_000, &policy).unwrap();
        let verdict_on = |address: &str| {
            let host = RequestHost::new(&shared, 1_000_000_000, LENGTH);
            match decide(request, address.parse().unwrap(), Arrival::default(), &shared.limits(), &host) {
                Ok(answer) => answer.verdict(),
                Err(verdict) => verdict,
            }
        };
        assert_eq!(verdict_on("192.0.2.1"), Verdict::DropDenied);
        for address in ["198.51.100.7", "2001:db8::1"] {
            let answered = (0..100).filter(|_| verdict_on(address) == Verdict::Answered).count();
            assert_eq!(answered, 8, "{address}");
        }
        for address in ["127.0.0.1", "::1"] {
            assert!((0..100).all(|_| verdict_on(address) == Verdict::Answered), "{address}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_sent_takes_nothing_from_its_source_or_the_server() {
        let shared = Shared::new();
        let clock = ClockState { horizon_ns: u64::MAX / 2, stratum: 2, ..ClockState::from_words([0; 8]) };
        shared.publish_clock(clock);
        let config =
            LimitsConfig { burst: 8, leak: 16, budget_answers_per_s: Some(1000), ..LimitsConfig::default() };
        // With a key like this nothing leaks by accident.
        let key = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0];
        shared.publish_limits(&Policy { key, ..config.policy(Denied::Drop, 1).unwrap() });
        shared.grant(Cost { answer: 16_000_000, byte: 0 });
        let mut payload = [0; LENGTH];
        payload[0] = 0x23;
        let limits = shared.limits();
        let request = Request::parse(&payload, 40_000, &limits.policy).unwrap();
        let words = || {
            let sets = (0..).map_while(|number| shared.table.set(number));
            let all = sets
                .flatten()
                .chain(shared.table.kisses())
                .chain(shared.table.allowance().map(|all| all.bucket));
            all.map(|bucket| bucket.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let answers = |is_sent: bool| {
            let mut kinds = Vec::new();
            for number in 0..40 {
                let host = RequestHost::new(&shared, 1_000_000_000 + number, LENGTH);
                let before = words();
                let decided = decide(request, [198, 51, 100, 7].into(), Arrival::default(), &limits, &host);
                if decided.is_ok() && !is_sent {
                    host.take_back();
                    assert_eq!(words(), before);
                }
                kinds.push(decided.map_or_else(|verdict| verdict, |answer| answer.verdict()));
            }
            kinds
        };
        assert_eq!(answers(false), [Verdict::Answered; 40]);
        let sent = answers(true);
        assert_eq!(sent.iter().filter(|verdict| **verdict == Verdict::Answered).count(), 8);
        assert!(sent.contains(&Verdict::KissRate), "{sent:?}");
        // Now that it is due, a kiss that cannot be sent takes nothing either.
        answers(false);
    }

    #[test]
    fn a_kernel_timestamp_from_before_a_step_is_not_believed() {
        let now = monotonic_ns().unwrap();
        let far_off = received_at(Some(0)).unwrap();
        assert!(far_off >= now, "taken as received now");
    }
}
