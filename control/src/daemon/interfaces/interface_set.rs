//! The set of interfaces that the program is attached to, and the rules by which it changes.
//!
//! Everything that touches the kernel goes through [`Kernel`].

use std::collections::{BTreeMap, BTreeSet};

use responder::layout::INTERFACES;
use tracing::{error, info, warn};

use crate::error::{Code, Error, Result};
use crate::net::interfaces::{Addresses, AttachedXdp, Interface, named};
use crate::net::xdp_mode::Mode;
use crate::safe_text::shell_word;
use crate::serving::xdp::{Attachment, ModeRequest};

/// The operations of the kernel that the rules need.
pub(super) trait Kernel {
    /// Somebody else's program that was detached from an interface.
    type Displaced;

    /// Returns all interfaces of the host.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    fn interfaces(&self) -> Result<Vec<Interface>>;

    /// Returns the addresses to serve on these interfaces, by index.
    ///
    /// # Errors
    ///
    /// The kernel does not list them.
    fn addresses(&self, interfaces: &[u32]) -> Result<Addresses>;

    /// Publishes the addresses that are served. They are in force when this returns.
    ///
    /// # Errors
    ///
    /// The map cannot be written, or the daemon is ending.
    fn serve(&self, addresses: Addresses) -> Result<()>;

    /// Returns the mode of this instance's program on an interface, if it is attached there.
    fn own_mode(&self, interface: &Interface) -> Option<Mode>;

    /// Returns the name of a loaded program.
    fn program_name(&self, id: u32) -> Option<String>;

    /// Attaches the program to an interface.
    ///
    /// # Errors
    ///
    /// The driver or the kernel refuses the program. The interface is unchanged then.
    fn attach(&self, interface: &Interface, mode: ModeRequest) -> Result<Attachment>;

    /// Detaches the program from an interface, or removes what is left of an interface that is gone.
    ///
    /// # Errors
    ///
    /// The kernel or the driver refuses.
    fn detach(&self, interface: u32) -> Result<()>;

    /// Makes sure that a program in this mode sees VLAN tags.
    ///
    /// # Errors
    ///
    /// The NIC does not leave tags in the frames.
    fn keep_tags(&self, interface: &Interface, mode: Mode) -> Result<()>;

    /// Detaches somebody else's program from an interface.
    ///
    /// # Errors
    ///
    /// The kernel refuses, for example because a BPF link holds the program.
    fn displace(&self, interface: &Interface, foreign: AttachedXdp) -> Result<Self::Displaced>;

    /// Attaches somebody else's program to its interface again.
    ///
    /// # Errors
    ///
    /// The kernel or the driver refuses.
    fn put_back(&self, displaced: Self::Displaced) -> Result<()>;
}

/// An attached interface: what the kernel does not know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    name: String,
    mode: ModeRequest,
}

/// An interface that went away or does not exist yet. It is attached as soon as it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lost {
    mode: ModeRequest,
    /// The index of an interface with this name that refused the program. It is not tried again.
    refused: Option<u32>,
}

impl Lost {
    const fn of(mode: ModeRequest) -> Self {
        Self { mode, refused: None }
    }
}

/// The names of the interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Names {
    /// The attached interfaces, by index.
    pub(in crate::daemon) attached: BTreeMap<u32, String>,
    /// The interfaces that are attached as soon as they exist.
    pub(in crate::daemon) lost: Vec<String>,
}

impl Names {
    /// Whether no interface is attached and none is waited for.
    pub(in crate::daemon) fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.lost.is_empty()
    }
}

/// The interfaces of a server.
pub(super) struct InterfaceSet<K> {
    kernel: K,
    /// Attached interfaces by index, which a rename does not change.
    attached: BTreeMap<u32, Attached>,
    /// Missing interfaces by name, because one that comes back has another index.
    lost: BTreeMap<String, Lost>,
}

impl<K: Kernel> InterfaceSet<K> {
    /// Makes the set of a daemon that starts. `names` are the interfaces that an earlier daemon left attached, and
    /// those that are missing. `mode` is the mode that was requested for all of them.
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

    /// Attaches to interfaces by name, as [`InterfaceSet::attach`].
    ///
    /// # Errors
    ///
    /// An interface does not exist, or an error of [`InterfaceSet::attach`].
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

