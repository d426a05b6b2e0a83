//! From a client's request to its answer: allowed, admitted, answered.
//!
//! Requests over IPv4, over IPv6 and those that come to the socket in user space all take this way, so that a list,
//! a limit or the budget cannot mean one thing on one path and another on the next.

use crate::access::Access;
use crate::admission::{Arrival, Client};
use crate::clock::ClockState;
use crate::limiter::{IPV4_LIST, IPV6_LIST, Policy, Source};
use crate::message::{self, Answer, Request};
use crate::server::{Host, Published as _, Server};
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
/// `answer_bytes` is the length of the answer's Ethernet frame. `clock` reads the clock line in force. It is called only for
/// requests that are answered, and after the time is read: the line may begin a little later than the request came, and
/// tells the time before its beginning, too. One reading of the time serves the limiter and the answer.
///
/// # Errors
///
/// The verdict under which the request is counted: [`Verdict::PassClock`] where `clock` returns `None`, else one whose
/// action is to drop.
#[inline(always)]
pub fn answer<A: ClientAddress, H: Host>(
    request: Request,
    address: A,
    arrival: Arrival,
    answer_bytes: usize,
    policy: &Policy,
    clock: impl FnOnce() -> Option<ClockState>,
    host: &H,
) -> Result<Answer, Verdict> {
    let client = Client { arrival, ..client(request, address, answer_bytes, policy, host) };
    let received_ns = if client.is_ignored(policy) { 0 } else { host.received_ns() };
    let verdict = match client.quickly(host, policy, received_ns) {
        Ok(verdict) => verdict,
        Err(ruling) => host.settle(&client, policy, ruling, received_ns),
    };
    if verdict.action() != Action::Transmit {
        return Err(verdict);
    }
    let Some(clock) = clock() else {
        return Err(Verdict::PassClock);
    };
    let transmit_ns = host.transmit_ns(received_ns);
    Ok(message::answer(request, &clock, received_ns, transmit_ns).admitted(verdict, policy))
}

/// The verdict on a client's request that the socket in user space answers: `passed`, or one whose action is to drop.
///
/// The access list and the limiter decide as they do about a request that is answered in the NIC path, so that what
/// they refuse costs the kernel nothing. A source has one bucket for its requests of either kind. Three things are
/// left to the socket, which takes what is passed through [`answer`] with a table of its own: the budget is charged
/// where the answer is made, kisses of death are sent there alone, and a request that gets there is sampled there.
///
/// The socket refuses no source that is within its rate here, because its table knows of fewer requests than this
/// one, unless the source also asks past the program: with IP options, or by another interface. Of the requests beyond
/// the rate each of the two lets a part through, see [`crate::limiter::divided`], so that as many are answered in the end as of
/// those that are answered here.
#[inline(always)]
pub(crate) fn pass_up<A: ClientAddress, H: Host>(
    request: Request,
    address: A,
    arrival: Arrival,
    passed: Verdict,
    policy: &Policy,
    host: &H,
) -> Verdict {
    let client = Client { arrival, before_socket: true, ..client(request, address, 0, policy, host) };
    let now_ns = if client.is_ignored(policy) { 0 } else { host.received_ns() };
    let verdict = host.settle(&client, policy, client.judge(host, policy, now_ns), now_ns);
    if verdict.action() == Action::Transmit { passed } else { verdict }
}

/// The verdict on a message for us that is no request. Without another process that may wait for it, it is dropped
/// where it would be passed for that process.
#[inline(always)]
pub(crate) fn for_others<S: Server>(
    verdict: Verdict,
    family: Family,
    published: &S::Published<'_>,
    server: &S,
) -> Verdict {
    let may_be_for_others = matches!(verdict, Verdict::PassMode | Verdict::PassVersion);
    if may_be_for_others && server.received_ns() < published.port_ours_until_ns(family) {
        Verdict::DropUnanswered
    } else {
        verdict
    }
}

#[inline(always)]
fn client<A: ClientAddress, H: Host>(
    request: Request,
    address: A,
    answer_bytes: usize,
    policy: &Policy,
    host: &H,
) -> Client {
    let access = if policy.lists & A::LIST == 0 { Access::Ordinary } else { address.access(host) };
    Client::new(access, address.source(policy), A::FAMILY, answer_bytes, request)
}
