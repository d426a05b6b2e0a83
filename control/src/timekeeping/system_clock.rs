//! `source = "system"`: another daemon (chronyd, ntpd, ptp4l) keeps `CLOCK_REALTIME`, and it is mirrored.
//!
//! `CLOCK_REALTIME` and `CLOCK_MONOTONIC` are slewed alike, so between two steps their difference is
//! constant and the line runs at the nominal rate. The clock's quality is known from the kernel's discipline
//! (adjtimex) and from what the daemon claims ([`super::keeper`]).
//!
//! This module is pure: readings come in, and a [`ClockState`] goes out.

use protocol::reference;
use protocol::time::{PHI_PPB, from_unix_ns};
use responder::clock::{DispersionRate, Rate};
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};
use responder::{ClockState, NtpShort, NtpTimestamp};
use serde::Serialize;

use super::keeper::{Claim, Keeper};
use super::kernel_leap::{self, Ahead};
use crate::config::ClockConfig;
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::CrossTimestamp;

/// If `CLOCK_REALTIME` and `CLOCK_MONOTONIC` diverge by this much, the clock was stepped; it is more than a
/// slow reading can explain.
const STEP_NS: i128 = 1_000;
/// Why the clock is not served as synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsynchronised {
    /// adjtimex reports it as unsynchronised.
    Kernel,
    /// The local daemon says that it is not synchronised.
    Daemon,
    /// The local daemon takes its time from this host.
    Loop,
    /// The local daemon is systemd-timesyncd and has not said how good its time is.
    ErrorUnknown,
    /// Nobody can be asked how good the clock is, and the kernel has been told of no estimate either.
    NoEstimate,
    /// The error bound is above the configured limit.
    ErrorBound,
    /// The clock has lost time, and its keeper has not corrected it since.
    TimeLost,
    /// A leap second comes just now.
    LeapSecond,
    /// There are no upstreams that agree on the time.
    NoAgreement,
    /// The upstreams have not answered for too long, or are too far away.
    UpstreamError,
}

impl Unsynchronised {
    /// Returns an explanation for the operator, with the command to type.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Kernel => {
                "the kernel's clock is not synchronised: no time daemon steers it, or not yet; see `timedatectl` \
                 and `systemctl status chrony`"
            }
            Self::Daemon => {
                "the local time daemon says that it is not synchronised: see `chronyc tracking` or `ntpq -p`"
            }
            Self::Loop => {
                "the local time daemon follows an address of this host, so the clock follows itself: see `chronyc \
                 sources` or `ntpq -p`, and name another server"
            }
            Self::ErrorUnknown => {
                "systemd-timesyncd keeps the clock and has not told how good its time is, so the error may be 10 s: \
                 see `timedatectl show-timesync`; it takes D-Bus and the program `busctl`, or chronyd in its place"
            }
            Self::NoEstimate => {
                "the daemon that keeps the clock cannot be asked and has told the kernel no error: it has only just \
                 started, or it is a systemd-timesyncd out of sight; see `chronyc tracking`, `ntpq -p` or `timedatectl`"
            }
            Self::ErrorBound => {
                "the clock's error bound is above `clock.max_error_ms`: see `chronyc tracking` or `ntpq -p`"
            }
            Self::TimeLost => {
                "the machine was suspended or stood still, and the daemon that keeps its clock has not corrected it \
                 since: `chronyc burst 4/4` has chronyd ask at once"
            }
            Self::LeapSecond => {
                "a leap second comes just now: until the clock has taken it, no answer would surely be right"
            }
            Self::NoAgreement => {
                "no majority of the upstreams has told the time yet: see `pooltime-xdp peers`"
            }
            Self::UpstreamError => {
                "the error bound is above `clock.max_error_ms`, for the upstreams were not heard for too long or \
                 are too far away: see `pooltime-xdp peers`"
            }
        }
    }
}

/// The result of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The state to publish.
    pub state: ClockState,
    /// Why it is not synchronised.
    pub unsynchronised: Option<Unsynchronised>,
    /// By how many nanoseconds the clock was stepped since the last observation.
    pub stepped_ns: Option<i128>,
}

