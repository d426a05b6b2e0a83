//! What the programs in the kernel have counted.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray};
use xdp_ebpf::probe::{self, BUCKETS, Fault, count};

use super::super::Load;
use super::super::plan::Spacing;
use super::super::tally::{Moments, Tally};
use crate::failure::Failure;

const COUNTS: &str = "GN_COUNTS";
const TIMES: &str = "GN_TIMES";

/// A per-CPU array's entry, summed over the CPUs.
fn sums<const N: usize>(ebpf: &Ebpf, name: &'static str, entry: u32) -> Result<Vec<u64>, Failure> {
    let access = |reason| Failure::MapAccess { map: name, reason };
    let map = ebpf.map(name).ok_or(access(MapError::KeyNotFound))?;
    let array: PerCpuArray<&MapData, [u64; N]> = map.try_into().map_err(access)?;
    let of_cpus = array.get(&entry, 0).map_err(access)?;
    Ok((0..N).map(|index| of_cpus.iter().fold(0_u64, |sum, cpu| sum.wrapping_add(cpu[index]))).collect())
}

pub(super) fn counts(ebpf: &Ebpf) -> Result<Vec<u64>, Failure> {
    sums::<{ count::COUNTS }>(ebpf, COUNTS, 0)
}

/// What became of a step's requests.
pub(super) fn tally(ebpf: &Ebpf, rate: f64, duration: Duration, load: &Load) -> Result<Tally, Failure> {
    let counts = counts(ebpf)?;
    let mut tally = Tally::new();
    tally.sent = counts[count::SENT];
    let due = rate * duration.as_secs_f64();
    // The number of independent requests is not fixed: five standard deviations fewer are no failure to send.
    let fewest = if load.spacing == Spacing::Even { due } else { due - 5.0 * due.sqrt() };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
    let missing = (fewest.max(0.0) as u64).saturating_sub(tally.sent);
    tally.unsent = missing.max(counts[count::SKIPPED]);
    tally.matched = counts[count::MATCHED];
    tally.answered = counts[count::ANSWERED];
    tally.late = counts[count::LATE];
    tally.kisses = counts[count::KISSES];
    tally.duplicates = counts[count::DUPLICATES];
    for fault in Fault::ALL {
        tally.faults[fault as usize] = counts[count::FAULTS + fault as usize];
    }
    for (entry, histogram) in [(0, &mut tally.round_trip), (1, &mut tally.residence)] {
        for (bucket, times) in sums::<BUCKETS>(ebpf, TIMES, entry)?.into_iter().enumerate() {
            if times > 0 {
                histogram.saturating_record_n(probe::bucket_value(bucket).max(1), times);
            }
        }
    }
    // In halves of 2^-32 s.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a mean")]
    let offsets_ns = counts[count::OFFSETS].cast_signed() as f64 * 1e9 / 8_589_934_592.0;
    if load.shared_clock {
        tally.offset = Moments::of_sum(tally.answered, offsets_ns);
    }
    Ok(tally)
}
