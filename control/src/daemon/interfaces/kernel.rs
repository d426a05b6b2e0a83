//! The kernel of this host, as the interfaces' thread needs it: netlink and the pinned links, and through the loop the
//! map of the published state.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::interface_set::Kernel;
use super::{Job, LOOK_INTERVAL, Reply, Watch, Word};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, AttachedXdp, Interface, Netlink};
use crate::net::xdp_mode::Mode;
use crate::serving::xdp::{self, Attachment, Links, ModeRequest};

/// The kernel, and the way to the loop.
pub(super) struct Host {
    netlink: Netlink,
    /// For netlink. It turns only while its thread waits for something.
    runtime: Runtime,
    links: Links,
    words: mpsc::UnboundedSender<Word>,
    looked: Instant,
}

/// Somebody else's program that was taken off an interface.
pub(super) struct Displaced {
    interface: Interface,
    mode: Mode,
    program: OwnedFd,
}

impl Host {
    /// Connects to netlink.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn new(links: Links, words: mpsc::UnboundedSender<Word>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::because(Code::Os, "cannot start the event loop of the interfaces"))?;
        let netlink = runtime.block_on(async { Netlink::connect() })?;
        Ok(Self { netlink, runtime, links, words, looked: Instant::now() })
    }

    /// Asks the loop, and waits for its answer.
    fn ask<T>(&self, word: impl FnOnce(Reply<T>) -> Word) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let ending = || Error::new(Code::TryAgain, "the daemon is ending");
        self.words.send(word(reply)).map_err(|_| ending())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(ending()))
    }
}

impl Kernel for Host {
    type Displaced = Displaced;

    fn interfaces(&self) -> Result<Vec<Interface>> {
        self.runtime.block_on(self.netlink.interfaces())
    }

    fn addresses(&self, interfaces: &[u32]) -> Result<Addresses> {
        self.runtime.block_on(self.netlink.addresses(interfaces))
    }

    fn serve(&self, addresses: Addresses) -> Result<()> {
        self.ask(|reply| Word::Serve(addresses, reply))
    }

    fn own_mode(&self, interface: &Interface) -> Option<Mode> {
        self.links.own_mode(interface)
    }

    fn program_name(&self, id: u32) -> Option<String> {
        xdp::program_name(id)
    }

    fn attach(&self, interface: &Interface, mode: ModeRequest) -> Result<Attachment> {
        let slot = self.ask(|reply| Word::TakeSlot(interface.clone(), reply))?;
        let attached = self.links.attach(interface, mode, slot);
        if attached.is_err() && slot.is_new() {
            self.ask(|reply| Word::FreeSlot(interface.index, reply))?;
        }
        attached
    }

    fn detach(&self, interface: u32) -> Result<()> {
        let detached = self.links.detach(interface);
        if !self.links.is_pinned(interface) {
            self.ask(|reply| Word::FreeSlot(interface, reply))?;
        }
        detached
    }

    fn keep_tags(&self, interface: &Interface, mode: Mode) -> Result<()> {
        self.links.keep_tags(interface, mode)
    }

    fn displace(&self, interface: &Interface, foreign: AttachedXdp) -> Result<Displaced> {
        // Off its interface a program is gone unless somebody has it open.
        let program = xdp::open_program(foreign.program_id)?;
        self.runtime.block_on(self.netlink.remove_xdp(interface, foreign.mode))?;
        Ok(Displaced { interface: interface.clone(), mode: foreign.mode, program })
    }

    fn put_back(&self, Displaced { interface, mode, program }: Displaced) -> Result<()> {
        self.runtime.block_on(self.netlink.put_xdp(&interface, mode, program.as_fd()))
    }
}

impl Watch for Host {
    fn next(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Option<Job> {
        let Self { runtime, netlink, looked, .. } = self;
        let next = runtime.block_on(async {
            tokio::select! {
                job = jobs.recv() => job,
                () = netlink.changed() => Some(Job::Follow),
                () = tokio::time::sleep_until((*looked + LOOK_INTERVAL).into()) => Some(Job::Follow),
            }
        });
        if matches!(next, Some(Job::Follow)) {
            *looked = Instant::now();
        }
        next
    }

    fn own_addresses(&self) -> Result<Addresses> {
        self.runtime.block_on(self.netlink.own_addresses())
    }
}
