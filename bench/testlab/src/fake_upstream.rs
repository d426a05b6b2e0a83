//! Upstreams that behave as a test tells them: exact or wrong, honest or lying about it, silent, unsynchronised,
//! far away, drifting, or following the very server that follows them.
//!
//! Each [`FakeUpstream`] has an address of its own on the host `client`. It serves the machine's `CLOCK_REALTIME`,
//! which is the true time in the lab, plus an error. Its [`Conduct`] says what it answers. A test changes the conduct
//! at any moment by [`FakeUpstream::change`], or plans changes by [`Script::after`].

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::reference_id;

use crate::lab::Lab;
use crate::ntp::{LENGTH, Message, Moment, UNSYNCHRONISED, measured};

/// Interval at which the threads look for the end.
const LOOK: Duration = Duration::from_millis(50);
/// Deadline for the answer of a followed server.
const ANSWER: Duration = Duration::from_millis(500);
/// Growth of the root dispersion of a synchronised server, in s/s: PHI of RFC 5905, appendix A.1.1.
const PHI: f64 = 15e-6;

/// Whether and how requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An answer with the time.
    Time,
    /// No answer.
    Silence,
    /// A kiss of death with this code.
    Kiss([u8; 4]),
}

/// What an upstream answers. The time that it serves is the true time, plus `error_s`, plus the drift since the last
/// change.
#[derive(Clone, Debug)]
pub struct Conduct {
    /// Whether and how it answers.
    pub reply: Reply,
    /// How far the served time is ahead of the true time, in s.
    pub error_s: f64,
    /// Rate at which the error grows, in s/s.
    pub drift: f64,
    /// The leap indicator of its answers.
    pub leap: u8,
    /// The stratum of its answers.
    pub stratum: u8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// The root delay that it claims, in s.
    pub root_delay_s: f64,
    /// The root dispersion that it claims, in s.
    pub root_dispersion_s: f64,
    /// Rate at which the root dispersion grows, in s/s.
    pub dispersion_growth: f64,
    /// The reference ID of its answers.
    pub reference_id: u32,
    /// Delay of a request before its receive timestamp is taken.
    pub there: Duration,
    /// Delay of an answer after its transmit timestamp is taken.
    pub back: Duration,
}

impl Conduct {
    /// A primary server that is right to the microsecond and claims an error of 100 us.
    pub fn exact() -> Self {
        Self {
            reply: Reply::Time,
            error_s: 0.0,
            drift: 0.0,
            leap: 0,
            stratum: 1,
            precision: -20,
            root_delay_s: 0.0,
            root_dispersion_s: 0.000_1,
            dispersion_growth: 0.0,
            reference_id: u32::from_be_bytes(*b"GPS\0"),
            there: Duration::ZERO,
            back: Duration::ZERO,
        }
    }

    /// A server of stratum 2 with this error and this root dispersion.
    pub fn coarse(error_s: f64, root_dispersion_s: f64) -> Self {
        // Of a network that is kept for documentation.
        let reference_id = u32::from_be_bytes([192, 0, 2, 1]);
        Self { error_s, root_dispersion_s, stratum: 2, reference_id, ..Self::exact() }
    }

    /// The server loses its source and says so: leap 3, stratum 16.
    pub fn lose_synchronisation(&mut self) {
        self.leap = UNSYNCHRONISED;
        self.stratum = 16;
    }

    fn answer(&self, request: &Message, receive: Moment) -> Message {
        let plain = Message::answering(request);
        if let Reply::Kiss(code) = self.reply {
            return Message { reference_id: u32::from_be_bytes(code), ..plain };
        }
        let receive = receive.plus(self.error_s);
        Message {
            leap: self.leap,
            stratum: self.stratum,
            precision: self.precision,
            root_delay_s: self.root_delay_s,
            root_dispersion_s: self.root_dispersion_s,
            reference_id: self.reference_id,
            reference: receive.plus(-1.0),
            receive,
            transmit: Moment::now().plus(self.error_s),
            ..plain
        }
    }
}

type Change = Box<dyn FnOnce(&mut Conduct) + Send>;