/// Mirrors `CLOCK_REALTIME`.
#[derive(Debug)]
pub struct SystemClock {
    precision: i8,
    sequence: u32,
    /// The range of `CLOCK_REALTIME` minus `CLOCK_MONOTONIC` on which all readings since the last step agree.
    difference: Option<(i128, i128)>,
    max_error_us: Option<i64>,
    /// It has lost time and was not corrected since.
    lost_time: bool,
    reference_time: NtpTimestamp,
    /// By how many nanoseconds the clock was stepped since the keeper's correction at that time.
    stepped: (NtpTimestamp, u64),
}

impl SystemClock {
    /// Makes a clock that has not been read yet.
    #[must_use]
    pub fn new(precision: i8) -> Self {
        Self {
            precision,
            sequence: 0,
            difference: None,
            max_error_us: None,
            lost_time: false,
            reference_time: NtpTimestamp(0),
            stepped: (NtpTimestamp(0), 0),
        }
    }

    /// Takes note that the clock has lost time: it is not served as good until its keeper has corrected it.
    pub const fn time_lost(&mut self) {
        self.lost_time = true;
    }

    /// Makes the state to publish from readings of the clocks, the kernel's discipline and what the keeper claims.
    pub fn observe(
        &mut self,
        sample: &CrossTimestamp,
        kernel: &Adjtimex,
        claim: Option<&Claim>,
        config: &ClockConfig,
    ) -> Observation {
        let stepped_ns = self.narrow_difference(sample);
        let (earliest, latest) = self.difference.unwrap_or_default();
        let base_ns = sample.monotonic_after_ns;
        let now_ns = i128::from(base_ns) + i128::midpoint(earliest, latest);
        let now = from_unix_ns(now_ns);
        let reading_error_ns = u64::try_from((latest - earliest) / 2).unwrap_or(u64::MAX);
        self.note_correction(kernel, stepped_ns.is_some(), now);
        let claim = claim.filter(|claim| claim.speaks_for_the_system_clock());
        let stepped_past_claim_ns = {
            let stepped_ns = stepped_ns.filter(|step_ns| !is_leap_second(*step_ns, kernel));
            claim.map_or(0, |claim| self.stepped_past(claim, stepped_ns))
        };

        let limit_ns = config.max_error_ms.saturating_mul(1_000_000);
        let mut source = ClaimedSource::of(kernel, claim, base_ns, config, self.reference_time);
        source.add_error(reading_error_ns);
        source.add_error(stepped_past_claim_ns);
        source.limit_error(limit_ns);
        if self.lost_time {
            source.unsynchronised = source.unsynchronised.or(Some(Unsynchronised::TimeLost));
        }
        let leap = kernel_leap::ahead(kernel, now_ns, source.bound_ns());
        if leap == Some(Ahead::Now) {
            source.unsynchronised = source.unsynchronised.or(Some(Unsynchronised::LeapSecond));
        }
        if let Some(stratum) = config.local_stratum.filter(|_| source.unsynchronised.is_some()) {
            source = ClaimedSource::local(stratum, source.leap, self.reference_time);
            source.add_error(reading_error_ns);
        }
        let bound_ns = source.bound_ns();
        // The horizon is the moment when the bound will have grown to the limit, or some seconds from now: if
        // this daemon dies, it will not notice what happens afterwards.
        let until_limit_ns =
            limit_ns.saturating_sub(bound_ns).saturating_mul(1_000_000_000 / source.growth_ppb.max(1));
        let horizon_ns = config.horizon_ms.saturating_mul(1_000_000).min(until_limit_ns);
        // Nor would it notice a leap second.
        let horizon_ns = match leap {
            Some(Ahead::In(leap_ns)) => horizon_ns.min(leap_ns),
            _ => horizon_ns,
        };

        self.sequence = self.sequence.wrapping_add(1);
        let state = ClockState {
            sequence: self.sequence,
            monotonic_base_ns: base_ns,
            ntp_base: now,
            rate: Rate::NOMINAL,
            horizon_ns: base_ns.saturating_add(horizon_ns),
            reference_time: earlier(source.reference_time, now),
            root_delay: NtpShort::from_nanos(source.root_delay_ns),
            root_dispersion: NtpShort::from_nanos(source.root_dispersion_ns),
            dispersion_rate: DispersionRate::from_ppb(source.growth_ppb),
            reference_id: source.reference_id,
            leap: if source.unsynchronised.is_some() { LEAP_UNSYNCHRONISED } else { source.leap },
            stratum: source.stratum,
            precision: self.precision,
        };
        Observation { state, unsynchronised: source.unsynchronised, stepped_ns }
    }

