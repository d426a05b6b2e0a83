//! A steady load: requests at a constant rate over both families, whether each was answered, and whether its answer was
//! right.
//!
//! The requests come from plain sockets on the host `client`. The transmit timestamp of a request is its number, and
//! the answer repeats it as its origin timestamp. So each answer belongs to one request, and a duplicate is not taken
//! for the answer to another request.
//!
//! Each synchronised answer is judged as the [`oracle`](crate::oracle) does it, by the machine's `CLOCK_REALTIME`. The load
//! knows the moments of its batches only, so what it cannot be sure of is some milliseconds.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt};
use nix::unistd::{Pid, gettid};
use responder::message::{LEAP_UNSYNCHRONISED, LENGTH};

use crate::claim::Claim;
use crate::lab::Lab;
use crate::ntp::{Message, Moment};
use crate::output::Output;
use crate::wire::{PORT, request};

const SERVER: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
];
/// Datagrams in one system call.
const BATCH: usize = 64;
/// Bytes of the receive buffer of each socket. Answers wait in it while a busy machine does not run the receiving
/// thread. A frame takes a page.
const RECEIVE_BUFFER: usize = 256 << 20;
/// How long the load waits for answers after the last request.
const DRAIN: Duration = Duration::from_millis(500);
/// On a veth, the CPU that sends also processes requests and answers. Another CPU reads the answers.
const SENDING_CPU: usize = 0;
const RECEIVING_CPU: usize = 1;

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Account {
    /// Number of the first request of each batch, and when the batch was sent.
    batches: Vec<(u64, Instant)>,
    /// Fate of each request, by its number.
    fates: Vec<Fate>,
    /// Requests that the kernel took.
    pub sent: u64,
    /// Requests with an answer.
    pub answered: u64,
    /// Answers that arrived again.
    pub duplicates: u64,
    /// Datagrams that answer no request.
    pub strange: u64,
    /// Synchronised answers that are further from the true time than they claim.
    pub wrong: u64,
    /// The one that is furthest beyond its claim, in words.
    pub worst: Option<String>,
    worst_excess_s: f64,
}

/// A batch of requests: the number of its first one, and when it was sent.
#[derive(Clone, Copy)]
struct Batch {
    first: u64,
    at: Instant,
    moment: Moment,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Lost,
    Synchronised,
    Unsynchronised,
}

/// Sends `rate` requests per second, half of them over each family, until `script` returns.
pub fn load<T: Send>(lab: &Lab, rate: u64, script: impl FnOnce() -> T + Send) -> (Account, T) {
    let sockets = lab.inside("client", || SERVER.map(socket));
    let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let all_sent = AtomicBool::new(false);
    let batches = Mutex::new(Vec::new());
    thread::scope(|scope| {
        // Whatever ends the script ends the load.
        let end = OnDrop(|| ended.store(true, Ordering::Relaxed));
        let sender = scope.spawn(|| {
            let _even_if_it_panics = OnDrop(|| all_sent.store(true, Ordering::SeqCst));
            take(SENDING_CPU);
            send(&sockets, rate, &ended, &sent, &batches);
        });
        let receiver = scope.spawn(|| {
            take(RECEIVING_CPU);
            receive(&sockets, &sent, &all_sent, &batches)
        });
        let result = script();
        drop(end);
        sender.join().unwrap();
        let account = receiver.join().unwrap();
        let total = sent.load(Ordering::SeqCst);
        let mut fates = account.fates;
        fates.resize(usize::try_from(total).unwrap(), Fate::Lost);
        let batches = batches.lock().unwrap().iter().map(|batch: &Batch| (batch.first, batch.at)).collect();
        (Account { batches, fates, sent: total, ..account }, result)
    })
}

/// A socket that is not connected, so that the kernel reports no ICMP errors on it.
fn socket(server: IpAddr) -> UdpSocket {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    socket
}

fn send(
    sockets: &[UdpSocket; 2],
    rate: u64,
    ended: &AtomicBool,
    total: &AtomicU64,
    batches: &Mutex<Vec<Batch>>,
) {
    let to = SERVER.map(|server| vec![Some(SockaddrStorage::from(SocketAddr::from((server, PORT)))); BATCH]);
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut messages = [request(4, 0); BATCH];
    let mut family = 0;
    let started = Instant::now();
    let mut sent: u64 = 0;
    // Requests that were due and that nobody took. They are not made up for: that would be a flood.
    let mut skipped: u64 = 0;
    while !ended.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = u64::try_from(now.duration_since(started).as_nanos()).unwrap() / 1000 * rate / 1_000_000;
        if due.saturating_sub(sent + skipped) < BATCH as u64 {
            thread::sleep(Duration::from_micros(100));
            continue;
        }
        for (number, message) in (sent..).zip(&mut messages) {
            message[40..].copy_from_slice(&number.to_be_bytes());
        }
        // Counted before they are sent: an answer to what was not counted yet would look strange.
        total.store(sent + BATCH as u64, Ordering::SeqCst);
        family = 1 - family;
        batches.lock().unwrap().push(Batch { first: sent, at: now, moment: Moment::now() });
        let slices: Vec<_> = messages.iter().map(|message| [IoSlice::new(message)]).collect();
        let fd = sockets[family].as_raw_fd();
        let taken = match sendmmsg(fd, &mut headers, &slices, &to[family], [], MsgFlags::empty()) {
            Ok(results) => results.count(),
            // Of an interface that is down, or has no address, nothing is taken.
            Err(
                Errno::ENOBUFS | Errno::EINTR | Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN,
            ) => 0,
            Err(error) => panic!("cannot send: {error}"),
        };
        sent += taken as u64;
        if taken == 0 {
            skipped += BATCH as u64;
        }
    }
    total.store(sent, Ordering::SeqCst);
}