/// A conduct and its planned changes.
pub struct Script {
    conduct: Conduct,
    /// Moment up to which drift and dispersion growth are in the conduct.
    since: Instant,
    started: Instant,
    to_come: Vec<(Duration, Change)>,
}

impl Script {
    /// A conduct without planned changes.
    pub fn new(conduct: Conduct) -> Self {
        let now = Instant::now();
        Self { conduct, since: now, started: now, to_come: Vec::new() }
    }

    /// Plans a change for this time after the upstream starts.
    #[must_use]
    pub fn after(mut self, time: Duration, change: impl FnOnce(&mut Conduct) + Send + 'static) -> Self {
        self.to_come.push((time, Box::new(change)));
        self.to_come.sort_by_key(|(time, _)| *time);
        self
    }

    fn change(&mut self, change: impl FnOnce(&mut Conduct)) {
        self.advance_to(Instant::now());
        change(&mut self.conduct);
    }

    /// The conduct at this moment.
    fn now(&mut self) -> Conduct {
        let now = Instant::now();
        while self.to_come.first().is_some_and(|(time, _)| self.started + *time <= now) {
            let (time, change) = self.to_come.remove(0);
            self.advance_to(self.started + time);
            change(&mut self.conduct);
        }
        self.advance_to(now);
        self.conduct.clone()
    }

    fn advance_to(&mut self, moment: Instant) {
        let elapsed_s = moment.saturating_duration_since(self.since).as_secs_f64();
        self.conduct.error_s += self.conduct.drift * elapsed_s;
        self.conduct.root_dispersion_s += self.conduct.dispersion_growth * elapsed_s;
        self.since = self.since.max(moment);
    }
}

impl From<Conduct> for Script {
    fn from(conduct: Conduct) -> Self {
        Self::new(conduct)
    }
}

/// A running upstream. It ends when this is dropped.
pub struct FakeUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    end: AtomicBool,
    script: Mutex<Script>,
    requests: Mutex<u64>,
    following: Mutex<Option<Following>>,
}

/// The server that an upstream follows.
#[derive(Clone, Copy, Debug)]
pub struct Following {
    /// The address of the server that is followed.
    pub server: SocketAddr,
    /// Interval between requests to it.
    pub interval: Duration,
    /// Whether answers whose reference ID is that of this upstream are ignored, as real servers do.
    pub notices_loops: bool,
}

impl FakeUpstream {
    /// Adds the address to the host `client` and starts an upstream on it. The script starts now.
    pub fn start(lab: &Lab, address: impl Into<IpAddr>, script: impl Into<Script>) -> Self {
        let address = address.into();
        let length = if address.is_ipv4() { "24" } else { "64 nodad" };
        lab.ip("client", &format!("address add {address}/{length} dev lan0"));
        let sockets = lab.inside("client", || (UdpSocket::bind((address, 123)).unwrap(), asking(address)));
        Self::serve(sockets, script.into())
    }

    /// Starts an upstream in this network namespace, on an address that exists.
    pub fn start_here(address: SocketAddr, script: impl Into<Script>) -> Self {
        Self::serve((UdpSocket::bind(address).unwrap(), asking(address.ip())), script.into())
    }

