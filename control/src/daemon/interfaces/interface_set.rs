//! Which interfaces the program is on, and what becomes of them when somebody asks or something changes.
//!
//! The rules alone: whatever touches the kernel goes through [`Kernel`].

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, AttachedXdp, Interface, named};
use crate::net::xdp_mode::Mode;
use crate::serving::xdp::{Attachment, ModeRequest};

/// What the rules need of the kernel.
pub(super) trait Kernel {
    /// Somebody else's program that was taken off an interface.
    type Displaced;

    /// The interfaces that there are.
    ///
    /// # Errors
    ///
    /// The kernel's, here and below.
    fn interfaces(&self) -> Result<Vec<Interface>>;

    /// The addresses to be served on these interfaces, by index.
    fn addresses(&self, interfaces: &[u32]) -> Result<Addresses>;

    /// Has these addresses answered for. They are in force when it returns.
    ///
    /// # Errors
    ///
    /// They are too many, or the daemon is ending.
    fn serve(&self, addresses: Addresses) -> Result<()>;

    /// Whether the program on an interface is this instance's, and its mode.
    fn own_mode(&self, interface: &Interface) -> Option<Mode>;

    /// The name of a loaded program.
    fn program_name(&self, id: u32) -> Option<String>;

    /// Puts the program on an interface.
    ///
    /// # Errors
    ///
    /// The driver's or the kernel's refusal. The interface is as it was then.
    fn attach(&self, interface: &Interface, mode: ModeRequest) -> Result<Attachment>;

    /// Takes the program off an interface, or forgets one that is gone.
    fn detach(&self, interface: u32) -> Result<()>;

    /// Sees to it that a program in this mode sees VLAN tags.
    fn keep_tags(&self, interface: &Interface, mode: Mode) -> Result<()>;

    /// Takes somebody else's program off an interface.
    fn displace(&self, interface: &Interface, foreign: AttachedXdp) -> Result<Self::Displaced>;

    /// Gives somebody else's program its place back.
    fn put_back(&self, displaced: Self::Displaced) -> Result<()>;
}

/// What is attached, beside what the kernel knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    name: String,
    mode: ModeRequest,
}

/// An interface that went away, or is not there yet: it is attached when it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The interfaces by name, for who only looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Names {
    /// Those that the program is on, by index.
    pub(in crate::daemon) attached: BTreeMap<u32, String>,
    /// Those that are waited for.
    pub(in crate::daemon) lost: Vec<String>,
}

impl Names {
    /// Whether the program is on no interface, and none is waited for.
    pub(in crate::daemon) fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.lost.is_empty()
    }
}

/// The interfaces of a server, by what was asked for and by what the kernel says.
pub(super) struct InterfaceSet<K> {
    kernel: K,
    /// By index, because a rename does not change that.
    attached: BTreeMap<u32, Attached>,
    /// By name, because one that comes back has another index. No name is in both.
    lost: BTreeMap<String, Lost>,
}

impl<K: Kernel> InterfaceSet<K> {
    /// The set of a daemon that starts: it serves on what an earlier one left attached, and waits for the interfaces
    /// of these names.
    pub(super) fn new(kernel: K, names: Names, mode: ModeRequest) -> Self {
        let attached = |(index, name)| (index, Attached { name, mode });
        Self {
            kernel,
            attached: names.attached.into_iter().map(attached).collect(),
            lost: names.lost.into_iter().map(|name| (name, Lost::of(mode))).collect(),
        }
    }

    pub(super) fn names(&self) -> Names {
        Names {
            attached: self.attached.iter().map(|(index, attached)| (*index, attached.name.clone())).collect(),
            lost: self.lost.keys().cloned().collect(),
        }
    }

    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    pub(super) fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// As [`InterfaceSet::attach`], for interfaces by name.
    ///
    /// # Errors
    ///
    /// One is not there, or as there.
    pub(super) fn attach_named(
        &mut self,
        names: &[String],
        mode: ModeRequest,
        replace: bool,
    ) -> Result<Vec<String>> {
        let present = self.kernel.interfaces()?;
        let mut wanted: Vec<Interface> = Vec::new();
        for name in names {
            let interface = named(&present, name)?;
            if !wanted.contains(interface) {
                wanted.push(interface.clone());
            }
        }
        self.attach(wanted, mode, replace)
    }

