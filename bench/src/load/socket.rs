//! The generator that needs no privilege: connected UDP sockets, with a thread on each CPU that both sends
//! and receives.

mod malformed_sender;
mod proc_net;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use bench_ebpf::load_token::{Fault, Key, MAX_REQUESTS, Token, mix_index};
use core_affinity::CoreId;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::answer_check::{AnswerChecker, Start};
use super::clock::{monotonic_ns, nanos, ntp_after};
use super::generator::Generator;
use super::profile::Profile;
use super::schedule::Schedule;
use super::tally::{Seen, Tally};
use super::watch::{TELL_INTERVAL, Watch};
use super::{LATE_NS, Load, LoadError};
use crate::failure::Failure;
use crate::frames::{self, MESSAGE};
use malformed_sender::MalformedSender;
use proc_net::{dropped_at, wrong_checksums};

/// Number of requests sent or answers taken in one go, so that neither waits long for the other.
const BATCH: usize = 16;
/// Size of the buffer for answers that come while the thread does something else. The kernel may give less.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The threads start together, this long after they are created.
const LEAD: Duration = Duration::from_millis(10);
/// The longest sleep before a thread looks whether it is interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longer than any answer that is checked; the rest of a longer one does not matter.
const LONGEST_ANSWER: usize = 1024;

/// The generator; see the module.
pub(super) struct SocketGenerator {
    target: SocketAddr,
    load: Load,
    cores: Vec<CoreId>,
    /// Why it was selected, if there was a choice.
    why: String,
}

impl SocketGenerator {
    pub(super) fn open(target: SocketAddr, load: Load, why: String) -> Result<Self, Failure> {
        if let Some(options) = load.for_frames() {
            return Err(LoadError::NotBySockets(options).into());
        }
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let generator = Self { target, load, cores, why };
        // A problem with the target or the ports shows before the first step.
        generator.ports().map(|port| connected(target, port)).collect::<Result<Vec<_>, _>>()?;
        Ok(generator)
    }

    /// Returns the port of each socket of all workers; 0 means any port.
    fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let (sockets, range) = (self.clients(), self.load.source_ports);
        (0..sockets).map(move |socket| range.map_or(0, |range| range.spread(socket, sockets)))
    }

    fn workers(&self) -> u32 {
        let cores = u32::try_from(self.cores.len()).unwrap_or(1).max(1);
        self.load.workers.unwrap_or(cores).max(1)
    }
}

impl Generator for SocketGenerator {
    fn name(&self) -> String {
        let why = if self.why.is_empty() { String::new() } else { format!(" ({})", self.why) };
        let (workers, sockets) = (self.workers(), self.load.sockets);
        let malformations = match self.load.profile {
            Profile::Malformed(_) => ", malformed as far as sockets let it: short, and of mode 4",
            _ => "",
        };
        format!("socket{why}, {workers} workers with {sockets} sockets each{malformations}")
    }

    fn target(&self) -> SocketAddr {
        self.target
    }

    fn clients(&self) -> u32 {
        self.workers().saturating_mul(self.load.sockets)
    }

