//! One exchange with a server as a client: for `query`, and for asking the local daemon about itself.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use protocol::{Answer, PendingRequest, Reading, Reject, Strictness, Times};

use crate::sys::kernel_clock::realtime_ns;
use crate::sys::random;

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer came in time. If other packets came, this is why the last of them was refused.
    Timeout(Option<Reject>),
    /// A kiss of death with this code came.
    Kiss(String),
    /// The socket reported this error.
    Socket(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(None) => f.write_str("no answer"),
            Self::Timeout(Some(refused)) => write!(f, "no valid answer ({refused})"),
            Self::Kiss(code) => write!(f, "kiss of death {code}"),
            Self::Socket(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for Failure {}

/// Sends one request to a server and waits for the answer. The source port is of the kernel's choice and the
/// transmit timestamp is random, so nobody who does not see the request can forge an answer.
///
/// # Errors
///
/// See [`Failure`].
pub fn exchange(server: SocketAddr, timeout: Duration) -> Result<Reading, Failure> {
    let request = new_request()?;
    converse(server, &request.to_bytes(), timeout, |packet, times| read(packet, request, times))?
}

/// Makes a request that nobody can guess.
pub(crate) fn new_request() -> Result<PendingRequest, Failure> {
    Ok(PendingRequest::new(random::bytes().map_err(|error| Failure::Socket(error.to_string()))?))
}

/// Sends a request and gives what comes back to `read`, with the times of both ends on `CLOCK_REALTIME`,
/// until `read` accepts a packet as the answer. If it returns an error, the packet is ignored.
pub(crate) fn converse<T>(
    server: SocketAddr,
    request: &[u8],
    timeout: Duration,
    mut read: impl FnMut(&[u8], &Times) -> Result<T, Reject>,
) -> Result<T, Failure> {
    let socket_failed = |error: std::io::Error| Failure::Socket(error.to_string());
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).map_err(socket_failed)?;
    socket.connect(server).map_err(socket_failed)?;

    let deadline = Instant::now() + timeout;
    let sent_ns = now_ns()?;
    socket.send(request).map_err(socket_failed)?;
    let mut refused = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Timeout(refused));
        }
        socket.set_read_timeout(Some(left)).map_err(socket_failed)?;
        let mut buffer = [0; 1024];
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(socket_failed(error)),
        };
        // This program cannot tell how far the times may be off.
        let times = Times { sent_ns, received_ns: now_ns()?, error_s: 0.0 };
        match read(&buffer[..length], &times) {
            Ok(answer) => return Ok(answer),
            Err(reason) => refused = Some(reason),
        }
    }
}

fn now_ns() -> Result<i64, Failure> {
    let unix_ns = realtime_ns().map_err(|error| Failure::Socket(error.to_string()))?;
    // The kernel counts in 64 bits as well.
    Ok(i64::try_from(unix_ns).unwrap_or(i64::MAX))
}

/// Reads an answer. The outer error is for a packet that does not answer this request and should be ignored.
fn read(packet: &[u8], request: PendingRequest, times: &Times) -> Result<Result<Reading, Failure>, Reject> {
    Ok(match request.read(packet, Strictness::CLIENT)? {
        Answer::Time(server) => Ok(server.reading(times)?),
        Answer::Kiss(kiss) => Err(Failure::Kiss(kiss.code())),
    })
}

#[cfg(test)]
mod tests {
    use responder::clock::NtpTimestamp;
    use responder::message::{LENGTH, MODE_SERVER};

    use super::*;

    const REQUEST: PendingRequest = PendingRequest::new(*b"unguessd");
    const SENT_S: i64 = 1_790_000_000;

    /// Makes an answer that was received a second after the request was sent, and sent another second later.
    fn answer() -> [u8; LENGTH] {
        let timestamp = |seconds| NtpTimestamp::from_unix(seconds, 0).0.to_be_bytes();
        let mut bytes = [0; LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[24..32].copy_from_slice(&REQUEST.transmit());
        bytes[32..40].copy_from_slice(&timestamp(SENT_S + 1));
        bytes[40..].copy_from_slice(&timestamp(SENT_S + 2));
        bytes
    }

    /// Reads it as if it came five seconds after the request was sent.
    fn read_it(bytes: &[u8]) -> Result<Result<Reading, Failure>, Reject> {
        let times = Times {
            sent_ns: SENT_S * 1_000_000_000,
            received_ns: (SENT_S + 5) * 1_000_000_000,
            error_s: 0.0,
        };
        read(bytes, REQUEST, &times)
    }

    #[test]
    fn offset_and_delay_are_those_of_rfc_5905() {
        let reading = read_it(&answer()).unwrap().unwrap();
        assert_eq!((reading.offset_ns, reading.delay_ns), (-1_000_000_000, 4_000_000_000));
        assert!(reading.server.is_synchronised());
    }

    #[test]
    fn a_kiss_is_told_from_an_unsynchronised_server() {
        let mut kiss = answer();
        kiss[0] |= 0xc0;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(read_it(&kiss).unwrap(), Err(Failure::Kiss("RATE".into())));
        kiss[12..16].fill(0);
        assert!(!read_it(&kiss).unwrap().unwrap().server.is_synchronised());
    }

    #[test]
    fn requests_are_unlike_each_other() {
        assert_ne!(new_request().unwrap(), new_request().unwrap());
    }
}
