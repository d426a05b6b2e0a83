//! Upstreams that behave as a test tells them: exact or wrong, honest or lying about it, silent, unsynchronised,
//! far away, drifting, or following the very server that follows them.
//!
//! Each is a [`FakeUpstream`] on an address of its own of the host `client`. It serves the truth of the lab, the
//! machine's `CLOCK_REALTIME`, plus an error. What it does and says is its [`Conduct`], which a test changes at once
//! ([`FakeUpstream::change`]) or beforehand ([`Script::after`]).

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::reference_id;

use crate::lab::Lab;
use crate::ntp::{LENGTH, Message, Moment, UNSYNCHRONISED, measured};

/// How long a change by the clock or the end may take to be noticed.
const LOOK: Duration = Duration::from_millis(50);
/// How long one that follows another waits for an answer.
const ANSWER: Duration = Duration::from_millis(500);
/// What a synchronised server's claim grows by, in s/s (RFC 5905's PHI).
const PHI: f64 = 15e-6;

/// Whether and how requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// With the time.
    Time,
    /// Not at all.
    Silence,
    /// By a kiss of death.
    Kiss([u8; 4]),
}

/// What an upstream does and says. The times that it serves are the truth, `error_s` and what `drift` has made of it
/// since.
#[derive(Clone, Debug)]
pub struct Conduct {
    /// Whether and how it answers.
    pub reply: Reply,
    /// How far it is ahead of the truth, in s.
    pub error_s: f64,
    /// How fast that grows, in s/s.
    pub drift: f64,
    /// The leap indicator of its answers.
    pub leap: u8,
    /// The stratum of its answers.
    pub stratum: u8,
    /// log2 seconds.
    pub precision: i8,
    /// The root delay that it claims, in s.
    pub root_delay_s: f64,
    /// The root dispersion that it claims, in s.
    pub root_dispersion_s: f64,
    /// How fast the root dispersion grows, in s/s.
    pub dispersion_growth: f64,
    /// Whom it says that it follows.
    pub reference_id: u32,
    /// What a request takes until it is stamped.
    pub there: Duration,
    /// What an answer takes after it was stamped.
    pub back: Duration,
}

impl Conduct {
    /// A primary server that is right to the microsecond, and says so.
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

    /// A server of stratum 2 that is so far off and claims this root dispersion.
    pub fn coarse(error_s: f64, root_dispersion_s: f64) -> Self {
        // Of a network that is kept for documentation.
        let reference_id = u32::from_be_bytes([192, 0, 2, 1]);
        Self { error_s, root_dispersion_s, stratum: 2, reference_id, ..Self::exact() }
    }

    /// Loses its source, and says so.
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

/// A conduct, and how it changes as time goes by.
pub struct Script {
    conduct: Conduct,
    /// Of the last change: what grows has grown from then on.
    since: Instant,
    started: Instant,
    to_come: Vec<(Duration, Change)>,
}

impl Script {
    /// A conduct without changes planned.
    pub fn new(conduct: Conduct) -> Self {
        let now = Instant::now();
        Self { conduct, since: now, started: now, to_come: Vec::new() }
    }

    /// Plans a change for so long after the upstream's start.
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

    /// The conduct of now.
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

/// A running upstream, which ends when this is dropped.
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

/// Where an upstream takes its time from.
#[derive(Clone, Copy, Debug)]
pub struct Following {
    /// Who is asked.
    pub server: SocketAddr,
    /// How often.
    pub interval: Duration,
    /// Leaves out answers of a server that says that it follows this very upstream, as real servers do. They know
    /// their own address only as this server sees it.
    pub notices_loops: bool,
}

impl FakeUpstream {
    /// Starts one on the host `client` and gives it the address. Its script begins now.
    pub fn start(lab: &Lab, address: impl Into<IpAddr>, script: impl Into<Script>) -> Self {
        let address = address.into();
        let length = if address.is_ipv4() { "24" } else { "64 nodad" };
        lab.ip("client", &format!("address add {address}/{length} dev lan0"));
        let sockets = lab.inside("client", || (UdpSocket::bind((address, 123)).unwrap(), asking(address)));
        Self::serve(sockets, script.into())
    }

    /// Starts one in this network namespace, on an address and port that are there.
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

    /// Where it is.
    pub fn address(&self) -> IpAddr {
        self.address.ip()
    }

    /// Where it is, with the port.
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// How servers that follow it name it.
    pub fn reference_id(&self) -> u32 {
        reference_id(self.address())
    }

    /// How often it was asked.
    pub fn requests(&self) -> u64 {
        *self.shared.requests.lock().unwrap()
    }

    /// Changes its conduct now. What has grown so far stays.
    pub fn change(&self, change: impl FnOnce(&mut Conduct)) {
        self.shared.script().change(change);
    }

    /// Answers no more.
    pub fn vanish(&self) {
        self.change(|conduct| conduct.reply = Reply::Silence);
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.change(|conduct| conduct.reply = Reply::Time);
    }

    /// Follows a server from now on: serves its time, one stratum further, and holds what it heard last, with a
    /// claim that grows, while there is nothing to hear. What `drift` says happens between two answers.
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

/// What one asks by that follows another: sockets for IPv4 and IPv6. Of its own family it asks from its own address.
fn asking(own: IpAddr) -> [UdpSocket; 2] {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    any.map(|any| {
        let address = if any.is_ipv4() == own.is_ipv4() { own } else { any };
        UdpSocket::bind((address, 0)).unwrap()
    })
}

/// Asks a server once: its answer, how far it is ahead of the truth, and the round trip.
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
