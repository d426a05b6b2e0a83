//! What there is to see: with a daemon and without one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Daemon;
use super::interfaces::Interfaces;
use super::probes::{LinkLook, LinkState};
use crate::config::{ClockSource, LeapFile, LimitsConfig, Warning};
use crate::error::{Code, Error, Result};
use crate::http::Listening;
use crate::instance::Instance;
use crate::net::interfaces::{Interface, Netlink};
use crate::net::served::WithoutRoom;
use crate::net::stations::Reception;
use crate::serving::userspace::Shared;
use crate::serving::xdp::{Datapath, OpenError};
use crate::status::probes::{LatestRound, ProbeCount};
use crate::status::sources::Peers;
use crate::status::traffic::{Clients, Talker};
use crate::status::{self, Status};
use crate::sys::ethtool::Nic;
use crate::sys::kernel_clock::monotonic_ns;
use crate::sys::process;
use crate::timekeeping::system_clock::Unsynchronised;

/// A loop that has not reported for this long hangs.
const LATE_REPORT: Duration = Duration::from_secs(2);

/// What does not change while the daemon runs, and the listeners, which keep their own state.
pub(super) struct Run {
    pub(super) started: Instant,
    /// Daemons of the instance that were started so far, this one included.
    pub(super) starts: u64,
    /// The configuration file, as an absolute path.
    pub(super) config: PathBuf,
    pub(super) listening: Listening,
}

/// What only the loop knows. The rest of a [`Status`] is in the maps and in the kernel, where another thread can
/// look for itself.
#[derive(Clone)]
pub(super) struct Report {
    source: &'static str,
    /// Why the clock is not synchronised.
    reason: Option<&'static str>,
    steps: u64,
    pauses: u64,
    /// When the loop made this report, if it serves the line of an earlier daemon.
    inherited_at: Option<Instant>,
    holdover_s: Option<f64>,
    offset_s: Option<f64>,
    frequency_ppm: Option<f64>,
    discipline: Option<status::Discipline>,
    error_limit_s: f64,
    horizon_limit_s: f64,
    interfaces: Vec<Served>,
    without_room: Vec<WithoutRoom>,
    userspace_path: Vec<status::UserspacePath>,
    limits: LimitsConfig,
    access_entries: usize,
    evictions: u64,
    known_sources: Option<u32>,
    clients: Vec<Clients>,
    warnings: Vec<String>,
    quota: Option<status::quota::Quota>,
    /// The sources of which most is dropped, if the configuration says that they may be shown.
    pub(super) sources: Option<Vec<Talker>>,
    probes: Vec<ProbeCount>,
    /// The latest rounds of probes.
    pub(super) latest_rounds: Vec<LatestRound>,
}

/// An interface that is answered on, or should be.
#[derive(Clone)]
struct Served {
    index: u32,
    name: String,
    addresses: Vec<String>,
    reception: Reception,
}

impl Daemon {
    pub(super) fn report(&self) -> Report {
        let Interfaces { names, addresses, without_room, .. } = &self.interfaces;
        let attached = names.attached.iter().map(|(index, name)| Served {
            index: *index,
            name: name.clone(),
            addresses: addresses.of(*index).map(|address| address.to_string()).collect(),
            reception: addresses.receptions.get(index).cloned().unwrap_or_default(),
        });
        let lost = names.lost.iter().map(|name| Served {
            index: 0,
            name: name.clone(),
            addresses: Vec::new(),
            reception: Reception::default(),
        });
        let listening = self.sockets.ports.all().into_iter().map(|listening| status::UserspacePath {
            family: listening.family.label().into(),
            failure: listening.failure,
        });
        let peers = self.peers().unwrap_or_default();
        let correction = self.timekeeper.correction();
        Report {
            source: self.timekeeper.label(),
            reason: self.publisher.unsynchronised().map(Unsynchronised::explain),
            steps: self.publisher.steps(),
            pauses: self.pauses,
            inherited_at: self.publisher.is_inheriting().then(Instant::now),
            holdover_s: self.timekeeper.holdover_s(),
            offset_s: correction.and_then(|correction| correction.offset_s).or(peers.system.offset_s),
            frequency_ppm: correction
                .map(|correction| correction.frequency_ppm)
                .or(peers.system.frequency_ppm),
            discipline: status::Discipline::of(&peers),
            error_limit_s: seconds(self.config.clock.max_error_ms),
            horizon_limit_s: seconds(self.config.clock.horizon_ms),
            interfaces: attached.chain(lost).collect(),
            without_room: without_room.clone(),
            userspace_path: listening.collect(),
            limits: self.config.limits.clone(),
            access_entries: self.access_entries(),
            evictions: self.evictions(),
            known_sources: self.datapath.known_sources(),
            clients: self.clients(),
            warnings: self.lasting_warnings().iter().map(ToString::to_string).collect(),
            quota: self.quota_view(),
            sources: self.config.metrics.show_sources.then(|| self.top().by_drops),
            probes: self.probes.rounds.counts(),
            latest_rounds: self.latest_probe_rounds(),
        }
    }

