//! The keeper of the system clock: another time daemon, and what it says of the clock that it keeps.
//!
//! A keeper is asked in its own way ([`ask`]): chronyd by its command socket ([`chronyd`]), systemd-timesyncd over
//! D-Bus ([`timesyncd`]), others by an NTP request over loopback. Whatever the way, the outcome is a [`Claim`].

pub mod ask;
pub mod chronyd;
pub mod timesyncd;

use std::collections::BTreeSet;
use std::fmt;

use protocol::Reading;
use protocol::time::{PHI_PPB, unix_ns_near};
use responder::NtpTimestamp;

use crate::sys::Adjtimex;

/// How fast the kernel lets its own error bound grow, in ppb: more than any oscillator is off that the kernel can
/// correct (`MAXFREQ` in the kernel's `include/linux/timex.h`).
pub const KERNEL_GROWTH_PPB: u64 = 500_000;
/// How far a daemon's answer over loopback may be off the system clock in addition to its own error bound, because
/// of the noise of the query.
const LOOPBACK_NOISE_NS: u64 = 1_000_000;
/// A keeper that has missed so many corrections in a row, and for so long, gets no answers from its upstreams. chronyd's
/// corrections come as its sources are heard, so that two may follow close on each other; its longest poll interval is
/// 1024 s by default.
const MISSED_CORRECTIONS: u64 = 3;
const LEAST_OVERDUE_NS: u64 = 3_600_000_000_000;

/// Which daemon it is, and by which way it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// chronyd, by its command socket.
    Chronyd,
    /// systemd-timesyncd, over D-Bus.
    Timesyncd,
    /// systemd-timesyncd, which has not said anything: only what holds for every server that it accepts is known.
    SilentTimesyncd,
    /// A daemon that answers NTP requests over loopback.
    NtpServer,
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chronyd => "chronyd, asked by its command socket",
            Self::Timesyncd => "systemd-timesyncd, asked over D-Bus",
            Self::SilentTimesyncd => "systemd-timesyncd, which has not told over D-Bus how good its time is",
            Self::NtpServer => "a time daemon that answers NTP requests over loopback",
        })
    }
}

/// What a keeper says of the system clock. The clock's error is at most half the root delay, the root dispersion
/// with its growth, and what remains to be corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who says it.
    pub keeper: Keeper,
    /// Whether the keeper calls itself synchronised.
    pub synchronised: bool,
    /// The leap indicator.
    pub leap: u8,
    /// The keeper's own stratum, as its clients see it.
    pub stratum: Option<u8>,
    /// What it takes its time from.
    pub reference_id: Option<u32>,
    /// Whether that is this very host.
    pub is_loop: bool,
    /// When it last corrected the clock.
    pub reference_time: NtpTimestamp,
    /// Round trip to the primary source, in ns.
    pub root_delay_ns: u64,
    /// Dispersion to the primary source at the moment `since_ns`, in ns.
    pub root_dispersion_ns: u64,
    /// How fast the dispersion grows, in ppb.
    pub growth_ppb: u64,
    /// The moment of `CLOCK_MONOTONIC` from which it grows, in ns.
    pub since_ns: u64,
    /// What remains to be corrected.
    pub remaining: Remaining,
    /// How often it corrects the clock, in ns.
    pub interval_ns: Option<u64>,
}

/// What remains to be corrected of the system clock, by the keeper's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// So many nanoseconds at the moment of the claim, positive if the clock is slow. The keeper slews them.
    Slew(i64),
    /// What the kernel's loop still has to add.
    InKernel,
    /// The keeper does not say. Its answer was off the clock by so many nanoseconds, with the noise of a query.
    Unsaid(i64),
}

