//! The daemon: one loop around the clock, the interfaces' addresses and the control socket.

mod access;
pub mod client;
mod interfaces;
mod limits;
mod listener;
mod live;
mod observer;
mod probes;
pub mod protocol;
pub mod publisher;
mod quota;
mod reload;
mod served;
mod service;
mod traffic;
mod unsent;
mod view;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use responder::layout::FAMILIES;
use responder::udp::NTP_PORT;
use responder::verdict::Family;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config::{Config, LeapFile};
use crate::daemon::publisher::Publisher;
use crate::error::{Code, Error, Result};
use crate::http::{self, Listeners};
use crate::instance::{Instance, Lock};
use crate::net::default_route::default_interface;
use crate::net::interfaces::{Absent, Interface, Netlink, named};
use crate::net::own_addresses::OwnAddresses;
use crate::serving::userspace::UserspacePath;
use crate::serving::xdp::{self, Datapath, ModeRequest};
use crate::sys::capabilities::{self, Capability};
use crate::sys::kernel_clock::Machine;
use crate::sys::{syscall_filter, time_namespace, use_one_heap};
use crate::timekeeping::timekeeper::{Event, Host, Timekeeper};
use crate::timekeeping::{pause_watch, step_watch};
use interfaces::{Interfaces, Job, Message, Names, Reply};
use listener::{Call, Written};
use observer::Observer;
use protocol::Request;
pub use quota::settle_without_daemon;
use service::Service;
use view::Run;
pub use view::status_without_daemon;

/// How often the clock is observed and published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

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
    /// The list of leap seconds that the configuration names.
    leap_file: Option<LeapFile>,
    datapath: Datapath,
    timekeeper: Timekeeper<Machine>,
    publisher: Publisher,
    /// When the clock is published again, if that was requested too soon after the last time.
    publish_at: Option<Instant>,
    sockets: UserspacePath,
    interfaces: Interfaces,
    limits: limits::Limits,
    observer: Observer,
    rounds: traffic::Rounds,
    probes: probes::Probes,
    metering: quota::Metering,
    /// How often the machine was found to have stood still.
    pauses: u64,
}

