//! One exchange with a server, as a client: for `query`, and for what the local daemon says of itself.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{self, LEAP_UNSYNCHRONISED, MAX_STRATUM};

use crate::clock::kernel::realtime_ns;

const NANOS: i128 = 1_000_000_000;
/// Version 4, client.
const FIRST_BYTE: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;

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
    Timeout(Option<&'static str>),
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
    let socket_failed = |error: std::io::Error| Failure::Socket(error.to_string());
    let local: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).map_err(socket_failed)?;
    socket.connect(server).map_err(socket_failed)?;

    let mut cookie = [0; 8];
    getrandom::fill(&mut cookie).map_err(|error| Failure::Socket(error.to_string()))?;
    let mut request = [0; message::LENGTH];
    request[0] = FIRST_BYTE;
    request[40..].copy_from_slice(&cookie);

    let deadline = Instant::now() + timeout;
    let sent = now()?;
    socket.send(&request).map_err(socket_failed)?;
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
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(socket_failed(error)),
        };
        let received = now()?;
        match read(&buffer[..length], cookie, sent, received) {
            Ok(reading) => return reading,
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
    cookie: [u8; 8],
    sent: NtpTimestamp,
    received: NtpTimestamp,
) -> Result<Result<Reading, Failure>, &'static str> {
    let Some(bytes) = packet.first_chunk::<{ message::LENGTH }>() else {
        return Err("shorter than 48 bytes");
    };
    if bytes[0] & 7 != MODE_SERVER {
        return Err("not from a server");
    }
    let double = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
    if bytes[24..32] != cookie {
        return Err("its origin is not our transmit timestamp");
    }
    let (leap, stratum, reference_id) = (bytes[0] >> 6, bytes[1], word(12));
    if stratum == 0 && reference_id != 0 && reference_id.to_be_bytes().iter().all(u8::is_ascii_graphic) {
        return Ok(Err(Failure::Kiss(show_reference(0, reference_id))));
    }
    let (receive, transmit) = (NtpTimestamp(double(32)), NtpTimestamp(double(40)));
    if transmit == NtpTimestamp(0) {
        return Err("its transmit timestamp is zero");
    }
    if transmit.since(receive) < 0 {
        return Err("it was received after it was sent");
    }
    let (there, back) = (i128::from(receive.since(sent)), i128::from(transmit.since(received)));
    let (away, residence) = (i128::from(received.since(sent)), i128::from(transmit.since(receive)));
    Ok(Ok(Reading {
        leap,
        stratum,
        precision: bytes[3].cast_signed(),
        root_delay: NtpShort(word(4)),
        root_dispersion: NtpShort(word(8)),
        reference_id,
        reference_time: NtpTimestamp(double(16)),
        offset_ns: nanos((there + back) / 2),
        delay_ns: nanos(away - residence),
    }))
}

fn nanos(units: i128) -> i64 {
    i64::try_from(units * NANOS >> 32).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; 8] = *b"unguessd";

    fn answer() -> [u8; message::LENGTH] {
        let mut bytes = [0; message::LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[24..32].copy_from_slice(&COOKIE);
        bytes[32..40].copy_from_slice(&(101_u64 << 32).to_be_bytes());
        bytes[40..].copy_from_slice(&(102_u64 << 32).to_be_bytes());
        bytes
    }

    fn read_it(bytes: &[u8]) -> Result<Result<Reading, Failure>, &'static str> {
        read(bytes, COOKIE, NtpTimestamp(100 << 32), NtpTimestamp(105 << 32))
    }

    #[test]
    fn offset_and_delay_are_those_of_rfc_5905() {
        let reading = read_it(&answer()).unwrap().unwrap();
        assert_eq!(reading.offset_ns, -1_000_000_000);
        assert_eq!(reading.delay_ns, 4_000_000_000);
        assert!(reading.is_synchronised());
    }

    #[test]
    fn bogus_answers_are_ignored_by_name() {
        let mut other = answer();
        other[24] ^= 1;
        assert!(read_it(&other).unwrap_err().contains("origin"));
        let mut client = answer();
        client[0] = 4 << 3 | 3;
        assert!(read_it(&client).unwrap_err().contains("server"));
        let mut zero = answer();
        zero[40..].fill(0);
        assert!(read_it(&zero).unwrap_err().contains("zero"));
        let mut backwards = answer();
        backwards[32..40].copy_from_slice(&(103_u64 << 32).to_be_bytes());
        assert!(read_it(&backwards).unwrap_err().contains("after"));
        assert!(read_it(&answer()[..47]).unwrap_err().contains("48"));
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