fn receive(
    sockets: &[UdpSocket; 2],
    sent: &AtomicU64,
    all_sent: &AtomicBool,
    batches: &Mutex<Vec<Batch>>,
) -> Account {
    let mut account = Account::default();
    let mut known: Vec<Batch> = Vec::new();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut buffers = [[0; LENGTH + 1]; BATCH];
    let mut last = Instant::now();
    while !all_sent.load(Ordering::SeqCst) || last.elapsed() < DRAIN {
        let mut idle = true;
        for socket in sockets {
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer.as_mut_slice())]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let lengths: Vec<_> = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) {
                Ok(results) => results.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => panic!("cannot receive: {error}"),
            };
            let (received, most) = (Moment::now(), sent.load(Ordering::SeqCst));
            known.extend_from_slice(&batches.lock().unwrap()[known.len()..]);
            for (buffer, length) in buffers.iter().zip(&lengths) {
                account.enter(&buffer[..*length], most, received, &known);
            }
            idle &= lengths.len() < BATCH;
            last = Instant::now();
        }
        if idle {
            // Until there are many, not until the next one: the daemon needs the CPU, too.
            thread::sleep(Duration::from_millis(1));
        }
    }
    account
}

impl Account {
    fn enter(&mut self, datagram: &[u8], sent: u64, received: Moment, batches: &[Batch]) {
        let Ok(message) = <&[u8; LENGTH]>::try_from(datagram) else {
            self.strange += 1;
            return;
        };
        let number = u64::from_be_bytes(std::array::from_fn(|index| message[24 + index]));
        if message[0] & 0x3f != 4 << 3 | 4 || number >= sent {
            self.strange += 1;
            return;
        }
        let index = usize::try_from(number).unwrap();
        if index >= self.fates.len() {
            self.fates.resize(index + 1, Fate::Lost);
        }
        if self.fates[index] != Fate::Lost {
            self.duplicates += 1;
            return;
        }
        let unsynchronised = message[0] >> 6 == LEAP_UNSYNCHRONISED && message[1] == 0;
        self.fates[index] = if unsynchronised { Fate::Unsynchronised } else { Fate::Synchronised };
        self.answered += 1;
        if !unsynchronised {
            self.judge(datagram, number, received, batches);
        }
    }

    /// Whether a synchronised answer is within the error that it claims.
    fn judge(&mut self, datagram: &[u8], number: u64, received: Moment, batches: &[Batch]) {
        let batch = batches.partition_point(|batch| batch.first <= number);
        let (Some(batch), Some(message)) = (batch.checked_sub(1), Message::from_bytes(datagram)) else {
            return;
        };
        let claim = Claim::of(batches[batch].moment, &message, received);
        let excess_s = claim.excess_s();
        if excess_s > 0.0 {
            self.wrong += 1;
            if excess_s > self.worst_excess_s {
                (self.worst_excess_s, self.worst) = (excess_s, Some(claim.to_string()));
            }
        }
    }

    /// Requests without an answer.
    pub const fn lost(&self) -> u64 {
        self.sent - self.answered
    }

    /// Answers that say that the server is not synchronised.
    pub fn unsynchronised(&self) -> u64 {
        self.fates.iter().filter(|fate| **fate == Fate::Unsynchronised).count() as u64
    }

    /// Requests per second over the whole load, and in its slowest whole second.
    pub fn rates(&self) -> (u64, u64) {
        let (Some((_, first)), Some((_, last))) = (self.batches.first(), self.batches.last()) else {
            return (0, 0);
        };
        let duration = last.duration_since(*first);
        let mut seconds = vec![0; usize::try_from(duration.as_secs()).unwrap() + 1];
        let ends = self.batches.iter().skip(1).map(|(number, _)| *number).chain([self.sent]);
        for ((number, sent), end) in self.batches.iter().zip(ends) {
            seconds[usize::try_from(sent.duration_since(*first).as_secs()).unwrap()] += end - number;
        }
        // The last one is not whole.
        seconds.pop();
        let all = u128::from(self.sent) * 1_000_000_000 / duration.as_nanos().max(1);
        (u64::try_from(all).unwrap(), seconds.into_iter().min().unwrap_or(0))
    }

    /// When answers changed between synchronised and unsynchronised: the new state, and about when the first request
    /// with such an answer was sent. The first answer counts as a change.
    pub fn changes(&self) -> Vec<(bool, Instant)> {
        let mut changes = Vec::new();
        let mut before = Fate::Lost;
        let answers = self.fates.iter().enumerate().filter(|(_, fate)| **fate != Fate::Lost);
        for (number, fate) in answers {
            if *fate != before {
                changes.push((*fate == Fate::Synchronised, self.sent_at(number as u64)));
                before = *fate;
            }
        }
        changes
    }

    /// About when the first and the last lost request were sent, since the first request; `None` if none was lost.
    pub fn lost_between(&self) -> Option<(Duration, Duration)> {
        let since_start = |number: usize| self.sent_at(number as u64).duration_since(self.batches[0].1);
        let is_lost = |fate: &Fate| *fate == Fate::Lost;
        let first = self.fates.iter().position(is_lost)?;
        let last = self.fates.iter().rposition(is_lost)?;
        Some((since_start(first), since_start(last)))
    }

    fn sent_at(&self, number: u64) -> Instant {
        let after = self.batches.partition_point(|(first, _)| *first <= number);
        self.batches[after - 1].1
    }
}

/// Binds the calling thread to a CPU with real-time priority: a network does not wait for a host's processes.
fn take(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
    let thread = gettid().to_string();
    Output::of(Command::new("chrt").args(["--rr", "--pid", "1", &thread])).expect_success();
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
