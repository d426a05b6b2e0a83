//! Decides what an NTP server answers, and to whom.
//!
//! This crate is the one piece of code behind both of the server's paths: the eBPF program that answers
//! in the NIC path, and the UDP socket in user space that answers what the program passes up. It is
//! pure: frame bytes, clock state and a clock reading go in; a [`Verdict`] comes out, and the answer
//! stands where the request stood. No allocation, no floating point, no `unsafe`, no dependencies.
//!
//! # The path of a packet
//!
//! [`respond`] takes a frame through these steps; each step that ends the way has a [`Verdict`].
//!
//! 1. [`ethernet`]: up to two VLAN tags are stepped over; anything but IPv4 and IPv6 is not ours.
//! 2. [`ipv4`] / [`ipv6`]: UDP to port 123, else not ours. Up to here nothing but the frame is read, so
//!    that a host's other traffic pays for a few loads and compares only.
//! 3. [`served`] and [`station`]: the destination must be an address that this host serves (a router with the program
//!    on must not answer for others), and the frame for a MAC address at which it receives, in a VLAN that it is in.
//!    What is for others is passed on. The source must be a plausible host that is not this one.
//! 4. [`message`]: a client's request of 48 bytes is answered here; longer ones, IP options and
//!    fragments go up to the socket; control messages (modes 6 and 7) are dropped, and so are other modes and versions
//!    where nobody else on the host can wait for them.
//! 5. [`pipeline`]: whether the client is allowed, whether it is admitted, and what it is answered. The socket in
//!    user space takes its requests through the same function.
//!    - [`access`], [`limiter`] and [`budget`]: sources that a list denies, those that ask too often, and what is
//!      beyond the server's budget are refused. A [`sample`] of what comes is reported to the daemon. Longer requests
//!      and first fragments go up to the socket only if list and limiter let them.
//!    - [`clock`]: the time is read off a line through `CLOCK_MONOTONIC` that the daemon publishes. Past the
//!      line's horizon the answer says "unsynchronised".
//! 6. The answer is written in place: addresses and ports swapped, whole checksums, fresh TTL.
//!
//! The caller sends the frame back, lets it pass or drops it, as [`Verdict::action`] says, and counts it
//! under [`Outcome::counter`].
#![no_std]

pub mod access;
pub mod admission;
pub mod bucket;
pub mod budget;
pub mod checksum;
pub mod clock;
pub mod ethernet;
pub mod host;
pub mod ipv4;
pub mod ipv6;
pub mod known;
pub mod layout;
pub mod limiter;
pub mod message;
pub mod packet;
pub mod pipeline;
pub mod sample;
mod seed;
pub mod served;
pub mod server;
pub mod station;
mod tries;
pub mod udp;
pub mod verdict;

pub use access::Access;
pub use clock::{ClockState, NtpShort, NtpTimestamp};
pub use limiter::Policy;
pub use packet::Packet;
pub use served::ServedTable;
pub use server::{Host, Published, Server};
pub use station::{Station, StationTable, Tags};
pub use verdict::{Action, Family, Outcome, Verdict};

/// Decides what happens to the frame in `packet`, and writes the answer into it where there is one.
///
/// The frame is changed only if the verdict's action is [`Action::Transmit`].
#[inline(always)]
pub fn respond<P: Packet, S: Server>(packet: &mut P, server: &S) -> Outcome {
    let Some(link) = ethernet::Link::of(packet) else {
        return Outcome::NOT_NTP;
    };
    match link.network {
        ethernet::Network::Ipv4 => ipv4::respond(packet, link, server),
        ethernet::Network::Ipv6 => ipv6::respond(packet, link, server),
    }
}
