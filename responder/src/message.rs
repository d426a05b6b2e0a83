//! The NTP message (RFC 5905 section 7.3): which messages are clients' requests, and how they are answered.

pub use crate::clock::{LEAP_UNSYNCHRONISED, MAX_STRATUM};

use crate::checksum::Sum;
use crate::clock::{ClockState, NtpShort};
use crate::limiter::{Policy, SYMMETRIC};
use crate::packet::{Packet, load, store};
use crate::udp;
use crate::verdict::Verdict;

/// Bytes of a message without extension fields and MAC.
pub const LENGTH: usize = 48;

/// Kiss codes (RFC 5905 section 7.4).
const KISS_RATE: [u8; 4] = *b"RATE";
const KISS_DENY: [u8; 4] = *b"DENY";

const MODE_RESERVED: u8 = 0;
/// The mode of a peer that asks. Old Windows clients ask with it.
pub const MODE_ACTIVE: u8 = 1;
/// The mode of an answer to [`MODE_ACTIVE`] from a server that does not follow the one who asked.
pub const MODE_PASSIVE: u8 = 2;
/// The mode of a client's request.
pub const MODE_CLIENT: u8 = 3;
/// The mode of a server's answer.
pub const MODE_SERVER: u8 = 4;
/// The mode of a control message (RFC 9327).
pub const MODE_CONTROL: u8 = 6;
const MODE_PRIVATE: u8 = 7;
const OLDEST_VERSION: u8 = 1;
/// The version in use.
pub const NEWEST_VERSION: u8 = 4;

/// A client's request: the parts that the answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    version: u8,
    /// The mode of the answer.
    mode: u8,
    poll: u8,
    is_probe: bool,
    transmit: [u8; 8],
}

/// The first four bytes of a pool monitor's probe: a client's request in version 4, without stratum and poll interval,
/// with the precision 2^32 s.
const PROBE_HEADER: [u8; 4] = [0x23, 0, 0, 0x20];

impl Request {
    /// Reads a request from the payload of a datagram that came to a socket.
    ///
    /// # Errors
    ///
    /// The verdict under which it is counted if it is not a client's request: [`Verdict::DropLength`] if it
    /// has less than 48 bytes or not a whole number of words, otherwise the verdict of [`classify`].
    pub fn parse(payload: &[u8], source_port: u16, policy: &Policy) -> Result<Self, Verdict> {
        let Some(message) = payload.first_chunk::<LENGTH>() else {
            return Err(payload
                .first()
                .and_then(|first| classify(*first, source_port, policy).err())
                .unwrap_or(Verdict::DropLength));
        };
        classify(message[0], source_port, policy)?;
        if payload.len() & 3 != 0 {
            return Err(Verdict::DropLength);
        }
        Ok(Self::read(message))
    }

    #[inline(always)]
    fn read(message: &[u8; LENGTH]) -> Self {
        let [first, _, poll, _, ..] = *message;
        let mode = if first & 7 == MODE_ACTIVE { MODE_PASSIVE } else { MODE_SERVER };
        let is_probe = load::<4>(message, 0) == PROBE_HEADER && is_empty_before_transmit(message);
        Self { version: version(first), mode, poll, is_probe, transmit: load(message, 40) }
    }

    /// Returns whether it has the shape of a probe of the NTP Pool's monitors: all fields but the transmit timestamp
    /// are constant, and the precision is one that no clock has. It is treated like every other request.
    #[must_use]
    #[inline(always)]
    pub const fn is_probe(self) -> bool {
        self.is_probe
    }

    /// Returns the NTP version, 1 to 4.
    #[must_use]
    #[inline(always)]
    pub const fn version(self) -> u8 {
        self.version
    }

    /// Returns the transmit timestamp, in the byte order of the network.
    #[must_use]
    #[inline(always)]
    pub const fn transmit(self) -> [u8; 8] {
        self.transmit
    }