    /// Attaches to all of these or to none, after their addresses are answered for. Gives the messages to show.
    ///
    /// # Errors
    ///
    /// Somebody else's program is on one, or one refuses the program. Everything is as it was then.
    pub(super) fn attach(
        &mut self,
        wanted: Vec<Interface>,
        mode: ModeRequest,
        replace: bool,
    ) -> Result<Vec<String>> {
        for interface in &wanted {
            self.refuse_foreign(interface, replace)?;
        }
        let mut all: Vec<_> = self.attached.keys().copied().collect();
        all.extend(wanted.iter().map(|interface| interface.index));
        self.kernel.serve(self.kernel.addresses(&all)?)?;
        let (mut done, mut displaced) = (Vec::new(), Vec::new());
        for interface in wanted {
            match self.attach_one(&interface, mode, &mut displaced) {
                Ok(attachment) => done.push((interface, attachment)),
                Err(error) => {
                    self.undo(&done, displaced);
                    return Err(error);
                }
            }
        }
        let mut messages = Vec::new();
        for (interface, attachment) in done {
            let message = describe(&interface, &attachment);
            info!("{message}");
            messages.push(message);
            self.lost.remove(&interface.name);
            self.attached.insert(interface.index, Attached { name: interface.name, mode });
        }
        Ok(messages)
    }

    /// Somebody else's XDP program is not pushed aside unasked.
    fn refuse_foreign(&self, interface: &Interface, replace: bool) -> Result<()> {
        match interface.xdp {
            Some(xdp) if self.kernel.own_mode(interface).is_none() && !replace => {
                let name =
                    self.kernel.program_name(xdp.program_id).unwrap_or_else(|| "without a name".into());
                Err(Error::new(
                    Code::Unavailable,
                    format_args!(
                        "{} has an XDP program already: `{name}`, id {}, in {} mode",
                        interface.name,
                        xdp.program_id,
                        xdp.mode.label()
                    ),
                )
                .remedy(format_args!(
                    "`--replace` puts this one in its place; `bpftool prog show id {}` tells whose it is",
                    xdp.program_id
                )))
            }
            _ => Ok(()),
        }
    }

    fn attach_one(
        &self,
        interface: &Interface,
        mode: ModeRequest,
        displaced: &mut Vec<(String, K::Displaced)>,
    ) -> Result<Attachment> {
        if let Some(foreign) = interface.xdp.filter(|_| self.kernel.own_mode(interface).is_none()) {
            warn!("taking program {} off {}, as --replace says", foreign.program_id, interface.name);
            displaced.push((interface.name.clone(), self.kernel.displace(interface, foreign)?));
        }
        if !interface.up {
            warn!("{} is down: nothing comes in before `ip link set {} up`", interface.name, interface.name);
        }
        self.kernel.attach(interface, mode)
    }

    /// Takes back what an attempt has done that failed in the end. What fails here is logged, and the rest is done.
    fn undo(&self, done: &[(Interface, Attachment)], displaced: Vec<(String, K::Displaced)>) {
        for (interface, _) in
            done.iter().filter(|(interface, _)| !self.attached.contains_key(&interface.index))
        {
            match self.kernel.detach(interface.index) {
                Ok(()) => info!("{}: detached", interface.name),
                Err(error) => error!("{}: {error}", interface.name),
            }
        }
        for (name, displaced) in displaced {
            match self.kernel.put_back(displaced) {
                Ok(()) => warn!("the program that was on {name} is there again"),
                Err(error) => error!("the program that was on {name} is lost: {error}"),
            }
        }
        if let Err(error) = self.serve_addresses() {
            error!("{error}");
        }
    }

