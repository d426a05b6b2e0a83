//! Asks the keeper of the system clock, whichever it is. All of it blocks, for seconds at most.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use responder::udp::NTP_PORT;

use super::chronyd::{self, Refused, Tracking};
use super::{Claim, timesyncd};
use crate::net::query::exchange;
use crate::sys::kernel_clock::{KernelClock as _, Machine, monotonic_ns};
use crate::sys::port_owner::{self, Holder};
use crate::sys::random;
use crate::sys::subprocess::{self, ProgramOutput};
use crate::timekeeping::kernel_steering::rival;

/// Timeout for an answer; the keeper is on the same host.
const TIMEOUT: Duration = Duration::from_millis(300);
/// How often the properties of systemd-timesyncd are read before it is given up that it corrects the clock meanwhile.
const ATTEMPTS: usize = 3;
/// After so many requests without an answer, an NTP server's last one counts no longer.
const MOST_UNANSWERED: u32 = 2;
/// The name of systemd-timesyncd's process, cut off after 15 bytes.
const TIMESYNCD: &str = "systemd-timesyn";

/// Asks the keeper of this host's clock.
#[derive(Debug)]
pub struct Asker {
    /// Where it may answer NTP requests.
    ntp_servers: Vec<SocketAddr>,
    chronyd_ports: Vec<SocketAddr>,
    /// The process that was found to keep the clock.
    process: Option<Holder>,
    /// What systemd-timesyncd claimed last.
    last: Option<Claim>,
    /// What was claimed last by an NTP answer, and how many requests were not answered since.
    answered: Option<Claim>,
    unanswered: u32,
}

impl Asker {
    /// Makes one that asks NTP servers at these addresses, too.
    #[must_use]
    pub fn new(ntp_servers: &[SocketAddr]) -> Self {
        let loopback: [SocketAddr; 2] =
            [(Ipv4Addr::LOCALHOST, chronyd::PORT).into(), (Ipv6Addr::LOCALHOST, chronyd::PORT).into()];
        Self {
            ntp_servers: ntp_servers.into(),
            chronyd_ports: loopback.into(),
            process: None,
            last: None,
            answered: None,
            unanswered: 0,
        }
    }

    /// Asks chronyd by its command socket, systemd-timesyncd over D-Bus, and anything else by an NTP request.
    pub fn ask(&mut self) -> Option<Claim> {
        if let Some(claim) = self.ask_chronyd() {
            return Some(claim);
        }
        self.find_process();
        if self.process.as_ref().is_some_and(|process| process.name == TIMESYNCD) {
            return self.ask_timesyncd();
        }
        self.last = None;
        self.ask_ntp_server()
    }

    /// One lost answer says nothing: the last one, whose dispersion grows, still holds.
    fn ask_ntp_server(&mut self) -> Option<Claim> {
        // A daemon that was started after this one has taken the loopback addresses over from it.
        let loopback: [SocketAddr; 2] =
            [(Ipv4Addr::LOCALHOST, NTP_PORT).into(), (Ipv6Addr::LOCALHOST, NTP_PORT).into()];
        let later = loopback.into_iter().filter(|server| port_owner::is_bound(*server));
        // This server may have taken the port over from a daemon that has ended, and knows nothing new about itself.
        let is_ours = |server: &SocketAddr| {
            let table = if server.is_ipv4() { "udp" } else { "udp6" };
            server.port() == NTP_PORT && port_owner::is_held_here(table, NTP_PORT)
        };
        let others = self.ntp_servers.iter().copied().filter(|server| !is_ours(server));
        let claim = others.chain(later).find_map(|server| {
            let reading = exchange(server, TIMEOUT).ok()?;
            Some(Claim::of_answer(&reading, monotonic_ns().ok()?))
        });
        self.unanswered = if claim.is_some() { 0 } else { self.unanswered.saturating_add(1) };
        if self.unanswered == 0 || self.unanswered > MOST_UNANSWERED {
            self.answered = claim;
        }
        self.answered
    }

