//! Sends requests that no server may answer, from one socket for each malformation. Anything that comes back
//! to one of these sockets is an error.

use std::net::{SocketAddr, UdpSocket};

use bench_ebpf::load_token::{Fault, Malformation};
use responder::message::MODE_SERVER;

use super::super::LoadError;
use super::super::profile::Profile;
use super::super::tally::Tally;
use super::{BATCH, LONGEST_ANSWER, connected};
use crate::frames::{self, MESSAGE};

/// The sender; see the module.
pub(super) struct MalformedSender {
    /// Number of requests per 65,536 that are malformed.
    share: u64,
    sockets: Vec<(Malformation, UdpSocket)>,
}

impl MalformedSender {
    /// Opens the sockets, if the profile has malformed requests.
    pub(super) fn of(target: SocketAddr, profile: Profile) -> Result<Option<Self>, LoadError> {
        let share = profile.malformed();
        if share == 0 {
            return Ok(None);
        }
        let malformations = Malformation::ALL
            .into_iter()
            .zip(0..Malformation::BY_SOCKETS)
            .map(|(malformation, _)| malformation);
        let sockets = malformations
            .map(|malformation| Ok((malformation, connected(target, 0)?)))
            .collect::<Result<_, LoadError>>()?;
        Ok(Some(Self { share, sockets }))
    }

    /// Returns how a request is malformed, or `None` if it is well-formed.
    pub(super) fn malformation(&self, sequence: u64) -> Option<Malformation> {
        Malformation::of(sequence, self.share, Malformation::BY_SOCKETS)
    }

    /// Sends a malformed request. Returns whether it has gone out.
    pub(super) fn send(&self, malformation: Malformation, version: u8, timestamp: u64) -> bool {
        let mut message = frames::request(version, timestamp);
        let length = if malformation == Malformation::Short { MESSAGE - 4 } else { MESSAGE };
        if malformation == Malformation::Mode {
            message[0] = message[0] & !7 | MODE_SERVER;
        }
        let socket = self.sockets.iter().find(|(of, _)| *of == malformation).map(|(_, socket)| socket);
        socket.is_some_and(|socket| socket.send(&message[..length]).is_ok())
    }

    /// Takes what has come back, up to a batch.
    pub(super) fn receive(&self, tally: &mut Tally) -> usize {
        let mut received = 0;
        for (malformation, socket) in &self.sockets {
            while received < BATCH && socket.recv(&mut [0; LONGEST_ANSWER]).is_ok() {
                received += 1;
                tally.fault(Fault::answered(*malformation));
            }
        }
        received
    }
}
