//! The eBPF programs, loaded but attached to nothing: the server with maps that the bench fills, and the
//! baseline programs.

mod baseline;

use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};
use responder::access::{BLOCK_WORDS, Block};
use responder::layout::{self, State};
use responder::verdict::COUNTERS;
use responder::{Access, ClockState, Policy, ServedTable, StationTable};

use crate::failure::Failure;
use crate::machine;
use crate::map_values::Value;
pub(crate) use baseline::{Baseline, Gauge};

/// Length in bytes of a frame that the baseline's `rearm` writes; it can write no other length.
pub(crate) const REARMED_FRAME: usize = 112;

/// Number of sets in the limiter's table: 65,536 entries, the default.
const SETS: u32 = 1 << 14;

/// Packets by counter, summed over all CPUs.
pub(crate) type Counts = Vec<u64>;

/// Return value of an XDP program (`enum xdp_action` of `linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpAction {
    Pass = 2,
    Tx = 3,
}

impl XdpAction {
    /// Returns the kernel's name for an action.
    pub(crate) fn name(action: u32) -> String {
        match action {
            0 => "XDP_ABORTED".into(),
            1 => "XDP_DROP".into(),
            2 => "XDP_PASS".into(),
            3 => "XDP_TX".into(),
            4 => "XDP_REDIRECT".into(),
            other => format!("{other}, which is not an XDP action"),
        }
    }
}

/// What a program did with a frame that it was given again and again.
#[derive(Debug)]
pub(crate) struct TestRunResult {
    /// Return value of the last run.
    pub(crate) action: u32,
    /// The frame as the program left it.
    pub(crate) frame: Vec<u8>,
    /// Nanoseconds of CPU time per run. The kernel's own figure is rounded to whole nanoseconds.
    pub(crate) ns: f64,
}

/// The server's program with its maps.
pub(crate) struct Server {
    ebpf: Ebpf,
    /// The state as published to the program.
    state: State,
}

impl Server {
    /// Loads the server's object and publishes addresses and clock as the daemon would.
    pub(crate) fn load(
        object: &[u8],
        name: &str,
        served: &ServedTable,
        stations: &StationTable,
        clock: &ClockState,
        policy: &Policy,
    ) -> Result<Self, Failure> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(layout::BUCKETS, SETS);
        loader.override_global(layout::INTERFACE_SLOT, &0_u32, true);
        let mut ebpf = loader.load(object).map_err(|error| not_loaded(name, error))?;
        load_program(&mut ebpf, name, layout::PROGRAM)?;

        allow_samples(&mut ebpf)?;
        let mut state = State { tables: [*served; 2], ..State::EMPTY };
        state.head.clocks = [clock.to_words(); 2];
        // The program counts in the first entry, and goes by these.
        state.stations[0] = *stations;
        let mut this = Self { ebpf, state };
        this.set_policy(policy)?;
        Ok(this)
    }

    /// Publishes another policy.
    pub(crate) fn set_policy(&mut self, policy: &Policy) -> Result<(), Failure> {
        self.state.policy = Policy { set_mask: SETS - 1, known_mask: responder::known::SETS - 1, ..*policy };
        set_first(&mut self.ebpf, layout::STATE, Value(self.state))
    }

    /// Denies these prefixes. No IPv4 prefix is wider than a /24.
    pub(crate) fn deny(&mut self, ipv4: &[([u8; 4], u32)], ipv6: &[([u8; 16], u32)]) -> Result<(), Failure> {
        fn insert<K: aya::Pod>(
            ebpf: &mut Ebpf,
            name: &'static str,
            prefixes: &[(K, u32)],
        ) -> Result<(), Failure> {
            let access = |reason| Failure::MapAccess { map: name, reason };
            let map = ebpf.map_mut(name).ok_or(access(MapError::KeyNotFound))?;
            let mut list: LpmTrie<_, K, u32> = map.try_into().map_err(access)?;
            for (prefix, length) in prefixes {
                list.insert(&Key::new(*length, *prefix), Access::Denied as u32, 0).map_err(access)?;
            }
            Ok(())
        }
        let mut blocks = std::collections::BTreeMap::<u32, [u64; BLOCK_WORDS]>::new();
        for (address, _) in ipv4 {
            // The prefix is a /24 or a part of one.
            let Block { entry, word, mask } = Block::of(*address);
            blocks.entry(entry).or_default()[word] |= mask;
        }
        let access = |reason| Failure::MapAccess { map: layout::BLOCKS_IPV4, reason };
        let map = self.ebpf.map_mut(layout::BLOCKS_IPV4).ok_or(access(MapError::KeyNotFound))?;
        let mut map: Array<_, [u64; BLOCK_WORDS]> = map.try_into().map_err(access)?;
        for (entry, words) in blocks {
            map.set(entry, words, 0).map_err(access)?;
        }
        insert(&mut self.ebpf, layout::LIST_IPV4, ipv4)?;
        insert(&mut self.ebpf, layout::LIST_IPV6, ipv6)
    }

    /// Returns the current counters.
    pub(crate) fn counts(&self) -> Result<Counts, Failure> {
        let access = |reason| Failure::MapAccess { map: layout::COUNTERS, reason };
        let map = self.ebpf.map(layout::COUNTERS).ok_or(access(MapError::KeyNotFound))?;
        // The value is packets and bytes, like `layout::Count`.
        let counters: PerCpuArray<_, [[u64; 2]; COUNTERS]> = map.try_into().map_err(access)?;
        let of_cpus = counters.get(&0, 0).map_err(access)?;
        let total = |index: usize| of_cpus.iter().map(|counters| counters[index][0]).sum();
        Ok((0..COUNTERS).map(total).collect())
    }

    /// Runs the program directly on its own output, which is right for frames that it does not change.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> Result<TestRunResult, Failure> {
        run(&self.ebpf, layout::PROGRAM, frame, repeat)
    }

    /// Returns the number of eBPF instructions that the verifier went through (0 before Linux 5.16) and the
    /// number of bytes of machine code.
    pub(crate) fn size(&self) -> (u32, u32) {
        let info = program(&self.ebpf, layout::PROGRAM).and_then(Xdp::info);
        info.map_or((0, 0), |info| (info.verified_instruction_count().unwrap_or(0), info.size_jitted()))
    }

    /// Returns a handle with which the program can be put behind the baseline's `rearm`.
    pub(crate) fn handle(&self) -> Result<ProgramFd, Failure> {
        handle(&self.ebpf, layout::PROGRAM)
    }
}