    /// Takes in a reading. The difference of the clocks is constant, so every reading narrows its range until
    /// one contradicts it, which means a step. Returns the size of the step.
    fn narrow_difference(&mut self, sample: &CrossTimestamp) -> Option<i128> {
        let seen = (
            sample.realtime_ns - i128::from(sample.monotonic_after_ns),
            sample.realtime_ns - i128::from(sample.monotonic_before_ns),
        );
        let Some((earliest, latest)) = self.difference else {
            self.difference = Some(seen);
            return None;
        };
        let both = (earliest.max(seen.0), latest.min(seen.1));
        if both.0 <= both.1 {
            self.difference = Some(both);
            return None;
        }
        self.difference = Some(seen);
        let moved = i128::midpoint(seen.0, seen.1) - i128::midpoint(earliest, latest);
        (moved.abs() >= STEP_NS).then_some(moved)
    }

    /// Notes when the clock was corrected. The kernel lets its maximum error grow until the clock's keeper
    /// sets it, so if it has fallen, the clock was corrected. A step is a correction too.
    fn note_correction(&mut self, kernel: &Adjtimex, stepped: bool, now: NtpTimestamp) {
        if stepped || self.max_error_us.is_none_or(|before| kernel.max_error_us < before) {
            self.reference_time = now;
            self.lost_time = false;
        }
        self.max_error_us = Some(kernel.max_error_us);
    }

    /// Takes in a step, and whether the keeper has corrected the clock. Returns how far the clock may have been stepped
    /// away from what the keeper knows, in ns. A step that the keeper
    /// makes is part of a correction, which its next claim is about. Until then nobody knows whose step it was.
    fn stepped_past(&mut self, claim: &Claim, stepped_ns: Option<i128>) -> u64 {
        if self.stepped.0 != claim.reference_time {
            self.stepped = (claim.reference_time, 0);
            // chronyd without `rtcsync` does not set the kernel's error bound.
            self.lost_time = false;
        }
        let step_ns = stepped_ns.map_or(0, |ns| u64::try_from(ns.unsigned_abs()).unwrap_or(u64::MAX));
        self.stepped.1 = self.stepped.1.saturating_add(step_ns);
        self.stepped.1
    }
}

/// What is known about the clock's own source.
struct ClaimedSource {
    unsynchronised: Option<Unsynchronised>,
    leap: u8,
    stratum: u8,
    reference_id: u32,
    reference_time: NtpTimestamp,
    root_delay_ns: u64,
    root_dispersion_ns: u64,
    growth_ppb: u64,
    /// Whether nothing but the worst is known of the error.
    is_worst: bool,
}

