//! The oracle: a client that asks a server all the time and knows the truth, so that it can tell of every answer
//! whether what it claims is so.
//!
//! The truth is the machine's `CLOCK_REALTIME`, which every host of the lab shares and which no test steers. An
//! answer that says it is synchronised is right if its offset from the truth is at most root delay / 2 + root
//! dispersion and what the oracle cannot tell itself: half of the round trip, and the error of a reading.
//!
//! A server whose limits are on refuses the oracle before long: its configuration is to have `limits.enabled = false`.
//!
//! ```no_run
//! # let lab = testlab::Lab::up(&[]);
//! # use testlab::oracle::Oracle;
//! let oracle = Oracle::start(&lab, 100);      // asks in the background from now on
//! oracle.phase("the best one is gone");       // names what comes now
//! oracle.so_far();                            // a Verdict, while it goes on
//! let verdict = oracle.stop();                // the last word
//! verdict.assert_never_wrong();
//! let late = verdict.since("the best one is gone");
//! late.expect(late.strata() == [3], "stratum 3 from then on");
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::lab::Lab;
use crate::ntp::{LENGTH, Message, Moment, measured};

/// The server's addresses on `lan0`: the program in the NIC's path answers there.
pub const SERVED: [&str; 2] = ["10.77.0.1:123", "[fd77::1]:123"];
/// Later than this nothing comes.
const ANSWER: Duration = Duration::from_secs(1);
/// Whatever a test forgets: the oracle asks no longer than this.
const LONGEST: Duration = Duration::from_mins(10);
/// How long the end may take to be noticed.
const LOOK: Duration = Duration::from_millis(20);
/// Of reading a clock twice and of the wire's formats, in s.
const READING_S: f64 = 2e-6;
/// A root delay and a root dispersion are each rounded to 15 us.
const ROUNDING_S: f64 = 2.0 / 65_536.0;
/// So many wrong answers are told in full.
const WORST: usize = 5;

/// What a server said in one answer, and what the truth was.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When it was asked, since the oracle began.
    pub at: Duration,
    /// Who answered.
    pub server: SocketAddr,
    /// The leap indicator.
    pub leap: u8,
    /// The stratum.
    pub stratum: u8,
    /// Whom the server says that it follows.
    pub reference_id: u32,
    /// The root delay that it claims, in s.
    pub root_delay_s: f64,
    /// The root dispersion that it claims, in s.
    pub root_dispersion_s: f64,
    /// How far the server is ahead of the truth.
    pub offset_s: f64,
    /// How far the offset may be off.
    pub uncertainty_s: f64,
    synchronised: bool,
}

impl Answer {
    fn of(asked: &Asked, message: &Message, received: Moment) -> Self {
        let (offset_s, delay_s) = measured(asked.sent, message, received);
        Self {
            at: asked.at,
            server: asked.server,
            leap: message.leap,
            stratum: message.stratum,
            reference_id: message.reference_id,
            root_delay_s: message.root_delay_s,
            root_dispersion_s: message.root_dispersion_s,
            offset_s,
            uncertainty_s: delay_s.max(0.0) / 2.0 + READING_S,
            synchronised: message.is_synchronised(),
        }
    }

    /// The most that the server may be wrong, as it says.
    pub fn bound_s(&self) -> f64 {
        self.root_delay_s / 2.0 + self.root_dispersion_s
    }

    /// Whether it says that it has the time.
    pub fn is_synchronised(&self) -> bool {
        self.synchronised
    }

    /// Whether it says so, and is further off than it says.
    pub fn is_wrong(&self) -> bool {
        self.synchronised && self.excess_s() > 0.0
    }

    /// How far beyond what it claims it is at least.
    fn excess_s(&self) -> f64 {
        self.offset_s.abs() - self.bound_s() - self.uncertainty_s
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "After {:.2} s {} was {:+.3} ms off and claimed {:.3} ms at most (the oracle is sure to {:.3} ms), with \
             stratum {}, reference {} and leap {}.",
            self.at.as_secs_f64(),
            self.server,
            self.offset_s * 1e3,
            self.bound_s() * 1e3,
            self.uncertainty_s * 1e3,
            self.stratum,
            Ipv4Addr::from(self.reference_id),
            self.leap,
        )
    }
}