    /// Attaches to all of these interfaces or to none. Their addresses are published before. Returns the messages to
    /// show.
    ///
    /// # Errors
    ///
    /// Somebody else's program is attached to one of them, or one refuses the program. Nothing is changed then.
    pub(super) fn attach(
        &mut self,
        wanted: Vec<Interface>,
        mode: ModeRequest,
        replace: bool,
    ) -> Result<Vec<String>> {
        for interface in &wanted {
            refuse_unservable(interface)?;
            self.refuse_foreign(interface, replace)?;
        }
        let mut all: Vec<_> = self.attached.keys().copied().collect();
        all.extend(wanted.iter().map(|interface| interface.index));
        let number = all.iter().collect::<BTreeSet<_>>().len();
        if number > INTERFACES {
            return Err(Error::new(
                Code::Unavailable,
                format_args!("that would be {number} interfaces; a server supports {INTERFACES}"),
            )
            .remedy("leave some out, or run a second instance for them: `--instance NAME`"));
        }
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
            self.lost.retain(|name, _| !interface.is_called(name));
            self.attached.insert(interface.index, Attached { name: interface.name, mode });
        }
        Ok(messages)
    }

    /// Refuses to replace somebody else's XDP program, unless the operator asked for that.
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
            warn!(
                "{} is down: nothing comes in before `ip link set {} up`",
                interface.name,
                shell_word(&interface.name)
            );
        }
        self.kernel.attach(interface, mode)
    }

    /// Undoes an attempt to attach that failed. Errors are logged, and the rest is still undone.
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

    /// Detaches from these interfaces, or from all if none is named. Those of them that are missing are no longer
    /// waited for. Returns the messages to show.
    ///
    /// # Errors
    ///
    /// An interface is not in the set, and nothing is changed. Or the kernel refuses, after those before were detached.
    pub(super) fn detach(&mut self, names: &[String]) -> Result<Vec<String>> {
        if names.is_empty() {
            self.lost.clear();
            let all: Vec<_> = self.attached.keys().copied().collect();
            return all.into_iter().map(|index| self.detach_one(index)).collect();
        }
        // Alternative names are not kept, for they may change at any time. Without netlink the others are known.
        let present = self.kernel.interfaces().unwrap_or_default();
        let index_of = |name: &String| {
            let attached = self.attached.iter().find(|(_, attached)| attached.name == *name);
            let called = present.iter().find(|interface| interface.is_called(name));
            let called =
                called.map(|interface| interface.index).filter(|index| self.attached.contains_key(index));
            attached.map(|(index, _)| *index).or(called)
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

    /// Follows changes of the interfaces: which exist, their names, settings and addresses.
    ///
    /// # Errors
    ///
    /// The kernel does not list them, or what they have cannot be published.
    pub(super) fn follow(&mut self) -> Result<()> {
        let present = self.kernel.interfaces()?;
        self.remove_gone(&present);
        for interface in &present {
            self.update(interface);
        }
        self.serve_addresses()?;
        // Attaching may take long. So it comes last, after the changed addresses of the others are published.
        for interface in present {
            self.attach_if_lost(interface);
        }
        Ok(())
    }

    /// Moves attached interfaces that no longer exist to the missing ones.
    fn remove_gone(&mut self, present: &[Interface]) {
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

    /// Takes note of the present name of an attached interface, and restores settings of its NIC.
    fn update(&mut self, interface: &Interface) {
        let Some(attached) = self.attached.get_mut(&interface.index) else { return };
        let mode = self.kernel.own_mode(interface);
        if let Some(Err(error)) = mode.map(|mode| self.kernel.keep_tags(interface, mode)) {
            error!("{}: {error}", interface.name);
        }
        if attached.name != interface.name {
            info!("{} is called {} now", attached.name, interface.name);
            attached.name.clone_from(&interface.name);
            // An interface of this name is no longer missing.
            self.lost.remove(&interface.name);
        }
    }

    /// Attaches to an interface if it was missing, unless it has refused the program before.
    fn attach_if_lost(&mut self, interface: Interface) {
        if self.attached.contains_key(&interface.index) {
            return;
        }
        let index = interface.index;
        let lost =
            self.lost.iter().find(|(name, lost)| interface.is_called(name) && lost.refused != Some(index));
        let Some((name, mode)) = lost.map(|(name, lost)| (name.clone(), lost.mode)) else {
            return;
        };
        if let Err(error) = self.attach(vec![interface], mode, false) {
            error!("{name} is there again, but not attached: {error}");
            // Even a failed attempt changes the interface for a moment. Netlink reports that, so without this note the
            // attempts would never end.
            self.lost.insert(name, Lost { mode, refused: Some(index) });
        }
    }

    /// Publishes the addresses of the attached interfaces.
    fn serve_addresses(&self) -> Result<()> {
        let indices: Vec<_> = self.attached.keys().copied().collect();
        self.kernel.serve(self.kernel.addresses(&indices)?)
    }
}

/// Refuses an interface on which the program could be, but would answer nobody.
fn refuse_unservable(interface: &Interface) -> Result<()> {
    interface.unservable().map_or(Ok(()), |(reason, remedy)| {
        let what = format!("{} cannot be served on: {reason}", interface.name);
        Err(Error::new(Code::Unavailable, what).remedy(remedy))
    })
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
