//! What came back from a server: is it the answer to what was asked, and can it be used?
//!
//! Pure, and the only reader of answers there is: the discipline's client, `query` and `upstream probe` all go by
//! it. Bytes from the network come in, a value or a named [`Reject`] goes out.

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{LEAP_UNSYNCHRONISED, LENGTH, MAX_STRATUM};

use super::reject::Reject;
use crate::discipline::{Leap, LocalTime, Sample, ns_to_s};
use crate::net::own_addresses::OwnAddresses;

/// Version 4, client.
const FIRST_BYTE: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
/// Servers of version 3 answer requests of version 4 by their own.
const OLDEST_VERSION: u8 = 3;
const NEWEST_VERSION: u8 = 4;
/// Timestamps of NTP repeat after 136 years: they are taken for moments from here on, whatever our own clock
/// says, in s since 1970 (the beginning of 2020).
const FIRST_MOMENT_UNIX_S: i64 = 1_577_836_800;
/// Seconds from 1900 to 1970.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;
const ERA_S: i64 = 1 << 32;
const NS_PER_S: i128 = 1_000_000_000;
/// What two clocks may drift apart during an exchange, in s/s (RFC 5905's PHI).
const DRIFT_ALLOWED: f64 = 15e-6;

/// What was asked, as far as the answer has to agree with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request's transmit timestamp: random, so that whoever has not seen the request cannot answer it.
    pub nonce: [u8; 8],
}

impl Asked {
    /// A new request, and its bytes.
    ///
    /// # Errors
    ///
    /// The kernel gives no random numbers.
    pub fn anew() -> Result<(Self, [u8; LENGTH]), getrandom::Error> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)?;
        let mut request = [0; LENGTH];
        request[0] = FIRST_BYTE;
        request[40..].copy_from_slice(&nonce);
        Ok((Self { nonce }, request))
    }
}

/// A kiss of death (RFC 5905, section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kiss {
    /// Ask less often.
    Rate,
    /// Do not ask.
    Deny,
    /// Do not ask.
    Restrict,
    /// Another code: the server has no time to give.
    Other([u8; 4]),
}

impl Kiss {
    /// The four letters, or what else is printable of them.
    #[must_use]
    pub fn code(self) -> String {
        let bytes = match self {
            Self::Rate => *b"RATE",
            Self::Deny => *b"DENY",
            Self::Restrict => *b"RSTR",
            Self::Other(bytes) => bytes,
        };
        bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect()
    }

    fn of(reference_id: u32) -> Option<Self> {
        match &reference_id.to_be_bytes() {
            b"RATE" => Some(Self::Rate),
            b"DENY" => Some(Self::Deny),
            b"RSTR" => Some(Self::Restrict),
            bytes if bytes.iter().all(u8::is_ascii_graphic) => Some(Self::Other(*bytes)),
            _ => None,
        }
    }
}

/// An answer to the request that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The time, as the server has it.
    Time(ServerTime),
    /// None, and why.
    Kiss(Kiss),
}

/// What a server says of the time and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTime {
    /// Leap indicator.
    pub leap: u8,
    /// Stratum as on the wire: 0 is unsynchronised.
    pub stratum: u8,
    /// The poll interval, log2 seconds.
    pub poll: i8,
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
    /// When the request came, by its clock.
    pub receive: NtpTimestamp,
    /// When it answered, by its clock.
    pub transmit: NtpTimestamp,
}

/// Reads what came back. A server that is not synchronised is one that answered: [`ServerTime::usable`] tells.
///
/// # Errors
///
/// It is no answer to the request, or contradicts itself.
pub fn read(packet: &[u8], asked: Asked) -> Result<Answer, Reject> {
    let Ok(bytes) = <&[u8; LENGTH]>::try_from(packet) else {
        return Err(Reject::Length);
    };
    let double = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]));
    if !(OLDEST_VERSION..=NEWEST_VERSION).contains(&responder::message::version(bytes[0])) {
        return Err(Reject::Version);
    }
    if bytes[0] & 7 != MODE_SERVER {
        return Err(Reject::Mode);
    }
    if bytes[24..32] != asked.nonce {
        return Err(Reject::Origin);
    }
    let (stratum, reference_id) = (bytes[1], word(12));
    if let Some(kiss) = Kiss::of(reference_id).filter(|_| stratum == 0) {
        return Ok(Answer::Kiss(kiss));
    }
    let (receive, transmit) = (NtpTimestamp(double(32)), NtpTimestamp(double(40)));
    if transmit == NtpTimestamp(0) {
        return Err(Reject::ZeroTransmit);
    }
    if receive == NtpTimestamp(0) {
        return Err(Reject::ZeroReceive);
    }
    if transmit.since(receive) < 0 {
        return Err(Reject::Order);
    }
    Ok(Answer::Time(ServerTime {
        leap: bytes[0] >> 6,
        stratum,
        poll: bytes[2].cast_signed(),
        precision: bytes[3].cast_signed(),
        root_delay: NtpShort(word(4)),
        root_dispersion: NtpShort(word(8)),
        reference_id,
        reference_time: NtpTimestamp(double(16)),
        receive,
        transmit,
    }))
}

