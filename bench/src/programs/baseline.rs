//! The baseline programs: what the server is measured against, and the gauges that measure it.

use aya::maps::{MapError, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};
use bench_ebpf::alternation::Turns;

use super::{REARMED_FRAME, TestRunResult, handle, load_program, not_loaded, run, set_first};
use crate::failure::Failure;
use crate::map_values::Value;

/// Shift of a CPU's number within the number of its first run.
const FIRST_RUN_SHIFT: u32 = 40;

/// The programs that the server is measured against.
pub(crate) struct Baseline {
    ebpf: Ebpf,
}

/// One of the baseline programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// Returns `XDP_PASS`.
    Pass,
    /// Swaps addresses and ports and returns `XDP_TX`.
    Reflect,
    /// Writes the frame anew and goes on to another program.
    Rearm,
    /// Works like `Rearm` with a new IPv6 source each time.
    RearmScattered,
    /// Works like `Rearm` with a new IPv4 source each time.
    RearmScatteredIpv4,
    /// A limiter on its own that keeps its sources in the kernel's LRU hash. It leaves the frame unchanged
    /// and returns `XDP_TX`.
    Lru,
    /// The server's limiter on its own. It leaves the frame unchanged and returns `XDP_TX`.
    Table,
}

impl Gauge {
    const ALL: [Self; 7] = [
        Self::Pass,
        Self::Reflect,
        Self::Rearm,
        Self::RearmScattered,
        Self::RearmScatteredIpv4,
        Self::Lru,
        Self::Table,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Reflect => "reflect",
            Self::Rearm => "rearm",
            Self::RearmScattered => "rearm_scattered",
            Self::RearmScatteredIpv4 => "rearm_scattered_ipv4",
            Self::Lru => "lru",
            Self::Table => "table",
        }
    }
}

impl Baseline {
    const OBJECT: &'static str = "the built-in baseline object";
    const FRAME: &'static str = "BL_FRAME";
    const TURNS: &'static str = "BL_TURNS";
    const MEASURED: &'static str = "BL_MEASURED";

    /// Loads the baseline object.
    pub(crate) fn load() -> Result<Self, Failure> {
        let mut ebpf =
            EbpfLoader::new().load(bench_ebpf::BASELINE).map_err(|error| not_loaded(Self::OBJECT, error))?;
        for gauge in Gauge::ALL {
            load_program(&mut ebpf, Self::OBJECT, gauge.name())?;
        }
        let mut baseline = Self { ebpf };
        // Each CPU starts from another number, because the number of the run seeds what is random in a frame.
        baseline.change_turns(|cpu, _| Turns::NONE.after((cpu as u64) << FIRST_RUN_SHIFT))?;
        Ok(baseline)
    }

    /// Returns a handle of a program, to put it behind `rearm`.
    pub(crate) fn handle(&self, gauge: Gauge) -> Result<ProgramFd, Failure> {
        handle(&self.ebpf, gauge.name())
    }

    /// Runs a program directly.
    pub(crate) fn run(&self, gauge: Gauge, frame: &[u8], repeat: u32) -> Result<TestRunResult, Failure> {
        run(&self.ebpf, gauge.name(), frame, repeat)
    }

    /// Puts `measured` behind the gauges that write `frame` anew each time; [`Self::run`] then runs both.
    pub(crate) fn put_behind(
        &mut self,
        measured: &ProgramFd,
        frame: &[u8; REARMED_FRAME],
    ) -> Result<(), Failure> {
        self.arm(&[measured], frame, &Turns::NONE)
    }

    /// Puts two programs behind the gauges. They take turns for this number of runs on each CPU.
    pub(crate) fn put_in_turns(
        &mut self,
        measured: [&ProgramFd; 2],
        frame: &[u8; REARMED_FRAME],
        turns: &Turns,
    ) -> Result<(), Failure> {
        self.arm(&measured, frame, turns)
    }

    fn arm(
        &mut self,
        measured: &[&ProgramFd],
        frame: &[u8; REARMED_FRAME],
        turns: &Turns,
    ) -> Result<(), Failure> {
        let (words, _) = frame.as_chunks::<8>();
        let mut value = [0_u64; REARMED_FRAME / 8];
        for (value, bytes) in value.iter_mut().zip(words) {
            *value = u64::from_ne_bytes(*bytes);
        }
        set_first(&mut self.ebpf, Self::FRAME, value)?;

        self.change_turns(|_, before| turns.after(before.runs))?;
        let access = |reason| Failure::MapAccess { map: Self::MEASURED, reason };
        let map = self.ebpf.map_mut(Self::MEASURED).ok_or(access(MapError::KeyNotFound))?;
        let mut entries = ProgramArray::try_from(map).map_err(access)?;
        (0..).zip(measured).try_for_each(|(index, program)| entries.set(index, program, 0)).map_err(access)
    }

    fn change_turns(&mut self, change: impl Fn(usize, Turns) -> Turns) -> Result<(), Failure> {
        let access = |reason| Failure::MapAccess { map: Self::TURNS, reason };
        let changed = self.turns()?.into_iter().enumerate().map(|(cpu, turns)| Value(change(cpu, turns)));
        let changed =
            PerCpuValues::try_from(changed.collect::<Vec<_>>()).map_err(|error| access(error.into()))?;
        let map = self.ebpf.map_mut(Self::TURNS).ok_or(access(MapError::KeyNotFound))?;
        PerCpuArray::try_from(map).and_then(|mut map| map.set(0, changed, 0)).map_err(access)
    }

    /// Returns the turns on each CPU since programs were put there.
    pub(crate) fn turns(&self) -> Result<Vec<Turns>, Failure> {
        let access = |reason| Failure::MapAccess { map: Self::TURNS, reason };
        let map = self.ebpf.map(Self::TURNS).ok_or(access(MapError::KeyNotFound))?;
        let of_cpus: PerCpuArray<_, Value<Turns>> = map.try_into().map_err(access)?;
        Ok(of_cpus.get(&0, 0).map_err(access)?.iter().map(|Value(turns)| *turns).collect())
    }

    /// Returns a number for each CPU that goes up by one with each run of what was put behind the gauges.
    pub(crate) fn rearmed(&self) -> Result<Vec<u64>, Failure> {
        Ok(self.turns()?.iter().map(|turns| turns.runs).collect())
    }
}
