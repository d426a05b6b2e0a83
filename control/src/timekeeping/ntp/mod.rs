//! The daemon as an NTP client: it asks the configured upstreams, and what they answer goes to the
//! [`crate::discipline`].
//!
//! [`Upstreams`] is driven by the daemon's loop: it waits for [`Upstreams::event`] and has it handled. Requests
//! and look-ups of names run beside the loop, one of each at most for an upstream, and come back as events.

pub mod exchange;
mod peer;
mod sample;
mod stamp;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::{Kiss, Reject, reference_id};
use responder::ClockState;
use tokio::sync::mpsc;
use tracing::warn;

use crate::config::{ClockConfig, Config};
use crate::discipline::{Line, LocalTime};
use crate::error::{Code, Error, Result};
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources::{Peers, System};
use crate::sys::kernel_clock::{KernelClock, monotonic_ns, precision};
use crate::timekeeping::disciplined::DisciplinedClock;
use crate::timekeeping::drift::DriftFile;
use crate::timekeeping::system_clock::Observation;
use exchange::{Exchange, Outcome, exchange, has_route, keep_stamping};
use peer::{Peer, Readdressed};
use sample::sample;

/// How long an answer is waited for: less than the interval of a burst, so that one request at a time is under way.
const ANSWER: Duration = Duration::from_millis(1900);
/// How often the drift file is written.
const DRIFT_INTERVAL: Duration = Duration::from_hours(1);
/// Sooner than this nothing is waited for: the loop shall not spin.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// Something that came of a request, or that it is time to ask.
#[derive(Debug)]
pub enum Event {
    /// Upstreams are due, or a leap second.
    Due,
    /// A name was looked up.
    Resolved {
        /// Whose.
        association: u16,
        /// To these addresses.
        result: std::result::Result<Vec<SocketAddr>, String>,
    },
    /// A request has ended.
    Exchanged {
        /// Whose.
        association: u16,
        /// Which was asked.
        server: SocketAddr,
        /// How.
        exchange: Exchange,
    },
}

/// The upstreams, and the clock that is made of them.
pub struct Upstreams<K> {
    clock: DisciplinedClock<K>,
    peers: Vec<Peer>,
    own: OwnAddresses,
    next_association: u16,
    max_distance_s: f64,
    sender: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    drift: DriftFile,
    drift_stored: Instant,
    _stamping: Option<std::net::UdpSocket>,
}

