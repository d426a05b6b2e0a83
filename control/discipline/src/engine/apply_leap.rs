//! Applies a leap second: when it is due on the local clock, and how it changes what is known.

use super::Discipline;
use crate::leap::{self, Leap};
use crate::time::{LocalTime, ns_to_s, s_to_ns};

const NS_PER_S: i64 = 1_000_000_000;
/// Samples within this time of a leap second are dropped, because servers do not agree on the name of that
/// second.
pub(super) const LEAP_QUIET_S: f64 = 5.0;
/// How long before a leap second it is announced to clients, in s.
const LEAP_ANNOUNCED_S: f64 = 86_400.0;

impl Discipline {
    pub(super) fn settle_leap(&mut self, now: LocalTime) {
        let announced: Vec<Leap> = self
            .selected()
            .filter_map(|index| self.sources[index].latest.map(|sample| sample.leap))
            .collect();
        let leap = leap::majority(&announced);
        let denied = self.utc_s(now).is_some_and(|utc_s| {
            self.config.leap_list.as_ref().is_some_and(|list| list.denies(leap, leap::month_end(utc_s)))
        });
        self.leap = if denied { Leap::None } else { leap };
    }

    pub(super) fn utc_s(&self, now: LocalTime) -> Option<i64> {
        let offset_s = self.ensemble.as_ref()?.offset(now).mean;
        Some(self.utc_ns(now, offset_s).div_euclid(NS_PER_S))
    }

    pub(super) fn utc_ns(&self, now: LocalTime, offset_s: f64) -> i64 {
        now.as_ns().saturating_add(self.origin_ns).saturating_add(s_to_ns(offset_s))
    }

    /// Returns the local time at which the announced leap second ends.
    pub(super) fn leap_instant(&self) -> Option<LocalTime> {
        if self.leap == Leap::None {
            return None;
        }
        let ensemble = self.ensemble.as_ref()?;
        let at = self.sources.iter().filter_map(|source| source.latest.map(|latest| latest.at)).max()?;
        let offset = ensemble.offset(at);
        let utc_ns = self.utc_ns(at, offset.mean);
        let end_ns = leap::month_end(utc_ns.div_euclid(NS_PER_S)).saturating_mul(NS_PER_S);
        // An inserted second repeats the last label of the month, a deleted one skips it.
        let ahead_s = ns_to_s(end_ns.saturating_sub(utc_ns)) - self.leap.shift_s().max(0.0);
        Some(at.plus_seconds(ahead_s / (1.0 + ensemble.frequency(at).mean)))
    }

    pub(super) fn announced_leap(&self, now: LocalTime) -> Leap {
        match self.leap_instant() {
            Some(instant) if instant.seconds_since(now) <= LEAP_ANNOUNCED_S => self.leap,
            _ => Leap::None,
        }
    }

    pub(super) fn take_leap(&mut self, now: LocalTime) {
        let Some(instant) = self.leap_instant().filter(|instant| now >= *instant) else { return };
        self.leapt_at = Some(instant);
        let shift_s = self.leap.shift_s();
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.shift(shift_s);
        }
        if let Some(consensus) = &mut self.consensus {
            consensus.shift(shift_s, 0.0);
        }
        for source in &mut self.sources {
            for recent in source.recent.iter_mut().chain(source.anchors.iter_mut().flatten()) {
                recent.offset_ns = recent.offset_ns.saturating_add(s_to_ns(shift_s));
            }
            if let Some(latest) = &mut source.latest {
                latest.leap = Leap::None;
                latest.offset_ns = latest.offset_ns.saturating_add(s_to_ns(shift_s));
            }
        }
        self.leap = Leap::None;
    }
}