    /// What an operator has to know of the configuration for as long as it lasts: it may begin while the daemon runs.
    pub(super) fn lasting_warnings(&self) -> Vec<Warning> {
        let leap_file = self.leap_file.as_ref().filter(|_| self.config.clock.source == ClockSource::Upstream);
        let nobody = self.unanswered().iter().map(|family| Warning::NobodyAnswered(*family));
        leap_file.and_then(LeapFile::warning_now).into_iter().chain(nobody).collect()
    }

    /// The upstreams, and the clock as it was last published.
    pub(super) fn peers(&self) -> Result<Peers> {
        self.timekeeper.view(self.publisher.state().as_ref())
    }
}

impl Report {
    /// The whole, with what the maps and the kernel have at this moment.
    pub(super) fn status(
        &self,
        run: &Run,
        datapath: &Datapath,
        sockets: &Shared,
        links: &[Interface],
    ) -> Result<Status> {
        let mut status = observe(datapath)?;
        let uptime_s = run.started.elapsed().as_secs_f64();
        status.daemon = Some(status::Daemon {
            pid: std::process::id(),
            uptime_s,
            started_unix_s: process::unix_s() - uptime_s,
            starts: run.starts,
            resident_bytes: process::resident_bytes(),
            cpu_s: process::cpu_s(),
            descriptors: process::descriptors(),
            config: Some(run.config.clone()),
            network_namespace: process::network_namespace(),
        });
        let clock = &mut status.clock;
        clock.source = Some(self.source.into());
        clock.steps = self.steps;
        clock.pauses = self.pauses;
        // The loop reports four times per second. If it hangs, it does not look at its upstreams either.
        clock.inherited = self.inherited_at.is_some_and(|at| at.elapsed() < LATE_REPORT);
        clock.holdover_s = self.holdover_s;
        clock.offset_s = self.offset_s;
        clock.frequency_ppm = self.frequency_ppm;
        clock.discipline.clone_from(&self.discipline);
        clock.error_limit_s = Some(self.error_limit_s);
        clock.horizon_limit_s = Some(self.horizon_limit_s);
        if let Some(reason) = self.reason {
            clock.reason = Some(reason.into());
        }
        status.upstreams.clone_from(&sockets.peers().peers);
        for served in &self.interfaces {
            let link = links.iter().find(|link| link.index == served.index);
            let mut interface = interface(datapath, served.index, link)?;
            interface.name.clone_from(&served.name);
            interface.addresses.clone_from(&served.addresses);
            show_reception(&mut interface, &served.reception);
            status.interfaces.push(interface);
        }
        status.addresses_without_room.clone_from(&self.without_room);
        status.userspace_path.clone_from(&self.userspace_path);
        status.userspace_counters = status::name_counters(&*sockets.counters());
        status.limits = Some(self.limits(datapath)?);
        status.http = run.listening.all();
        status.warnings.clone_from(&self.warnings);
        status.probes.clone_from(&self.probes);
        status.quota.clone_from(&self.quota);
        Ok(status)
    }

    /// The interfaces that are served, as the kernel has them in `links`.
    pub(super) fn link_looks(&self, datapath: &Datapath, links: &[Interface]) -> Vec<LinkLook> {
        let look = |served: &Served| {
            let link = links.iter().find(|link| link.index == served.index);
            let state = link.map(|link| LinkState {
                carries: link.up && link.carrier,
                carrier_losses: link.carrier_losses,
                is_attached: datapath.links().own_mode(link).is_some(),
                drops: link.driver.receive_missed.saturating_add(link.driver.transmit_dropped),
            });
            LinkLook { name: served.name.clone(), state }
        };
        self.interfaces.iter().map(look).collect()
    }

