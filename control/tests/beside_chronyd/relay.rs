//! Paths to upstreams: a UDP relay that delays, reorders and loses NTP messages, each direction by its own
//! distribution, and can make a liar of the server behind it.
//!
//! A delay is the leg's least and an exponential queue on top, drawn anew for each message. All is drawn from a
//! seed, but when messages come is not, so that two runs are alike and not the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use testinput::random::Random;

const LENGTH: usize = 48;
/// Requests whose answers are still waited for; beyond that the oldest is forgotten.
const MOST_WAITING: usize = 1024;
/// How long a path's end may take to be noticed.
const LOOK: Duration = Duration::from_millis(200);

/// One direction of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    pub(crate) least_ms: f64,
    pub(crate) mean_queue_ms: f64,
    /// Share of the messages.
    pub(crate) loss: f64,
}

/// A way to an upstream, and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Where clients ask.
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) there: Leg,
    pub(crate) back: Leg,
}

/// A relay of one path, which ends when this is dropped.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    lie_ns: AtomicI64,
    requests: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Relay {
    /// Starts to relay. To be called in the network namespace that it is to be in.
    pub(crate) fn start(route: Route, seed: u64) -> Self {
        let shared = Arc::<Shared>::default();
        let listening = UdpSocket::bind(route.listen).unwrap();
        let asking = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        asking.connect(route.upstream).unwrap();
        for socket in [&listening, &asking] {
            socket.set_nonblocking(true).unwrap();
        }
        let mut path = Path {
            route,
            random: Random::new(seed),
            shared: Arc::clone(&shared),
            listening,
            asking,
            under_way: BinaryHeap::new(),
            waiting: VecDeque::new(),
            sequence: 0,
        };
        Self { shared, thread: Some(std::thread::spawn(move || path.run())) }
    }

    /// From now on the server's clock seems to be this much ahead.
    pub(crate) fn lie(&self, by: Duration) {
        self.shared.lie_ns.store(i64::try_from(by.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    /// How often a client has asked.
    pub(crate) fn requests(&self, client: IpAddr) -> u64 {
        self.shared.requests.lock().unwrap().get(&client).copied().unwrap_or(0)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _told_by_the_thread = thread.join();
        }
    }
}

struct Path {
    route: Route,
    random: Random,
    shared: Arc<Shared>,
    listening: UdpSocket,
    asking: UdpSocket,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    /// Transmit timestamps of requests, and who sent them.
    waiting: VecDeque<([u8; 8], SocketAddr)>,
    sequence: u64,
}

/// A message on its way. Ordered by its arrival; the sequence makes the order total.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Instant,
    sequence: u64,
    /// Whom an answer is for; a request is for the upstream.
    client: Option<SocketAddr>,
    message: [u8; LENGTH],
}

impl Path {
    fn run(&mut self) {
        while !self.shared.end.load(Ordering::Relaxed) {
            self.wait();
            self.take_requests();
            self.take_answers();
            self.deliver();
        }
    }

    fn wait(&self) {
        let next = self.under_way.peek().map(|Reverse(next)| next.due);
        let wait = next.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).min(LOOK));
        let mut sockets =
            [&self.listening, &self.asking].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let _interrupted = ppoll(&mut sockets, Some(TimeSpec::from_duration(wait)), None);
    }

    fn take_requests(&mut self) {
        while let Some((message, client)) = receive(&self.listening) {
            *self.shared.requests.lock().unwrap().entry(client.ip()).or_default() += 1;
            if self.waiting.len() == MOST_WAITING {
                self.waiting.pop_front();
            }
            self.waiting.push_back((message[40..].try_into().unwrap(), client));
            self.dispatch(self.route.there, None, message);
        }
    }

    fn take_answers(&mut self) {
        while let Some((mut message, _)) = receive(&self.asking) {
            let origin: [u8; 8] = message[24..32].try_into().unwrap();
            let Some(index) = self.waiting.iter().position(|(transmit, _)| *transmit == origin) else {
                continue;
            };
            let (_, client) = self.waiting.remove(index).expect("just found");
            let lie_ns = self.shared.lie_ns.load(Ordering::Relaxed);
            for at in [32, 40] {
                shift(&mut message[at..at + 8], lie_ns);
            }
            self.dispatch(self.route.back, Some(client), message);
        }
    }

    fn dispatch(&mut self, leg: Leg, client: Option<SocketAddr>, message: [u8; LENGTH]) {
        if self.random.uniform() <= leg.loss {
            return;
        }
        let delay_ms = leg.least_ms + leg.mean_queue_ms * self.random.exponential();
        let due = Instant::now() + Duration::from_secs_f64(delay_ms / 1e3);
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay { due, sequence: self.sequence, client, message }));
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(arrived)) = self.under_way.pop() else { return };
            let _lost = match arrived.client {
                Some(client) => self.listening.send_to(&arrived.message, client),
                None => self.asking.send(&arrived.message),
            };
        }
    }
}

/// A message of the usual length; others are not relayed.
fn receive(socket: &UdpSocket) -> Option<([u8; LENGTH], SocketAddr)> {
    let mut buffer = [0; 2 * LENGTH];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((LENGTH, from)) => return Some((*buffer.first_chunk().unwrap(), from)),
            // A refusal (ICMP) of an earlier message.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

/// Moves a timestamp.
fn shift(timestamp: &mut [u8], by_ns: i64) {
    let before = u64::from_be_bytes((&*timestamp).try_into().unwrap());
    let units = i64::try_from((i128::from(by_ns) << 32) / 1_000_000_000).unwrap();
    timestamp.copy_from_slice(&before.wrapping_add_signed(units).to_be_bytes());
}

#[test]
fn a_path_delays_loses_and_lies_as_it_is_told() {
    let upstream = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let route = |back: Leg| Route {
        // Nobody else on this machine's loopback has this address.
        listen: "127.77.0.1:0".parse().unwrap(),
        upstream: upstream.local_addr().unwrap(),
        there: Leg { least_ms: 30.0, mean_queue_ms: 1.0, loss: 0.0 },
        back,
    };
    let back = Leg { least_ms: 10.0, mean_queue_ms: 0.0, loss: 0.0 };
    let listening = free_address();
    let relay = Relay::start(Route { listen: listening, ..route(back) }, 1);
    let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    client.connect(listening).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    relay.lie(Duration::from_millis(250));

    let started = Instant::now();
    client.send(&[7; LENGTH]).unwrap();
    let mut message = [0; LENGTH];
    let (_, from) = upstream.recv_from(&mut message).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert_eq!(message, [7; LENGTH]);
    message[32..].fill(0);
    message[24..32].fill(7);
    upstream.send_to(&message, from).unwrap();
    client.recv(&mut message).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(40));
    for at in [32, 40] {
        assert_eq!(message[at..at + 8], (1_u64 << 30).to_be_bytes());
    }
    assert_eq!(relay.requests([127, 0, 0, 1].into()), 1);

    let lossy = free_address();
    let everything = Leg { loss: 1.0, ..back };
    let _relay = Relay::start(Route { listen: lossy, there: everything, ..route(back) }, 1);
    client.connect(lossy).unwrap();
    upstream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    client.send(&[7; LENGTH]).unwrap();
    assert!(upstream.recv_from(&mut message).is_err(), "all is lost");
}

/// A port of loopback that was free just now.
#[cfg(test)]
fn free_address() -> SocketAddr {
    UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}
