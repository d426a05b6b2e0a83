//! Reads what came back from a server: whether it is the answer to the request, and whether it can be used.

use std::collections::BTreeSet;

use responder::clock::{NtpShort, NtpTimestamp};
use responder::message::{LEAP_UNSYNCHRONISED, LENGTH, MAX_STRATUM, MODE_SERVER};

use crate::kiss::Kiss;
use crate::packet::Header;
use crate::reference::show_reference;
use crate::reject::Reject;
use crate::request::PendingRequest;
use crate::time::short_s;

/// How strictly a packet is read. It is always checked that the packet is a server's and repeats the
/// request's transmit timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a rule each, to be chosen by name")]
pub struct Strictness {
    /// Whether bytes may follow the first 48: extension fields or a MAC, which are not read.
    pub may_be_longer: bool,
    /// The oldest accepted version.
    pub oldest_version: u8,
    /// The newest accepted version.
    pub newest_version: u8,
    /// Whether a receive timestamp of zero, which means "never", is refused.
    pub needs_receive: bool,
    /// Whether the receive timestamp may belong to the era before that of the transmit timestamp, so that its
    /// number is larger.
    pub knows_eras: bool,
    /// Whether a kiss may lack timestamps.
    pub kiss_without_time: bool,
}

impl Strictness {
    /// For a client that uses the time. Servers of version 3 answer requests of version 4 with their own
    /// version.
    pub const CLIENT: Self = Self {
        may_be_longer: false,
        oldest_version: 3,
        newest_version: 4,
        needs_receive: true,
        knows_eras: true,
        kiss_without_time: true,
    };
    /// For a client that has sent extension fields and looks only at the header.
    pub const HEADER: Self = Self { may_be_longer: true, ..Self::CLIENT };
    /// The pool monitor's rules.
    pub const MONITOR: Self = Self {
        may_be_longer: true,
        oldest_version: 0,
        newest_version: 7,
        needs_receive: false,
        knows_eras: false,
        kiss_without_time: false,
    };
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server's time.
    Time(ServerTime),
    /// A kiss of death, which has no time.
    Kiss(Kiss),
}

/// What a server says about the time and about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTime {
    /// Leap indicator.
    pub leap: u8,
    /// Stratum as on the wire: 0 is unsynchronised.
    pub stratum: u8,
    /// Poll interval in log2 seconds.
    pub poll: i8,
    /// Precision in log2 seconds.
    pub precision: i8,
    /// Round trip to the primary source.
    pub root_delay: NtpShort,
    /// Error bound to the primary source.
    pub root_dispersion: NtpShort,
    /// Reference ID: what the server is synchronised to.
    pub reference_id: u32,
    /// When its clock was last corrected.
    pub reference_time: NtpTimestamp,
    /// When the request arrived, by its clock.
    pub receive: NtpTimestamp,
    /// When it sent the answer, by its clock.
    pub transmit: NtpTimestamp,
}

impl PendingRequest {
    /// Reads a packet. A server that is not synchronised has answered as well; [`ServerTime::usable`] tells
    /// the difference.
    ///
    /// # Errors
    ///
    /// The packet is no answer to this request, or contradicts itself.
    pub fn read(self, packet: &[u8], strictness: Strictness) -> Result<Answer, Reject> {
        let header = match packet.split_first_chunk::<LENGTH>() {
            Some((header, rest)) if rest.is_empty() || strictness.may_be_longer => Header::read(header),
            None if strictness.may_be_longer => return Err(Reject::Short),
            Some(_) | None => return Err(Reject::Length),
        };
        if !(strictness.oldest_version..=strictness.newest_version).contains(&header.version) {
            return Err(Reject::Version);
        }
        if header.mode != MODE_SERVER {
            return Err(Reject::Mode);
        }
        if header.origin != self.transmit() {
            return Err(Reject::Origin);
        }
        let kiss = Kiss::of(header.reference_id).filter(|_| header.stratum == 0);
        match (kiss, check_times(&header, strictness)) {
            (Some(kiss), times) if strictness.kiss_without_time || times.is_ok() => Ok(Answer::Kiss(kiss)),
            (_, Err(reject)) => Err(reject),
            (_, Ok(())) => Ok(Answer::Time(ServerTime::of(&header))),
        }
    }
}