    fn step(&mut self, rate: f64, duration: Duration, watch: &Watch) -> Result<Tally, Failure> {
        let workers = self.workers();
        let spoiled = wrong_checksums();
        let begin = Start { monotonic_ns: monotonic_ns() + nanos(LEAD), ntp: ntp_after(LEAD) };
        let mut jobs = Vec::new();
        let mut ports = self.ports();
        for worker in 0..workers {
            let ports = ports.by_ref().take(usize::try_from(self.load.sockets).unwrap_or(1));
            let sockets = ports.map(|port| connected(self.target, port)).collect::<Result<Vec<_>, _>>()?;
            jobs.push(Worker {
                sockets,
                schedule: Schedule::new(rate, self.load.spacing, duration, worker, workers)
                    .with(self.load.profile.spike(duration)),
                malformed_sender: MalformedSender::of(self.target, self.load.profile)?,
                extension: self.load.profile.extension(),
                checker: AnswerChecker {
                    key: Key(fastrand::u64(..)),
                    versions: self.load.mix.table(),
                    start: begin,
                    timeout: self.load.timeout,
                    tolerance: self.load.shared_clock.then_some(self.load.tolerance),
                    lenient: self.load.lenient,
                    length: MESSAGE + self.load.profile.extension().len(),
                    echo: self.load.echo,
                    seen: Seen::default(),
                },
                duration,
                issued: 0,
                tally: Tally::over(duration),
                watch: watch.clone(),
                index: jobs.len(),
                tell_at_ns: begin.monotonic_ns + nanos(TELL_INTERVAL),
            });
        }
        let (results, finished) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            for (worker, job) in jobs.into_iter().enumerate() {
                let core = self.cores.get(worker % self.cores.len().max(1)).copied();
                let results = results.clone();
                scope.spawn(move || {
                    // Without pinning it works too, only less evenly.
                    let _pinned = core.map(core_affinity::set_for_current);
                    let _receiver_waits = results.send(job.run());
                });
            }
        });
        drop(results);
        let mut total = Tally::over(duration);
        for tally in finished {
            total.add(&tally);
        }
        // The kernel drops answers with a wrong checksum and only counts them. What was not lost does not
        // belong to this load.
        total.faults[Fault::Checksum as usize] += (wrong_checksums() - spoiled).min(total.lost());
        Ok(total)
    }
}

/// A thread's part of a step.
struct Worker {
    sockets: Vec<UdpSocket>,
    malformed_sender: Option<MalformedSender>,
    /// What requests have behind their messages.
    extension: Vec<u8>,
    schedule: Schedule,
    checker: AnswerChecker,
    duration: Duration,
    /// Number of requests sent so far, which is the number of the next one.
    issued: u64,
    tally: Tally,
    watch: Watch,
    /// Its number among the workers.
    index: usize,
    /// When it tells next what it has measured.
    tell_at_ns: u64,
}

impl Worker {
    fn run(mut self) -> Tally {
        let start_ns = self.checker.start.monotonic_ns;
        let end_ns = start_ns + nanos(self.duration);
        while monotonic_ns() < start_ns {
            std::hint::spin_loop();
        }
        while let Some(due_ns) = self.schedule.due_ns() {
            let now_ns = monotonic_ns();
            if now_ns >= end_ns {
                // The remaining requests were due and did not go out: the generator failed, not the server.
                self.tally.unsent += self.schedule.give_up();
                break;
            }
            if self.watch.is_interrupted() {
                self.tally.cut_after = Some(Duration::from_nanos(now_ns - start_ns));
                break;
            }
            if self.watch.is_watched() && now_ns >= self.tell_at_ns {
                self.watch.tell(self.index, &self.tally.round_trip);
                self.tell_at_ns = now_ns + nanos(TELL_INTERVAL);
            }
            let sent = self.send_due(start_ns, now_ns);
            let received = self.receive();
            if sent == 0 && received == 0 {
                let until_due = Duration::from_nanos((start_ns + due_ns).saturating_sub(monotonic_ns()));
                self.wait(until_due.min(LOOK_AGAIN));
            }
        }
        let give_up_ns = monotonic_ns() + nanos(self.checker.timeout);
        // It takes the whole timeout to find out that nothing comes back to malformed requests.
        while (self.tally.matched < self.tally.sent || self.malformed_sender.is_some())
            && monotonic_ns() < give_up_ns
        {
            if self.receive() == 0 {
                self.wait(Duration::from_nanos(give_up_ns.saturating_sub(monotonic_ns())));
            }
        }
        self.tally.refused += self.pending_errors();
        self.tally.dropped_here += dropped_at(&self.sockets);
        self.tally
    }