/// The two ends of an exchange by our own clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The request went.
    pub sent: LocalTime,
    /// The answer came.
    pub received: LocalTime,
    /// How far these may be off, in s.
    pub error_s: f64,
}

impl ServerTime {
    /// Whether it claims to be synchronised.
    #[must_use]
    pub const fn is_synchronised(&self) -> bool {
        self.leap != LEAP_UNSYNCHRONISED && self.stratum >= 1 && self.stratum <= MAX_STRATUM
    }

    /// The most that the server's clock may be wrong, as it says itself, in s.
    #[must_use]
    pub fn root_distance_s(&self) -> f64 {
        seconds(self.root_delay) / 2.0 + seconds(self.root_dispersion)
    }

    /// Whether the time can be used by a client that has these addresses.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn usable(&self, max_root_distance_s: f64, own: &OwnAddresses) -> Result<(), Reject> {
        if self.leap == LEAP_UNSYNCHRONISED {
            return Err(Reject::Unsynchronised);
        }
        if !self.is_synchronised() {
            return Err(Reject::Stratum);
        }
        if self.root_distance_s() > max_root_distance_s {
            return Err(Reject::RootDistance);
        }
        if own.is_loop(self.stratum, self.reference_id) {
            return Err(Reject::Loop);
        }
        Ok(())
    }

    /// What the exchange measured (RFC 5905, section 8).
    ///
    /// # Errors
    ///
    /// [`Reject::Residence`].
    pub fn sample(&self, times: &Times) -> Result<Sample, Reject> {
        let (sent, received) = (i128::from(times.sent.as_ns()), i128::from(times.received.as_ns()));
        let (receive, transmit) = (unix_ns(self.receive), unix_ns(self.transmit));
        let offset_ns = i64::try_from(i128::midpoint(receive - sent, transmit - received))
            .map_err(|_| Reject::Residence)?;
        let delay_ns =
            i64::try_from((received - sent) - (transmit - receive)).map_err(|_| Reject::Residence)?;
        let elapsed_s = times.received.seconds_since(times.sent);
        let precision_s = f64::from(self.precision.clamp(-32, 4)).exp2();
        let dispersion_s = precision_s + times.error_s + DRIFT_ALLOWED * elapsed_s;
        if ns_to_s(delay_ns) < -2.0 * dispersion_s {
            return Err(Reject::Residence);
        }
        Ok(Sample {
            at: times.sent.plus_seconds(elapsed_s / 2.0),
            offset_ns,
            delay_s: ns_to_s(delay_ns).max(precision_s),
            dispersion_s,
            root_delay_s: seconds(self.root_delay),
            root_dispersion_s: seconds(self.root_dispersion),
            stratum: self.stratum,
            leap: match self.leap {
                1 => Leap::Insert,
                2 => Leap::Delete,
                _ => Leap::None,
            },
        })
    }
}

/// Nanoseconds since 1970 of a moment from 2020 on.
#[must_use]
pub fn unix_ns(time: NtpTimestamp) -> i128 {
    let (ntp_s, fraction) = (time.0 >> 32, time.0 & 0xffff_ffff);
    let unix_s = i64::try_from(ntp_s).unwrap_or_default() - NTP_TO_UNIX_S;
    let unix_s = if unix_s < FIRST_MOMENT_UNIX_S { unix_s + ERA_S } else { unix_s };
    i128::from(unix_s) * NS_PER_S + ((i128::from(fraction) * NS_PER_S) >> 32)
}

