//! What there is to see: with a daemon and without one.

use std::collections::BTreeMap;

use super::Daemon;
use crate::clock::kernel::monotonic_ns;
use crate::datapath::Datapath;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::interfaces::Netlink;
use crate::peers::{Peers, System};
use crate::status::{self, Status};

impl Daemon {
    pub(super) fn status(&self) -> Result<Status> {
        let mut status = observe(&self.datapath)?;
        status.daemon = Some(status::Daemon {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            resident_bytes: resident_bytes(),
        });
        status.clock.source = Some("system".into());
        status.clock.steps = self.publisher.steps();
        if let Some(reason) = self.publisher.unsynchronised() {
            status.clock.reason = Some(reason.explain().into());
        }
        for (index, attached) in &self.attached {
            status.interfaces.push(status::Interface {
                name: attached.name.clone(),
                index: *index,
                mode: Some(attached.mode),
                fallback: attached.fallback.clone(),
                addresses: self.addresses.of(*index).map(|address| address.to_string()).collect(),
                counters: status::name_counters(&*self.datapath.counters(*index)?),
            });
        }
        for listening in &self.sockets.listening {
            status.userspace_path.push(status::UserspacePath {
                family: listening.family.label().into(),
                failure: listening.failure.clone(),
            });
        }
        status.limits = Some(self.limits_status()?);
        status.userspace_counters = status::name_counters(&*self.sockets.shared.counters());
        Ok(status)
    }

    /// The clock that is served. It is somebody else's work, so nothing is known of where it comes from.
    pub(super) fn peers(&self) -> Result<Peers> {
        let Some(state) = self.publisher.state() else {
            return Ok(Peers::default());
        };
        let now_ns = monotonic_ns()?;
        let clock = status::Clock::of(&state, now_ns);
        let system = System {
            synchronised: clock.synchronised,
            source: "system".into(),
            leap: clock.leap,
            stratum: clock.stratum,
            precision: clock.precision,
            root_delay_s: clock.root_delay_s,
            root_dispersion_s: clock.root_dispersion_s,
            reference_id: state.reference_id,
            reference: clock.reference,
            reference_time: state.reference_time.0,
            clock: state.time_at(now_ns).0,
            ..System::default()
        };
        Ok(Peers { system, peers: Vec::new() })
    }
}

/// What the maps alone tell.
fn observe(datapath: &Datapath) -> Result<Status> {
    let by_name: BTreeMap<_, _> =
        datapath.map_memory()?.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        daemon: None,
        clock: status::Clock::of(&datapath.clock(), monotonic_ns()?),
        interfaces: Vec::new(),
        userspace_path: Vec::new(),
        userspace_counters: Vec::new(),
        limits: None,
        maps: status::Maps { bytes: by_name.values().sum(), by_name },
    })
}

/// What is there to see while no daemon runs; `None` if nothing is attached.
///
/// # Errors
///
/// Missing privileges, or pinned state of another layout version.
pub fn status_without_daemon(instance: &Instance) -> Result<Option<Status>> {
    let Some(datapath) = Datapath::open(instance)? else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
    let (interfaces, addresses) = runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let indices: Vec<_> = datapath.interfaces().collect();
        Ok((netlink.interfaces().await?, netlink.addresses(&indices).await?))
    })?;
    let mut status = observe(&datapath)?;
    for index in datapath.interfaces() {
        let interface = interfaces.iter().find(|interface| interface.index == index);
        status.interfaces.push(status::Interface {
            name: interface.map_or_else(|| format!("index {index}"), |interface| interface.name.clone()),
            index,
            mode: interface.and_then(|interface| datapath.own_mode(interface)),
            fallback: None,
            addresses: addresses.of(index).map(|address| address.to_string()).collect(),
            counters: status::name_counters(&*datapath.counters(index)?),
        });
    }
    Ok(Some(status))
}

fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(PAGE)
}
