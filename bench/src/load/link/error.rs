//! What prevents sending frames, with the way out.

use std::net::IpAddr;

use super::super::plan::SourcePorts;
use crate::failure::{Failure, UNAVAILABLE, USAGE};

/// Why frames cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(
        "there is no route to {target}: {reason}. `ip route get {target}` says what the kernel thinks of it; \
         --interface with --gateway or --next-hop needs none"
    )]
    NoRoute { target: IpAddr, reason: String },

    #[error("{0} is this host itself, which no link leads to: use --generator socket")]
    ThisHost(IpAddr),

    #[error("there is no interface {interface}; there are: {known}")]
    NoInterface { interface: String, known: String },

    #[error("the interface {0} is down: `ip link set dev {0} up`")]
    Down(String),

    #[error("{0} is not an Ethernet interface: use --generator socket")]
    NoEthernet(String),

    #[error("{interface} has no {family} address to send from: `ip address add`, or another --interface")]
    NoAddress { interface: String, family: &'static str },

    #[error(
        "nobody on {interface} answers for {address}, so its MAC address is not known: is it on that link, and up? \
         `ip neighbour show dev {interface}`; with its MAC address in --next-hop no look-up is needed"
    )]
    NoNeighbour { address: IpAddr, interface: String },

    #[error("the kernel's routing tables cannot be read over netlink: {0}")]
    Netlink(String),

    #[error(
        "{0} has an XDP program already, and the one that takes the answers cannot be attached beside it: send from \
         another interface or host, or by --generator socket"
    )]
    Taken(String),

    #[error("{interface} accepts no XDP program, native or generic: {reason}. --generator socket needs none")]
    NoProgram { interface: String, reason: String },

    #[error("the clients' network and the server's address are of different families")]
    Families,

    #[error("{0} is too few for malformed requests, which use their own ports: choose a larger range")]
    Ports(SourcePorts),

    #[error("{workers} workers need as many CPUs, but there are only {cpus}")]
    Cpus { workers: usize, cpus: usize },

    #[error("cannot send by {how} on {interface}: {reason}")]
    Sender { how: &'static str, interface: String, reason: String },
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let exit_code = match error {
            LinkError::NoInterface { .. }
            | LinkError::Families
            | LinkError::Ports(_)
            | LinkError::Cpus { .. } => USAGE,
            _ => UNAVAILABLE,
        };
        Self::own(error, exit_code)
    }
}
