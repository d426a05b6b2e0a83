//! Which interfaces the program is on: all that are asked for or none, and nobody else's pushed aside unasked.

use std::os::fd::{AsFd as _, OwnedFd};

use tracing::{error, info, warn};

use super::{Attached, Daemon, Lost};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::Interface;
use crate::net::xdp_mode::Mode;
use crate::serving::xdp::{self, Attachment, ModeRequest};

/// Somebody else's program that was taken off an interface.
struct Displaced {
    interface: Interface,
    mode: Mode,
    program: OwnedFd,
}

impl Daemon {
    /// Attaches to all of these or to none.
    pub(super) async fn attach(
        &mut self,
        wanted: Vec<Interface>,
        mode: ModeRequest,
        replace: bool,
    ) -> Result<Vec<String>> {
        for interface in &wanted {
            self.refuse_foreign(interface, replace)?;
        }
        let before: Vec<_> = self.attached.keys().copied().collect();
        let mut indices = before.clone();
        indices.extend(wanted.iter().map(|interface| interface.index));
        self.addresses = self.netlink.addresses(&indices).await?;
        self.publish_served()?;
        let (mut messages, mut displaced) = (Vec::new(), Vec::new());
        for interface in wanted {
            match self.attach_one(&interface, mode, &mut displaced).await {
                Ok(attachment) => {
                    messages.push(describe(&interface, &attachment));
                    self.lost.remove(&interface.name);
                    self.attached.insert(interface.index, Attached { name: interface.name, mode });
                }
                Err(error) => {
                    let new: Vec<_> =
                        self.attached.keys().copied().filter(|index| !before.contains(index)).collect();
                    for index in new {
                        self.detach_one(index)?;
                    }
                    self.put_back(&displaced).await;
                    self.addresses = self.netlink.addresses(&before).await?;
                    self.publish_served()?;
                    return Err(error);
                }
            }
        }
        for message in &messages {
            info!("{message}");
        }
        Ok(messages)
    }

    async fn attach_one(
        &mut self,
        interface: &Interface,
        mode: ModeRequest,
        displaced: &mut Vec<Displaced>,
    ) -> Result<Attachment> {
        if let Some(foreign) = interface.xdp.filter(|_| self.datapath.own_mode(interface).is_none()) {
            warn!("taking program {} off {}, as --replace says", foreign.program_id, interface.name);
            // Off its interface a program is gone unless somebody has it open.
            let program = xdp::open_program(foreign.program_id)?;
            self.netlink.remove_xdp(interface, foreign.mode).await?;
            displaced.push(Displaced { interface: interface.clone(), mode: foreign.mode, program });
        }
        if !interface.up {
            warn!("{} is down: nothing comes in before `ip link set {} up`", interface.name, interface.name);
        }
        self.datapath.attach(interface, mode)
    }

    /// Whose place was not needed in the end gets it back.
    async fn put_back(&self, displaced: &[Displaced]) {
        for Displaced { interface, mode, program } in displaced {
            match self.netlink.put_xdp(interface, *mode, program.as_fd()).await {
                Ok(()) => warn!("the program that was on {} is there again", interface.name),
                Err(error) => error!("the program that was on {} is lost: {error}", interface.name),
            }
        }
    }

    /// Attaches to an interface that is there again, or at last, if it is one.
    pub(super) async fn attach_lost(&mut self, interface: Interface) {
        let (name, index) = (interface.name.clone(), interface.index);
        let Some(mode) =
            self.lost.get(&name).filter(|lost| lost.refused != Some(index)).map(|lost| lost.mode)
        else {
            return;
        };
        if let Err(error) = self.attach(vec![interface], mode, false).await {
            error!("{name} is there again, but not attached: {error}");
            // What was tried changed the interface for a moment, and word of that comes back here.
            self.lost.insert(name, Lost { mode, refused: Some(index) });
        }
    }

    /// Somebody else's XDP program is not pushed aside unasked.
    fn refuse_foreign(&self, interface: &Interface, replace: bool) -> Result<()> {
        match interface.xdp {
            Some(xdp) if self.datapath.own_mode(interface).is_none() && !replace => {
                let name = xdp::program_name(xdp.program_id).unwrap_or_else(|| "without a name".into());
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

    pub(super) fn detach(&mut self, names: &[String]) -> Result<Vec<String>> {
        let (mut indices, mut messages) = (Vec::new(), Vec::new());
        for name in names {
            if self.lost.remove(name).is_some() {
                messages.push(format!("{name}: was gone, and is not waited for any more"));
                continue;
            }
            let index =
                self.attached.iter().find(|(_, attached)| attached.name == *name).map(|(index, _)| *index);
            indices.push(index.ok_or_else(|| {
                let attached: Vec<_> =
                    self.attached.values().map(|attached| attached.name.as_str()).collect();
                Error::new(Code::NoInput, format_args!("not attached to `{name}`"))
                    .remedy(format_args!("attached to: {}", attached.join(", ")))
            })?);
        }
        if names.is_empty() {
            indices = self.attached.keys().copied().collect();
            self.lost.clear();
        }
        for index in indices {
            messages.push(self.detach_one(index)?);
        }
        Ok(messages)
    }

    pub(super) fn detach_one(&mut self, index: u32) -> Result<String> {
        self.datapath.detach(index)?;
        let name = self.attached.remove(&index).map_or_else(String::new, |attached| attached.name);
        info!("{name}: detached");
        Ok(format!("{name}: detached"))
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
