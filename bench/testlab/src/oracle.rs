//! The oracle: a client that asks a server all the time and knows the true time, so that it can check the claim of
//! every answer.
//!
//! The true time is the machine's `CLOCK_REALTIME`, which all hosts of the lab share and no test steers. A
//! synchronised answer is right if its offset from the true time is at most root delay / 2 + root dispersion, plus
//! the oracle's own uncertainty: half of the round trip and the error of a reading.
//!
//! The configuration of the server needs `limits.enabled = false`, or its rate limit refuses the oracle.
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

use crate::claim::Claim;
use crate::lab::Lab;
use crate::ntp::{LENGTH, Message, Moment};

/// The server's addresses on `lan0`, where the eBPF program answers.
pub const SERVED: [&str; 2] = ["10.77.0.1:123", "[fd77::1]:123"];
/// Deadline of an answer; a request without one by then is lost.
const ANSWER: Duration = Duration::from_secs(1);
/// The longest time that an oracle asks, even if a test forgets to stop it.
const LONGEST: Duration = Duration::from_hours(2);
/// Interval at which the thread looks for the end.
const LOOK: Duration = Duration::from_millis(20);
/// Rounding of root delay and root dispersion on the wire, 15 us each, in s.
const ROUNDING_S: f64 = 2.0 / 65_536.0;
/// The number of wrong answers that a failure shows in full.
const WORST: usize = 5;

/// One answer of a server, and its offset from the true time.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When the request was sent, since the oracle started.
    pub at: Duration,
    /// The server that answered.
    pub server: SocketAddr,
    /// Leap indicator.
    pub leap: u8,
    /// Stratum.
    pub stratum: u8,
    /// Reference ID.
    pub reference_id: u32,
    /// Claimed root delay in s.
    pub root_delay_s: f64,
    /// Claimed root dispersion in s.
    pub root_dispersion_s: f64,
    /// How far the server is ahead of the true time, in s.
    pub offset_s: f64,
    /// Uncertainty of the offset in s.
    pub uncertainty_s: f64,
    synchronised: bool,
    claim: Claim,
}

impl Answer {
    fn of(asked: &Asked, message: &Message, received: Moment) -> Self {
        let claim = Claim::of(asked.sent, message, received);
        Self {
            at: asked.at,
            server: asked.server,
            leap: message.leap,
            stratum: message.stratum,
            reference_id: message.reference_id,
            root_delay_s: message.root_delay_s,
            root_dispersion_s: message.root_dispersion_s,
            claim,
            offset_s: claim.offset_s,
            uncertainty_s: claim.uncertainty_s,
            synchronised: message.is_synchronised(),
        }
    }

    /// The error bound that the server claims, in s.
    pub fn bound_s(&self) -> f64 {
        self.claim.bound_s
    }

    /// Whether the server says that it is synchronised.
    pub fn is_synchronised(&self) -> bool {
        self.synchronised
    }

    /// Whether the server says that it is synchronised and is further off than it claims.
    pub fn is_wrong(&self) -> bool {
        self.synchronised && self.excess_s() > 0.0
    }

    /// How far the error is beyond the claimed bound at least, in s.
    fn excess_s(&self) -> f64 {
        self.claim.excess_s()
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

/// The outcome of all requests.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// All answers, roughly in the order of their requests.
    pub answers: Vec<Answer>,
    /// When requests without an answer were sent.
    lost: Vec<Duration>,
    /// When requests that a kiss of death refused were sent.
    kissed: Vec<Duration>,
    /// The number of datagrams that answer no request.
    pub strange: u64,
    /// Name and start of each phase.
    phases: Vec<(String, Duration)>,
}

impl Verdict {
    /// The verdict on the requests in a span of time since the oracle started.
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

    /// The verdict on the requests from this time after the start of the oracle.
    #[must_use]
    pub fn after(&self, from: Duration) -> Self {
        self.between(from, Duration::MAX)
    }

