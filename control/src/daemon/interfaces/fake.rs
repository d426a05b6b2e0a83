//! A fake kernel for tests: interfaces that come and go, and a log of what was done to them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::interface_set::Kernel;
use super::{Job, WatchedKernel};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, AttachedXdp, Driver, Framing, Interface};
use crate::net::xdp_mode::Mode;
use crate::serving::xdp::{Attachment, ModeRequest};

/// The ID of this instance's programs.
const OWN: u32 = 1000;

/// The kernel. A test shares it with the code that it tests.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) interfaces: Vec<Interface>,
    /// Indices of interfaces that refuse the program.
    pub(super) refusing: Vec<u32>,
    /// Indices of interfaces from which the program cannot be detached.
    pub(super) holding: Vec<u32>,
    /// How long attaching takes.
    pub(super) attaching: Duration,
    /// What was done, a line each.
    log: Vec<String>,
}

impl Fake {
    /// Makes a kernel with these interfaces. Their indices count from 1.
    pub(super) fn with(names: &[&str]) -> Self {
        let fake = Self::default();
        for (index, name) in (1..).zip(names) {
            fake.add(index, name);
        }
        fake
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn add(&self, index: u32, name: &str) {
        self.state().interfaces.push(Interface {
            index,
            name: name.into(),
            other_names: Vec::new(),
            framing: Framing::Ethernet,
            up: true,
            carrier: true,
            carrier_losses: 0,
            mtu: 1500,
            is_bond: false,
            xdp: None,
            driver: Driver::default(),
        });
    }

    pub(super) fn remove(&self, index: u32) {
        self.state().interfaces.retain(|interface| interface.index != index);
    }

    pub(super) fn rename(&self, index: u32, name: &str) {
        self.change(index, |interface| interface.name = name.into());
    }

    /// Attaches somebody else's program to an interface.
    pub(super) fn occupy(&self, index: u32) {
        self.change(index, |interface| {
            interface.xdp = Some(AttachedXdp { mode: Mode::Native, program_id: 7 });
        });
    }

    /// Returns the interface with this index.
    pub(super) fn interface(&self, index: u32) -> Interface {
        self.state().interfaces.iter().find(|interface| interface.index == index).unwrap().clone()
    }

    /// Returns what was done since the last call.
    pub(super) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    fn note(&self, line: String) {
        self.state().log.push(line);
    }

    fn change(&self, index: u32, change: impl Fn(&mut Interface)) {
        self.state().interfaces.iter_mut().filter(|interface| interface.index == index).for_each(change);
    }
}

impl Kernel for Fake {
    type Displaced = (u32, AttachedXdp);

    fn interfaces(&self) -> Result<Vec<Interface>> {
        Ok(self.state().interfaces.clone())
    }

    fn addresses(&self, interfaces: &[u32]) -> Result<Addresses> {
        let address = |index: &u32| (*index, [192, 0, 2, u8::try_from(*index).unwrap()].into());
        Ok(Addresses { ipv4: interfaces.iter().map(address).collect(), ..Addresses::default() })
    }

    fn serve(&self, addresses: Addresses) -> Result<()> {
        let indices: Vec<_> = addresses.ipv4.iter().map(|(index, _)| index.to_string()).collect();
        self.note(format!("serve {}", indices.join(" ")).trim_end().into());
        Ok(())
    }

    fn own_mode(&self, interface: &Interface) -> Option<Mode> {
        interface.xdp.filter(|xdp| xdp.program_id == OWN).map(|xdp| xdp.mode)
    }

    fn program_name(&self, _id: u32) -> Option<String> {
        Some("theirs".into())
    }

    fn attach(&self, interface: &Interface, mode: ModeRequest) -> Result<Attachment> {
        let (attaching, refused) = {
            let state = self.state();
            (state.attaching, state.refusing.contains(&interface.index))
        };
        std::thread::sleep(attaching);
        self.note(format!("attach {} {}", interface.index, interface.name));
        if refused {
            return Err(Error::new(Code::Unavailable, format_args!("{} refused", interface.name)));
        }
        let mode = if mode == ModeRequest::Generic { Mode::Generic } else { Mode::Native };
        let took_over = self.own_mode(interface).is_some();
        self.change(interface.index, |interface| {
            interface.xdp = Some(AttachedXdp { mode, program_id: OWN });
        });
        Ok(Attachment { mode, fallback: None, remark: None, took_over })
    }

    fn detach(&self, interface: u32) -> Result<()> {
        self.note(format!("detach {interface}"));
        if self.state().holding.contains(&interface) {
            return Err(Error::new(Code::Os, "busy"));
        }
        self.change(interface, |interface| interface.xdp = None);
        Ok(())
    }

    fn keep_tags(&self, _interface: &Interface, _mode: Mode) -> Result<()> {
        Ok(())
    }

    fn displace(&self, interface: &Interface, foreign: AttachedXdp) -> Result<Self::Displaced> {
        self.note(format!("displace {}", interface.index));
        self.change(interface.index, |interface| interface.xdp = None);
        Ok((interface.index, foreign))
    }

    fn put_back(&self, (index, foreign): Self::Displaced) -> Result<()> {
        self.note(format!("put back {index}"));
        self.change(index, |interface| interface.xdp = Some(foreign));
        Ok(())
    }
}

impl WatchedKernel for Fake {
    fn next(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> Option<Job> {
        jobs.blocking_recv()
    }

    fn own_addresses(&self) -> Result<Addresses> {
        Ok(Addresses::default())
    }
}
