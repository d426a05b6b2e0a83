//! The daemon: one loop around the clock, the interfaces' addresses and the control socket.

mod access;
mod attaching;
mod limits;
mod listener;
mod live;
mod observer;
pub mod protocol;
pub mod publisher;
mod reload;
mod service;
mod traffic;
mod view;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use responder::ServedTable;
use responder::udp::NTP_PORT;
use responder::verdict::Family;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::daemon::publisher::Publisher;
use crate::error::{Code, Error, Result};
use crate::http::{Listeners, Listening};
use crate::instance::{Instance, Lock};
use crate::net::default_route::default_interface;
use crate::net::interfaces::{Addresses, Interface, Netlink};
use crate::net::own_addresses::OwnAddresses;
use crate::serving::userspace::UserspacePath;
use crate::serving::xdp::{self, Datapath, ModeRequest};
use crate::sys::kernel_clock::Machine;
use crate::timekeeping::step_watch;
use crate::timekeeping::timekeeper::{Event, Host, Timekeeper};
use listener::Call;
use protocol::{Request, Response};
use service::Service;
pub use view::status_without_daemon;

/// How often the clock is observed and published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);
/// Netlink drops messages under memory pressure: addresses are looked at this often anyway.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(30);

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which one.
    pub instance: Instance,
    /// Its file, or the default one.
    pub config: Option<PathBuf>,
    /// To attach to; empty: those of the file.
    pub interfaces: Vec<String>,
    /// In which mode.
    pub mode: ModeRequest,
    /// In place of somebody else's program.
    pub replace: bool,
    /// Whether the program goes when the daemon ends. A service leaves it, so that a restart loses nothing.
    pub detach_at_end: bool,
}

/// What is attached, beside what the kernel knows of it.
struct Attached {
    name: String,
    mode: ModeRequest,
}

/// An interface that went away, or is not there yet: it is attached when it comes.
struct Lost {
    mode: ModeRequest,
    /// The index of one of this name that refused the program: it is not asked again.
    refused: Option<u32>,
}

impl Lost {
    const fn of(mode: ModeRequest) -> Self {
        Self { mode, refused: None }
    }
}

/// Caught from before there is anything to leave behind. One that comes during the start waits for its end.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind, name| unix::signal(kind).map_err(Error::because(Code::Os, name));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt(), "SIGINT")?,
            terminate: catch(SignalKind::terminate(), "SIGTERM")?,
            hangup: catch(SignalKind::hangup(), "SIGHUP")?,
        })
    }
}

struct Daemon {
    instance: Instance,
    config: Config,
    config_path: Option<PathBuf>,
    datapath: Datapath,
    netlink: Netlink,
    timekeeper: Timekeeper<Machine>,
    publisher: Publisher,
    sockets: UserspacePath,
    attached: BTreeMap<u32, Attached>,
    /// By their names.
    lost: BTreeMap<String, Lost>,
    addresses: Addresses,
    /// Of all interfaces, whether they are attached or not.
    own_addresses: Addresses,
    served: Option<Box<ServedTable>>,
    limits: limits::Limits,
    http: Listening,
    reports: observer::Reports,
    rounds: traffic::Rounds,
    started: Instant,
    starts: u64,
    told: Option<String>,
}

