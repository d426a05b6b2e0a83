//! The generator that needs no privilege: connected UDP sockets, a thread on each CPU that both sends and
//! receives.

mod spoiler;
mod tables;

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

use super::clock::{monotonic_ns, nanos, ntp_after};
use super::generator::Generator;
use super::inspect::{Inspector, Start};
use super::profile::Profile;
use super::schedule::Schedule;
use super::tally::{Seen, Tally};
use super::{LATE_NS, Load, LoadError};
use crate::failure::Failure;
use crate::frames::{self, MESSAGE};
use spoiler::Spoiler;
use tables::{dropped_at, wrong_checksums};

/// Requests sent and answers taken in one go, so that neither waits long for the other.
const BATCH: usize = 16;
/// Room for answers that come while the thread does something else. The kernel may give less.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Threads start together, this long after they are made.
const LEAD: Duration = Duration::from_millis(10);
/// Longer than any answer that is checked: more of it does not matter.
const LONGEST_ANSWER: usize = 1024;

/// See the module.
pub(super) struct SocketGenerator {
    target: SocketAddr,
    load: Load,
    cores: Vec<CoreId>,
    /// Why it was taken, if there was a choice.
    why: String,
}

impl SocketGenerator {
    pub(super) fn open(target: SocketAddr, load: Load, why: String) -> Result<Self, Failure> {
        if let Some(options) = load.for_frames() {
            return Err(LoadError::NotBySockets(options).into());
        }
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let generator = Self { target, load, cores, why };
        // What is wrong with the target or the ports shows before the first step.
        generator.ports().map(|port| connected(target, port)).collect::<Result<Vec<_>, _>>()?;
        Ok(generator)
    }

    /// The port of each socket, of all workers: any, if not told which.
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
        let flaws = match self.load.profile {
            Profile::Malformed(_) => ", malformed as far as sockets let it: short, and of mode 4",
            _ => "",
        };
        format!("socket{why}, {workers} workers with {sockets} sockets each{flaws}")
    }

    fn target(&self) -> SocketAddr {
        self.target
    }

    fn clients(&self) -> u32 {
        self.workers().saturating_mul(self.load.sockets)
    }

    fn step(&mut self, rate: f64, duration: Duration) -> Result<Tally, Failure> {
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
                spoiler: Spoiler::of(self.target, self.load.profile)?,
                extension: self.load.profile.extension(),
                inspector: Inspector {
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
            });
        }
        let (results, finished) = crossbeam_channel::unbounded();
        thread::scope(|scope| {
            for (worker, job) in jobs.into_iter().enumerate() {
                let core = self.cores.get(worker % self.cores.len().max(1)).copied();
                let results = results.clone();
                scope.spawn(move || {
                    // Unpinned it works too, only less evenly.
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
        // The kernel keeps these to itself; what is not lost is not ours.
        total.faults[Fault::Checksum as usize] += (wrong_checksums() - spoiled).min(total.lost());
        Ok(total)
    }
}

/// A thread's part of a step.
struct Worker {
    sockets: Vec<UdpSocket>,
    spoiler: Option<Spoiler>,
    /// What requests have behind their messages.
    extension: Vec<u8>,
    schedule: Schedule,
    inspector: Inspector,
    duration: Duration,
    /// Requests sent so far, which is the next one's number.
    issued: u64,
    tally: Tally,
}

impl Worker {
    fn run(mut self) -> Tally {
        let start_ns = self.inspector.start.monotonic_ns;
        let end_ns = start_ns + nanos(self.duration);
        while monotonic_ns() < start_ns {
            std::hint::spin_loop();
        }
        while let Some(due_ns) = self.schedule.due_ns() {
            let now_ns = monotonic_ns();
            if now_ns >= end_ns {
                // What is left was due and did not go out: the generator's failure, not the server's.
                self.tally.unsent += self.schedule.give_up();
                break;
            }
            let sent = self.send_due(start_ns, now_ns);
            let received = self.receive();
            if sent == 0 && received == 0 {
                self.wait(Duration::from_nanos((start_ns + due_ns).saturating_sub(monotonic_ns())));
            }
        }
        let give_up_ns = monotonic_ns() + nanos(self.inspector.timeout);
        // That nothing comes back to malformed requests takes all of the time to find out.
        while (self.tally.matched < self.tally.sent || self.spoiler.is_some()) && monotonic_ns() < give_up_ns
        {
            if self.receive() == 0 {
                self.wait(Duration::from_nanos(give_up_ns.saturating_sub(monotonic_ns())));
            }
        }
        self.tally.refused += self.pending_errors();
        self.tally.dropped_here += dropped_at(&self.sockets);
        self.tally
    }

    /// Sends what is due by now, up to a batch.
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
            let timestamp = self.inspector.key.seal(Token { sequence, sent_ns });
            let version = self.inspector.versions[mix_index(sequence)];
            if let Some(spoiler) = &self.spoiler
                && let Some(flaw) = spoiler.flaw(sequence)
            {
                self.issued += 1;
                self.tally.malformed += u64::from(spoiler.send(flaw, version, timestamp));
                continue;
            }
            let request = [&frames::request(version, timestamp)[..], &self.extension].concat();
            let socket = &self.sockets[usize::try_from(sequence).unwrap_or(0) % self.sockets.len()];
            let result = match socket.send(&request) {
                // The error is that of an earlier request; it kept this one from going out.
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
            self.tally.course.sent_at(sent_ns);
            if sent_ns > due_ns + LATE_NS {
                self.tally.sent_late += 1;
            }
        }
        sent
    }

    /// Takes what has come, up to a batch from each socket.
    fn receive(&mut self) -> usize {
        let mut buffer = [0; LONGEST_ANSWER];
        let mut received = 0;
        for socket in &self.sockets {
            for _ in 0..BATCH {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        received += 1;
                        let now_ns = monotonic_ns() - self.inspector.start.monotonic_ns;
                        self.inspector.take(&buffer[..length], now_ns, self.issued, &mut self.tally);
                    }
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.tally.refused += 1,
                    Err(_) => break,
                }
            }
        }
        received + self.spoiler.as_ref().map_or(0, |spoiler| spoiler.receive(&mut self.tally))
    }

    fn pending_errors(&self) -> u64 {
        self.sockets.iter().filter(|socket| matches!(socket.take_error(), Ok(Some(_)))).count() as u64
    }

    /// Sleeps until an answer comes, or for this long.
    fn wait(&self, time: Duration) {
        let mut polled: Vec<PollFd<'_>> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // Interrupted is as good as woken up.
        let _woken = ppoll(&mut polled, Some(TimeSpec::from(time)), None);
    }
}

/// A socket that sends to the target, from a port or, if it is 0, from any.
fn connected(target: SocketAddr, port: u16) -> Result<UdpSocket, LoadError> {
    let here: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    };
    let socket = UdpSocket::bind(here).map_err(|reason| LoadError::Port { port, reason })?;
    let ready = socket.connect(target).and_then(|()| socket.set_nonblocking(true));
    ready.map_err(|reason| unreachable(target, reason))?;
    // Beyond the limit of net.core.rmem_max for root only; what was given is given.
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
