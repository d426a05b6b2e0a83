//! The program that takes and checks answers in the kernel, and what it has counted.

use std::thread;
use std::time::Duration;

use aya::maps::{Array, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use bench_ebpf::load_token::{self, BUCKETS, Fault, Plan, WINDOWS, count, exponential};
use crossbeam_channel::RecvTimeoutError;
use hdrhistogram::Histogram;

use super::super::clock::{monotonic_ns, nanos};
use super::super::tally::{Moments, Tally, round_trips};
use super::super::watch::{TELL_INTERVAL, Watch};
use super::setup::Step;
use super::{Load, Sent};
use crate::failure::Failure;
use crate::map_values::Value;
use crate::programs::{load_program, not_loaded, program, set_first};

const OBJECT: &str = "the built-in generator object";
const COLLECT: &str = "collect";
const PLAN: &str = "GN_PLAN";
const MIX: &str = "GN_MIX";
const INTERVALS: &str = "GN_INTERVALS";
const SEEN: &str = "GN_SEEN";
const COUNTS: &str = "GN_COUNTS";
const TIMES: &str = "GN_TIMES";
const LOSS_WINDOWS: &str = "GN_WINDOWS";

/// Interval at which the number of answers is read while waiting for them.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The loaded program; see the module.
pub(super) struct Collector {
    ebpf: Ebpf,
}

impl Collector {
    /// Loads the object with room for this number of requests.
    pub(super) fn load(requests: u64, load: &Load) -> Result<Self, Failure> {
        let mut collector = Self::of_object(requests)?;
        set_all(&mut collector.ebpf, MIX, load.mix.table().as_slice())?;
        set_all(&mut collector.ebpf, INTERVALS, &exponential())?;
        Ok(collector)
    }

    pub(super) fn of_object(requests: u64) -> Result<Self, Failure> {
        let words = u32::try_from(requests.div_ceil(64)).unwrap_or(u32::MAX).max(1);
        let ebpf = EbpfLoader::new().map_max_entries(SEEN, words).load(bench_ebpf::GENERATOR);
        let mut collector = Self { ebpf: ebpf.map_err(|error| not_loaded(OBJECT, error))? };
        collector.load_program(COLLECT)?;
        Ok(collector)
    }

    /// Loads one of the object's programs.
    pub(super) fn load_program(&mut self, name: &str) -> Result<(), Failure> {
        load_program(&mut self.ebpf, OBJECT, name)
    }

    /// One of the object's programs.
    pub(super) fn program(&self, name: &str) -> Result<&Xdp, ProgramError> {
        program(&self.ebpf, name)
    }

    /// One of the object's maps.
    pub(super) fn map_mut(&mut self, name: &'static str) -> Result<&mut aya::maps::Map, Failure> {
        let missing = Failure::MapAccess { map: name, reason: MapError::KeyNotFound };
        self.ebpf.map_mut(name).ok_or(missing)
    }

    /// Returns the program that takes answers where it is attached.
    pub(super) fn collect(&mut self) -> Result<&mut Xdp, ProgramError> {
        self.ebpf.program_mut(COLLECT).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    /// Publishes the plan of what will be sent.
    pub(super) fn begin(&mut self, plan: &Plan) -> Result<(), Failure> {
        set_first(&mut self.ebpf, PLAN, Value(*plan))
    }

    /// Waits until every request has been answered, or until an answer would be too late.
    pub(super) fn wait(&self, sent: &Sent, timeout: Duration) -> Result<(), Failure> {
        let give_up_ns = monotonic_ns() + nanos(timeout);
        // If malformed requests were sent, it takes the whole timeout to find out that nothing comes back.
        let is_all = |matched: u64| sent.malformed == 0 && matched >= sent.right;
        while monotonic_ns() < give_up_ns && !is_all(self.counts()?[count::MATCHED]) {
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Returns what the sender in the kernel has sent, by window of time.
    pub(super) fn sent_by_window(&self) -> Result<Vec<u64>, Failure> {
        self.sums::<WINDOWS>(LOSS_WINDOWS, 0)
    }

    /// Returns the counts so far.
    pub(super) fn counts(&self) -> Result<Vec<u64>, Failure> {
        self.sums::<{ count::COUNTS }>(COUNTS, 0)
    }

    /// Returns what became of a step's requests.
    pub(super) fn tally(&self, sent: Sent, step: &Step, load: &Load) -> Result<Tally, Failure> {
        let counts = self.counts()?;
        let mut tally = Tally::over(step.duration);
        (tally.sent, tally.malformed, tally.unsent) = (sent.right, sent.malformed, sent.unsent);
        tally.cut_after = sent.cut_after;
        tally.loss_windows = sent.loss_windows;
        tally.loss_windows.count(&[], &self.sums::<WINDOWS>(LOSS_WINDOWS, 1)?);
        tally.matched = counts[count::MATCHED];
        tally.answered = counts[count::ANSWERED];
        tally.late = counts[count::LATE];
        tally.kisses = counts[count::KISSES];
        tally.duplicates = counts[count::DUPLICATES];
        for fault in Fault::ALL {
            tally.faults[fault as usize] = counts[count::FAULTS + fault as usize];
        }
        tally.round_trip = self.times(0)?;
        tally.residence = self.times(1)?;
        // The sum is in units of 2^-33 s.
        #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a mean")]
        let offsets_ns = counts[count::OFFSETS].cast_signed() as f64 * 1e9 / 8_589_934_592.0;
        if load.shared_clock {
            tally.offset = Moments::of_sum(tally.answered, offsets_ns);
        }
        Ok(tally)
    }

    /// Does something, and tells meanwhile what the program in the kernel has measured so far.
    pub(super) fn while_telling<T>(&self, watch: &Watch, act: impl FnOnce() -> T) -> T {
        if !watch.is_watched() {
            return act();
        }
        // Dropping the sender ends the thread.
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                while ended.recv_timeout(TELL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if let Ok(times) = self.times(0) {
                        watch.tell(0, &times);
                    }
                }
            });
            let done = act();
            drop(end);
            done
        })
    }

    /// Returns the round trips (entry 0) or the residence times (entry 1).
    fn times(&self, entry: u32) -> Result<Histogram<u64>, Failure> {
        let mut histogram = round_trips();
        for (bucket, times) in self.sums::<BUCKETS>(TIMES, entry)?.into_iter().enumerate() {
            if times > 0 {
                histogram.saturating_record_n(load_token::bucket_value(bucket).max(1), times);
            }
        }
        Ok(histogram)
    }

    /// Returns an entry of a per-CPU array, summed over the CPUs.
    fn sums<const N: usize>(&self, name: &'static str, entry: u32) -> Result<Vec<u64>, Failure> {
        let access = |reason| Failure::MapAccess { map: name, reason };
        let map = self.ebpf.map(name).ok_or(access(MapError::KeyNotFound))?;
        let array: PerCpuArray<&MapData, [u64; N]> = map.try_into().map_err(access)?;
        let of_cpus = array.get(&entry, 0).map_err(access)?;
        Ok((0..N).map(|index| of_cpus.iter().fold(0_u64, |sum, cpu| sum.wrapping_add(cpu[index]))).collect())
    }
}

fn set_all<V: Pod>(ebpf: &mut Ebpf, name: &'static str, values: &[V]) -> Result<(), Failure> {
    let access = |reason| Failure::MapAccess { map: name, reason };
    let map = ebpf.map_mut(name).ok_or(access(MapError::KeyNotFound))?;
    let mut array = Array::try_from(map).map_err(access)?;
    for (index, value) in (0..).zip(values) {
        array.set(index, *value, 0).map_err(access)?;
    }
    Ok(())
}
