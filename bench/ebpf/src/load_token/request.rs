//! What is sent: the plan of a step, and a request as a frame.

use responder::Packet;
use responder::checksum::Sum;

use super::arrivals::Spike;
use super::malformation::{Flaw, draw};
use super::{Key, Token};

/// What all who send and check are told of a step; a map value of the programs in the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Plan {
    /// [`Key`].
    pub key: u64,
    /// `CLOCK_MONOTONIC` at the start.
    pub start_ns: u64,
    /// Time of the step, from its start.
    pub duration_ns: u64,
    /// Between two requests of one generator, with 16 bits of fraction.
    pub interval: u64,
    /// Generators that run side by side, each with every such number of the requests.
    pub generators: u64,
    /// Answers that take longer are late.
    pub timeout_ns: u64,
    /// Requests further behind their time are not sent.
    pub late_ns: u64,
    /// What the server's clock should have shown at the start, as an NTP timestamp; 0 if it is not known.
    pub ntp_start: u64,
    /// How far it may be off, in units of 2^-32 s.
    pub tolerance: u64,
    /// Index of the interface to send from.
    pub interface: u64,
    /// The request's frame, without source port, version and transmit timestamp ...
    pub frame: [u64; FRAME_WORDS],
    /// ... and the one's complement sum that its UDP checksum is the complement of.
    pub sum: u64,
    /// The server's port.
    pub port: u64,
    /// The lowest of the ports that requests come from ...
    pub first_port: u64,
    /// ... and how many there are.
    pub ports: u64,
    /// Where in the frame the word of the source address stands that tells the clients apart ...
    pub client_at: u64,
    /// ... what it is for the first of them, in host order; there it is zero in `frame` and missing in `sum` ...
    pub first_client: u64,
    /// ... and how many there are: a power of two, up to [`MAX_CLIENTS`].
    pub clients: u64,
    /// The one's complement sum that an IPv4 header's checksum is the complement of, without that word.
    pub header_sum: u64,
    /// Not 0: requests come as from independent clients, by [`exponential`](super::exponential) intervals.
    pub poisson: u64,
    /// Not 0: the target sends requests back as they are, and nothing is judged but that they come.
    pub echo: u64,
    /// Not 0: answers that claim no synchronised clock are as good as others.
    pub lenient: u64,
    /// Of 65,536 requests, those that come from the first client.
    pub hot: u64,
    /// What numbers of requests are mixed with before they say which client is meant.
    pub scatter: u64,
    /// Of 65,536 requests, those that have a [`Flaw`] ...
    pub malformed: u64,
    /// ... and the port that those with the first flaw come from; the others' are behind it.
    pub flaw_port: u64,
    /// Bytes of a request behind the message.
    pub extension: u64,
    /// [`window_shift`](super::window_shift) of the step.
    pub window_shift: u64,
    /// When there are more requests than by the interval.
    pub spike: Spike,
}

/// The most sources that requests can come from.
pub const MAX_CLIENTS: u64 = 1 << 24;
/// [`Plan::client_at`] in IPv4 frames: the whole source address.
pub const CLIENT_IPV4: u64 = 26;
/// In IPv6 frames: the second half of the source's first 64 bits, for clients with networks of their own ...
pub const CLIENT_IPV6_NETWORK: u64 = 26;
/// ... or the end of the address, for clients in one network.
pub const CLIENT_IPV6_HOST: u64 = 34;

/// Which of a number of clients, a power of two, a request comes from.
#[must_use]
#[inline(always)]
pub const fn client(sequence: u64, clients: u64) -> u64 {
    (sequence.wrapping_mul(0xd605_1c09_5f8f_b4a1) >> 24) & (clients.wrapping_sub(1)) & (MAX_CLIENTS - 1)
}

/// Words of a frame in [`Plan`]: an IPv6 request has 110 bytes.
pub const FRAME_WORDS: usize = 14;

/// Where the message stands in a frame without tags, options and extension headers.
pub const IPV4_MESSAGE: usize = 14 + 20 + 8;
/// Likewise over IPv6.
pub const IPV6_MESSAGE: usize = 14 + 40 + 8;
/// Bytes of a message without extensions.
pub const MESSAGE: usize = 48;
/// UDP header and message.
pub const DATAGRAM: u16 = 56;
/// The most bytes that a request can have behind its message.
pub const MAX_EXTENSION: u16 = 128;

impl Plan {
    #[inline(always)]
    fn is_ipv4(&self) -> bool {
        let [_, _, _, _, high, low, ..] = self.frame[1].to_ne_bytes();
        [high, low] == [0x08, 0x00]
    }

    /// Whether requests come from this port.
    #[must_use]
    #[inline(always)]
    pub fn has_source(&self, port: u16) -> bool {
        u64::from(port).wrapping_sub(self.first_port) < self.ports
    }

    /// The number of the flaw that requests from this port have, if they have one.
    #[must_use]
    #[inline(always)]
    pub fn flaw_at(&self, port: u16) -> Option<u64> {
        let number = u64::from(port).wrapping_sub(self.flaw_port);
        if self.malformed != 0 && number < u64::from(Flaw::COUNT) { Some(number) } else { None }
    }
}

/// What differs from one request to the next.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    transmit: [u8; 8],
    first: u8,
    port: u16,
    client: [u8; 4],
    flaw: Option<Flaw>,
}

impl Request {
    /// The request of that number, sent at that time.
    #[must_use]
    #[inline(always)]
    pub fn new(plan: &Plan, token: Token, version: u8) -> Self {
        let flaw = Flaw::of(token.sequence, plan.malformed, u64::from(Flaw::COUNT));
        // Numbers one after the other come from ports far apart.
        let mixed = token.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let port = match flaw {
            None => plan.first_port + ((mixed * plan.ports) >> 16),
            Some(flaw) => plan.flaw_port + flaw as u64,
        };
        let mode = if matches!(flaw, Some(Flaw::Mode)) { 4 } else { 3 };
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
            flaw,
        }
    }

    /// Whether no server may answer it.
    #[must_use]
    #[inline(always)]
    pub fn is_malformed(&self) -> bool {
        self.flaw.is_some()
    }

    /// Makes a frame this request, whatever was in it. `None` if the frame is too short.
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
        // What is left after the last word is the end of the transmit timestamp, which is written below.
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (index, chunk) in chunks.iter_mut().enumerate() {
            // SAFETY: a frame has no more words than the plan. Volatile against a call of memcpy, which
            // copies byte by byte in the kernel.
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
        match self.flaw {
            None | Some(Flaw::Mode) => {}
            Some(Flaw::Short) => {
                let [a, b, c, d, ..] = self.transmit;
                set_length(bytes, START - 4, DATAGRAM - 4);
                // The length counts twice: in the header, and in the pseudo header. Four less is the complement more.
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
            Some(Flaw::Checksum) => {
                let [high, low] = checksum;
                // Not to zero, which stands for none.
                let other = if [high ^ 1, low] == [0, 0] { 2 } else { high ^ 1 };
                bytes[START - 2..START].copy_from_slice(&[other, low]);
            }
            Some(Flaw::Length) => {
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