    /// Detaches from these and waits no longer for those that are gone; from all, if none is named. Gives the messages to
    /// show.
    ///
    /// # Errors
    ///
    /// One is not attached: nothing is changed then. Or the kernel's, after those before it were detached.
    pub(super) fn detach(&mut self, names: &[String]) -> Result<Vec<String>> {
        if names.is_empty() {
            self.lost.clear();
            let all: Vec<_> = self.attached.keys().copied().collect();
            return all.into_iter().map(|index| self.detach_one(index)).collect();
        }
        let index_of = |name: &String| {
            self.attached.iter().find(|(_, attached)| attached.name == *name).map(|(index, _)| *index)
        };
        for name in names {
            if index_of(name).is_none() && !self.lost.contains_key(name) {
                let attached: Vec<_> =
                    self.attached.values().map(|attached| attached.name.as_str()).collect();
                return Err(Error::new(Code::NoInput, format_args!("not attached to `{name}`"))
                    .remedy(format_args!("attached to: {}", attached.join(", "))));
            }
        }
        let indices: BTreeSet<_> = names.iter().filter_map(index_of).collect();
        let mut messages = Vec::new();
        for name in names {
            if self.lost.remove(name).is_some() {
                messages.push(format!("{name}: was gone, and is not waited for any more"));
            }
        }
        for index in indices {
            messages.push(self.detach_one(index)?);
        }
        Ok(messages)
    }

    fn detach_one(&mut self, index: u32) -> Result<String> {
        self.kernel.detach(index)?;
        let name = self.attached.remove(&index).map_or_else(String::new, |attached| attached.name);
        let message = format!("{name}: detached");
        info!("{message}");
        Ok(message)
    }

    /// Follows what has become of the interfaces: whether they are there at all, their names, settings and addresses.
    ///
    /// # Errors
    ///
    /// The kernel's, or the addresses are too many.
    pub(super) fn follow(&mut self) -> Result<()> {
        let present = self.kernel.interfaces()?;
        self.let_go_of_gone(&present);
        for interface in &present {
            self.keep_up_with(interface);
        }
        self.serve_addresses()?;
        // Last, because it may take long: the others' addresses are served meanwhile.
        for interface in present {
            self.take_back(interface);
        }
        Ok(())
    }

    fn let_go_of_gone(&mut self, present: &[Interface]) {
        let is_there = |index: &u32| present.iter().any(|interface| interface.index == *index);
        let gone: Vec<_> = self.attached.extract_if(.., |index, _| !is_there(index)).collect();
        for (index, Attached { name, mode }) in gone {
            warn!("{name} is gone, and the program with it; it is attached again when it comes back");
            if let Err(error) = self.kernel.detach(index) {
                error!("{name}: {error}");
            }
            self.lost.insert(name, Lost::of(mode));
        }
    }

    /// An attached interface may have another name now, and its NIC other settings.
    fn keep_up_with(&mut self, interface: &Interface) {
        let Some(attached) = self.attached.get_mut(&interface.index) else { return };
        let mode = self.kernel.own_mode(interface);
        if let Some(Err(error)) = mode.map(|mode| self.kernel.keep_tags(interface, mode)) {
            error!("{}: {error}", interface.name);
        }
        if attached.name != interface.name {
            info!("{} is called {} now", attached.name, interface.name);
            attached.name.clone_from(&interface.name);
            // Whoever waited for this name has it.
            self.lost.remove(&interface.name);
        }
    }

    /// Attaches to an interface that is there again, or at last, if it is one.
    fn take_back(&mut self, interface: Interface) {
        if self.attached.contains_key(&interface.index) {
            return;
        }
        let (name, index) = (interface.name.clone(), interface.index);
        let Some(mode) =
            self.lost.get(&name).filter(|lost| lost.refused != Some(index)).map(|lost| lost.mode)
        else {
            return;
        };
        if let Err(error) = self.attach(vec![interface], mode, false) {
            error!("{name} is there again, but not attached: {error}");
            // What was tried changed the interface for a moment, and word of that comes back here.
            self.lost.insert(name, Lost { mode, refused: Some(index) });
        }
    }

    fn serve_addresses(&self) -> Result<()> {
        let indices: Vec<_> = self.attached.keys().copied().collect();
        self.kernel.serve(self.kernel.addresses(&indices)?)
    }
}

fn describe(interface: &Interface, attachment: &Attachment) -> String {
    let Interface { name, .. } = interface;
    let mode = attachment.mode.label();
    let mut text = match (&attachment.fallback, attachment.took_over) {
        (_, true) => format!("{name}: took over the attached program ({mode} mode)"),
        (Some(reason), false) => {
            format!("{name}: attached in {mode} mode; native mode was refused: {reason}")
        }
        (None, false) => format!("{name}: attached in {mode} mode"),
    };
    if let Some(remark) = attachment.remark.as_ref().filter(|_| !attachment.took_over) {
        text = format!("{text}; {remark}");
    }
    text
}

#[cfg(test)]
mod tests;
