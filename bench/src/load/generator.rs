//! The generators, and how one of them is selected.

use std::net::SocketAddr;
use std::time::Duration;

use super::Load;
use super::link::{LinkGenerator, Sender};
use super::socket::SocketGenerator;
use super::tally::Tally;
use super::watch::Watch;
use crate::failure::Failure;

/// A way to send requests and to check the answers.
pub(crate) trait Generator {
    /// Returns its name and why it was selected.
    fn name(&self) -> String;

    /// Returns the address that it sends to.
    fn target(&self) -> SocketAddr;

    /// Returns the number of sources that requests come from.
    fn clients(&self) -> u32;

    /// Sends at `rate` for `duration` or until `watch` is interrupted, waits for answers until the timeout, and returns
    /// what became of the requests.
    fn step(&mut self, rate: f64, duration: Duration, watch: &Watch) -> Result<Tally, Failure>;
}

/// The generator that the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The fastest that works for the target
    Auto,
    /// Frames made and sent in the kernel: the fastest, on an interface with native XDP. Needs root
    Live,
    /// Frames by `AF_XDP` sockets, a queue for each worker. Needs root
    Xdp,
    /// Frames by `AF_PACKET` sockets: by any Ethernet. Needs root
    Packet,
    /// UDP sockets: needs no privilege and works everywhere
    Socket,
}

/// Prepares a generator.
pub(super) fn open(target: SocketAddr, load: &Load) -> Result<Box<dyn Generator>, Failure> {
    let socket = |why| SocketGenerator::open(target, load.clone(), why).map(|made| Box::new(made) as Box<_>);
    let link = |senders: &[Sender]| {
        LinkGenerator::open(target, load.clone(), senders).map(|made| Box::new(made) as Box<dyn Generator>)
    };
    match load.kind {
        Kind::Socket => socket(String::new()),
        Kind::Live => link(&[Sender::Live]),
        Kind::Xdp => link(&[Sender::Xdp]),
        Kind::Packet => link(&[Sender::Packet]),
        Kind::Auto if target.ip().is_loopback() => socket("loopback is not Ethernet".into()),
        // The reason why the faster generators do not work is worth reporting. It is fatal only if one of
        // them is required.
        Kind::Auto => link(&Sender::ALL).or_else(|failure| match load.for_frames() {
            None => socket(format!("no frames: {failure}")),
            Some(_) => Err(failure),
        }),
    }
}