    /// Returns the poll field.
    #[must_use]
    #[inline(always)]
    pub const fn poll(self) -> i8 {
        self.poll.cast_signed()
    }
}

/// Whether the fields between the precision and the transmit timestamp are all zero.
#[inline(always)]
fn is_empty_before_transmit(message: &[u8; LENGTH]) -> bool {
    let word = |offset| u64::from_ne_bytes(load(message, offset));
    u32::from_ne_bytes(load(message, 4)) == 0 && word(8) | word(16) | word(24) | word(32) == 0
}

/// Returns the version in a message's first byte, 0 to 7.
#[must_use]
#[inline(always)]
pub const fn version(first: u8) -> u8 {
    first >> 3 & 7
}

/// Tells from a message's first byte whether it is a client's request, or under [`SYMMETRIC`] a peer's.
///
/// # Errors
///
/// The verdict if it is not: [`Verdict::DropSource`] if there is no port to answer to (RFC 768),
/// [`Verdict::DropControl`], [`Verdict::PassMode`] or [`Verdict::PassVersion`].
#[inline(always)]
pub fn classify(first: u8, source_port: u16, policy: &Policy) -> Result<(), Verdict> {
    if source_port == 0 {
        return Err(Verdict::DropSource);
    }
    let version = version(first);
    match first & 7 {
        MODE_CLIENT if matches!(version, OLDEST_VERSION..=NEWEST_VERSION) => Ok(()),
        MODE_CLIENT => Err(Verdict::PassVersion),
        MODE_ACTIVE if policy.options & SYMMETRIC != 0 => {
            if matches!(version, OLDEST_VERSION..=NEWEST_VERSION) {
                Ok(())
            } else {
                Err(Verdict::PassVersion)
            }
        }
        // The mode field came with version 2: a version 1 client leaves it zero (RFC 1059). From port 123 it
        // would be a peer.
        MODE_RESERVED if version == OLDEST_VERSION && source_port != udp::NTP_PORT => Ok(()),
        MODE_CONTROL | MODE_PRIVATE => Err(Verdict::DropControl),
        _ => Err(Verdict::PassMode),
    }
}

/// What a datagram for us is, if it is not a request that is answered in the NIC path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Otherwise {
    /// A client's request that the socket answers, if it gets there under this verdict.
    ForSocket(Request, Verdict),
    /// Not a client's request: a verdict, and the version that the message claims.
    NoRequest(Verdict, u8),
}

/// Finds the request in a datagram for us. `offset` is that of its UDP header in the frame, and `ip_payload`
/// is the number of bytes from there on according to the IP header.
///
/// # Errors
///
/// What the datagram is, if the NIC path does not answer it.
#[inline(always)]
pub(crate) fn in_datagram<P: Packet>(
    packet: &P,
    offset: usize,
    ip_payload: usize,
    udp: udp::Header,
    policy: &Policy,
) -> Result<Request, Otherwise> {
    let whole = usize::from(udp.length) <= ip_payload && ip_payload <= packet.length().wrapping_sub(offset);
    let Some([first]) = packet.bytes::<1>(offset.wrapping_add(udp::HEADER)) else {
        return Err(Otherwise::NoRequest(Verdict::DropLength, 0));
    };
    if !whole || usize::from(udp.length) <= udp::HEADER {
        return Err(Otherwise::NoRequest(Verdict::DropLength, 0));
    }
    let version = version(*first);
    if let Err(verdict) = classify(*first, udp.source_port, policy) {
        return Err(Otherwise::NoRequest(verdict, version));
    }
    let is_short = udp.length == udp::ANSWER_LENGTH && ip_payload == usize::from(udp::ANSWER_LENGTH);
    if !is_short && (udp.length < udp::ANSWER_LENGTH || udp.length & 3 != 0) {
        return Err(Otherwise::NoRequest(Verdict::DropLength, version));
    }
    let Some(message) = packet.bytes::<LENGTH>(offset.wrapping_add(udp::HEADER)) else {
        return Err(Otherwise::NoRequest(Verdict::DropLength, version));
    };
    let request = Request::read(message);
    if is_short { Ok(request) } else { Err(Otherwise::ForSocket(request, Verdict::PassLong)) }
}

