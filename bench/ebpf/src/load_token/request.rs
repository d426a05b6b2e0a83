//! What is sent: the plan of a step, and a request as a frame.

use responder::Packet;
use responder::checksum::Sum;

use super::arrivals::Spike;
use super::malformation::{Malformation, draw};
use super::{Key, Token};

/// What all senders and checkers know of a step; a map value of the programs in the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Plan {
    /// The value of the [`Key`].
    pub key: u64,
    /// Start of the step on `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Duration of the step.
    pub duration_ns: u64,
    /// Interval between two requests of one generator in nanoseconds, with 16 bits of fraction.
    pub interval: u64,
    /// Number of generators that run side by side. Each sends every n-th request, where n is this number.
    pub generators: u64,
    /// Timeout per answer.
    pub timeout_ns: u64,
    /// How far a request may be behind its due time and still be sent.
    pub late_ns: u64,
    /// What the server's clock should have shown at the start, as an NTP timestamp; 0 if that is not known.
    pub ntp_start: u64,
    /// How far the server's clock may be off, in units of 2^-32 s.
    pub tolerance: u64,
    /// Index of the interface to send from.
    pub interface: u64,
    /// The frame of the request, without source port, version and transmit timestamp.
    pub frame: [u64; FRAME_WORDS],
    /// The one's complement sum of that frame; its complement is the UDP checksum.
    pub sum: u64,
    /// The server's port.
    pub port: u64,
    /// The lowest port that requests come from.
    pub first_port: u64,
    /// Number of ports that requests come from.
    pub ports: u64,
    /// Offset in the frame of the 32-bit word of the source address that tells clients apart.
    pub client_at: u64,
    /// That word for the first client, in host order. It is zero in `frame` and missing in `sum`.
    pub first_client: u64,
    /// Number of clients: a power of two, up to [`MAX_CLIENTS`].
    pub clients: u64,
    /// The one's complement sum of the IPv4 header without that word, from which its checksum is computed.
    pub header_sum: u64,
    /// If not 0, requests come as from independent clients, in [`exponential`](super::exponential) intervals.
    pub poisson: u64,
    /// If not 0, the target sends requests back unchanged, and nothing is checked but that they come back.
    pub echo: u64,
    /// If not 0, answers that claim no synchronised clock are as good as others.
    pub lenient: u64,
    /// Number of requests per 65,536 that come from the first client.
    pub hot: u64,
    /// Requests' numbers are mixed with this value before they select a client.
    pub scatter: u64,
    /// Number of requests per 65,536 that are [malformed](Malformation).
    pub malformed: u64,
    /// The port that requests with the first malformation come from; the ports of the others follow.
    pub malformed_port: u64,
    /// Length in bytes of what follows the message in a request.
    pub extension: u64,
    /// [`window_shift`](super::window_shift) of the step.
    pub window_shift: u64,
    /// When the rate is higher than the interval says.
    pub spike: Spike,
}

/// Largest number of sources that requests can come from.
pub const MAX_CLIENTS: u64 = 1 << 24;
/// [`Plan::client_at`] in IPv4 frames: the whole source address.
pub const CLIENT_IPV4: u64 = 26;
/// [`Plan::client_at`] in IPv6 frames whose clients have networks of their own: the second half of the
/// source's first 64 bits.
pub const CLIENT_IPV6_NETWORK: u64 = 26;
/// [`Plan::client_at`] in IPv6 frames whose clients are in one network: the end of the source address.
pub const CLIENT_IPV6_HOST: u64 = 34;

/// Returns which of `clients` clients a request comes from; `clients` is a power of two.
#[must_use]
#[inline(always)]
pub const fn client(sequence: u64, clients: u64) -> u64 {
    (sequence.wrapping_mul(0xd605_1c09_5f8f_b4a1) >> 24) & (clients.wrapping_sub(1)) & (MAX_CLIENTS - 1)
}

/// Number of words of a frame in [`Plan`]: an IPv6 request has 110 bytes.
pub const FRAME_WORDS: usize = 14;

/// Offset of the message in an IPv4 frame without tags and options.
pub const IPV4_MESSAGE: usize = 14 + 20 + 8;
/// Offset of the message in an IPv6 frame without tags and extension headers.
pub const IPV6_MESSAGE: usize = 14 + 40 + 8;
/// Length of a message without extensions.
pub const MESSAGE: usize = 48;
/// Length of a UDP header and a message.
pub const DATAGRAM: u16 = 56;
/// Largest number of bytes that a request can have behind its message.
pub const MAX_EXTENSION: u16 = 128;

impl Plan {
    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        let [_, _, _, _, high, low, ..] = self.frame[1].to_ne_bytes();
        [high, low] == [0x08, 0x00]
    }

    /// Whether well-formed requests come from this port.
    #[must_use]
    #[inline(always)]
    pub fn has_source(&self, port: u16) -> bool {
        u64::from(port).wrapping_sub(self.first_port) < self.ports
    }

    /// Returns the number of the malformation of requests from this port, or `None` if they are well-formed.
    #[must_use]
    #[inline(always)]
    pub fn malformation_at(&self, port: u16) -> Option<u64> {
        let number = u64::from(port).wrapping_sub(self.malformed_port);
        if self.malformed != 0 && number < u64::from(Malformation::COUNT) { Some(number) } else { None }
    }
}

/// What differs from one request to the next.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    transmit: [u8; 8],
    first: u8,
    port: u16,
    client: [u8; 4],
    malformation: Option<Malformation>,
}

