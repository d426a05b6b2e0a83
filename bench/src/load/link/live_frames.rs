//! The sender in the kernel: `BPF_PROG_TEST_RUN` sends frames around, and one XDP program turns them into
//! requests and sends them with a redirect.
//!
//! The frames circulate as fast as they can, and the program makes a request only when one is due. This
//! keeps the schedule to the microsecond without a timer.

use std::time::Duration;

use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use aya::util::nr_cpus;
use bench_ebpf::load_token::count;
use core_affinity::CoreId;

use super::super::clock::monotonic_ns;
use super::super::loss_windows::LossWindows;
use super::super::plan::Spacing;
use super::super::watch::Watch;
use super::collector::Collector;
use super::route::Route;
use super::setup::{Setup, Step};
use super::test_run_loop::circulate;
use super::xdp_attachment::Mode;
use super::{LinkError, Sender, Sent};
use crate::failure::Failure;

const GENERATE: &str = "generate";
const WORKER: &str = "GN_WORKER";

/// Checks that live frames work here and would leave through the interface.
pub(super) fn check(route: &Route, mode: Mode) -> Result<(), Failure> {
    if mode != Mode::Native {
        return Err(refused(route, "its driver has no native XDP, so nothing can be redirected to it").into());
    }
    let mut object = Collector::of_object(1)?;
    object.load_program(GENERATE)?;
    let trial = object.program(GENERATE).and_then(|program| {
        program.test_run(TestRunOptions {
            data_in: Some(&[0; 64]),
            repeat: 1,
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::default()
        })
    });
    trial.map(drop).map_err(|error| {
        let reason = format!("this kernel cannot send live frames, which needs 5.18 or later: {error}");
        refused(route, &reason).into()
    })
}

/// Loads the program and assigns the generators to the CPUs.
pub(super) fn prepare(collector: &mut Collector, cores: &[CoreId]) -> Result<(), Failure> {
    collector.load_program(GENERATE)?;
    let access = |reason| Failure::MapAccess { map: WORKER, reason };
    let cpus = nr_cpus().map_err(|(_, error)| access(error.into()))?;
    let mut workers = vec![[0, 0, 0]; cpus];
    for (index, core) in cores.iter().enumerate() {
        if let Some(worker) = workers.get_mut(core.id) {
            worker[1] = index as u64;
        }
    }
    let workers = PerCpuValues::try_from(workers).map_err(|error| access(error.into()))?;
    let map = collector.map_mut(WORKER)?;
    PerCpuArray::try_from(map).and_then(|mut map| map.set(0, workers, 0)).map_err(access)
}

/// Lets frames circulate until the end of the step.
pub(super) fn send(
    collector: &Collector,
    setup: &Setup,
    step: &Step,
    watch: &Watch,
) -> Result<Sent, Failure> {
    let failure = |reason| Failure::Run { what: GENERATE.into(), reason };
    let generate = collector.program(GENERATE).map_err(failure)?;
    let end_ns = step.plan.start_ns + step.plan.duration_ns;
    circulate(generate, &setup.cores, &setup.template.bytes, end_ns, watch).map_err(failure)?;
    let passed = Duration::from_nanos(monotonic_ns().saturating_sub(step.plan.start_ns));
    let cut_after = Some(passed).filter(|passed| watch.is_interrupted() && *passed < step.duration);
    let counts = collector.counts()?;
    let (right, malformed) = (counts[count::SENT], counts[count::MALFORMED]);
    let due = setup.due(step.rate, cut_after.unwrap_or(step.duration));
    // The number of independent requests is random: five standard deviations fewer are no failure to send.
    // Nor is the rounding of a spike's slope.
    let tolerated = match (setup.load.spacing, step.plan.spike.extra) {
        (Spacing::Even, 0) => 0.0,
        (Spacing::Even, _) => due / 500.0,
        (Spacing::Poisson, _) => 5.0 * due.sqrt() + due / 500.0,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
    let missing = ((due - tolerated).max(0.0) as u64).saturating_sub(right + malformed);
    let mut loss_windows = LossWindows::over(step.duration);
    loss_windows.count(&collector.sent_by_window()?, &[]);
    Ok(Sent { right, malformed, unsent: missing.max(counts[count::SKIPPED]), loss_windows, cut_after })
}

fn refused(route: &Route, reason: &str) -> LinkError {
    LinkError::Sender { how: Sender::Live.name(), interface: route.interface.clone(), reason: reason.into() }
}