impl ClaimedSource {
    fn of(
        kernel: &Adjtimex,
        claim: Option<&Claim>,
        now_ns: u64,
        config: &ClockConfig,
        corrected: NtpTimestamp,
    ) -> Self {
        let kernel_synchronised = kernel.status & libc::STA_UNSYNC == 0 && kernel.state != libc::TIME_ERROR;
        let unsynchronised = match claim {
            Some(claim) if claim.synchronised && claim.is_loop => Some(Unsynchronised::Loop),
            Some(claim) if claim.synchronised && claim.needs_no_kernel() => None,
            Some(claim) if !claim.synchronised => Some(Unsynchronised::Daemon),
            _ if !kernel_synchronised => Some(Unsynchronised::Kernel),
            None if was_told_no_error(kernel) => Some(Unsynchronised::NoEstimate),
            Some(_) | None => None,
        };
        let claim = claim.filter(|claim| claim.synchronised);
        let leap = match kernel.state {
            libc::TIME_INS => 1,
            libc::TIME_DEL => 2,
            libc::TIME_OOP | libc::TIME_WAIT => 0,
            // The clock's keeper may take it without the kernel, or has not told it yet.
            _ => claim.filter(|claim| claim.leap < LEAP_UNSYNCHRONISED).map_or(0, |claim| claim.leap),
        };
        let stratum = claim.and_then(|claim| claim.stratum).unwrap_or(config.stratum);
        let unknown = Self {
            unsynchronised,
            leap,
            stratum: stratum.clamp(1, MAX_STRATUM),
            reference_id: claim.and_then(|claim| claim.reference_id).unwrap_or_else(|| config.reference_id()),
            reference_time: corrected,
            root_delay_ns: 0,
            root_dispersion_ns: 0,
            growth_ppb: PHI_PPB,
            is_worst: false,
        };
        match claim {
            Some(claim) => Self {
                reference_time: match claim.reference_time {
                    NtpTimestamp(0) => corrected,
                    known => known,
                },
                root_delay_ns: claim.root_delay_ns,
                root_dispersion_ns: claim.dispersion_ns(now_ns, kernel),
                growth_ppb: claim.growth_ppb,
                is_worst: claim.keeper == Keeper::SilentTimesyncd,
                ..unknown
            },
            None => Self {
                // maxerror is the root distance of RFC 5905, as the clock's keeper last set it.
                root_dispersion_ns: u64::try_from(kernel.max_error_us)
                    .unwrap_or(u64::MAX)
                    .saturating_mul(1000),
                ..unknown
            },
        }
    }
}

impl ClaimedSource {
    /// Returns the source of a clock that is its own reference.
    const fn local(stratum: u8, leap: u8, corrected: NtpTimestamp) -> Self {
        Self {
            unsynchronised: None,
            leap,
            stratum,
            reference_id: reference::LOCAL,
            reference_time: corrected,
            root_delay_ns: 0,
            root_dispersion_ns: 0,
            growth_ppb: PHI_PPB,
            is_worst: false,
        }
    }

    /// Returns the root distance of RFC 5905, without its growth from now on.
    const fn bound_ns(&self) -> u64 {
        (self.root_delay_ns / 2).saturating_add(self.root_dispersion_ns)
    }

    const fn add_error(&mut self, error_ns: u64) {
        self.root_dispersion_ns = self.root_dispersion_ns.saturating_add(error_ns);
    }

    const fn limit_error(&mut self, limit_ns: u64) {
        if self.unsynchronised.is_none() && self.bound_ns() > limit_ns {
            let reason =
                if self.is_worst { Unsynchronised::ErrorUnknown } else { Unsynchronised::ErrorBound };
            self.unsynchronised = Some(reason);
        }
    }
}

/// Whether the kernel's clock counts as synchronised though nobody has measured it. ntpd calls it so when it starts, before
/// it has heard anybody, with an error of 16 us for which it means 16 s; and systemd-timesyncd tells the kernel that there
/// is no error whenever it corrects the clock. The kernel adds 500 us to the maximum every second.
const fn was_told_no_error(kernel: &Adjtimex) -> bool {
    matches!((kernel.estimated_error_us, kernel.max_error_us % 500), (0, 0) | (16, 16))
}

/// Whether a step is the leap second that the kernel has just taken.
fn is_leap_second(step_ns: i128, kernel: &Adjtimex) -> bool {
    let is_a_second = (step_ns.unsigned_abs().cast_signed() - 1_000_000_000).abs() < 1_000_000;
    is_a_second && matches!(kernel.state, libc::TIME_OOP | libc::TIME_WAIT)
}

/// Limits a reference time to the present. If the clock was set back since its last correction, the
/// correction would seem to be in the future, and clients refuse such an answer (RFC 5905 appendix A.5.1.1).
/// Zero means "never" and is kept.
const fn earlier(reference_time: NtpTimestamp, now: NtpTimestamp) -> NtpTimestamp {
    if reference_time.0 != 0 && reference_time.since(now) > 0 { now } else { reference_time }
}