    fn serve((socket, asking): (UdpSocket, [UdpSocket; 2]), script: Script) -> Self {
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        for socket in &asking {
            socket.set_read_timeout(Some(ANSWER)).unwrap();
        }
        let now = Instant::now();
        let script = Script { started: now, since: now, ..script };
        let shared = Arc::new(Shared {
            end: AtomicBool::new(false),
            script: Mutex::new(script),
            requests: Mutex::default(),
            following: Mutex::default(),
        });
        let (server, follower) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || server.answer_all(&socket)),
            thread::spawn(move || follower.follow(&asking, address.ip())),
        ];
        Self { address, shared, threads }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address.ip()
    }

    /// Its address and port.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// The reference ID of servers that follow it.
    pub fn reference_id(&self) -> u32 {
        reference_id(self.address())
    }

    /// The number of requests that it received.
    pub fn requests(&self) -> u64 {
        *self.shared.requests.lock().unwrap()
    }

    /// Changes its conduct now. The drift up to now stays in the error.
    pub fn change(&self, change: impl FnOnce(&mut Conduct)) {
        self.shared.script().change(change);
    }

    /// Stops answering.
    pub fn vanish(&self) {
        self.change(|conduct| conduct.reply = Reply::Silence);
    }

    /// Starts answering again.
    pub fn come_back(&self) {
        self.change(|conduct| conduct.reply = Reply::Time);
    }

    /// Follows a server from now on and serves its time with the next stratum. Without answers it keeps the last
    /// offset, its root dispersion grows, and `drift` applies.
    pub fn follow(&self, following: Following) {
        *self.shared.following.lock().unwrap() = Some(following);
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _told_by_the_thread = thread.join();
        }
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    fn answer_all(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2 * LENGTH];
        while !self.ended() {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            let receive = Moment::now();
            let Some(request) = Message::from_bytes(&buffer[..length]).filter(Message::is_request) else {
                continue;
            };
            *self.requests.lock().unwrap() += 1;
            let conduct = self.script().now();
            if conduct.reply == Reply::Silence {
                continue;
            }
            if conduct.there + conduct.back == Duration::ZERO {
                let _lost = socket.send_to(&conduct.answer(&request, receive).to_bytes(), client);
                continue;
            }
            let socket = socket.try_clone().unwrap();
            // It ends by itself; others do not wait for it.
            thread::spawn(move || {
                thread::sleep(conduct.there);
                let answer = conduct.answer(&request, Moment::now());
                thread::sleep(conduct.back);
                let _lost = socket.send_to(&answer.to_bytes(), client);
            });
        }
    }

    fn follow(&self, sockets: &[UdpSocket; 2], own: IpAddr) {
        let mut asked: Option<Instant> = None;
        while !self.ended() {
            let following = *self.following.lock().unwrap();
            let due = following.filter(|following| asked.is_none_or(|at| at.elapsed() >= following.interval));
            let Some(following) = due else {
                thread::sleep(LOOK);
                continue;
            };
            asked = Some(Instant::now());
            let socket = &sockets[usize::from(following.server.is_ipv6())];
            let Some((answer, offset_s, delay_s)) = ask(socket, following.server) else { continue };
            let is_loop = answer.stratum > 1 && answer.reference_id == reference_id(own);
            if !answer.is_synchronised() || answer.stratum >= 15 || (is_loop && following.notices_loops) {
                continue;
            }
            self.script().change(|conduct| {
                conduct.error_s = offset_s;
                conduct.leap = answer.leap;
                conduct.stratum = answer.stratum + 1;
                conduct.reference_id = reference_id(following.server.ip());
                conduct.root_delay_s = answer.root_delay_s + delay_s;
                // Reading its own clock costs something, too.
                conduct.root_dispersion_s = answer.root_dispersion_s + 10e-6;
                conduct.dispersion_growth = PHI;
            });
        }
    }
}

/// The sockets of an upstream that follows a server, for IPv4 and IPv6. The one of its own family has its own
/// address.
fn asking(own: IpAddr) -> [UdpSocket; 2] {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.map(|any| {
        let address = if any.is_ipv4() == own.is_ipv4() { own } else { any };
        UdpSocket::bind((address, 0)).unwrap()
    })
}

/// Asks a server once. Returns its answer, how far it is ahead of the true time and the round trip, both in s.
fn ask(socket: &UdpSocket, server: SocketAddr) -> Option<(Message, f64, f64)> {
    let asked = Instant::now();
    let sent = Moment::now();
    socket.send_to(&Message::request(sent).to_bytes(), server).ok()?;
    let mut buffer = [0; 2 * LENGTH];
    while asked.elapsed() < ANSWER {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from == server => {
                let received = Moment::now();
                let answer =
                    Message::from_bytes(&buffer[..length]).filter(|answer| answer.is_answer_to(sent));
                if let Some(answer) = answer {
                    let (offset_s, delay_s) = measured(sent, &answer, received);
                    return Some((answer, offset_s, delay_s.max(0.0)));
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
    None
}
