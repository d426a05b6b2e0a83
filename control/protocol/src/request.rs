//! A client's request, and what its answer must agree with.

use responder::message::{LENGTH, MODE_CLIENT, NEWEST_VERSION};

/// Leap indicator 0, version 4, mode client.
const FIRST_BYTE: u8 = NEWEST_VERSION << 3 | MODE_CLIENT;

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingRequest {
    transmit: [u8; 8],
}

impl PendingRequest {
    /// Makes a request with this transmit timestamp. It should be random and not the time: nobody who has not
    /// seen the request can then answer it, and the client does not reveal its clock.
    #[must_use]
    pub const fn new(random: [u8; 8]) -> Self {
        Self { transmit: random }
    }

    /// Returns the transmit timestamp, which the answer repeats as its origin.
    #[must_use]
    pub const fn transmit(self) -> [u8; 8] {
        self.transmit
    }

    /// Returns the bytes of the request, which contain nothing else.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = FIRST_BYTE;
        bytes[40..].copy_from_slice(&self.transmit);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_its_version_and_its_random_bits() {
        let bytes = PendingRequest::new(*b"unguessd").to_bytes();
        assert_eq!((bytes[0], &bytes[40..]), (0x23, &b"unguessd"[..]));
        assert!(bytes[1..40].iter().all(|byte| *byte == 0), "{bytes:x?}");
    }
}