    /// Returns the process that keeps the clock, as far as it had to be looked for.
    pub(crate) const fn process(&self) -> Option<&Holder> {
        self.process.as_ref()
    }

    fn ask_chronyd(&self) -> Option<Claim> {
        // Before the request: what the dispersion grows by meanwhile counts.
        let asked = Machine.cross_timestamp().ok()?;
        let by_udp = self.chronyd_ports.iter().find_map(|port| chronyd_at(*port).ok());
        let tracking = by_udp.or_else(|| chronyd_of_socket(Path::new(chronyd::SOCKET)).ok())?;
        Some(tracking.claim(&asked))
    }

    /// Looks for the process only if the one that was found is gone, for there may be many processes.
    fn find_process(&mut self) {
        let is_there = self.process.as_ref().is_some_and(|process| {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", process.pid));
            name.is_ok_and(|name| name.trim() == process.name)
        });
        if !is_there {
            self.process = rival();
        }
    }

    /// The kernel is read before and after: if systemd-timesyncd has corrected the clock in between, the kernel's
    /// state is not that of the properties.
    fn ask_timesyncd(&mut self) -> Option<Claim> {
        for _ in 0..ATTEMPTS {
            let before = Machine.discipline().ok()?;
            let properties = timesyncd_properties("busctl");
            let (kernel, now) = (Machine.discipline().ok()?, Machine.cross_timestamp().ok()?);
            let Some(properties) = properties else {
                self.last = None;
                return Some(timesyncd::claim_of_silence(&kernel, now.monotonic_after_ns));
            };
            if kernel.max_error_us >= before.max_error_us {
                self.last = properties.claim(&kernel, &now, self.last.as_ref());
                return self
                    .last
                    .or_else(|| Some(timesyncd::claim_of_silence(&kernel, now.monotonic_after_ns)));
            }
        }
        self.last
    }
}

/// Why chronyd could not be asked.
#[derive(Debug)]
pub enum Failure {
    /// The socket reported this error.
    Socket(std::io::Error),
    /// It answered, but not as it should.
    Refused(Refused),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => error.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Socket(error)
    }
}

/// Asks chronyd at a UDP port, where any local user may ask by default.
///
/// # Errors
///
/// It does not answer, or not with what was asked for.
pub fn chronyd_at(port: SocketAddr) -> std::result::Result<Tracking, Failure> {
    let local: SocketAddr =
        if port.is_ipv4() { (Ipv4Addr::LOCALHOST, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
    let socket = UdpSocket::bind(local)?;
    socket.connect(port)?;
    converse(
        |request| socket.send(request),
        |buffer, left| {
            socket.set_read_timeout(Some(left))?;
            socket.recv(buffer)
        },
    )
}

/// Asks chronyd at its Unix socket. It answers to a socket beside its own, for which this process needs to be root or
/// chronyd's user.
///
/// # Errors
///
/// It does not answer, or not with what was asked for.
pub fn chronyd_of_socket(path: &Path) -> std::result::Result<Tracking, Failure> {
    let own = path.with_file_name(format!("pooltime-xdp.{}.sock", std::process::id()));
    let _not_there = std::fs::remove_file(&own);
    let socket = UnixDatagram::bind(&own)?;
    let asked = || {
        // chronyd has another user.
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o666))?;
        socket.connect(path)?;
        converse(
            |request| socket.send(request),
            |buffer, left| {
                socket.set_read_timeout(Some(left))?;
                socket.recv(buffer)
            },
        )
    };
    let outcome = asked();
    let _gone = std::fs::remove_file(&own);
    outcome
}