    /// Sends what is due by now, up to a batch, and returns how many requests that were.
    fn send_due(&mut self, start_ns: u64, now_ns: u64) -> usize {
        let mut sent = 0;
        while sent < BATCH
            && let Some(due_ns) = self.schedule.due_ns().filter(|due_ns| start_ns + due_ns <= now_ns)
        {
            self.schedule.advance();
            sent += 1;
            if self.issued >= MAX_REQUESTS {
                self.tally.unsent += 1;
                continue;
            }
            let sequence = self.issued;
            let sent_ns = monotonic_ns() - start_ns;
            let timestamp = self.checker.key.seal(Token { sequence, sent_ns });
            let version = self.checker.versions[mix_index(sequence)];
            if let Some(malformed_sender) = &self.malformed_sender
                && let Some(malformation) = malformed_sender.malformation(sequence)
            {
                self.issued += 1;
                self.tally.malformed += u64::from(malformed_sender.send(malformation, version, timestamp));
                continue;
            }
            let request = [&frames::request(version, timestamp)[..], &self.extension].concat();
            let socket = &self.sockets[usize::try_from(sequence).unwrap_or(0) % self.sockets.len()];
            let result = match socket.send(&request) {
                // The error belongs to an earlier request, but it kept this one from going out.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.tally.refused += 1;
                    socket.send(&request)
                }
                result => result,
            };
            if result.is_err() {
                self.tally.unsent += 1;
                continue;
            }
            self.issued += 1;
            self.tally.sent += 1;
            self.tally.loss_windows.sent_at(sent_ns);
            if sent_ns > due_ns + LATE_NS {
                self.tally.sent_late += 1;
            }
        }
        sent
    }

    /// Takes the answers that have come, up to a batch from each socket, and returns their number.
    fn receive(&mut self) -> usize {
        let mut buffer = [0; LONGEST_ANSWER];
        let mut received = 0;
        for socket in &self.sockets {
            for _ in 0..BATCH {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        received += 1;
                        let now_ns = monotonic_ns() - self.checker.start.monotonic_ns;
                        self.checker.take(&buffer[..length], now_ns, self.issued, &mut self.tally);
                    }
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.tally.refused += 1,
                    Err(_) => break,
                }
            }
        }
        received
            + self
                .malformed_sender
                .as_ref()
                .map_or(0, |malformed_sender| malformed_sender.receive(&mut self.tally))
    }

    fn pending_errors(&self) -> u64 {
        self.sockets.iter().filter(|socket| matches!(socket.take_error(), Ok(Some(_)))).count() as u64
    }

    /// Sleeps until an answer comes, but at most for this time.
    fn wait(&self, time: Duration) {
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // An interruption is as good as an answer: the caller looks again.
        let _woken = ppoll(&mut polled, Some(TimeSpec::from(time)), None);
    }
}

/// Opens a socket that sends to the target from this port, or from any port if it is 0.
fn connected(target: SocketAddr, port: u16) -> Result<UdpSocket, LoadError> {
    let here: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    };
    let socket = UdpSocket::bind(here).map_err(|reason| LoadError::Port { port, reason })?;
    let ready = socket.connect(target).and_then(|()| socket.set_nonblocking(true));
    ready.map_err(|reason| unreachable(target, reason))?;
    // Only root may exceed net.core.rmem_max; otherwise the socket keeps what the kernel gives.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _as_much_as_allowed = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    Ok(socket)
}

fn unreachable(target: SocketAddr, reason: io::Error) -> LoadError {
    let advice = match reason.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            "There is no route: check the address with `ip route get`"
        }
        ErrorKind::PermissionDenied => {
            "It is a broadcast address, or a firewall rule on this host forbids it"
        }
        ErrorKind::InvalidInput => "A link-local address needs its interface: [fe80::1%2]:123, by index",
        _ => "Check with `ip route get` how the kernel would send it",
    };
    LoadError::Unreachable { target, reason, advice }
}
