//! What is the same for all steps of a load on a link, and the plan of one step.

use std::net::SocketAddr;
use std::time::Duration;

use bench_ebpf::load_token::{self, MAX_REQUESTS, Malformation, Plan};
use core_affinity::CoreId;

use super::super::clock::{monotonic_ns, nanos, ntp_after};
use super::super::plan::{SourcePorts, Spacing};
use super::super::profile::Profile;
use super::super::template::Template;
use super::super::{LATE_NS, Load};
use super::LinkError;
use super::route::Route;
use crate::failure::Failure;
use crate::frames::Path;

/// Time from the plan to the start of a step, in which everything is put in place.
const LEAD: Duration = Duration::from_millis(20);

/// The setup; see the module.
pub(super) struct Setup {
    pub(super) target: SocketAddr,
    pub(super) load: Load,
    pub(super) route: Route,
    pub(super) template: Template,
    /// The cores of the workers, one for each.
    pub(super) cores: Vec<CoreId>,
}

/// One step.
pub(super) struct Step {
    pub(super) plan: Plan,
    /// Requests per second of all workers together.
    pub(super) rate: f64,
    pub(super) duration: Duration,
}

impl Setup {
    pub(super) fn new(target: SocketAddr, load: Load) -> Result<Self, Failure> {
        if load.sources.is_some_and(|sources| sources.is_ipv4() != target.is_ipv4()) {
            return Err(LinkError::Families.into());
        }
        let ports = load.source_ports.unwrap_or_default();
        if load.profile.malformed() != 0 && ports.count() <= Malformation::COUNT {
            return Err(LinkError::Ports(ports).into());
        }
        let mut cores = core_affinity::get_core_ids().unwrap_or_default();
        let workers = usize::try_from(load.workers.unwrap_or(1)).unwrap_or(1);
        if workers > cores.len() {
            return Err(LinkError::Cpus { workers, cpus: cores.len() }.into());
        }
        cores.truncate(workers);
        let route = Route::find(target, &load.way)?;
        let path = Path {
            source_mac: route.source_mac,
            destination_mac: route.next_hop_mac,
            source: route.source,
            destination: target.ip(),
            source_port: 0,
            destination_port: target.port(),
        };
        let template = Template::new(&path, load.sources, &load.profile.extension());
        Ok(Self { target, load, route, template, cores })
    }

    pub(super) fn workers(&self) -> u32 {
        u32::try_from(self.cores.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn source_ports(&self) -> SourcePorts {
        self.load.source_ports.unwrap_or_default()
    }

    /// Returns the number of requests that are due in a step.
    pub(super) fn due(&self, rate: f64, duration: Duration) -> f64 {
        rate * self.load.profile.mean() * duration.as_secs_f64()
    }

    /// Plans a step that starts right away.
    pub(super) fn step(&self, rate: f64, duration: Duration) -> Step {
        let (load, template, ports) = (&self.load, &self.template, self.source_ports());
        let malformations = if load.profile.malformed() == 0 { 0 } else { Malformation::COUNT };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an interval of at most a second for each of a few generators"
        )]
        let interval = (1e9 * f64::from(self.workers()) / rate * 65_536.0) as u64;
        let plan = Plan {
            key: fastrand::u64(..),
            start_ns: monotonic_ns() + nanos(LEAD),
            duration_ns: nanos(duration),
            interval,
            generators: self.workers().into(),
            timeout_ns: nanos(load.timeout),
            late_ns: LATE_NS,
            ntp_start: if load.shared_clock { ntp_after(LEAD).0 } else { 0 },
            tolerance: load_token::ntp_units(nanos(load.tolerance)),
            interface: u64::from(self.route.index),
            frame: template.frame,
            sum: u64::from(template.sum),
            port: u64::from(self.target.port()),
            first_port: u64::from(ports.first()) + u64::from(malformations),
            ports: u64::from(ports.count() - malformations),
            client_at: template.client_at,
            first_client: u64::from(template.first_client),
            clients: u64::from(template.clients),
            header_sum: u64::from(template.header_sum),
            poisson: u64::from(load.spacing == Spacing::Poisson),
            echo: u64::from(load.echo),
            lenient: u64::from(load.lenient),
            hot: load.profile.hot(),
            scatter: if load.profile == Profile::Spoofed { fastrand::u64(..MAX_REQUESTS) } else { 0 },
            malformed: load.profile.malformed(),
            malformed_port: u64::from(ports.first()),
            extension: load.profile.extension().len() as u64,
            window_shift: load_token::window_shift(nanos(duration)).into(),
            spike: load.profile.spike(duration),
        };
        Step { plan, rate, duration }
    }
}