    /// The verdict on the requests of one phase.
    #[must_use]
    pub fn during(&self, phase: &str) -> Self {
        let next = self.phases.iter().skip_while(|(name, _)| name != phase).nth(1);
        self.between(self.beginning(phase), next.map_or(Duration::MAX, |(_, at)| *at))
    }

    /// The verdict on the requests from the beginning of a phase to the end of the run.
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

    /// The number of synchronised answers that are within their claimed bound.
    pub fn right(&self) -> usize {
        self.synchronised().count() - self.wrong()
    }

    /// The number of synchronised answers that are not within their claimed bound.
    pub fn wrong(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_wrong()).count()
    }

    /// The number of answers that say that they are not synchronised.
    pub fn unsynchronised(&self) -> usize {
        self.answers.len() - self.synchronised().count()
    }

    /// The number of requests without an answer.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// The number of requests that a kiss of death refused; 0 for a server without limits.
    pub fn kissed(&self) -> usize {
        self.kissed.len()
    }

    /// The first answer that says that it is synchronised.
    pub fn first_synchronised(&self) -> Option<&Answer> {
        self.synchronised().next()
    }

    /// The wrong answers that are furthest beyond their claimed bound, the worst first.
    pub fn worst(&self) -> Vec<&Answer> {
        let mut wrong: Vec<_> = self.answers.iter().filter(|answer| answer.is_wrong()).collect();
        wrong.sort_by(|one, other| other.excess_s().total_cmp(&one.excess_s()));
        wrong.truncate(WORST);
        wrong
    }

    /// The different strata of synchronised answers in ascending order.
    pub fn strata(&self) -> Vec<u8> {
        let strata: BTreeSet<_> = self.synchronised().map(|answer| answer.stratum).collect();
        strata.into_iter().collect()
    }

    /// Whether a synchronised answer has this reference ID.
    pub fn names(&self, reference_id: u32) -> bool {
        self.synchronised().any(|answer| answer.reference_id == reference_id)
    }

    /// The answers whose leap indicator, stratum or reference ID differs from the answer before. The first answer is
    /// one of them.
    pub fn changes(&self) -> Vec<&Answer> {
        let kind = |answer: &Answer| (answer.leap, answer.stratum, answer.reference_id);
        let mut before = None;
        self.answers.iter().filter(|answer| before.replace(kind(answer)) != Some(kind(answer))).collect()
    }

    /// Two synchronised answers of which the later one claims a smaller bound. Without news from a source there are
    /// none.
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

    /// Panics with the verdict unless there were answers and none was wrong.
    #[track_caller]
    pub fn assert_never_wrong(&self) {
        self.expect(!self.answers.is_empty(), "there to be answers");
        self.expect(self.wrong() == 0, "no synchronised answer to be wrong");
    }

    /// Panics with the verdict unless the condition holds.
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

/// A client that asks in the background until it is stopped or dropped.
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
    /// Starts to ask the lab's server from the host `client`, on each of [`SERVED`] in turn, at `rate` requests per
    /// second in total.
    pub fn start(lab: &Lab, rate: u32) -> Self {
        Self::on(lab, "client", &SERVED, rate)
    }

    /// Starts to ask these addresses from this host. On the host `server` the sockets answer, not the eBPF program.
    pub fn on(lab: &Lab, host: &str, servers: &[&str], rate: u32) -> Self {
        let servers: Vec<SocketAddr> = servers.iter().map(|server| server.parse().expect(server)).collect();
        lab.inside(host, || Self::here(&servers, rate))
    }

    /// Starts to ask these addresses from this network namespace.
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

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Starts a phase with this name.
    pub fn phase(&self, name: &str) {
        let at = self.elapsed();
        self.shared.verdict().phases.push((name.into(), at));
    }

    /// The verdict so far, without the requests whose answers may still arrive.
    pub fn so_far(&self) -> Verdict {
        self.shared.verdict().clone()
    }

    /// The last answer that arrived.
    pub fn latest(&self) -> Option<Answer> {
        self.shared.verdict().answers.last().copied()
    }

    /// Stops asking, waits for the last answers and returns the verdict.
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

/// A socket that is not connected, so that the kernel reports no closed ports on it: these count as losses.
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
