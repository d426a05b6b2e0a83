//! The ways to send requests, and which one is taken.

use std::net::SocketAddr;
use std::time::Duration;

use super::Load;
use super::live::LiveGenerator;
use super::socket::SocketGenerator;
use super::tally::Tally;
use crate::failure::Failure;

/// A way to send requests and to check what comes back.
pub(crate) trait Generator {
    /// Its name, and why it was taken.
    fn name(&self) -> String;

    /// Whom it sends to.
    fn target(&self) -> SocketAddr;

    /// How many sources requests come from.
    fn clients(&self) -> u32;

    /// Sends at `rate` for `duration`, waits for answers until they would be too late, and tells what became
    /// of the requests.
    fn step(&mut self, rate: f64, duration: Duration) -> Result<Tally, Failure>;
}

/// Which one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The fastest that works for the target.
    Auto,
    /// Frames made, sent and checked in the kernel: the fastest, on an interface with native XDP whose own
    /// link reaches the server. Needs root.
    Live,
    /// UDP sockets: needs no privilege and works everywhere.
    Socket,
}

/// Makes a generator ready to send.
pub(super) fn open(target: SocketAddr, load: &Load) -> Result<Box<dyn Generator>, Failure> {
    let socket = |why| SocketGenerator::open(target, load.clone(), why).map(|made| Box::new(made) as Box<_>);
    match load.kind {
        Kind::Socket => socket(String::new()),
        Kind::Live => Ok(Box::new(LiveGenerator::open(target, load.clone())?)),
        // What stands in the way of the faster one is worth knowing, and no reason to stop.
        Kind::Auto if target.ip().is_loopback() => socket("loopback has no native XDP".into()),
        Kind::Auto => match LiveGenerator::open(target, load.clone()) {
            Ok(made) => Ok(Box::new(made)),
            Err(failure) => socket(format!("not live: {failure}")),
        },
    }
}
