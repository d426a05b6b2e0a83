//! NTP messages of the oracle and the fake upstreams. They are implemented from RFC 5905 without the code under test,
//! so that its mistakes are not repeated here.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes in a message.
pub const LENGTH: usize = 48;
/// Leap indicator of an unsynchronised server.
pub const UNSYNCHRONISED: u8 = 3;

const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// Seconds from 1900 to 1970.
const TO_UNIX_S: u64 = 2_208_988_800;
/// Units of a timestamp in a second.
const UNITS: f64 = 4_294_967_296.0;
/// Units of a short interval in a second.
const SHORT_UNITS: f64 = 65_536.0;

/// An NTP timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(pub u64);

impl Moment {
    /// The true time in the lab: the machine's `CLOCK_REALTIME`.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        Self(((since.as_secs() + TO_UNIX_S) << 32) + fraction)
    }

    /// This moment plus some seconds.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to a unit, of at most decades")]
    #[must_use]
    pub fn plus(self, seconds: f64) -> Self {
        Self(self.0.wrapping_add_signed((seconds * UNITS).round() as i64))
    }

    /// The time from an earlier moment to this one in s. The two must be within 68 years.
    #[expect(clippy::cast_precision_loss, reason = "seconds and hours, to a part in 2^52")]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.wrapping_sub(earlier.0).cast_signed() as f64 / UNITS
    }
}

/// A message of 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// Leap indicator.
    pub leap: u8,
    /// Mode: 3 for clients, 4 for servers.
    pub mode: u8,
    /// Stratum; 0 in kisses of death and in answers of unsynchronised servers.
    pub stratum: u8,
    /// Poll interval in log2 seconds.
    pub poll: u8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Root delay in s, in steps of 2^-16.
    pub root_delay_s: f64,
    /// Root dispersion in s, in steps of 2^-16.
    pub root_dispersion_s: f64,
    /// Reference ID, or the code of a kiss of death.
    pub reference_id: u32,
    /// Reference timestamp.
    pub reference: Moment,
    /// Origin timestamp: the transmit timestamp of the request.
    pub origin: Moment,
    /// Receive timestamp of the request.
    pub receive: Moment,
    /// Transmit timestamp of this message.
    pub transmit: Moment,
}

impl Message {
    /// A client's request with this transmit timestamp. Its other fields are zero.
    pub fn request(transmit: Moment) -> Self {
        Self {
            leap: 0,
            mode: CLIENT,
            stratum: 0,
            poll: 0,
            precision: 0,
            root_delay_s: 0.0,
            root_dispersion_s: 0.0,
            reference_id: 0,
            reference: Moment::default(),
            origin: Moment::default(),
            receive: Moment::default(),
            transmit,
        }
    }

    /// An unsynchronised server's answer to a request, without timestamps.
    pub fn answering(request: &Self) -> Self {
        Self {
            mode: SERVER,
            leap: UNSYNCHRONISED,
            origin: request.transmit,
            poll: request.poll,
            ..Self::request(Moment::default())
        }
    }

    /// Whether this is a client's request.
    pub fn is_request(&self) -> bool {
        self.mode == CLIENT
    }

    /// Whether this answers the request with this transmit timestamp.
    pub fn is_answer_to(&self, transmit: Moment) -> bool {
        self.mode == SERVER && self.origin == transmit
    }

    /// Whether this is a kiss of death that refuses service. Other codes say why a server is unsynchronised.
    pub fn is_kiss(&self) -> bool {
        self.stratum == 0 && [b"RATE", b"DENY", b"RSTR"].contains(&&self.reference_id.to_be_bytes())
    }

    /// Whether the server says that it is synchronised.
    pub fn is_synchronised(&self) -> bool {
        self.leap != UNSYNCHRONISED && (1..=15).contains(&self.stratum)
    }

    /// Encodes the message as version 4.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let first = self.leap << 6 | 4 << 3 | self.mode;
        bytes[..4].copy_from_slice(&[first, self.stratum, self.poll, self.precision.cast_unsigned()]);
        bytes[4..8].copy_from_slice(&short(self.root_delay_s));
        bytes[8..12].copy_from_slice(&short(self.root_dispersion_s));
        bytes[12..16].copy_from_slice(&self.reference_id.to_be_bytes());
        for (at, moment) in [(16, self.reference), (24, self.origin), (32, self.receive), (40, self.transmit)]
        {
            bytes[at..at + 8].copy_from_slice(&moment.0.to_be_bytes());
        }
        bytes
    }

    /// Decodes a message; `None` if it does not have [`LENGTH`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = <&[u8; LENGTH]>::try_from(bytes).ok()?;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
        let moment = |at: usize| Moment(u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index])));
        Some(Self {
            leap: bytes[0] >> 6,
            mode: bytes[0] & 7,
            stratum: bytes[1],
            poll: bytes[2],
            precision: bytes[3].cast_signed(),
            root_delay_s: f64::from(word(4)) / SHORT_UNITS,
            root_dispersion_s: f64::from(word(8)) / SHORT_UNITS,
            reference_id: word(12),
            reference: moment(16),
            origin: moment(24),
            receive: moment(32),
            transmit: moment(40),
        })
    }
}

/// A short interval in NTP's format, rounded up, because a claimed error must not get smaller.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a claim of seconds, not below 0"
)]
fn short(seconds: f64) -> [u8; 4] {
    ((seconds * SHORT_UNITS).ceil() as u32).to_be_bytes()
}

/// What an exchange measured: the offset of the answering clock and the round trip, both in s.
pub fn measured(sent: Moment, answer: &Message, received: Moment) -> (f64, f64) {
    let there = answer.receive.seconds_since(sent);
    let back = answer.transmit.seconds_since(received);
    (f64::midpoint(there, back), there - back)
}