#[expect(clippy::cast_precision_loss, reason = "at most 18 hours, in units of 15 us")]
fn seconds(interval: NtpShort) -> f64 {
    interval.as_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::own_addresses::tests::own;

    const ASKED: Asked = Asked { nonce: *b"unguessd" };
    /// A moment of 2026 on the wire.
    const RECEIVED: u64 = 4_000_000_000 << 32;
    const MOST_S: f64 = 1.5;

    fn answer() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[3] = (-20_i8).cast_unsigned();
        bytes[12..16].copy_from_slice(&[192, 0, 2, 7]);
        bytes[24..32].copy_from_slice(&ASKED.nonce);
        bytes[32..40].copy_from_slice(&RECEIVED.to_be_bytes());
        bytes[40..].copy_from_slice(&(RECEIVED + (1 << 32)).to_be_bytes());
        bytes
    }

    /// What a client makes of the answer after this was done to it.
    fn judged(change: impl FnOnce(&mut [u8; LENGTH])) -> Result<Answer, Reject> {
        let mut bytes = answer();
        change(&mut bytes);
        let answer = read(&bytes, ASKED)?;
        if let Answer::Time(time) = &answer {
            time.usable(MOST_S, &own(&["198.51.100.1", "10.0.0.1", "2001:db8::1"]))?;
        }
        Ok(answer)
    }

    fn time() -> ServerTime {
        match judged(|_| {}) {
            Ok(Answer::Time(time)) => time,
            other => panic!("a good answer: {other:?}"),
        }
    }

    fn times(sent_s: f64, received_s: f64) -> Times {
        let at = |seconds| LocalTime::from_ns(0).plus_seconds(seconds);
        Times { sent: at(sent_s), received: at(received_s), error_s: 1e-6 }
    }

    #[test]
    fn offset_and_delay_are_those_of_rfc_5905() {
        let sample = time().sample(&times(100.0, 105.0)).unwrap();
        // Received at 4000000000, sent a second later; the middle of ours is 102.5.
        assert_eq!(sample.offset_ns, (4_000_000_000 - NTP_TO_UNIX_S) * 1_000_000_000 - 102_000_000_000);
        assert!((sample.delay_s - 4.0).abs() < 1e-9, "{sample:?}");
        assert!((sample.at.seconds_since(LocalTime::from_ns(0)) - 102.5).abs() < 1e-9);
        assert!(sample.dispersion_s > 5.0 * DRIFT_ALLOWED && sample.dispersion_s < 1e-4);
        assert_eq!((sample.stratum, sample.leap), (2, Leap::None));
    }

    #[test]
    fn bogus_answers_are_rejected_by_name() {
        type Change = fn(&mut [u8; LENGTH]);
        let cases: [(Change, Reject); 12] = [
            (|bytes| bytes[0] = 5 << 3 | MODE_SERVER, Reject::Version),
            (|bytes| bytes[0] = 2 << 3 | MODE_SERVER, Reject::Version),
            (|bytes| bytes[0] = FIRST_BYTE, Reject::Mode),
            (|bytes| bytes[24] ^= 1, Reject::Origin),
            (|bytes| bytes[40..].fill(0), Reject::ZeroTransmit),
            (|bytes| bytes[32..40].fill(0), Reject::ZeroReceive),
            (|bytes| bytes[42] = 0x27, Reject::Order),
            (|bytes| bytes[0] |= 3 << 6, Reject::Unsynchronised),
            (|bytes| bytes[1] = 16, Reject::Stratum),
            (|bytes| bytes[9] = 2, Reject::RootDistance),
            (|bytes| bytes[12..16].copy_from_slice(&[10, 0, 0, 1]), Reject::Loop),
            // Of 2001:db8::1.
            (|bytes| bytes[12..16].copy_from_slice(&[0x39, 0xab, 0x9b, 0x37]), Reject::Loop),
        ];
        for (change, reject) in cases {
            assert_eq!(judged(change), Err(reject));
        }
        for length in [0, 1, 47, 49, 52, 68, 1500] {
            assert_eq!(read(&vec![0x24; length], ASKED), Err(Reject::Length), "{length}");
        }
        assert_eq!(time().sample(&times(100.0, 100.5)), Err(Reject::Residence));
    }

    #[test]
    fn what_a_primary_server_names_is_no_address() {
        let primary = judged(|bytes| {
            bytes[1] = 1;
            bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        });
        assert!(matches!(primary, Ok(Answer::Time(_))), "{primary:?}");
    }

    #[test]
    fn kisses_are_told_from_servers_without_a_time() {
        let kiss = |code: [u8; 4]| {
            judged(|bytes| {
                bytes[0] |= 3 << 6;
                bytes[1] = 0;
                bytes[12..16].copy_from_slice(&code);
            })
        };
        assert_eq!(kiss(*b"RATE"), Ok(Answer::Kiss(Kiss::Rate)));
        assert_eq!(kiss(*b"DENY"), Ok(Answer::Kiss(Kiss::Deny)));
        assert_eq!(kiss(*b"RSTR"), Ok(Answer::Kiss(Kiss::Restrict)));
        assert_eq!(kiss(*b"INIT"), Ok(Answer::Kiss(Kiss::Other(*b"INIT"))));
        assert_eq!(kiss([0; 4]), Err(Reject::Unsynchronised));
        let forged = judged(|bytes| {
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(b"DENY");
            bytes[31] ^= 1;
        });
        assert_eq!(forged, Err(Reject::Origin), "a kiss from somebody who has not seen the request");
    }

    #[test]
    fn the_era_after_2036_is_understood() {
        assert_eq!(unix_ns(NtpTimestamp::from_unix(FIRST_MOMENT_UNIX_S, 0)) / NS_PER_S, 1_577_836_800);
        assert_eq!(unix_ns(NtpTimestamp::from_unix(2_085_978_496, 0)) / NS_PER_S, 2_085_978_496);
        assert_eq!(unix_ns(NtpTimestamp::from_unix(5_000_000_000, 250_000_000)), 5_000_000_000_250_000_000);
    }

    #[test]
    fn requests_are_unlike_each_other() {
        let (first, request) = Asked::anew().unwrap();
        let (second, _) = Asked::anew().unwrap();
        assert_ne!(first, second);
        assert_eq!((request[0], &request[40..]), (FIRST_BYTE, &first.nonce[..]));
        assert!(request[1..40].iter().all(|byte| *byte == 0), "nothing else is told");
    }
}
