//! What the answering code needs of the server around it.

use crate::access::Access;
use crate::clock::ClockState;
use crate::host::Buckets;
use crate::limiter::Policy;
use crate::served::ServedTable;

/// What the answering code needs to know of its host. The eBPF program reads it from a map, a test from
/// plain values.
pub trait Server: Buckets {
    /// What the daemon has published.
    type Published<'a>: Published
    where
        Self: 'a;

    /// What is published now, or `None` where nothing is yet. Called once for each packet that is for port
    /// 123.
    fn published(&self) -> Option<Self::Published<'_>>;

    /// `CLOCK_MONOTONIC` now, in nanoseconds. Called once for each answer, after the clock line was read, so
    /// that the reading is never older than the line.
    fn monotonic_ns(&self) -> u64;

    /// What the access list says of a source. Called only where [`Policy::lists`] says that there is one.
    #[inline(always)]
    fn access_ipv4(&self, _source: [u8; 4]) -> Access {
        Access::Ordinary
    }

    /// What the access list says of a source. Called only where [`Policy::lists`] says that there is one.
    #[inline(always)]
    fn access_ipv6(&self, _source: [u8; 16]) -> Access {
        Access::Ordinary
    }
}

/// What a daemon publishes.
pub trait Published {
    /// The addresses answered for.
    fn served(&self) -> &ServedTable;

    /// The clock line in force, or `None` where it cannot be read whole just now.
    fn clock(&self) -> Option<ClockState>;

    /// Who is limited, and how.
    #[inline(always)]
    fn policy(&self) -> &Policy {
        &Policy::OFF
    }
}
