//! What the answering code needs of the server around it.

use crate::access::Access;
use crate::admission::Client;
use crate::bucket::Ruling;
use crate::clock::ClockState;
use crate::host::Buckets;
use crate::limiter::Policy;
use crate::served::ServedTable;
use crate::station::StationTable;
use crate::verdict::{Family, Verdict};

/// What it takes to answer a client's request. The eBPF program, the socket in user space and tests each have one.
pub trait Host: Buckets + Sized {
    /// Returns `CLOCK_MONOTONIC` at the arrival of the request, in nanoseconds. Called once for each request that is
    /// admitted or refused by a limit, and for each message that is dropped if nobody else waits for it.
    fn received_ns(&self) -> u64;

    /// Returns `CLOCK_MONOTONIC` at the departure of the answer, never before `received_ns`. The program in the NIC
    /// path does not read the clock a second time.
    #[inline(always)]
    fn transmit_ns(&self, received_ns: u64) -> u64 {
        received_ns
    }

    /// Decides about a client's request after the limiter's ruling, see [`Client::settle`]. The eBPF program has a function
    /// of its own for it, which is verified by itself.
    #[inline(always)]
    fn settle(&self, client: &Client, policy: &Policy, ruling: Ruling, now_ns: u64) -> Verdict {
        client.settle(self, policy, ruling, now_ns)
    }

    /// Returns what the access list says of a source. Called only where [`Policy::lists`] says that there is one.
    #[inline(always)]
    fn access_ipv4(&self, _source: [u8; 4]) -> Access {
        Access::Ordinary
    }

    /// Returns what the access list says of a source. Called only where [`Policy::lists`] says that there is one.
    #[inline(always)]
    fn access_ipv6(&self, _source: [u8; 16]) -> Access {
        Access::Ordinary
    }
}

/// A host that answers frames.
pub trait Server: Host {
    /// What the daemon has published.
    type Published<'a>: Published
    where
        Self: 'a;

    /// Returns what is published now, or `None` where nothing is yet. Called once for each packet that is for port
    /// 123.
    fn published(&self) -> Option<Self::Published<'_>>;

    /// Returns a number for the interface by which the frame came.
    #[inline(always)]
    fn interface(&self) -> u32 {
        0
    }
}

/// What a daemon publishes.
pub trait Published {
    /// The addresses answered for.
    fn served(&self) -> &ServedTable;

    /// The stations that this host is on the interface that the frame came in by.
    fn stations(&self) -> &StationTable;

    /// The clock line in force, or `None` where it cannot be read whole just now.
    fn clock(&self) -> Option<ClockState>;

    /// The moment of `CLOCK_MONOTONIC`, in nanoseconds, until which no other process than the daemon is known to
    /// have port 123 of this family; 0 if another one may have it.
    #[inline(always)]
    fn port_ours_until_ns(&self, _family: Family) -> u64 {
        0
    }

    /// Who is limited, and how.
    #[inline(always)]
    fn policy(&self) -> &Policy {
        &Policy::OFF
    }
}