/// Says what the first fragment of a datagram for us is. `offset` is that of its UDP header in the frame, and
/// `identification` is the number in the IP header. As much of a request as the fragment certainly has is read: its
/// first byte.
#[inline(always)]
pub(crate) fn in_first_fragment<P: Packet>(
    packet: &P,
    offset: usize,
    identification: u16,
    udp: udp::Header,
    policy: &Policy,
) -> Otherwise {
    match packet.bytes::<1>(offset.wrapping_add(udp::HEADER)) {
        Some([first]) if classify(*first, udp.source_port, policy).is_ok() => {
            let transmit = u64::from(identification).to_ne_bytes();
            Otherwise::ForSocket(
                Request { version: 0, mode: 0, poll: 0, is_probe: false, transmit },
                Verdict::PassFragment,
            )
        }
        _ => Otherwise::NoRequest(Verdict::PassFragment, 0),
    }
}

/// A server's message of 48 bytes, as six words in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    words: [[u8; 8]; 6],
    verdict: Verdict,
}

impl Answer {
    /// Returns the bytes of the message.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        self.write(&mut bytes, 0);
        bytes
    }

    /// Returns the verdict under which the answer is counted.
    #[must_use]
    #[inline(always)]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns what is sent under a verdict of [`crate::admission::Client::admit`]: the answer, or a kiss of
    /// death instead.
    #[must_use]
    #[inline(always)]
    pub fn admitted(self, verdict: Verdict, policy: &Policy) -> Self {
        match verdict {
            Verdict::KissRate => self.kiss(KISS_RATE, verdict, policy.kiss_poll),
            Verdict::KissDeny => self.kiss(KISS_DENY, verdict, policy.kiss_poll),
            Verdict::Leaked | Verdict::AnsweredKnown if matches!(self.verdict, Verdict::Answered) => {
                Self { verdict, ..self }
            }
            _ => self,
        }
    }

    /// Makes a kiss of death (RFC 5905 section 7.4): leap 3, stratum 0, the code as reference ID, and the
    /// poll interval to use from now on. The origin stays that of the request, because a client believes no
    /// other.
    #[inline(always)]
    fn kiss(self, code: [u8; 4], verdict: Verdict, least_poll: i8) -> Self {
        let [header, root, reference, origin, receive, transmit] = self.words;
        let [_, _, poll, ..] = header;
        let poll = if poll.cast_signed() < least_poll { least_poll.cast_unsigned() } else { poll };
        // The word is the first half of the header without stratum and poll, and the root dispersion without
        // the reference ID.
        let header = u64::from_be_bytes(header) & 0xff00_00ff_ffff_ffff | 3 << 62 | u64::from(poll) << 40;
        let root = u64::from_be_bytes(root) & !0xffff_ffff | u64::from(u32::from_be_bytes(code));
        Self {
            words: [header.to_be_bytes(), root.to_be_bytes(), reference, origin, receive, transmit],
            verdict,
        }
    }

    /// Writes UDP header and message at `offset` of `bytes`, with the ports swapped. `addresses` is the sum
    /// over source and destination address.
    ///
    /// The checksum is always computed as a whole and never updated from the request's: a request from a
    /// socket on the same machine has an unfinished one (`CHECKSUM_PARTIAL`).
    #[inline(always)]
    pub(crate) fn write_datagram(&self, bytes: &mut [u8], offset: usize, addresses: Sum) {
        let at = |relative: usize| offset.wrapping_add(relative);
        let client: [u8; 2] = load(bytes, at(0));
        let server: [u8; 2] = load(bytes, at(2));
        store(bytes, at(0), server);
        store(bytes, at(2), client);
        store(bytes, at(4), udp::ANSWER_LENGTH.to_be_bytes());
        // The pseudo header contains the length again, next to the protocol number.
        let sum = addresses
            .number(u16::from_be_bytes(client))
            .number(u16::from_be_bytes(server))
            .number(udp::ANSWER_LENGTH)
            .number(udp::ANSWER_LENGTH)
            .number(u16::from(udp::PROTOCOL));
        store(bytes, at(6), self.add_to(sum).udp_checksum());
        self.write(bytes, at(udp::HEADER));
    }

    #[inline(always)]
    fn write(&self, bytes: &mut [u8], offset: usize) {
        let [header, root, reference, origin, receive, transmit] = self.words;
        store(bytes, offset, header);
        store(bytes, offset.wrapping_add(8), root);
        store(bytes, offset.wrapping_add(16), reference);
        store(bytes, offset.wrapping_add(24), origin);
        store(bytes, offset.wrapping_add(32), receive);
        store(bytes, offset.wrapping_add(40), transmit);
    }

    #[inline(always)]
    fn add_to(&self, sum: Sum) -> Sum {
        let [header, root, reference, origin, receive, transmit] = self.words;
        sum.double(header).double(root).double(reference).double(origin).double(receive).double(transmit)
    }
}