/// What came of the questions.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// In the order in which they were asked for, near enough.
    pub answers: Vec<Answer>,
    /// When those were asked to which no answer came.
    lost: Vec<Duration>,
    /// When those were asked that were refused by a kiss of death.
    kissed: Vec<Duration>,
    /// Datagrams that answer nothing.
    pub strange: u64,
    /// Names and when they began.
    phases: Vec<(String, Duration)>,
}

impl Verdict {
    /// Of the questions in a span of time, since the oracle began.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Self {
        let within = |at: Duration| (from..to).contains(&at);
        Self {
            answers: self.answers.iter().filter(|answer| within(answer.at)).copied().collect(),
            lost: self.lost.iter().filter(|at| within(**at)).copied().collect(),
            kissed: self.kissed.iter().filter(|at| within(**at)).copied().collect(),
            strange: self.strange,
            phases: self.phases.clone(),
        }
    }

    /// Of the questions from so long after the oracle's start on.
    #[must_use]
    pub fn after(&self, from: Duration) -> Self {
        self.between(from, Duration::MAX)
    }

    /// Of the questions in a phase, to its end.
    #[must_use]
    pub fn during(&self, phase: &str) -> Self {
        let next = self.phases.iter().skip_while(|(name, _)| name != phase).nth(1);
        self.between(self.beginning(phase), next.map_or(Duration::MAX, |(_, at)| *at))
    }

    /// Of the questions from the beginning of a phase on.
    #[must_use]
    pub fn since(&self, phase: &str) -> Self {
        self.after(self.beginning(phase))
    }

    /// When a phase began.
    pub fn beginning(&self, phase: &str) -> Duration {
        let found = self.phases.iter().find(|(name, _)| name == phase);
        found.unwrap_or_else(|| panic!("no phase {phase:?} in {:?}", self.phases)).1
    }

    /// The answers that say that they are synchronised.
    pub fn synchronised(&self) -> impl DoubleEndedIterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.is_synchronised())
    }

    /// How many say that they are synchronised and are within what they claim.
    pub fn right(&self) -> usize {
        self.synchronised().count() - self.wrong()
    }

    /// How many say that they are synchronised and are not within what they claim.
    pub fn wrong(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_wrong()).count()
    }

    /// How many answers say that they are not synchronised.
    pub fn unsynchronised(&self) -> usize {
        self.answers.len() - self.synchronised().count()
    }

    /// Requests to which no answer came.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// Requests that were refused by a kiss of death. A server whose limits are off refuses none.
    pub fn kissed(&self) -> usize {
        self.kissed.len()
    }

    /// The first answer that says that it is synchronised.
    pub fn first_synchronised(&self) -> Option<&Answer> {
        self.synchronised().next()
    }

    /// The wrong answers that are furthest beyond what they claim, the worst one first.
    pub fn worst(&self) -> Vec<&Answer> {
        let mut wrong: Vec<_> = self.answers.iter().filter(|answer| answer.is_wrong()).collect();
        wrong.sort_by(|one, other| other.excess_s().total_cmp(&one.excess_s()));
        wrong.truncate(WORST);
        wrong
    }

    /// The strata of synchronised answers, from the lowest on.
    pub fn strata(&self) -> Vec<u8> {
        let strata: BTreeSet<_> = self.synchronised().map(|answer| answer.stratum).collect();
        strata.into_iter().collect()
    }

    /// Whether a synchronised answer names this reference.
    pub fn names(&self, reference_id: u32) -> bool {
        self.synchronised().any(|answer| answer.reference_id == reference_id)
    }

    /// Where answers began to be of another kind than the one before: leap, stratum and reference. The first answer
    /// is one of them.
    pub fn changes(&self) -> Vec<&Answer> {
        let kind = |answer: &Answer| (answer.leap, answer.stratum, answer.reference_id);
        let mut before = None;
        self.answers.iter().filter(|answer| before.replace(kind(answer)) != Some(kind(answer))).collect()
    }

    /// Two synchronised answers of which the later one claims less than the earlier one: without news from a source
    /// there are none.
    pub fn shrinking(&self) -> Option<(&Answer, &Answer)> {
        let mut largest: Option<&Answer> = None;
        for answer in self.synchronised() {
            match largest {
                Some(before) if answer.bound_s() < before.bound_s() - ROUNDING_S => {
                    return Some((before, answer));
                }
                Some(before) if answer.bound_s() <= before.bound_s() => {}
                _ => largest = Some(answer),
            }
        }
        None
    }

    /// Fails and tells the verdict unless there were answers and none was wrong.
    #[track_caller]
    pub fn assert_never_wrong(&self) {
        self.expect(!self.answers.is_empty(), "there to be answers");
        self.expect(self.wrong() == 0, "no synchronised answer to be wrong");
    }

    /// Fails and tells the verdict unless this is so.
    #[track_caller]
    pub fn expect(&self, so: bool, what: &str) {
        assert!(so, "expected {what}\n{self}");
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const CHANGES: usize = 30;
        writeln!(
            f,
            "Of {} requests {} were answered right, {} wrong and {} by a server that says it is not synchronised; {} \
             were lost.",
            self.answers.len() + self.lost() + self.kissed(),
            self.right(),
            self.wrong(),
            self.unsynchronised(),
            self.lost(),
        )?;
        if self.kissed() > 0 {
            writeln!(f, "{} were refused by a kiss of death: the server limits the oracle.", self.kissed())?;
        }
        if self.strange > 0 {
            writeln!(f, "{} datagrams answered nothing that was asked.", self.strange)?;
        }
        match self.first_synchronised() {
            Some(first) => writeln!(f, "The first synchronised answer: {first}")?,
            None => writeln!(f, "No answer was synchronised.")?,
        }
        if let Some(last) = self.synchronised().next_back() {
            writeln!(f, "The last synchronised answer: {last}")?;
        }
        if self.wrong() > 0 {
            writeln!(f, "The worst of the wrong ones:")?;
            for answer in self.worst() {
                writeln!(f, "  {answer}")?;
            }
        }
        let changes = self.changes();
        writeln!(f, "What answers said of themselves, and from when on:")?;
        for change in changes.iter().take(CHANGES) {
            let (reference, at) = (Ipv4Addr::from(change.reference_id), change.at.as_secs_f64());
            writeln!(
                f,
                "  {at:.2} s: leap {}, stratum {}, reference {reference}",
                change.leap, change.stratum
            )?;
        }
        if changes.len() > CHANGES {
            writeln!(f, "  and {} more changes", changes.len() - CHANGES)?;
        }
        for (name, at) in &self.phases {
            writeln!(f, "The phase {name:?} began after {:.2} s.", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Asks in the background until it is stopped or dropped.
pub struct Oracle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    started: Instant,
    end: AtomicBool,
    verdict: Mutex<Verdict>,
}

impl Oracle {
    /// Asks the lab's server on each of [`SERVED`] in turn, so many requests a second together, from the host
    /// `client`.
    pub fn start(lab: &Lab, rate: u32) -> Self {
        Self::on(lab, "client", &SERVED, rate)
    }

    /// Asks these addresses from this host. From the host `server` the sockets answer, not the program.
    pub fn on(lab: &Lab, host: &str, servers: &[&str], rate: u32) -> Self {
        let servers: Vec<SocketAddr> = servers.iter().map(|server| server.parse().expect(server)).collect();
        lab.inside(host, || Self::here(&servers, rate))
    }

    /// Asks these addresses from this network namespace.
    pub fn here(servers: &[SocketAddr], rate: u32) -> Self {
        assert!(rate > 0 && !servers.is_empty(), "somebody is to be asked");
        let paths = servers.iter().map(|server| (*server, socket(*server))).collect();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            end: AtomicBool::new(false),
            verdict: Mutex::default(),
        });
        let mut asking = Asking {
            shared: Arc::clone(&shared),
            paths,
            waiting: VecDeque::new(),
            interval: Duration::from_secs(1) / rate,
        };
        Self { shared, thread: Some(thread::spawn(move || asking.run())) }
    }

    /// How long it has been asking.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Names what comes now.
    pub fn phase(&self, name: &str) {
        let at = self.elapsed();
        self.shared.verdict().phases.push((name.into(), at));
    }

    /// What came of the questions up to now. Those whose answers may still come are not among them.
    pub fn so_far(&self) -> Verdict {
        self.shared.verdict().clone()
    }

    /// The latest answer.
    pub fn latest(&self) -> Option<Answer> {
        self.shared.verdict().answers.last().copied()
    }

    /// Ends, and waits for the last answers.
    pub fn stop(mut self) -> Verdict {
        self.end();
        std::mem::take(&mut self.shared.verdict())
    }

    fn end(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn verdict(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap()
    }
}

/// Not connected: the kernel does not tell such a socket of closed ports, which are nothing but losses here.
fn socket(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

struct Asking {
    shared: Arc<Shared>,
    paths: Vec<(SocketAddr, UdpSocket)>,
    waiting: VecDeque<Asked>,
    interval: Duration,
}

#[derive(Clone, Copy)]
struct Asked {
    server: SocketAddr,
    at: Duration,
    /// The request's transmit timestamp is the moment itself, and no two are the same.
    sent: Moment,
}

impl Asking {
    fn run(&mut self) {
        let mut next = Duration::ZERO;
        let mut number = 0;
        loop {
            let now = self.shared.started.elapsed();
            let ended = self.shared.end.load(Ordering::Relaxed) || now > LONGEST;
            if ended && self.waiting.is_empty() {
                return;
            }
            if !ended && now >= next {
                self.ask(number, now);
                number = (number + 1) % self.paths.len();
                // What a busy machine missed is not asked for all at once.
                next = now.max(next + self.interval);
            }
            self.receive();
            self.give_up();
            self.wait(next.saturating_sub(self.shared.started.elapsed()).min(LOOK));
        }
    }

    fn ask(&mut self, number: usize, at: Duration) {
        let (server, socket) = &self.paths[number];
        let mut sent = Moment::now();
        if let Some(before) = self.waiting.back().filter(|before| before.sent.0 >= sent.0) {
            sent = Moment(before.sent.0 + 1);
        }
        let _lost = socket.send_to(&Message::request(sent).to_bytes(), server);
        self.waiting.push_back(Asked { server: *server, at, sent });
    }

    fn receive(&mut self) {
        for (server, socket) in &self.paths {
            let mut buffer = [0; 2 * LENGTH];
            loop {
                let (length, from) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => continue,
                };
                let received = Moment::now();
                let message = Message::from_bytes(&buffer[..length]).filter(|_| from == *server);
                let asked = message.and_then(|message| {
                    let is_asked =
                        |asked: &Asked| asked.server == *server && message.is_answer_to(asked.sent);
                    let place = self.waiting.iter().position(is_asked)?;
                    Some((message, self.waiting.remove(place)?))
                });
                let mut verdict = self.shared.verdict();
                match asked {
                    Some((message, asked)) if message.is_kiss() => verdict.kissed.push(asked.at),
                    Some((message, asked)) => verdict.answers.push(Answer::of(&asked, &message, received)),
                    None => verdict.strange += 1,
                }
            }
        }
    }

    fn give_up(&mut self) {
        let now = self.shared.started.elapsed();
        while let Some(asked) = self.waiting.front().filter(|asked| asked.at + ANSWER < now) {
            self.shared.verdict().lost.push(asked.at);
            self.waiting.pop_front();
        }
    }

    fn wait(&self, longest: Duration) {
        let mut sockets: Vec<_> =
            self.paths.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let _interrupted = ppoll(&mut sockets, Some(TimeSpec::from_duration(longest)), None);
    }
}