impl<K: KernelClock> Upstreams<K> {
    /// Begins with these upstreams, on a host with these addresses; none has been asked yet.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read or, if that is wanted, not be steered; the list of leap seconds is wrong.
    pub fn new(kernel: K, config: &Config, own: OwnAddresses, drift: DriftFile) -> Result<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(Error::because(Code::Os, "no random numbers"))?;
        let seed = u64::from_ne_bytes(seed);
        let clock = DisciplinedClock::new(kernel, precision()?, &config.clock, drift.load(), seed)?;
        let (sender, inbox) = mpsc::channel(64);
        let mut upstreams = Self {
            clock,
            peers: Vec::new(),
            own,
            next_association: 1,
            max_distance_s: 0.0,
            sender,
            inbox,
            drift,
            drift_stored: Instant::now(),
            _stamping: keep_stamping().ok(),
        };
        upstreams.take_over(config)?;
        Ok(upstreams)
    }

    /// Puts another configuration in force: all of it or nothing. Upstreams that did not change go on undisturbed.
    ///
    /// # Errors
    ///
    /// As [`Upstreams::new`].
    pub fn configure(&mut self, config: &Config) -> Result<()> {
        self.clock.configure(&config.clock)?;
        self.take_over(config)
    }

    /// Goes by other addresses of this host from now on: an upstream that turns out to be this host is dropped at
    /// once, and comes back when the address is gone.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn set_own_addresses(&mut self, own: OwnAddresses) -> Result<()> {
        if self.own == own {
            return Ok(());
        }
        self.own = own;
        (0..self.peers.len()).try_for_each(|place| self.readdress(place))
    }

    fn readdress(&mut self, place: usize) -> Result<()> {
        let change = self.peers[place].readdress(&self.own);
        self.apply(place, change)
    }

    /// One without an address is no source: nobody waits for its vote. With another address it is another server, and
    /// nothing that is known of the one before holds for it.
    fn apply(&mut self, place: usize, change: Readdressed) -> Result<()> {
        let peer = &mut self.peers[place];
        if change == Readdressed::Kept {
            return Ok(());
        }
        if let Some(index) = peer.index.take() {
            self.clock.discipline_mut().retire(index);
        }
        if let Readdressed::Taken(source) = change {
            peer.index = Some(self.clock.add(source)?);
        }
        Ok(())
    }

    fn take_over(&mut self, config: &Config) -> Result<()> {
        self.max_distance_s = Duration::from_millis(config.clock.max_distance_ms).as_secs_f64();
        let mut before = std::mem::take(&mut self.peers);
        for upstream in &config.upstream {
            let kept = before.iter().position(|peer| peer.config == *upstream);
            if let Some(place) = kept {
                self.peers.push(before.swap_remove(place));
                continue;
            }
            let association = self.next_association;
            self.next_association = self.next_association.checked_add(1).unwrap_or(1);
            let mut peer = Peer::new(association, upstream.clone());
            if peer.is_name() {
                peer.index = Some(self.clock.add(upstream.source())?);
            }
            self.peers.push(peer);
            self.readdress(self.peers.len() - 1)?;
        }
        for index in before.into_iter().filter_map(|gone| gone.index) {
            self.clock.discipline_mut().retire(index);
        }
        Ok(())
    }

    /// Waits for something to handle. Nothing is lost if the wait is given up.
    pub async fn event(&mut self) -> Event {
        let sleep = self.until_due();
        tokio::select! {
            Some(event) = self.inbox.recv() => event,
            () = tokio::time::sleep(sleep) => Event::Due,
        }
    }

    fn until_due(&self) -> Duration {
        let wakeup = self.clock.discipline().next_wakeup().map(|at| {
            let now = monotonic_ns().unwrap_or_default().cast_signed();
            Duration::from_nanos(u64::try_from(at.as_ns().saturating_sub(now)).unwrap_or(0))
        });
        let look_up = self.peers.iter().filter_map(Peer::next_look_up).min();
        let look_up = look_up.map(|at| at.saturating_duration_since(Instant::now()));
        wakeup.into_iter().chain(look_up).min().unwrap_or(Duration::MAX).max(LEAST_SLEEP)
    }

    /// Does what an event asks for.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read.
    pub fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Due => self.ask()?,
            Event::Resolved { association, result } => self.resolved(association, result)?,
            Event::Exchanged { association, server, exchange } => {
                self.exchanged(association, server, exchange)?;
            }
        }
        if self.drift_stored.elapsed() >= DRIFT_INTERVAL {
            self.store_drift();
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<()> {
        let due = self.clock.due()?;
        for peer in &mut self.peers {
            if peer.wants_address() {
                peer.resolving = true;
                tokio::spawn(resolve(
                    peer.config.address.clone(),
                    peer.config.port,
                    peer.association,
                    self.sender.clone(),
                ));
            }
            let Some(server) = peer.server.filter(|_| peer.is_due(&due) && !peer.asking) else {
                continue;
            };
            peer.asked();
            let (association, sender) = (peer.association, self.sender.clone());
            tokio::spawn(async move {
                let exchange = exchange(server, ANSWER).await;
                let _ending = sender.send(Event::Exchanged { association, server, exchange }).await;
            });
        }
        Ok(())
    }

    fn resolved(
        &mut self,
        association: u16,
        result: std::result::Result<Vec<SocketAddr>, String>,
    ) -> Result<()> {
        let others = self.peers.iter().filter(|peer| peer.association != association);
        let taken: Vec<_> = others.filter_map(|peer| peer.server).collect();
        let Some(place) = self.peers.iter().position(|peer| peer.association == association) else {
            return Ok(());
        };
        let change = self.peers[place].resolved(result, &taken, &self.own, has_route);
        self.apply(place, change)
    }

    fn exchanged(&mut self, association: u16, server: SocketAddr, exchange: Exchange) -> Result<()> {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.association == association) else {
            return Ok(());
        };
        peer.asking = false;
        let Some(index) = peer.index.filter(|_| peer.server == Some(server)) else {
            return Ok(());
        };
        peer.local = exchange.local.or(peer.local);
        for (reject, count) in exchange.refused {
            peer.refused(reject, count);
        }
        let (time, times) = match exchange.outcome {
            Outcome::Time(time, times) => (time, times),
            Outcome::Kiss(kiss) => {
                peer.kissed(kiss);
                let now = self.clock.look()?;
                match kiss {
                    Kiss::Rate => self.clock.discipline_mut().slow_down(index, now),
                    Kiss::Deny | Kiss::Restrict => self.clock.discipline_mut().deny(index),
                    Kiss::Other(_) => self.clock.discipline_mut().unfit(index, now),
                }
                return Ok(());
            }
            Outcome::Rejected(reject) => {
                peer.refused(reject, 1);
                return Ok(());
            }
            Outcome::Failed(error) => {
                peer.in_trouble(error.to_string());
                return Ok(());
            }
            Outcome::Silence => return Ok(()),
        };
        // What the routing table takes for its own need not be the address of an interface.
        let is_self = exchange.local.is_some_and(|local| local.to_canonical() == server.ip().to_canonical());
        let usable = if is_self {
            Err(Reject::Loop)
        } else {
            time.usable(self.max_distance_s, self.own.reference_ids())
        };
        match usable.and_then(|()| sample(&time, &times)) {
            Ok(sample) => {
                peer.answered(time, sample.at);
                self.clock.sample(index, &sample)?;
            }
            Err(reject) => {
                peer.refused(reject, 1);
                if reject != Reject::Residence {
                    let now = self.clock.look()?;
                    self.clock.discipline_mut().unfit(index, now);
                }
            }
        }
        Ok(())
    }

    /// What there is to serve now.
    ///
    /// # Errors
    ///
    /// The clocks cannot be read or steered.
    pub fn observe(&mut self, config: &ClockConfig) -> Result<Observation> {
        let peers = &self.peers;
        self.clock.observe(config, |index| {
            let peer = peers.iter().find(|peer| peer.index == Some(index));
            Some(reference_id(peer?.server?.ip()))
        })
    }

    /// What there is to see.
    #[must_use]
    pub fn peers(&self, state: Option<&ClockState>) -> Peers {
        let now_ns = monotonic_ns().unwrap_or_default();
        let now = LocalTime::from_ns(now_ns.cast_signed());
        let discipline = self.clock.discipline();
        let line = discipline.line(now);
        let reference = line.as_ref().map(|line| line.reference);
        let peers = self.peers.iter().map(|peer| {
            let mut view = peer.view(now);
            match peer.index {
                Some(index) => view.describe(&discipline.report(index, now), reference == Some(index)),
                None => view.standing = "it is not asked".into(),
            }
            view
        });
        let peers: Vec<_> = peers.collect();
        let mut system = state.map_or_else(System::default, |state| System::of(state, now_ns));
        system.source = "upstream".into();
        system.steering = Some(self.clock.steering());
        if let Some(line) = &line {
            let system_peer = self.peers.iter().position(|peer| peer.index == Some(line.reference));
            let system_peer = system_peer.map(|place| &peers[place]);
            system.system_peer = system_peer.map(|peer| peer.association);
            system.poll_log2 = system_peer.map(|peer| peer.poll_log2);
            system.offset_s = system_peer.and_then(|peer| peer.offset_s);
            self.describe(&mut system, line, now);
        }
        Peers { system, peers }
    }

    fn describe(&self, system: &mut System, line: &Line, now: LocalTime) {
        const PPM: f64 = 1e6;
        system.frequency_ppm = Some(self.clock.of_oscillator(line.frequency) * PPM);
        system.skew_ppm = Some(line.skew * PPM);
        system.kernel_offset_s = self.clock.kernel_offset_s(line);
        if let Some((offset_sd_s, wander)) = self.clock.discipline().uncertainty(now) {
            system.jitter_s = Some(offset_sd_s);
            system.wander_ppm = Some(wander * PPM);
        }
    }

    fn store_drift(&mut self) {
        self.drift_stored = Instant::now();
        let Ok(now) = self.clock.look() else { return };
        if let Some(drift) = self.clock.drift(now)
            && let Err(error) = self.drift.store(&drift)
        {
            warn!("{error}");
        }
    }

    /// Keeps what was learnt, and lets go of the kernel's clock.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn end(&mut self) -> Result<()> {
        self.store_drift();
        self.clock.end()
    }
}

/// Looks a name up on a thread of its own, as the system's resolver blocks.
async fn resolve(name: String, port: u16, association: u16, sender: mpsc::Sender<Event>) {
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    let result = match found {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(error.to_string()),
    };
    let _ending = sender.send(Event::Resolved { association, result }).await;
}