fn check_times(header: &Header, strictness: Strictness) -> Result<(), Reject> {
    let Header { receive, transmit, .. } = header;
    if *transmit == NtpTimestamp(0) {
        return Err(Reject::ZeroTransmit);
    }
    if strictness.needs_receive && *receive == NtpTimestamp(0) {
        return Err(Reject::ZeroReceive);
    }
    let is_backwards =
        if strictness.knows_eras { transmit.since(*receive) < 0 } else { receive.0 > transmit.0 };
    if is_backwards { Err(Reject::Order) } else { Ok(()) }
}

impl ServerTime {
    const fn of(header: &Header) -> Self {
        Self {
            leap: header.leap,
            stratum: header.stratum,
            poll: header.poll,
            precision: header.precision,
            root_delay: header.root_delay,
            root_dispersion: header.root_dispersion,
            reference_id: header.reference_id,
            reference_time: header.reference,
            receive: header.receive,
            transmit: header.transmit,
        }
    }

    /// Whether it claims to be synchronised.
    #[must_use]
    pub const fn is_synchronised(&self) -> bool {
        self.leap != LEAP_UNSYNCHRONISED && self.stratum >= 1 && self.stratum <= MAX_STRATUM
    }

    /// Returns the reference ID as tools show it; see [`show_reference`].
    #[must_use]
    pub fn reference(&self) -> String {
        show_reference(self.stratum, self.reference_id)
    }

    /// Returns the largest possible error of the server's clock, as the server states it, in ns.
    #[must_use]
    pub const fn root_distance_ns(&self) -> u64 {
        (self.root_delay.as_nanos() / 2).saturating_add(self.root_dispersion.as_nanos())
    }

    /// Returns the root distance in s.
    #[must_use]
    pub fn root_distance_s(&self) -> f64 {
        short_s(self.root_delay) / 2.0 + short_s(self.root_dispersion)
    }

    /// Whether the server takes its time from a host with one of these reference IDs. The reference ID of a
    /// primary server (stratum 1) is not an address.
    #[must_use]
    pub fn is_loop(&self, own_reference_ids: &BTreeSet<u32>) -> bool {
        self.stratum > 1 && own_reference_ids.contains(&self.reference_id)
    }

