//! One exchange with a server, as a client: for `query`, and for what the local daemon says of itself.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};

use crate::sys::kernel_clock::realtime_ns;
use crate::timekeeping::ntp::answer::{self, Answer, Asked, ServerTime};
use crate::timekeeping::ntp::reject::Reject;

const NANOS: i128 = 1_000_000_000;

/// What a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Leap indicator.
    pub leap: u8,
    /// Stratum as on the wire: 0 is unsynchronised.
    pub stratum: u8,
    /// log2 seconds.
    pub precision: i8,
    /// To the primary source and back.
    pub root_delay: NtpShort,
    /// Error bound to the primary source.
    pub root_dispersion: NtpShort,
    /// What it is synchronised to.
    pub reference_id: u32,
    /// When it was last corrected.
    pub reference_time: NtpTimestamp,
    /// Its clock less ours.
    pub offset_ns: i64,
    /// Round trip less its residence.
    pub delay_ns: i64,
}

impl Reading {
    /// Whether it claims to be.
    #[must_use]
    pub const fn is_synchronised(&self) -> bool {
        self.leap != LEAP_UNSYNCHRONISED && self.stratum >= 1 && self.stratum <= MAX_STRATUM
    }

    /// The reference as tools show it: four letters for stratum 1, else like an IPv4 address.
    #[must_use]
    pub fn reference(&self) -> String {
        show_reference(self.stratum, self.reference_id)
    }
}

/// See [`Reading::reference`].
#[must_use]
pub fn show_reference(stratum: u8, id: u32) -> String {
    let bytes = id.to_be_bytes();
    if stratum <= 1 && bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == 0) && id != 0 {
        bytes.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    } else {
        std::net::Ipv4Addr::from(id).to_string()
    }
}

/// Why there is no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came in time. If something did that was no answer to the request, why the last was refused.
    Timeout(Option<Reject>),
    /// A kiss of death with its code.
    Kiss(String),
    /// The socket's error.
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

/// Asks a server once and waits for its answer. Sends from a port of the kernel's choice, with a random
/// transmit timestamp: whoever does not see the request cannot make an answer to it.
///
/// # Errors
///
/// See [`Failure`].
pub fn exchange(server: SocketAddr, timeout: Duration) -> Result<Reading, Failure> {
    let (asked, request) = Asked::anew().map_err(|error| Failure::Socket(error.to_string()))?;
    converse(server, &request, timeout, |packet, sent, received| read(packet, asked, sent, received))?
}

/// Sends a request and hands what comes back to `read`, with our own clock's times of sending and receiving,
/// until it takes one for the answer. Its error is why a packet is none, and that one is ignored.
pub(crate) fn converse<T>(
    server: SocketAddr,
    request: &[u8],
    timeout: Duration,
    mut read: impl FnMut(&[u8], NtpTimestamp, NtpTimestamp) -> Result<T, Reject>,
) -> Result<T, Failure> {
    let socket_failed = |error: std::io::Error| Failure::Socket(error.to_string());
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).map_err(socket_failed)?;
    socket.connect(server).map_err(socket_failed)?;

    let deadline = Instant::now() + timeout;
    let sent = now()?;
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
        let received = now()?;
        match read(&buffer[..length], sent, received) {
            Ok(answer) => return Ok(answer),
            Err(reason) => refused = Some(reason),
        }
    }
}

fn now() -> Result<NtpTimestamp, Failure> {
    let unix_ns = realtime_ns().map_err(|error| Failure::Socket(error.to_string()))?;
    let seconds = i64::try_from(unix_ns.div_euclid(NANOS)).unwrap_or_default();
    let nanos = u32::try_from(unix_ns.rem_euclid(NANOS)).unwrap_or_default();
    Ok(NtpTimestamp::from_unix(seconds, nanos))
}

/// Reads an answer. The outer error is for a packet that is none to this request, and is to be ignored.
fn read(
    packet: &[u8],
    asked: Asked,
    sent: NtpTimestamp,
    received: NtpTimestamp,
) -> Result<Result<Reading, Failure>, Reject> {
    let time = match answer::read(packet, asked)? {
        Answer::Time(time) => time,
        Answer::Kiss(kiss) => return Ok(Err(Failure::Kiss(kiss.code()))),
    };
    let ServerTime { receive, transmit, .. } = time;
    let (there, back) = (i128::from(receive.since(sent)), i128::from(transmit.since(received)));
    let (away, residence) = (i128::from(received.since(sent)), i128::from(transmit.since(receive)));
    Ok(Ok(Reading {
        leap: time.leap,
        stratum: time.stratum,
        precision: time.precision,
        root_delay: time.root_delay,
        root_dispersion: time.root_dispersion,
        reference_id: time.reference_id,
        reference_time: time.reference_time,
        offset_ns: nanos(i128::midpoint(there, back)),
        delay_ns: nanos(away - residence),
    }))
}

/// Of units of 2^-32 s.
pub(crate) fn nanos(units: i128) -> i64 {
    i64::try_from((units * NANOS) >> 32).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use responder::message;

    const ASKED: Asked = Asked { nonce: *b"unguessd" };

    fn answer() -> [u8; message::LENGTH] {
        let mut bytes = [0; message::LENGTH];
        bytes[0] = 4 << 3 | 4;
        bytes[1] = 2;
        bytes[24..32].copy_from_slice(&ASKED.nonce);
        bytes[32..40].copy_from_slice(&(101_u64 << 32).to_be_bytes());
        bytes[40..].copy_from_slice(&(102_u64 << 32).to_be_bytes());
        bytes
    }

    fn read_it(bytes: &[u8]) -> Result<Result<Reading, Failure>, Reject> {
        read(bytes, ASKED, NtpTimestamp(100 << 32), NtpTimestamp(105 << 32))
    }

    #[test]
    fn offset_and_delay_are_those_of_rfc_5905() {
        let reading = read_it(&answer()).unwrap().unwrap();
        assert_eq!(reading.offset_ns, -1_000_000_000);
        assert_eq!(reading.delay_ns, 4_000_000_000);
        assert!(reading.is_synchronised());
    }

    #[test]
    fn a_kiss_is_told_from_an_unsynchronised_server() {
        let mut kiss = answer();
        kiss[0] |= 0xc0;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(read_it(&kiss).unwrap(), Err(Failure::Kiss("RATE".into())));
        kiss[12..16].fill(0);
        assert!(!read_it(&kiss).unwrap().unwrap().is_synchronised());
    }
}
