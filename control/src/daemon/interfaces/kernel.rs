//! The kernel of this host as the thread of the interfaces needs it: netlink, the pinned links and, through the loop,
//! the map of the published state.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::interface_set::Kernel;
use super::{Job, LOOK_INTERVAL, Message, Reply, WatchedKernel};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, AttachedXdp, Interface, Netlink};
use crate::net::xdp_mode::Mode;
use crate::serving::xdp::{self, Attachment, Links, ModeRequest, Pins};

/// Interval at which the pins are looked at, because the kernel tells nobody when one is removed.
const PINS_INTERVAL: Duration = Duration::from_secs(1);

/// The kernel, and the channel to the loop.
pub(super) struct HostKernel {
    netlink: Netlink,
    /// The event loop of `netlink`. It runs only while the thread waits for something.
    runtime: Runtime,
    links: Links,
    pins: RefCell<Pins>,
    /// Why the pins could not be put back, as it was logged last.
    unrestored: Option<String>,
    messages: mpsc::UnboundedSender<Message>,
    /// When the interfaces were last followed.
    followed: Instant,
}

/// Somebody else's program that was taken off an interface.
pub(super) struct Displaced {
    interface: Interface,
    mode: Mode,
    program: OwnedFd,
}

impl HostKernel {
    /// Connects to netlink.
    ///
    /// # Errors
    ///
    /// The kernel refuses the connection.
    pub(super) fn new(links: Links, messages: mpsc::UnboundedSender<Message>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::because(Code::Os, "cannot start the event loop of the interfaces"))?;
        let netlink = runtime.block_on(async { Netlink::connect() })?;
        let pins = RefCell::new(links.hold_pins()?);
        Ok(Self { netlink, runtime, links, pins, unrestored: None, messages, followed: Instant::now() })
    }

    /// Puts back the pins that somebody has removed.
    fn restore_pins(&mut self) {
        let unrestored = match self.pins.get_mut().restore() {
            Ok(false) => None,
            Ok(true) => {
                warn!("somebody removed pins of this server; they are back, and nothing was interrupted");
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = unrestored.as_ref().filter(|why| self.unrestored.as_ref() != Some(*why)) {
            error!(
                "pins of this server are gone, and cannot be put back: {why}; requests are answered until the daemon ends"
            );
        }
        self.unrestored = unrestored;
    }

    /// Sends the loop a message and waits for its reply.
    fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let ending = || Error::new(Code::TryAgain, "the daemon is ending");
        self.messages.send(message(reply)).map_err(|_| ending())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(ending()))
    }
}

impl Kernel for HostKernel {
    type Displaced = Displaced;

    fn interfaces(&self) -> Result<Vec<Interface>> {
        self.runtime.block_on(self.netlink.interfaces())
    }

    fn addresses(&self, interfaces: &[u32]) -> Result<Addresses> {
        self.runtime.block_on(self.netlink.addresses(interfaces))
    }

    fn serve(&self, addresses: Addresses) -> Result<()> {
        self.ask(|reply| Message::Serve(addresses, reply))
    }

    fn own_mode(&self, interface: &Interface) -> Option<Mode> {
        self.links.own_mode(interface)
    }

    fn program_name(&self, id: u32) -> Option<String> {
        xdp::program_name(id)
    }

    fn attach(&self, interface: &Interface, mode: ModeRequest) -> Result<Attachment> {
        let slot = self.ask(|reply| Message::TakeSlot(interface.clone(), reply))?;
        let attached = self.links.attach(interface, mode, slot);
        self.pins.borrow_mut().hold_link(interface.index);
        if attached.is_err() && slot.is_new() {
            self.ask(|reply| Message::FreeSlot(interface.index, reply))?;
        }
        attached
    }

    fn detach(&self, interface: u32) -> Result<()> {
        // The last descriptor of the link has to go with its pin.
        self.pins.borrow_mut().release_link(interface);
        let detached = self.links.detach(interface);
        self.pins.borrow_mut().hold_link(interface);
        if !self.links.is_pinned(interface) {
            self.ask(|reply| Message::FreeSlot(interface, reply))?;
        }
        detached
    }

    fn keep_tags(&self, interface: &Interface, mode: Mode) -> Result<()> {
        let kept = self.links.keep_tags(interface, mode);
        self.pins.borrow_mut().note();
        kept
    }

    fn displace(&self, interface: &Interface, foreign: AttachedXdp) -> Result<Displaced> {
        // Without this descriptor the kernel would free the program as soon as it is detached.
        let program = xdp::open_program(foreign.program_id)?;
        self.runtime.block_on(self.netlink.remove_xdp(interface, foreign.mode))?;
        Ok(Displaced { interface: interface.clone(), mode: foreign.mode, program })
    }

    fn put_back(&self, Displaced { interface, mode, program }: Displaced) -> Result<()> {
        self.runtime.block_on(self.netlink.put_xdp(&interface, mode, program.as_fd()))
    }
}

impl WatchedKernel for HostKernel {
    fn next(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Option<Job> {
        loop {
            let Self { runtime, netlink, followed, .. } = self;
            let next = runtime.block_on(async {
                tokio::select! {
                    job = jobs.recv() => Some(job),
                    () = netlink.changed() => Some(Some(Job::Follow)),
                    () = tokio::time::sleep_until((*followed + LOOK_INTERVAL).into()) => Some(Some(Job::Follow)),
                    () = tokio::time::sleep(PINS_INTERVAL) => None,
                }
            });
            // Before anything that takes a missing pin for a program that is gone.
            self.restore_pins();
            if let Some(next) = next {
                if matches!(next, Some(Job::Follow)) {
                    self.followed = Instant::now();
                }
                return next;
            }
        }
    }

    fn own_addresses(&self) -> Result<Addresses> {
        self.runtime.block_on(self.netlink.own_addresses())
    }
}
