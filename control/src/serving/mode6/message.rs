//! The format of control messages: RFC 9327, section 2.

use responder::message::MODE_CONTROL;

const HEADER: usize = 12;
/// Data of a fragment at the most, so that a datagram is never longer than 480 bytes.
const FRAGMENT: usize = 468;
const RESPONSE: u8 = 0x80;
const ERROR: u8 = 0x40;
const MORE: u8 = 0x20;
const OPCODE: u8 = 0x1f;

/// Why a request is not answered as it would like: the error codes of RFC 9327, section 3.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Refusal {
    /// Invalid message length or format.
    BadFormat = 2,
    /// Invalid opcode.
    BadOperation = 3,
    /// Unknown association identifier.
    UnknownAssociation = 4,
    /// Unknown variable name.
    UnknownVariable = 5,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Leap, version and mode, to be echoed.
    first: u8,
    pub(super) opcode: u8,
    sequence: [u8; 2],
    /// 0 is the system.
    pub(super) association: u16,
    /// `None` where it does not fit the message's length.
    pub(super) data: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// `None` for what must not be answered at all: other modes, answers, and what is too short to tell.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<HEADER>()?;
        let [first, flags, sequence @ .., _, _, a0, a1, o0, o1, c0, c1] = *header;
        let version = responder::message::version(first);
        if first & 7 != MODE_CONTROL || !(1..=4).contains(&version) || flags & !OPCODE != 0 {
            return None;
        }
        let (offset, count) = (u16::from_be_bytes([o0, o1]), u16::from_be_bytes([c0, c1]));
        Some(Self {
            first: first & 0x3f,
            opcode: flags & OPCODE,
            sequence,
            association: u16::from_be_bytes([a0, a1]),
            // Behind it there may be padding and a MAC, which nothing here asks for.
            data: rest.get(..usize::from(count)).filter(|_| offset == 0),
        })
    }

    /// The answer's fragments.
    pub(super) fn answer(&self, status: u16, data: &[u8]) -> Vec<Vec<u8>> {
        // Beyond this an offset cannot be told; nothing here is that long.
        let data = &data[..data.len().min(usize::from(u16::MAX))];
        if data.is_empty() {
            return vec![self.fragment(0, status, 0, &[])];
        }
        let pieces = data.chunks(FRAGMENT).enumerate();
        pieces
            .map(|(number, piece)| {
                let offset = number * FRAGMENT;
                let more = if offset + piece.len() < data.len() { MORE } else { 0 };
                self.fragment(more, status, u16::try_from(offset).unwrap_or(u16::MAX), piece)
            })
            .collect()
    }

    /// An error's answer: the code stands in the upper half of the status word.
    pub(super) fn refuse(&self, refusal: Refusal) -> Vec<u8> {
        self.fragment(ERROR, u16::from(refusal as u8) << 8, 0, &[])
    }

    fn fragment(&self, flags: u8, status: u16, offset: u16, data: &[u8]) -> Vec<u8> {
        let count = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let mut message = Vec::with_capacity(HEADER + data.len() + 3);
        message.extend([self.first, RESPONSE | flags | self.opcode]);
        message.extend(self.sequence);
        for word in [status, self.association, offset, count] {
            message.extend(word.to_be_bytes());
        }
        message.extend(data);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }
}