impl Claim {
    /// Makes a claim of an answer to an NTP request over loopback that came at this moment of `CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn of_answer(reading: &Reading, monotonic_ns: u64) -> Self {
        let server = &reading.server;
        Self {
            keeper: Keeper::NtpServer,
            synchronised: server.is_synchronised(),
            leap: server.leap,
            stratum: Some(server.stratum),
            reference_id: Some(server.reference_id),
            is_loop: false,
            reference_time: server.reference_time,
            root_delay_ns: server.root_delay.as_nanos(),
            root_dispersion_ns: server.root_dispersion.as_nanos(),
            growth_ppb: PHI_PPB,
            since_ns: monotonic_ns,
            remaining: Remaining::Unsaid(reading.offset_ns),
            interval_ns: None,
        }
    }

    /// Notes whether the keeper takes its time from a host with one of these reference IDs. The reference ID of a
    /// primary server (stratum 1) is not an address.
    #[must_use]
    pub fn with_own(self, own_reference_ids: &BTreeSet<u32>) -> Self {
        let names_own = self.reference_id.is_some_and(|id| own_reference_ids.contains(&id));
        Self { is_loop: names_own && self.stratum.is_none_or(|stratum| stratum > 1), ..self }
    }

    /// Whether the claim is about the system clock. A daemon that serves another time (`chronyd -x`, or a daemon in
    /// a neighbouring container) says nothing about it, unless it says how far the system clock is from its own.
    #[must_use]
    pub const fn speaks_for_the_system_clock(&self) -> bool {
        match self.remaining {
            Remaining::Unsaid(offset_ns) => {
                let distance_ns = (self.root_delay_ns / 2).saturating_add(self.root_dispersion_ns);
                offset_ns.unsigned_abs() <= distance_ns.saturating_add(LOOPBACK_NOISE_NS)
                    || !self.synchronised
            }
            Remaining::Slew(_) | Remaining::InKernel => true,
        }
    }

    /// Whether the claim is enough without the kernel's word. chronyd without `rtcsync` keeps the clock and does not
    /// tell the kernel. A chronyd that follows nothing but the clock itself (`local`) does not know the time.
    #[must_use]
    pub fn needs_no_kernel(&self) -> bool {
        self.keeper == Keeper::Chronyd && self.reference_id != Some(protocol::reference::LOCAL)
    }

    /// Returns the root dispersion at a moment of `CLOCK_MONOTONIC`, in ns, with what remains to be corrected.
    #[must_use]
    pub fn dispersion_ns(&self, now_ns: u64, kernel: &Adjtimex) -> u64 {
        let age_ns = now_ns.saturating_sub(self.since_ns);
        let remaining_ns = match self.remaining {
            // Without the kernel's word, nobody may be slewing the clock, so that it drifts away.
            Remaining::Slew(ns) if kernel.status & libc::STA_UNSYNC != 0 => {
                ns.unsigned_abs().saturating_add(grown_ns(age_ns, KERNEL_GROWTH_PPB))
            }
            Remaining::Slew(ns) => ns.unsigned_abs(),
            Remaining::InKernel => kernel.remaining_ns(),
            Remaining::Unsaid(_) => 0,
        };
        self.root_dispersion_ns.saturating_add(grown_ns(age_ns, self.growth_ppb)).saturating_add(remaining_ns)
    }

    /// Whether the keeper has missed so many corrections that its upstreams seem to be gone. `now_ns` is
    /// `CLOCK_REALTIME` in ns since 1970.
    #[must_use]
    pub fn is_overdue(&self, now_ns: i128) -> bool {
        let Some(interval_ns) = self.interval_ns.filter(|_| self.synchronised) else { return false };
        let allowed_ns = interval_ns.saturating_mul(MISSED_CORRECTIONS).max(LEAST_OVERDUE_NS);
        now_ns - unix_ns_near(self.reference_time, now_ns) > i128::from(allowed_ns)
    }
}

/// Returns by how much an error grows in this time at this rate, in ns.
#[must_use]
pub fn grown_ns(elapsed_ns: u64, growth_ppb: u64) -> u64 {
    let grown = u128::from(elapsed_ns) * u128::from(growth_ppb) / 1_000_000_000;
    u64::try_from(grown).unwrap_or(u64::MAX)
}
