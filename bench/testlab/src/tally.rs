//! The server's counters.

use std::collections::BTreeMap;
use std::ops::Sub;

use control::status::{Counter, Status};
use responder::verdict::{Family, Verdict};

/// The packet counters that are not zero, by verdict, family and NTP version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<(String, String, u8), u64>);

impl Tally {
    /// A tally of these counters, for comparison.
    pub fn of(counts: impl IntoIterator<Item = (Verdict, Family, u8, u64)>) -> Self {
        let named = |(verdict, family, version, packets): (Verdict, Family, u8, u64)| {
            ((verdict.label().into(), family.label().into(), version), packets)
        };
        Self(counts.into_iter().map(named).collect())
    }

    /// The counters of the eBPF program, over all interfaces.
    pub fn of_program(status: &Status) -> Self {
        Self::sum(status.interfaces.iter().flat_map(|interface| &interface.counters))
    }

    /// The counters of the sockets.
    pub fn of_sockets(status: &Status) -> Self {
        Self::sum(&status.userspace_counters)
    }

    /// The packets with a verdict, over all families and versions.
    pub fn packets(&self, verdict: Verdict) -> u64 {
        self.0.iter().filter(|((label, ..), _)| label == verdict.label()).map(|(_, packets)| packets).sum()
    }

    fn sum<'a>(counters: impl IntoIterator<Item = &'a Counter>) -> Self {
        let mut sum = BTreeMap::new();
        for Counter { verdict, family, version, packets, .. } in counters {
            *sum.entry((verdict.clone(), family.clone(), *version)).or_default() += packets;
        }
        Self(sum)
    }
}

/// The counts since `earlier`.
impl Sub for Tally {
    type Output = Self;

    fn sub(mut self, earlier: Self) -> Self {
        for (key, packets) in earlier.0 {
            let now = self.0.entry(key).or_default();
            *now = now.checked_sub(packets).expect("counters do not go down");
        }
        self.0.retain(|_, packets| *packets != 0);
        self
    }
}
