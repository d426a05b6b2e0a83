//! NTP messages as the lab's own instruments read and write them: written again from RFC 5905, so that a mistake
//! of the code under test is not repeated here.

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a message.
pub const LENGTH: usize = 48;
/// Leap indicator of a server without a time.
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
    /// The truth of the lab: the machine's `CLOCK_REALTIME`.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        Self(((since.as_secs() + TO_UNIX_S) << 32) + fraction)
    }

    /// So many seconds later.
    #[expect(clippy::cast_possible_truncation, reason = "rounded to a unit, of at most decades")]
    #[must_use]
    pub fn plus(self, seconds: f64) -> Self {
        Self(self.0.wrapping_add_signed((seconds * UNITS).round() as i64))
    }

    /// From an earlier moment to this one, in s; of two moments within 68 years.
    #[expect(clippy::cast_precision_loss, reason = "seconds and hours, to a part in 2^52")]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.wrapping_sub(earlier.0).cast_signed() as f64 / UNITS
    }
}

/// A message of 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// The leap indicator; [`UNSYNCHRONISED`] is that of a server without a time.
    pub leap: u8,
    /// 3 of a client, 4 of a server.
    pub mode: u8,
    /// 0 of a kiss or of a server without a time.
    pub stratum: u8,
    /// log2 seconds.
    pub poll: u8,
    /// log2 seconds.
    pub precision: i8,
    /// In s, to 2^-16.
    pub root_delay_s: f64,
    /// In s, to 2^-16.
    pub root_dispersion_s: f64,
    /// The reference, or the code of a kiss.
    pub reference_id: u32,
    /// When the clock was last set or corrected.
    pub reference: Moment,
    /// The request's transmit timestamp.
    pub origin: Moment,
    /// When the request came.
    pub receive: Moment,
    /// When this message left.
    pub transmit: Moment,
}

impl Message {
    /// A client's message with this transmit timestamp and nothing else.
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

    /// A server's answer to a request, without a time yet.
    pub fn answering(request: &Self) -> Self {
        Self {
            mode: SERVER,
            leap: UNSYNCHRONISED,
            origin: request.transmit,
            poll: request.poll,
            ..Self::request(Moment::default())
        }
    }

    /// Whether it is a client's.
    pub fn is_request(&self) -> bool {
        self.mode == CLIENT
    }

    /// Whether it answers the request with this transmit timestamp.
    pub fn is_answer_to(&self, transmit: Moment) -> bool {
        self.mode == SERVER && self.origin == transmit
    }

    /// Whether the server refuses to answer. Other codes are reasons for which it has no time.
    pub fn is_kiss(&self) -> bool {
        self.stratum == 0 && [b"RATE", b"DENY", b"RSTR"].contains(&&self.reference_id.to_be_bytes())
    }

    /// Whether the server says that it has the time.
    pub fn is_synchronised(&self) -> bool {
        self.leap != UNSYNCHRONISED && (1..=15).contains(&self.stratum)
    }

    /// As it is sent, in version 4.
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

    /// Nothing if the length is another one.
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

/// Rounded up, for a claim must not shrink.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a claim of seconds, not below 0"
)]
fn short(seconds: f64) -> [u8; 4] {
    ((seconds * SHORT_UNITS).ceil() as u32).to_be_bytes()
}

/// What a server measured by an exchange: offset of the other's clock and round trip, in s.
pub fn measured(sent: Moment, answer: &Message, received: Moment) -> (f64, f64) {
    let there = answer.receive.seconds_since(sent);
    let back = answer.transmit.seconds_since(received);
    (f64::midpoint(there, back), there - back)
}