impl Request {
    /// Makes the request with the token's number and time.
    #[must_use]
    #[inline(always)]
    pub fn new(plan: &Plan, token: Token, version: u8) -> Self {
        let malformation = Malformation::of(token.sequence, plan.malformed, u64::from(Malformation::COUNT));
        // Requests with consecutive numbers come from ports that are far apart.
        let mixed = token.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let port = match malformation {
            None => plan.first_port + ((mixed * plan.ports) >> 16),
            Some(malformation) => plan.malformed_port + malformation as u64,
        };
        let mode = if matches!(malformation, Some(Malformation::Mode)) { 4 } else { 3 };
        let client = if draw(token.sequence) < plan.hot {
            0
        } else {
            client(token.sequence ^ plan.scatter, plan.clients)
        };
        Self {
            transmit: Key(plan.key).seal(token).to_be_bytes(),
            first: (version & 7) << 3 | mode,
            port: port as u16,
            client: ((plan.first_client + client) as u32).to_be_bytes(),
            malformation,
        }
    }

    /// Whether no server may answer it.
    #[must_use]
    #[inline(always)]
    pub fn is_malformed(&self) -> bool {
        self.malformation.is_some()
    }

    /// Turns a frame into this request, whatever it contained. Returns `None` if the frame is too short.
    #[inline(always)]
    pub fn write_to<P: Packet + ?Sized>(&self, frame: &mut P, plan: &Plan) -> Option<()> {
        if plan.is_ipv4() {
            let bytes = frame.bytes_mut::<{ IPV4_MESSAGE + MESSAGE }>(0)?;
            self.write::<_, IPV4_MESSAGE>(bytes, plan);
        } else {
            let bytes = frame.bytes_mut::<{ IPV6_MESSAGE + MESSAGE }>(0)?;
            self.write::<_, IPV6_MESSAGE>(bytes, plan);
        }
        Some(())
    }

    #[inline(always)]
    fn write<const LENGTH: usize, const START: usize>(&self, bytes: &mut [u8; LENGTH], plan: &Plan) {
        // The remainder behind the last word is the end of the transmit timestamp, which is written below.
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (index, chunk) in chunks.iter_mut().enumerate() {
            // SAFETY: a frame has no more words than the plan. The read is volatile so that it does not
            // become a call of memcpy, which copies byte by byte in the kernel.
            let word = unsafe { core::ptr::read_volatile(plan.frame.as_ptr().add(index)) };
            *chunk = word.to_ne_bytes();
        }
        bytes[START] = self.first;
        bytes[START - 8..START - 6].copy_from_slice(&self.port.to_be_bytes());
        bytes[START + 40..START + 48].copy_from_slice(&self.transmit);
        if START == IPV4_MESSAGE {
            bytes[26..30].copy_from_slice(&self.client);
            let header = Sum::ZERO.number(plan.header_sum as u16).word(self.client);
            bytes[24..26].copy_from_slice(&header.checksum());
        } else if plan.client_at == CLIENT_IPV6_NETWORK {
            bytes[26..30].copy_from_slice(&self.client);
        } else {
            bytes[34..38].copy_from_slice(&self.client);
        }
        let sum = Sum::ZERO
            .number(plan.sum as u16)
            .number(self.port)
            .number(u16::from(self.first) << 8)
            .word(self.client);
        let checksum = sum.double(self.transmit).udp_checksum();
        bytes[START - 2..START].copy_from_slice(&checksum);
        match self.malformation {
            None | Some(Malformation::Mode) => {}
            Some(Malformation::Short) => {
                let [a, b, c, d, ..] = self.transmit;
                set_length(bytes, START - 4, DATAGRAM - 4);
                // The length counts twice: in the header and in the pseudo header. Subtracting 4 is adding
                // its complement.
                let sum = sum.word([a, b, c, d]).number(!4).number(!4);
                bytes[START - 2..START].copy_from_slice(&sum.udp_checksum());
                if START == IPV4_MESSAGE {
                    set_length(bytes, 16, 20 + DATAGRAM - 4);
                    let header = Sum::ZERO.number(plan.header_sum as u16).word(self.client).number(!4);
                    bytes[24..26].copy_from_slice(&header.checksum());
                } else {
                    set_length(bytes, 18, DATAGRAM - 4);
                }
            }
            Some(Malformation::Checksum) => {
                let [high, low] = checksum;
                // The new checksum must not be zero, which means that there is none.
                let other = if [high ^ 1, low] == [0, 0] { 2 } else { high ^ 1 };
                bytes[START - 2..START].copy_from_slice(&[other, low]);
            }
            Some(Malformation::Length) => {
                set_length(bytes, START - 4, DATAGRAM + 8);
                let sum = sum.double(self.transmit).number(8).number(8);
                bytes[START - 2..START].copy_from_slice(&sum.udp_checksum());
            }
        }
    }
}

/// Writes a length at a constant offset.
#[inline(always)]
fn set_length<const LENGTH: usize>(bytes: &mut [u8; LENGTH], at: usize, length: u16) {
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_source_has_its_share() {
        let plan = Plan { hot: 1 << 14, clients: 1024, first_client: 7, ports: 1, ..Plan::default() };
        let is_first = |sequence: &u64| {
            Request::new(&plan, Token { sequence: *sequence, sent_ns: 0 }, 4).client == [0, 0, 0, 7]
        };
        let share = (0..1 << 16).filter(is_first).count();
        assert!((15_900..16_900).contains(&share), "{share}");
    }
}
