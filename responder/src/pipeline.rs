//! From a client's request to its answer: allowed, admitted, answered.
//!
//! Requests over IPv4, over IPv6 and those that come to the socket in user space all take this way, so that a list,
//! a limit or the budget cannot mean one thing on one path and another on the next.

use crate::access::{Access, Client};
use crate::clock::ClockState;
use crate::limiter::{IPV4_LIST, IPV6_LIST, Policy, Source};
use crate::message::{self, Answer, Request};
use crate::server::Host;
use crate::verdict::{Action, Family, Verdict};

/// The address that a request came from.
pub trait ClientAddress: Copy {
    /// The protocol that it is an address of.
    const FAMILY: Family;
    /// The bit of [`Policy::lists`] that says whether the access list has entries for this protocol.
    const LIST: u8;

    /// Returns the source whose bucket the client draws from.
    fn source(self, policy: &Policy) -> Source;

    /// Returns what the host's access list says of the client.
    fn access<H: Host>(self, host: &H) -> Access;
}

impl ClientAddress for [u8; 4] {
    const FAMILY: Family = Family::Ipv4;
    const LIST: u8 = IPV4_LIST;

    #[inline(always)]
    fn source(self, policy: &Policy) -> Source {
        Source::ipv4(self, policy)
    }

    #[inline(always)]
    fn access<H: Host>(self, host: &H) -> Access {
        host.access_ipv4(self)
    }
}

impl ClientAddress for [u8; 16] {
    const FAMILY: Family = Family::Ipv6;
    const LIST: u8 = IPV6_LIST;

    #[inline(always)]
    fn source(self, policy: &Policy) -> Source {
        Source::ipv6(self, policy)
    }

    #[inline(always)]
    fn access<H: Host>(self, host: &H) -> Access {
        host.access_ipv6(self)
    }
}

/// Answers a client's request for the time, or says why it is not answered.
///
/// `answer_bytes` is the length of the answer's Ethernet frame. `clock` reads the clock line in force. It is called only for clients that are allowed to ask, and the time is read
/// after it. One reading of the time serves the limiter and the answer.
///
/// # Errors
///
/// The verdict under which the request is counted: [`Verdict::PassClock`] where `clock` returns `None`, else one whose
/// action is to drop.
#[inline(always)]
pub fn answer<A: ClientAddress, H: Host>(
    request: Request,
    address: A,
    answer_bytes: usize,
    policy: &Policy,
    clock: impl FnOnce() -> Option<ClockState>,
    host: &H,
) -> Result<Answer, Verdict> {
    let access = if policy.lists & A::LIST == 0 { Access::Ordinary } else { address.access(host) };
    let client = Client { access, source: address.source(policy), family: A::FAMILY, answer_bytes };
    client.may_ask(policy)?;
    let Some(clock) = clock() else {
        return Err(Verdict::PassClock);
    };
    let received_ns = host.received_ns();
    let verdict = client.admit(host, policy, request, received_ns);
    if verdict.action() != Action::Transmit {
        return Err(verdict);
    }
    let transmit_ns = host.transmit_ns(received_ns);
    Ok(message::answer(request, &clock, received_ns, transmit_ns).admitted(verdict, policy))
}