/// Grants every CPU an unlimited number of samples, which nothing reads: a full ring buffer is the worst
/// case.
fn allow_samples(ebpf: &mut Ebpf) -> Result<(), Failure> {
    let access = |reason| Failure::MapAccess { map: layout::GRANTS, reason };
    let map = ebpf.map_mut(layout::GRANTS).ok_or(access(MapError::KeyNotFound))?;
    let mut grants: PerCpuArray<_, [u64; 3]> = map.try_into().map_err(access)?;
    // The value has the fields of `layout::Grant`: costs, and samples.
    let grant = [0, 0, u64::MAX];
    let cpus = grants.get(&0, 0).map_err(access)?.len();
    let all = PerCpuValues::try_from(vec![grant; cpus]).map_err(|error| access(error.into()))?;
    grants.set(0, all, 0).map_err(access)
}

/// Checks that this process may load and run XDP programs. Also raises the limit on locked memory, against
/// which kernels before 5.11 count maps, as far as this process may.
pub(crate) fn require_privileges() -> Result<(), Failure> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or_default();
    if setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX).is_err() {
        // The hard limit cannot be exceeded. If it is too low, creating a map fails and is reported.
        let _as_it_was = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
    if has(Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let missing: Vec<String> = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !has(*capability))
        .map(|capability| capability.to_string())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Failure::Privilege(missing)) }
}

pub(crate) fn load_program(ebpf: &mut Ebpf, object: &str, name: &str) -> Result<(), Failure> {
    let missing =
        || Failure::Object { object: object.into(), reason: format!("it has no XDP program {name}") };
    let program: &mut Xdp =
        ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_: ProgramError| missing())?;
    program.load().map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => Failure::Verifier {
            program: name.into(),
            kernel: machine::kernel_release(),
            log: format!("{io_error}\n{}", last_lines(&verifier_log.to_string())),
        },
        error => Failure::Object { object: object.into(), reason: error.to_string() },
    })
}

/// Returns the end of the verifier's log, where it says what it refuses after what may be thousands of lines.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

pub(crate) fn not_loaded(object: &str, error: EbpfError) -> Failure {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            Failure::Map { map: name, reason: io_error }
        }
        error => {
            Failure::Object { object: object.into(), reason: format!("{:#}", anyhow::Error::from(error)) }
        }
    }
}

pub(crate) fn set_first<V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, value: V) -> Result<(), Failure> {
    let access = |reason| Failure::MapAccess { map: name, reason };
    let map = ebpf.map_mut(name).ok_or(access(MapError::KeyNotFound))?;
    Array::try_from(map).and_then(|mut map| map.set(0, value, 0)).map_err(access)
}

pub(crate) fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp, ProgramError> {
    ebpf.program(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn handle(ebpf: &Ebpf, name: &str) -> Result<ProgramFd, Failure> {
    let handle = program(ebpf, name).and_then(|program| Ok(program.fd()?.try_clone()?));
    handle.map_err(|reason| Failure::Run { what: name.into(), reason })
}

fn run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<TestRunResult, Failure> {
    let failure = |reason| Failure::Run { what: name.into(), reason };
    let program = program(ebpf, name).map_err(failure)?;
    let mut output = vec![0; frame.len()];
    let started = cpu_time();
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            repeat,
            ..TestRunOptions::default()
        })
        .map_err(failure)?;
    let spent = cpu_time().saturating_sub(started);
    Ok(TestRunResult {
        action: result.return_value,
        frame: output,
        ns: spent.as_secs_f64() * 1e9 / f64::from(repeat.max(1)),
    })
}

/// Returns the CPU time of this thread, which excludes the time in which others had the CPU.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
