//! Where the daemon's time comes from: the system clock or the upstreams.

use responder::ClockState;

use crate::config::{ClockConfig, ClockSource, Config};
use crate::error::Result;
use crate::instance::Instance;
use crate::net::own_addresses::OwnAddresses;
use crate::status::sources::{Peers, System};
use crate::sys::kernel_clock::Machine;
use crate::timekeeping::drift::DriftFile;
use crate::timekeeping::kernel_steering::refuse_rivals;
use crate::timekeeping::mirror::Mirror;
use crate::timekeeping::ntp::{Event, Upstreams};
use crate::timekeeping::system_clock::{LocalDaemon, Observation};

/// The source.
pub(super) enum Source {
    /// Of somebody else.
    System(Mirror<Machine>),
    /// Our own.
    Upstream(Box<Upstreams<Machine>>),
}

impl Source {
    pub(super) fn begin(config: &Config, instance: &Instance, own: OwnAddresses) -> Result<Self> {
        match config.clock.source {
            ClockSource::System => Mirror::new(Machine).map(Self::System),
            ClockSource::Upstream => {
                if config.clock.steer {
                    refuse_rivals()?;
                }
                let drift = DriftFile::new(instance.state_directory().join("drift"));
                Upstreams::new(Machine, config, own, drift)
                    .map(|upstreams| Self::Upstream(Box::new(upstreams)))
            }
        }
    }

    /// Puts another configuration in force, or none of it.
    pub(super) fn configure(
        &mut self,
        before: &Config,
        config: &Config,
        instance: &Instance,
        own: OwnAddresses,
    ) -> Result<()> {
        match self {
            Self::Upstream(upstreams) if config.clock.source == ClockSource::Upstream => {
                if config.clock.steer && !before.clock.steer {
                    refuse_rivals()?;
                }
                upstreams.configure(config)?;
                upstreams.set_own_addresses(own)
            }
            Self::System(_) if config.clock.source == ClockSource::System => Ok(()),
            _ => {
                let next = Self::begin(config, instance, own)?;
                std::mem::replace(self, next).end()
            }
        }
    }

    /// Goes by other addresses of this host, which are never upstreams.
    pub(super) fn set_own_addresses(&mut self, own: OwnAddresses) -> Result<()> {
        match self {
            Self::Upstream(upstreams) => upstreams.set_own_addresses(own),
            Self::System(_) => Ok(()),
        }
    }

    pub(super) fn set_local_daemon(&mut self, daemon: Option<LocalDaemon>) {
        if let Self::System(mirror) = self {
            mirror.set_local_daemon(daemon);
        }
    }

    /// Waits for something that [`Source::handle`] is to handle.
    pub(super) async fn event(&mut self) -> Event {
        match self {
            Self::System(_) => std::future::pending().await,
            Self::Upstream(upstreams) => upstreams.event().await,
        }
    }

    pub(super) fn handle(&mut self, event: Event) -> Result<()> {
        match self {
            Self::System(_) => Ok(()),
            Self::Upstream(upstreams) => upstreams.handle(event),
        }
    }

    pub(super) fn look(&mut self) -> Result<()> {
        match self {
            Self::System(mirror) => mirror.look(),
            Self::Upstream(upstreams) => upstreams.look(),
        }
    }

    pub(super) fn steer(&mut self, config: &ClockConfig) -> Result<()> {
        match self {
            Self::System(_) => Ok(()),
            Self::Upstream(upstreams) => upstreams.steer(config),
        }
    }

    pub(super) fn state(&mut self, config: &ClockConfig) -> Result<Observation> {
        match self {
            Self::System(mirror) => Ok(mirror.state(config)),
            Self::Upstream(upstreams) => upstreams.state(config),
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::Upstream(_) => "upstream",
        }
    }

    /// What the local daemon still has to correct in the system clock.
    pub(super) fn offset_s(&self) -> Option<f64> {
        match self {
            Self::System(mirror) => mirror.offset_s(),
            Self::Upstream(_) => None,
        }
    }

    /// By how much the system clock is made to run faster, in parts in 10^6.
    pub(super) fn frequency_ppm(&self) -> Option<f64> {
        match self {
            Self::System(mirror) => Some(mirror.frequency_ppm()),
            Self::Upstream(_) => None,
        }
    }

    /// What there is to see, of the clock as it was last published.
    pub(super) fn peers(&self, state: Option<&ClockState>, now_ns: u64) -> Peers {
        match self {
            Self::Upstream(upstreams) => upstreams.peers(state),
            Self::System(_) => {
                let system = state.map_or_else(System::default, |state| System::of(state, now_ns));
                Peers { system: System { source: self.label().into(), ..system }, peers: Vec::new() }
            }
        }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        match self {
            Self::System(_) => Ok(()),
            Self::Upstream(upstreams) => upstreams.end(),
        }
    }
}