fn converse(
    send: impl FnOnce(&[u8]) -> std::io::Result<usize>,
    mut receive: impl FnMut(&mut [u8], Duration) -> std::io::Result<usize>,
) -> std::result::Result<Tracking, Failure> {
    let sequence =
        u32::from_ne_bytes(random::bytes().map_err(|error| std::io::Error::other(error.to_string()))?);
    let deadline = Instant::now() + TIMEOUT;
    send(&chronyd::request(sequence))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        let mut buffer = [0; 1024];
        let length = receive(&mut buffer, left)?;
        match chronyd::read(&buffer[..length], sequence) {
            Err(Refused::Foreign) => {}
            outcome => return outcome.map_err(Failure::Refused),
        }
    }
}

/// Reads the properties of systemd-timesyncd with this program, which is busctl.
fn timesyncd_properties(busctl: &str) -> Option<timesyncd::Properties> {
    match subprocess::ask(busctl, &timesyncd::ARGUMENTS) {
        ProgramOutput::Text(text) => timesyncd::parse(&text),
        ProgramOutput::NotInstalled | ProgramOutput::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Makes a program that stands for busctl. A shell writes it, for a file that this process has open for writing
    /// cannot be run by another thread's child.
    fn busctl(name: &str, script: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pooltime-{name}-{}", std::process::id()));
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" >"$2" && chmod 755 "$2""#, "sh", script])
            .arg(&path)
            .status();
        assert!(written.unwrap().success());
        path
    }

    #[test]
    fn systemd_timesyncd_is_asked_with_busctl() {
        let message = "[0,4,4,2,-25,12000,3000,[192,0,2,9],1,2,3,4,false,7,900]";
        let good = busctl(
            "busctl",
            &format!(
                "[ $# -eq {} ] || exit 1\nfor data in '{message}' '[2,[192,0,2,1]]' 64000000 32000000; do \
             printf '{{\"type\":\"t\",\"data\":%s}}\\n' \"$data\"; done",
                timesyncd::ARGUMENTS.len()
            ),
        );
        let properties = timesyncd_properties(good.to_str().unwrap()).unwrap();
        assert_eq!(properties.server, Some([192, 0, 2, 1].into()));
        assert_eq!(properties.message.unwrap().packets, 7);
        let bad = busctl("no-bus", "echo 'Failed to get property' >&2; exit 1");
        assert_eq!(timesyncd_properties(bad.to_str().unwrap()), None);
        assert_eq!(timesyncd_properties("/no/such/busctl"), None);
        for path in [good, bad] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn an_answer_that_is_lost_once_does_not_take_the_last_one_s_place() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut asker = Asker::new(&[server.local_addr().unwrap()]);
        assert_eq!(asker.ask_ntp_server(), None);
        let answering = std::thread::spawn(move || {
            let mut message = [0; 48];
            let (_, client) = loop {
                let (length, client) = server.recv_from(&mut message).unwrap();
                // The first request was not answered.
                if length == 48
                    && server.set_read_timeout(Some(Duration::from_millis(50))).is_ok()
                    && server.peek(&mut [0; 48]).is_err()
                {
                    break (length, client);
                }
            };
            let sent: [u8; 8] = message[40..].try_into().unwrap();
            (message[0], message[1]) = (0x24, 2);
            message[24..32].copy_from_slice(&sent);
            message[32..40].copy_from_slice(&(4_000_000_000_u64 << 32).to_be_bytes());
            message[40..].copy_from_slice(&(4_000_000_000_u64 << 32).to_be_bytes());
            server.send_to(&message, client).unwrap();
        });
        let claim = asker.ask_ntp_server().expect("an answer");
        answering.join().unwrap();
        for _ in 0..MOST_UNANSWERED {
            assert_eq!(asker.ask_ntp_server(), Some(claim));
        }
        assert_eq!(asker.ask_ntp_server(), None);
    }

    #[test]
    fn a_chronyd_that_does_not_answer_is_not_waited_for() {
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let start = Instant::now();
        assert!(matches!(chronyd_at(silent.local_addr().unwrap()), Err(Failure::Socket(_))));
        assert!(matches!(
            chronyd_of_socket(Path::new("/no/such/directory/chronyd.sock")),
            Err(Failure::Socket(_))
        ));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