/// Runs a daemon until it is told to end.
///
/// # Errors
///
/// What kept it from starting; everything is then as it was.
pub fn run(options: &Options) -> Result<()> {
    use_one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        // These look names up and ask the local time daemon. The socket of one may be in a directory that is its own.
        .on_thread_start(|| capabilities::keep(&[Capability::CAP_DAC_OVERRIDE]))
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop"))?;
    let ended = runtime.block_on(async {
        let config = Config::load(options.config.as_deref())?;
        reload::tell_if_there_is_no_file(&config);
        let names = interfaces(options, &config)?;
        xdp::require_privileges(&options.instance)?;
        time_namespace::refuse_offset()?;
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
        daemon.end(options, lock).await?;
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
        let netlink = Netlink::connect_to_ask()?;
        let listeners = Listeners::open(&config.metrics)?;
        let present = netlink.interfaces().await?;
        let (mut wanted, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match named(&present, name) {
                // By two names it is still one.
                Ok(interface) if wanted.contains(interface) => {}
                Ok(interface) => wanted.push(interface.clone()),
                // A service serves what is there; who names interfaces at a prompt can name others.
                Err(absent) if !options.detach_at_end => missing.push(absent),
                Err(absent) => return Err(absent.into()),
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
        let leap_file = LeapFile::read(&config.clock)?;
        let mut datapath = Datapath::open_or_create(&options.instance, config.limits.table_entries)?;
        let metering = quota::Metering::start(&options.instance, &datapath)?;
        // A bpffs may have been mounted for it, and nothing else needs what is refused from now on.
        if let Err(error) = syscall_filter::refuse_unneeded() {
            warn!("{error}");
        }
        let taken_over = take_over(&mut datapath, &present, &mut wanted, missing);
        let is_first = datapath.interfaces().next().is_none();
        let begun = async {
            let interfaces =
                Interfaces::start(datapath.links().clone(), taken_over?, options.mode, own_addresses)?;
            let publisher = Publisher::inheriting(datapath.clock());
            let limits = limits::Limits::start(&datapath, &sockets.shared)?;
            let config_path = options.config.as_deref().unwrap_or(crate::config::DEFAULT_PATH.as_ref());
            let run = Run {
                started: Instant::now(),
                starts: options.instance.count_start(lock)?,
                config: std::path::absolute(config_path).unwrap_or_else(|_| config_path.to_owned()),
                listening: listeners.listening.clone(),
            };
            let probes = probes::Probes::new();
            let shared = Arc::clone(&sockets.shared);
            let observer = Observer::start(&options.instance, run, shared, probes.course.clone())?;
            if !listeners.is_empty() {
                let observer = observer.clone();
                http::start(listeners, move || Ok(Box::new(observer)))?;
            }
            for listening in sockets.ports.all() {
                if let Some(failure) = &listening.failure {
                    warn!("userspace path, {}: {failure}", listening.family.label());
                }
            }
            let mut daemon = Self {
                instance: options.instance.clone(),
                config,
                config_path: options.config.clone(),
                leap_file,
                datapath,
                timekeeper,
                publisher,
                publish_at: None,
                sockets,
                interfaces,
                limits,
                observer,
                rounds: traffic::Rounds::new(),
                probes,
                metering,
                pauses: 0,
            };
            daemon.begin(wanted, options).await?;
            daemon.datapath.end_take_over();
            daemon.lasting_warnings().iter().for_each(|warning| warn!("{warning}"));
            Ok(daemon)
        };
        let begun = begun.await;
        if begun.is_err() && is_first {
            xdp::remove_pins(&options.instance.pin_directory())?;
        }
        begun
    }

    async fn begin(&mut self, wanted: Vec<Interface>, options: &Options) -> Result<()> {
        self.publish_clock()?;
        self.configure_limits(&self.config.clone()).await?;
        self.datapath.remember_key();
        let (mode, replace) = (options.mode, options.replace);
        self.run_job(|done| Job::Begin { wanted, mode, replace, done }).await
    }

    /// Gives the thread of the interfaces a job and waits until it is done. Publishes the clock meanwhile. This is for
    /// the start and the end.
    async fn run_job(&mut self, job: impl FnOnce(Reply<()>) -> Job) -> Result<()> {
        let (reply, mut done) = oneshot::channel();
        self.interfaces.put(job(reply));
        let mut publish = interval(PUBLISH_INTERVAL);
        loop {
            let next_publication = self.next_publication();
            tokio::select! {
                // Messages that the thread sent before the job was done come first.
                biased;
                Some(message) = self.interfaces.message() => { self.handle_message(message); }
                done = &mut done => {
                    let ended = || Error::new(Code::Software, "the thread of the interfaces has ended");
                    return done.unwrap_or_else(|_| Err(ended()));
                }
                _ = publish.tick() => self.publish_or_tell(),
                () = wait_until(next_publication) => self.publish_waiting(),
            }
        }
    }

    async fn serve(&mut self, options: &Options, signals: Signals) -> Result<()> {
        let Signals { mut interrupt, mut terminate, mut hangup } = signals;
        let mut calls = listener::listen(&self.instance)?;
        let mut steps = step_watch::watch()?;
        let mut pauses = pause_watch::watch()?;
        let mut publish = interval(PUBLISH_INTERVAL);
        publish.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The loop writes maps. All other things that need a privilege are done, or are for other threads.
        capabilities::keep(&[Capability::CAP_BPF, Capability::CAP_SYS_TIME]);
        let mut may_change_clock = true;
        let mut live = live::StatusLine::new(options.detach_at_end);
        let mut service = Service::ready();

        loop {
            let next_publication = self.next_publication();
            tokio::select! {
                _ = publish.tick() => {
                    self.publish_or_tell();
                    self.publish_port(self.sockets.ports.ours_until_ns());
                    service.alive(self.in_a_line());
                    crate::log::tell_repeats();
                    self.observer.report(self.report());
                    self.look_at_traffic();
                    if may_change_clock && !self.timekeeper.changes_clock() {
                        capabilities::give_up(Capability::CAP_SYS_TIME);
                        may_change_clock = false;
                    }
                }
                () = wait_until(next_publication) => self.publish_waiting(),
                Some(()) = steps.recv() => self.publish_or_tell(),
                Some(pause) = pauses.recv() => {
                    self.pauses += 1;
                    self.timekeeper.paused(pause);
                    self.publish_or_tell();
                }
                event = self.timekeeper.event() => self.handle_event(event),
                Some(message) = self.interfaces.message() => {
                    if let Some(last_answer) = self.handle_message(message) {
                        Service::stopping();
                        // The runtime ends with this loop, and the task that writes the answer with the runtime.
                        last_answer.await;
                        return Ok(());
                    }
                }
                Some(call) = calls.recv() => self.handle(call),
                Some(done) = self.limits.done() => self.lists_changed(done),
                status = live.next(|| self.observer.ask()) => live.show(status),
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

    async fn end(mut self, options: &Options, lock: Lock) -> Result<()> {
        // Who takes the port next receives all that comes to it.
        self.publish_port([0; FAMILIES]);
        let detach = options.detach_at_end;
        let detached = self.run_job(|done| Job::End { detach, done }).await;
        // This comes after the last publication of the loop, because publishing steers the clock.
        if let Err(error) = self.end_steering().await {
            error!("{error}");
        }
        self.finish_quota();
        detached?;
        if self.interfaces.names.attached.is_empty() {
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

    /// Lets go of the kernel's clock, which ends a slew of it. The program serves on to the horizon: the line that it
    /// serves by has to be true before, during and after the change.
    async fn end_steering(&mut self) -> Result<()> {
        let change = self.timekeeper.change_at_end();
        self.publisher.allow_for(change, &mut self.datapath, &self.sockets.shared)?;
        self.wait_for_flips().await?;
        self.timekeeper.end()?;
        self.timekeeper.look()?;
        for change in self.timekeeper.take_rate_changes() {
            self.publisher.rate_changed(&change, &mut self.datapath)?;
        }
        let observation = self.timekeeper.state()?;
        self.publisher.publish(observation, &mut self.datapath, &self.sockets.shared)?;
        self.wait_for_flips().await
    }

    /// Waits until the program goes by what was published last.
    async fn wait_for_flips(&mut self) -> Result<()> {
        while let Some(due) = self.datapath.next_flip() {
            tokio::time::sleep_until(due.into()).await;
            self.datapath.publish_waiting()?;
        }
        Ok(())
    }

    /// Answers a command, or passes it to the thread that carries it out.
    fn handle(&mut self, call: Call) {
        let Some(Call { request, caller }) = self.limits.take(call) else { return };
        match request {
            Request::Status => {
                self.observer.report(self.report());
                let observer = self.observer.clone();
                tokio::spawn(async move { caller.answer(observer.status().await) });
            }
            Request::Peers => {
                caller.answer(self.peers());
            }
            Request::Top => {
                caller.answer(Ok(self.top()));
            }
            Request::Source { address } => {
                caller.answer(Ok(self.source_traffic(address)));
            }
            Request::Probes => {
                caller.answer(Ok(self.probe_rounds()));
            }
            Request::Course => {
                caller.answer(Ok(self.probes.course.view()));
            }
            Request::Attach { interfaces: names, mode, replace } => {
                self.interfaces.put(Job::Attach { names, mode, replace, caller });
            }
            Request::Detach { interfaces: names } => self.interfaces.put(Job::Detach { names, caller }),
            Request::SetAccess { .. } | Request::RemoveAccess { .. } | Request::ListAccess => {
                caller.answer::<()>(Err(Error::new(Code::Software, "the lists' thread was not asked")));
            }
        }
    }

    /// Handles a message of the thread of the interfaces. When a command has detached the last interface, the daemon
    /// ends, and the result is what to wait for before.
    fn handle_message(&mut self, message: Message) -> Option<Written> {
        match message {
            Message::Own(addresses) => {
                let own = OwnAddresses::new(&addresses, &self.config.serve);
                if let Err(error) = self.timekeeper.set_own_addresses(&own) {
                    error!("{error}");
                }
                self.interfaces.own_addresses = addresses;
            }
            Message::Serve(addresses, reply) => self.serve_addresses(addresses, reply),
            Message::TakeSlot(interface, reply) => {
                self.settle_quota();
                let _ended = reply.send(self.datapath.take_slot(&interface));
            }
            Message::FreeSlot(interface, reply) => {
                self.settle_quota();
                let _ended = reply.send(self.datapath.free_slot(interface));
            }
            Message::Names(names) => self.interfaces.names = names,
            Message::Answer { caller, answer, detached } => {
                let written = caller.answer(answer);
                return (detached && self.interfaces.names.is_empty()).then_some(written);
            }
        }
        None
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

    /// Publishes the clock, or logs why that failed: the program stops serving an old line at its horizon. If the last
    /// publication was too recent, this one follows a few milliseconds later, because a line that allows for steering
    /// has to be in force before the clock is steered.
    fn publish_or_tell(&mut self) {
        self.publish_at = self.datapath.clock_blocked_until();
        if self.publish_at.is_some() {
            return;
        }
        if let Err(error) = self.publish_clock() {
            error!("cannot publish the clock; answers will say so at the horizon: {error}");
        }
        self.confirm_served();
    }

    /// Tells the program until when it may drop what only others on this host would answer or wait for.
    fn publish_port(&mut self, ours_until_ns: [u64; FAMILIES]) {
        if let Err(error) = self.datapath.publish_port_ours_until(ours_until_ns) {
            error!("cannot publish who has port {NTP_PORT}: {error}");
        }
    }

    /// When something is to be published that came too soon after the last publication.
    fn next_publication(&self) -> Option<Instant> {
        self.datapath.next_flip().into_iter().chain(self.publish_at).min()
    }

    /// Publishes what came too soon after the last publication.
    fn publish_waiting(&mut self) {
        if let Err(error) = self.datapath.publish_waiting() {
            error!("cannot publish clock or addresses: {error}");
            if let Some(reply) = self.interfaces.serving.take() {
                let _ended = reply.send(Err(error));
            }
        }
        self.confirm_served();
        if self.publish_at.is_some_and(|at| at <= Instant::now()) {
            self.publish_or_tell();
        }
    }

    /// Replies to the thread of the interfaces when the addresses are in force.
    fn confirm_served(&mut self) {
        if self.datapath.serves_what_was_published()
            && let Some(reply) = self.interfaces.serving.take()
        {
            let _ended = reply.send(Ok(()));
        }
    }

    /// For `systemctl status`.
    fn in_a_line(&self) -> String {
        let names: Vec<_> = self.interfaces.names.attached.values().map(String::as_str).collect();
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
        match self.timekeeper.handle(event) {
            Ok(()) if synchronised && !self.timekeeper.leap_has_ended() => {}
            Ok(()) => self.publish_or_tell(),
            Err(error) => error!("cannot follow the upstreams: {error}"),
        }
    }
}

/// Waits until a time, or for ever if there is none.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Takes over what an earlier daemon of this instance left behind. Interfaces that are still attached are added to
/// `wanted`, so that this build's program replaces the earlier one. What is left of interfaces that are gone is
/// removed.
///
/// # Errors
///
/// There is no interface to attach to, or the remains cannot be removed.
fn take_over(
    datapath: &mut Datapath,
    present: &[Interface],
    wanted: &mut Vec<Interface>,
    missing: Vec<Absent>,
) -> Result<Names> {
    let mut names = Names::default();
    let known: Vec<_> = datapath.interfaces().collect();
    for index in known {
        let own = present.iter().find(|interface| interface.index == index);
        let Some(own) = own.filter(|interface| datapath.links().own_mode(interface).is_some()) else {
            datapath.links().detach(index)?;
            datapath.free_slot(index)?;
            continue;
        };
        names.attached.insert(index, own.name.clone());
        if !wanted.contains(own) {
            wanted.push(own.clone());
        }
    }
    for absent in missing {
        if wanted.is_empty() {
            return Err(absent.into());
        }
        warn!("{absent}: it is attached when it comes; the others are served");
        names.lost.push(absent.name);
    }
    Ok(names)
}

/// What the timekeeper has to know of this host. Another time daemon may be asked over the families whose port 123 is
/// not ours.
fn host(instance: &Instance, sockets: &UserspacePath, own: OwnAddresses) -> Host {
    let others = sockets.ports.all().into_iter().filter(|listening| listening.failure.is_some());
    let loopback = |family| match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let local_daemons = others.map(|listening| SocketAddr::new(loopback(listening.family), NTP_PORT));
    Host { own, local_daemons: local_daemons.collect(), state_directory: instance.state_directory() }
}
