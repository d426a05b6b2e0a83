//! Sends what no server may answer, for each flaw from a socket of its own: whatever comes back to it is an error.

use std::net::{SocketAddr, UdpSocket};

use bench_ebpf::load_token::{Fault, Flaw};
use responder::message::MODE_SERVER;

use super::super::LoadError;
use super::super::profile::Profile;
use super::super::tally::Tally;
use super::{BATCH, LONGEST_ANSWER, connected};
use crate::frames::{self, MESSAGE};

/// See the module.
pub(super) struct Spoiler {
    /// Of 65,536 requests.
    share: u64,
    sockets: Vec<(Flaw, UdpSocket)>,
}

impl Spoiler {
    /// If the profile has such requests.
    pub(super) fn of(target: SocketAddr, profile: Profile) -> Result<Option<Self>, LoadError> {
        let share = profile.malformed();
        if share == 0 {
            return Ok(None);
        }
        let flaws = Flaw::ALL.into_iter().zip(0..Flaw::BY_SOCKETS).map(|(flaw, _)| flaw);
        let sockets =
            flaws.map(|flaw| Ok((flaw, connected(target, 0)?))).collect::<Result<_, LoadError>>()?;
        Ok(Some(Self { share, sockets }))
    }

    /// What is to be wrong with a request, if it is one of those.
    pub(super) fn flaw(&self, sequence: u64) -> Option<Flaw> {
        Flaw::of(sequence, self.share, Flaw::BY_SOCKETS)
    }

    /// Whether it has gone out.
    pub(super) fn send(&self, flaw: Flaw, version: u8, timestamp: u64) -> bool {
        let mut message = frames::request(version, timestamp);
        let length = if flaw == Flaw::Short { MESSAGE - 4 } else { MESSAGE };
        if flaw == Flaw::Mode {
            message[0] = message[0] & !7 | MODE_SERVER;
        }
        let socket = self.sockets.iter().find(|(of, _)| *of == flaw).map(|(_, socket)| socket);
        socket.is_some_and(|socket| socket.send(&message[..length]).is_ok())
    }

    /// Takes what has come back, up to a batch.
    pub(super) fn receive(&self, tally: &mut Tally) -> usize {
        let mut received = 0;
        for (flaw, socket) in &self.sockets {
            while received < BATCH && socket.recv(&mut [0; LONGEST_ANSWER]).is_ok() {
                received += 1;
                tally.fault(Fault::answered(*flaw));
            }
        }
        received
    }
}