/// Makes the answer to `request`, which was received when `CLOCK_MONOTONIC` showed `received_ns`. The answer is
/// sent at `transmitted_ns`, which may be the same reading.
///
/// The fields follow RFC 5905 figure 31 (`fast_xmit`):
/// - version and poll are the request's, and the origin is its transmit timestamp bit for bit;
/// - the mode is a server's, or that of a passive peer where the request has that of an active one;
/// - leap, stratum, precision, root delay, reference ID and time are the clock's; the root dispersion has grown
///   with the age of the line;
/// - past the horizon, or if the clock does not claim to be synchronised: leap 3, stratum 0, no reference ID;
/// - the bits of receive and transmit below the clock's precision are noise, and transmit is always later than
///   receive, if only by noise.
#[must_use]
#[inline(always)]
pub fn answer(request: Request, clock: &ClockState, received_ns: u64, transmitted_ns: u64) -> Answer {
    let synchronised = clock.is_synchronised_at(transmitted_ns);
    let (leap, stratum, reference_id) = if synchronised {
        (clock.leap, clock.stratum, clock.reference_id)
    } else {
        (LEAP_UNSYNCHRONISED, 0, 0)
    };
    let first = leap << 6 | (request.version & 7) << 3 | request.mode;
    let NtpShort(root_delay) = clock.root_delay;
    let NtpShort(root_dispersion) = clock.root_dispersion_at(transmitted_ns);

    let origin = u64::from_ne_bytes(request.transmit);
    let received = clock.time_at(received_ns).0;
    let transmitted = clock.time_at(transmitted_ns).0;
    let mask = clock.noise_mask();
    let noise = noise(transmitted ^ origin);
    let receive_noise = noise >> 33 & mask >> 1;
    let transmit_noise = receive_noise.wrapping_add(1).wrapping_add(noise >> 17 & mask >> 1);
    let receive = received & !mask | receive_noise;
    let transmit = transmitted & !mask | transmit_noise & mask;

    let header =
        u64::from(u32::from_be_bytes([first, stratum, request.poll, clock.precision.to_be_bytes()[0]]));
    Answer {
        words: [
            (header << 32 | u64::from(root_delay)).to_be_bytes(),
            (u64::from(root_dispersion) << 32 | u64::from(reference_id)).to_be_bytes(),
            clock.reference_time.0.to_be_bytes(),
            request.transmit,
            receive.to_be_bytes(),
            transmit.to_be_bytes(),
        ],
        verdict: if synchronised { Verdict::Answered } else { Verdict::Unsynchronised },
    }
}

/// Spreads what is known about a moment over the upper bits. It is no secret; it only has no pattern that
/// would survive averaging.
#[inline(always)]
const fn noise(seed: u64) -> u64 {
    (seed ^ seed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