/// Runs a daemon until it is told to end.
///
/// # Errors
///
/// What kept it from starting; everything is then as it was.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
    let ended = runtime.block_on(async {
        let config = Config::load(options.config.as_deref())?;
        let names = interfaces(options, &config)?;
        xdp::require_privileges(&options.instance)?;
        let signals = Signals::catch()?;
        let lock = options.instance.lock()?;
        let mut daemon = match Daemon::start(options, config, &names, &lock).await {
            Ok(daemon) => daemon,
            Err(error) => {
                options.instance.clean_up(lock);
                return Err(error);
            }
        };
        let ended = daemon.serve(options, signals).await;
        daemon.end(options, lock)?;
        ended
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    ended
}

/// Those of the command line, else those of the file, else that of the default route.
fn interfaces(options: &Options, config: &Config) -> Result<Vec<String>> {
    for named in [&options.interfaces, &config.interfaces] {
        if !named.is_empty() {
            return Ok(named.clone());
        }
    }
    let name = default_interface().ok_or_else(|| {
        Error::new(
            Code::Unavailable,
            "no interface is configured, and there is no default route to take one from",
        )
        .remedy(format_args!(
            "add `interfaces = [\"eth0\"]` to {}, or name one: `{} attach eth0`",
            options.config.as_deref().unwrap_or(crate::config::DEFAULT_PATH.as_ref()).display(),
            options.instance.command()
        ))
    })?;
    info!("no interface is configured: {name} has the default route");
    Ok(vec![name])
}

impl Daemon {
    /// Looks at everything before it changes anything, then publishes clock and addresses before the first
    /// program is attached: there is no moment at which a request meets half a server.
    async fn start(options: &Options, config: Config, names: &[String], lock: &Lock) -> Result<Self> {
        let netlink = Netlink::connect()?;
        let listeners = Listeners::open(&config.metrics)?;
        let (mut wanted, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match netlink.interface(name).await {
                Ok(interface) => wanted.push(interface),
                // A service serves what is there; who names interfaces at a prompt can name others.
                Err(error) if error.code == Code::NoInput && !options.detach_at_end => {
                    missing.push((name.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        for warning in config.warnings() {
            warn!("{warning}");
        }
        let own_addresses = netlink.own_addresses().await?;
        let own = OwnAddresses::new(&own_addresses, &config.serve);
        let sockets = UserspacePath::start()?;
        let host = host(&options.instance, &sockets, own);
        let timekeeper = Timekeeper::begin(Machine, &config, &host).await?;
        let datapath = Datapath::open_or_create(&options.instance, config.limits.table_entries)?;
        let publisher = Publisher::inheriting(datapath.clock());
        let http = listeners.listening.clone();
        let limits = limits::Limits::start(&datapath, &sockets.shared)?;
        let mut daemon = Self {
            instance: options.instance.clone(),
            config,
            config_path: options.config.clone(),
            datapath,
            netlink,
            timekeeper,
            publisher,
            reports: observer::start(listeners, &options.instance, Arc::clone(&sockets.shared))?,
            sockets,
            attached: BTreeMap::new(),
            lost: missing.iter().map(|(name, _)| (name.clone(), Lost::of(options.mode))).collect(),
            addresses: Addresses::default(),
            own_addresses,
            served: None,
            limits,
            http,
            rounds: traffic::Rounds::new(),
            started: Instant::now(),
            starts: options.instance.count_start(lock)?,
            told: None,
        };
        for listening in &daemon.sockets.listening {
            if let Some(failure) = &listening.failure {
                warn!("userspace path, {}: {failure}", listening.family.label());
            }
        }
        let started = daemon.take_over(wanted, missing, options).await;
        if started.is_err() && daemon.attached.is_empty() {
            xdp::remove_pins(&options.instance.pin_directory())?;
        }
        started.map(|()| daemon)
    }
    async fn take_over(
        &mut self,
        mut wanted: Vec<Interface>,
        missing: Vec<(String, Error)>,
        options: &Options,
    ) -> Result<()> {
        // Interfaces that an earlier daemon of this instance left attached are served on.
        for interface in self.netlink.interfaces().await? {
            let known = self.datapath.interfaces().any(|index| index == interface.index);
            if known && self.datapath.own_mode(&interface).is_some() {
                let attached = Attached { name: interface.name.clone(), mode: options.mode };
                self.attached.insert(interface.index, attached);
                if !wanted.iter().any(|wanted| wanted.index == interface.index) {
                    wanted.push(interface);
                }
            }
        }
        let gone: Vec<_> =
            self.datapath.interfaces().filter(|index| !self.attached.contains_key(index)).collect();
        for index in gone {
            self.datapath.detach(index)?;
        }
        for (_, error) in missing {
            if wanted.is_empty() {
                return Err(error);
            }
            warn!("{}: it is attached when it comes; the others are served", error.what);
        }
        self.publish_clock()?;
        self.configure_limits(&self.config.clone()).await?;
        self.attach(wanted, options.mode, options.replace).await.map(|_messages| ())
    }

    async fn serve(&mut self, options: &Options, signals: Signals) -> Result<()> {
        let Signals { mut interrupt, mut terminate, mut hangup } = signals;
        let mut calls = listener::listen(&self.instance)?;
        let mut steps = step_watch::watch()?;
        let mut publish = interval(PUBLISH_INTERVAL);
        publish.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(ADDRESS_INTERVAL);
        let mut live = live::StatusLine::new(options.detach_at_end);
        let mut service = Service::ready();

        loop {
            tokio::select! {
                _ = publish.tick() => {
                    self.publish_or_tell();
                    service.alive(self.in_a_line());
                    crate::log::tell_repeats();
                    self.reports.send_replace(Some(Arc::new(self.report())));
                    self.look_at_traffic();
                }
                Some(()) = steps.recv() => self.publish_or_tell(),
                event = self.timekeeper.event() => self.handle_event(event),
                () = self.netlink.changed() => self.follow_interfaces().await,
                _ = look.tick() => self.follow_interfaces().await,
                Some(Call { request, reply, written }) = calls.recv() => {
                    let Some((request, reply)) = self.limits.take(request, reply) else { continue };
                    let detaches = matches!(request, Request::Detach { .. });
                    let response = match self.handle(request).await {
                        Ok(value) => Response::Ok(value),
                        Err(error) => Response::Error(error),
                    };
                    let _asker_is_gone = reply.send(response);
                    if detaches && self.attached.is_empty() && self.lost.is_empty() {
                        Service::stopping();
                        // The runtime ends with this loop, and the task that writes the answer with the runtime.
                        written.await;
                        return Ok(());
                    }
                }
                Some(done) = self.limits.done() => self.lists_changed(done).await,
                () = live.due() => live.show(self.status().await),
                _ = hangup.recv() => {
                    Service::reloading();
                    self.reload();
                }
                _ = interrupt.recv() => {
                    live.finish();
                    info!("{}: ending", Signal::SIGINT);
                    return Ok(());
                }
                _ = terminate.recv() => {
                    live.finish();
                    Service::stopping();
                    info!("{}: ending", Signal::SIGTERM);
                    return Ok(());
                }
            }
        }
    }

    fn end(mut self, options: &Options, lock: Lock) -> Result<()> {
        if let Err(error) = self.timekeeper.end() {
            error!("{error}");
        }
        let nothing_left = self.attached.is_empty();
        if options.detach_at_end || nothing_left {
            let indices: Vec<_> = self.attached.keys().copied().collect();
            for index in indices {
                self.detach_one(index)?;
            }
            xdp::remove_pins(&self.instance.pin_directory())?;
            self.instance.clean_up(lock);
        } else {
            info!(
                "the program stays attached and answers until the horizon ({} ms), then says that it is not \
                 synchronised; `{} detach` removes it",
                self.config.clock.horizon_ms,
                self.instance.command()
            );
            let _not_there = std::fs::remove_file(self.instance.socket());
        }
        Ok(())
    }

    async fn handle(&mut self, request: Request) -> Result<serde_json::Value> {
        let json = |value: serde_json::Result<_>| value.map_err(Error::because(Code::Software, "answer"));
        match request {
            Request::Status => json(serde_json::to_value(self.status().await?)),
            Request::Peers => json(serde_json::to_value(self.peers()?)),
            Request::Attach { interfaces, mode, replace } => {
                let mut wanted = Vec::new();
                for name in &interfaces {
                    wanted.push(self.netlink.interface(name).await?);
                }
                json(serde_json::to_value(self.attach(wanted, mode, replace).await?))
            }
            Request::Detach { interfaces } => json(serde_json::to_value(self.detach(&interfaces)?)),
            Request::Top => json(serde_json::to_value(self.top())),
            Request::SetAccess { .. } | Request::RemoveAccess { .. } | Request::ListAccess => {
                Err(Error::new(Code::Software, "the lists' thread was not asked"))
            }
        }
    }

    /// Follows the interfaces: their addresses, names, and whether they are there at all.
    async fn follow_interfaces(&mut self) {
        if let Err(error) = self.try_follow_interfaces().await {
            error!("{error}");
        }
    }

    async fn try_follow_interfaces(&mut self) -> Result<()> {
        // First of all: from the moment on at which an upstream's address is ours, it is this server that answers.
        self.own_addresses = self.netlink.own_addresses().await?;
        self.timekeeper.set_own_addresses(&OwnAddresses::new(&self.own_addresses, &self.config.serve))?;
        let present = self.netlink.interfaces().await?;
        let gone: Vec<_> = self
            .attached
            .keys()
            .copied()
            .filter(|index| !present.iter().any(|interface| interface.index == *index))
            .collect();
        for index in gone {
            if let Some(attached) = self.attached.remove(&index) {
                warn!(
                    "{} is gone, and the program with it; it is attached again when it comes back",
                    attached.name
                );
                self.lost.insert(attached.name, Lost::of(attached.mode));
            }
            self.datapath.detach(index)?;
        }
        for interface in present {
            let Some(attached) = self.attached.get_mut(&interface.index) else {
                self.attach_lost(interface).await;
                continue;
            };
            let mode = self.datapath.own_mode(&interface);
            if let Some(Err(error)) = mode.map(|mode| self.datapath.keep_tags(&interface, mode)) {
                error!("{}: {error}", interface.name);
            }
            if attached.name != interface.name {
                info!("{} is called {} now", attached.name, interface.name);
                attached.name = interface.name;
            }
        }
        let indices: Vec<_> = self.attached.keys().copied().collect();
        self.addresses = self.netlink.addresses(&indices).await?;
        self.publish_served()
    }

    fn publish_served(&mut self) -> Result<()> {
        let table = Box::new(self.addresses.table(&self.config.serve)?);
        if self.served.as_ref() != Some(&table) {
            self.datapath.publish_served(&table)?;
            self.served = Some(table);
        }
        Ok(())
    }

    fn publish_clock(&mut self) -> Result<()> {
        self.timekeeper.look()?;
        let change = self.timekeeper.before_steering();
        self.publisher.allow_for(change, &mut self.datapath, &self.sockets.shared)?;
        self.timekeeper.steer()?;
        for change in self.timekeeper.take_rate_changes() {
            self.publisher.rate_changed(&change, &mut self.datapath)?;
        }
        let observation = self.timekeeper.state()?;
        self.publisher.publish(observation, &mut self.datapath, &self.sockets.shared)?;
        self.sockets.shared.publish_peers(self.peers()?);
        Ok(())
    }

    /// A clock that cannot be published is not served on: the horizon sees to that.
    fn publish_or_tell(&mut self) {
        let published = self.publish_clock();
        self.tell("cannot publish the clock; answers will say so at the horizon", published);
    }

    /// For `systemctl status`.
    fn in_a_line(&self) -> String {
        let names: Vec<_> = self.attached.values().map(|attached| attached.name.as_str()).collect();
        match self.publisher.unsynchronised() {
            None => format!("Serving synchronised time on {}", names.join(", ")),
            Some(reason) => {
                format!("Answering on {} that it is not synchronised: {}", names.join(", "), reason.explain())
            }
        }
    }

    /// What the upstreams said is served at the next publication, and at once what changes the answers' kind.
    fn handle_event(&mut self, event: Event) {
        let synchronised = self.publisher.unsynchronised().is_none();
        let handled = self.timekeeper.handle(event);
        if handled.is_ok() && (!synchronised || self.timekeeper.leap_has_ended()) {
            self.publish_or_tell();
        }
        self.tell("cannot follow the upstreams", handled);
    }

    /// Logs an error of what is done all the time, once until it is another one.
    fn tell(&mut self, what: &'static str, result: Result<()>) {
        let Err(error) = result else { return };
        let told = format!("{what}: {error}");
        if self.told.as_ref() != Some(&told) {
            error!("{told}");
            self.told = Some(told);
        }
    }
}

/// What the timekeeper has to know of this host. Another time daemon may be asked over the families whose port 123 is
/// not ours.
fn host(instance: &Instance, sockets: &UserspacePath, own: OwnAddresses) -> Host {
    let others = sockets.listening.iter().filter(|listening| listening.failure.is_some());
    let loopback = |family| match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let local_daemons = others.map(|listening| SocketAddr::new(loopback(listening.family), NTP_PORT));
    Host { own, local_daemons: local_daemons.collect(), state_directory: instance.state_directory() }
}