    fn limits(&self, datapath: &Datapath) -> Result<status::Limits> {
        let (config, occupancy) = (&self.limits, datapath.occupancy()?);
        Ok(status::Limits {
            enabled: config.enabled,
            rate: config.rate,
            burst: config.burst,
            ipv4_prefix: config.ipv4_prefix,
            ipv6_prefix: config.ipv6_prefix,
            leak: config.leak,
            kod: config.kod,
            table_entries: occupancy.entries,
            table_in_use: occupancy.in_use,
            evictions: self.evictions,
            known_sources: self.known_sources,
            clients: self.clients.clone(),
            access_entries: self.access_entries,
            budget_answers_per_s: config.budget_answers_per_s,
            budget_bits_per_s: config.budget_bits_per_s,
        })
    }
}

/// What the maps alone tell.
fn observe(datapath: &Datapath) -> Result<Status> {
    let by_name: BTreeMap<_, _> =
        datapath.map_memory().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    Ok(Status {
        version: version::VERSION.into(),
        revision: version::REVISION.map(ToOwned::to_owned),
        target: version::TARGET.clone(),
        daemon: None,
        clock: status::Clock::of(&datapath.clock(), monotonic_ns()?),
        upstreams: Vec::new(),
        interfaces: Vec::new(),
        addresses_without_room: Vec::new(),
        userspace_path: Vec::new(),
        userspace_counters: Vec::new(),
        limits: None,
        quota: None,
        http: Vec::new(),
        warnings: Vec::new(),
        probes: Vec::new(),
        maps: status::Maps { bytes: by_name.values().sum(), by_name },
    })
}

/// An interface, if it is there: what the kernel says of it now, not what was asked for.
fn interface(datapath: &Datapath, index: u32, link: Option<&Interface>) -> Result<status::Interface> {
    let (fallback, remark) = datapath.links().notes(index);
    Ok(status::Interface {
        name: link.map_or_else(|| format!("index {index}"), |link| link.name.clone()),
        index,
        mode: link.and_then(|link| datapath.links().own_mode(link)),
        fallback,
        remark,
        up: link.is_some_and(|link| link.up),
        driver: link.map(|link| link.driver).unwrap_or_default(),
        xdp_transmit_errors: link.and_then(|link| Nic(&link.name).xdp_transmit_errors()),
        unsent_share: None,
        addresses: Vec::new(),
        stations: Vec::new(),
        idle: None,
        left_to_sockets: None,
        stations_without_room: 0,
        counters: status::name_counters(&*datapath.counters(index)?),
    })
}

fn show_reception(interface: &mut status::Interface, reception: &Reception) {
    interface.stations = reception.stations.iter().map(ToString::to_string).collect();
    interface.idle.clone_from(&reception.idle);
    interface.left_to_sockets.clone_from(&reception.trouble);
    interface.stations_without_room = reception.without_room;
}

/// What is there to see while no daemon runs; `None` if nothing is attached.
///
/// Who may not look at the maps may still ask the kernel whether any interface has an XDP program. Where none has, it
/// makes no difference what the maps are.
///
/// # Errors
///
/// Missing privileges, or pinned state of another layout version.
pub fn status_without_daemon(instance: &Instance) -> Result<Option<Status>, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
    let datapath = match Datapath::open(instance) {
        Ok(Some(datapath)) => datapath,
        Ok(None) => return Ok(None),
        Err(OpenError::NotAllowed(missing)) => {
            let links = runtime.block_on(async { Netlink::connect_to_ask()?.interfaces().await })?;
            let is_any_attached = links.iter().any(|link| link.xdp.is_some());
            return if is_any_attached { Err(OpenError::NotAllowed(missing)) } else { Ok(None) };
        }
        Err(error) => return Err(error),
    };
    let (links, addresses) = runtime.block_on(async {
        let netlink = Netlink::connect_to_ask()?;
        let indices: Vec<_> = datapath.interfaces().collect();
        Ok::<_, Error>((netlink.interfaces().await?, netlink.addresses(&indices).await?))
    })?;
    let mut status = observe(&datapath)?;
    for index in datapath.interfaces() {
        let link = links.iter().find(|link| link.index == index);
        let mut interface = interface(&datapath, index, link)?;
        interface.addresses = addresses.of(index).map(|address| address.to_string()).collect();
        if let Some(reception) = addresses.receptions.get(&index) {
            show_reception(&mut interface, reception);
        }
        status.interfaces.push(interface);
    }
    Ok(Some(status))
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}