    /// Checks whether the time can be used by a client with these reference IDs.
    ///
    /// # Errors
    ///
    /// The reason why not.
    pub fn usable(&self, max_root_distance_s: f64, own_reference_ids: &BTreeSet<u32>) -> Result<(), Reject> {
        if self.leap == LEAP_UNSYNCHRONISED {
            return Err(Reject::Unsynchronised);
        }
        if !self.is_synchronised() || self.stratum >= MAX_STRATUM {
            return Err(Reject::Stratum);
        }
        if self.root_distance_s() > max_root_distance_s {
            return Err(Reject::RootDistance);
        }
        if self.is_loop(own_reference_ids) {
            return Err(Reject::Loop);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::reference_id;

    const ASKED: PendingRequest = PendingRequest::new(*b"unguessd");
    /// A moment in 2026 on the wire.
    const RECEIVED: u64 = 4_000_000_000 << 32;
    const MOST_S: f64 = 1.5;

    fn answer() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = 4 << 3 | MODE_SERVER;
        bytes[1] = 2;
        bytes[3] = (-20_i8).cast_unsigned();
        bytes[12..16].copy_from_slice(&[192, 0, 2, 7]);
        bytes[24..32].copy_from_slice(&ASKED.transmit());
        bytes[32..40].copy_from_slice(&RECEIVED.to_be_bytes());
        bytes[40..].copy_from_slice(&(RECEIVED + (1 << 32)).to_be_bytes());
        bytes
    }

    /// Returns what a client makes of an answer after this change.
    fn judged(change: impl FnOnce(&mut [u8; LENGTH])) -> Result<Answer, Reject> {
        let mut bytes = answer();
        change(&mut bytes);
        let answer = ASKED.read(&bytes, Strictness::CLIENT)?;
        if let Answer::Time(time) = &answer {
            let own = ["198.51.100.1", "10.0.0.1", "2001:db8::1"];
            time.usable(MOST_S, &own.map(|address| reference_id(address.parse().unwrap())).into())?;
        }
        Ok(answer)
    }

    #[test]
    fn bogus_answers_are_rejected_by_name() {
        type Change = fn(&mut [u8; LENGTH]);
        let cases: [(Change, Reject); 13] = [
            (|bytes| bytes[0] = 5 << 3 | MODE_SERVER, Reject::Version),
            (|bytes| bytes[0] = 2 << 3 | MODE_SERVER, Reject::Version),
            (|bytes| bytes[0] = 4 << 3 | 3, Reject::Mode),
            (|bytes| bytes[24] ^= 1, Reject::Origin),
            (|bytes| bytes[40..].fill(0), Reject::ZeroTransmit),
            (|bytes| bytes[32..40].fill(0), Reject::ZeroReceive),
            (|bytes| bytes[42] = 0x27, Reject::Order),
            (|bytes| bytes[0] |= 3 << 6, Reject::Unsynchronised),
            (|bytes| bytes[1] = 15, Reject::Stratum),
            (|bytes| bytes[1] = 16, Reject::Stratum),
            (|bytes| bytes[9] = 2, Reject::RootDistance),
            (|bytes| bytes[12..16].copy_from_slice(&[10, 0, 0, 1]), Reject::Loop),
            // This is the reference ID of 2001:db8::1.
            (|bytes| bytes[12..16].copy_from_slice(&[0x39, 0xab, 0x9b, 0x37]), Reject::Loop),
        ];
        for (change, reject) in cases {
            assert_eq!(judged(change), Err(reject));
        }
        for length in [0, 1, 47, 49, 52, 68, 1500] {
            assert_eq!(ASKED.read(&vec![0x24; length], Strictness::CLIENT), Err(Reject::Length), "{length}");
        }
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
    fn the_monitor_is_less_strict_but_with_kisses() {
        type Change = fn(&mut [u8; LENGTH]);
        let monitor = |change: Change| {
            let mut bytes = answer();
            change(&mut bytes);
            ASKED.read(&bytes, Strictness::MONITOR)
        };
        for accepted in [
            (|bytes| bytes[0] = 7 << 3 | MODE_SERVER) as Change,
            |bytes| bytes[32..40].fill(0),
            |bytes| bytes[0] |= 3 << 6,
            |bytes| bytes[1] = 16,
        ] {
            assert!(matches!(monitor(accepted), Ok(Answer::Time(_))));
        }
        let across_eras: Change = |bytes| {
            bytes[32..36].fill(0xff);
            bytes[40..44].copy_from_slice(&[0, 0, 0, 1]);
        };
        assert_eq!(monitor(across_eras), Err(Reject::Order));
        assert!(judged(across_eras).is_ok());
        let kiss: Change = |bytes| {
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(b"RATE");
            bytes[40..].fill(0);
        };
        assert_eq!(monitor(kiss), Err(Reject::ZeroTransmit));
        assert_eq!(judged(kiss), Ok(Answer::Kiss(Kiss::Rate)));
    }

    #[test]
    fn what_follows_the_header_is_taken_or_not() {
        let long = [&answer()[..], &[0; 20]].concat();
        assert_eq!(ASKED.read(&long, Strictness::CLIENT), Err(Reject::Length));
        for strictness in [Strictness::HEADER, Strictness::MONITOR] {
            assert!(ASKED.read(&long, strictness).is_ok());
            assert_eq!(ASKED.read(&long[..47], strictness), Err(Reject::Short));
        }
    }
}
