//! Putting the program on interfaces, and off them again.
//!
//! All of this may take seconds: the verifier and some drivers are slow, and the kernel has one lock (RTNL) for all
//! network interfaces, which any program may hold. So the thread that publishes the clock must not do it.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::notes::{self, Note};
use super::refusal::{self, Refusal};
use super::{Pins, Slot, link, load_object, tags};
use crate::error::{Code, Error, Result};
use crate::net::interfaces::{AttachedXdp, Interface};
use crate::net::xdp_mode::Mode;
use crate::safe_text::shell_word;
use crate::sys::ethtool::{Nic, Queues};
use crate::sys::give_freed_memory_back;

const LINK_PREFIX: &str = "link-";

/// Which mode the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeRequest {
    /// Native, or generic where the driver refuses.
    #[default]
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// The program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where it runs.
    pub mode: Mode,
    /// Why it does not run natively, where that was tried.
    pub fallback: Option<String>,
    /// What the operator should know of it besides.
    pub remark: Option<String>,
    /// Whether it took over from an earlier daemon's program.
    pub took_over: bool,
}

/// The pinned links of an instance, each of which holds its program on an interface.
#[derive(Clone, Debug)]
pub struct Links {
    directory: PathBuf,
    table_entries: u32,
}

impl Links {
    pub(super) const fn new(directory: PathBuf, table_entries: u32) -> Self {
        Self { directory, table_entries }
    }

    /// Holds what is pinned now, to put it back.
    ///
    /// # Errors
    ///
    /// As [`Pins::hold`].
    pub fn hold_pins(&self) -> Result<Pins> {
        Pins::hold(self.directory.clone())
    }

    /// Attaches this build's program to the interface. The program counts in `slot`. It replaces an earlier build's
    /// program between two packets.
    ///
    /// # Errors
    ///
    /// The driver or the kernel refuses the program. The interface is unchanged then.
    pub fn attach(&self, interface: &Interface, request: ModeRequest, slot: Slot) -> Result<Attachment> {
        let attached = self.try_attach(interface, request, slot);
        // The loader parses the BTF of the kernel, which takes tens of megabytes until here.
        give_freed_memory_back();
        attached
    }

    fn try_attach(&self, interface: &Interface, request: ModeRequest, slot: Slot) -> Result<Attachment> {
        let mut object = load_object(&self.directory, slot.number(), self.table_entries)?;
        if let Some(mode) = self.own_mode(interface) {
            return self.take_over(&mut object, interface, request, mode);
        }
        let pin = self.pin_of(interface.index);
        // Left by an interface that is gone and had the same index.
        let _not_there = fs::remove_file(&pin);
        notes::forget(&self.directory, interface.index);
        let remark = slow_transmit(interface);
        let (link, mode, fallback) = self.new_link(&mut object, interface, request)?;
        let remark = remark.filter(|_| mode == Mode::Native);
        Note::Fallback.write(&self.directory, interface.index, fallback.as_deref())?;
        Note::Remark.write(&self.directory, interface.index, remark.as_deref())?;
        link.pin(&pin).map_err(Error::because(Code::Os, format_args!("cannot pin {}", pin.display())))?;
        Ok(Attachment { mode, fallback, remark, took_over: false })
    }

    fn take_over(
        &self,
        object: &mut Ebpf,
        interface: &Interface,
        request: ModeRequest,
        mode: Mode,
    ) -> Result<Attachment> {
        if request != ModeRequest::Auto && request != mode.into() {
            return Err(Error::new(
                Code::Unavailable,
                format_args!("{} is already attached in {} mode", interface.name, mode.label()),
            )
            .remedy("detach it first; no requests are answered during the change"));
        }
        self.keep_tags(interface, mode)?;
        link::replace(object, &self.pin_of(interface.index), &interface.name)?;
        let note = |note: Note| note.read(&self.directory, interface.index);
        Ok(Attachment { mode, fallback: note(Note::Fallback), remark: note(Note::Remark), took_over: true })
    }

    /// Attaches in the wanted mode. The kernel does not fall back by itself where a driver has XDP but refuses
    /// it for its present settings, so that is done here.
    fn new_link(
        &self,
        object: &mut Ebpf,
        interface: &Interface,
        request: ModeRequest,
    ) -> Result<(FdLink, Mode, Option<String>)> {
        let refused = |mode: Mode, Refusal { reason, advice }: Refusal| {
            let error = Error::new(
                Code::Unavailable,
                format_args!("{} refused the program in {} mode: {reason}", interface.name, mode.label()),
            );
            match (mode, advice) {
                (Mode::Native, Some(advice)) => error.remedy(format_args!(
                    "{advice}; generic mode does not need this: use `--mode generic`, or `--mode auto` to fall back"
                )),
                (Mode::Native, None) => error.remedy(
                    "generic mode works with every driver: use `--mode generic`, or `--mode auto` to fall back \
                     automatically",
                ),
                (Mode::Generic, Some(advice)) => error.remedy(advice),
                (Mode::Generic, None) => error,
            }
        };
        let native = match request {
            ModeRequest::Generic => None,
            ModeRequest::Auto | ModeRequest::Native => match self.native_link(object, interface)? {
                Ok(link) => return Ok((link, Mode::Native, None)),
                Err(refusal) if request == ModeRequest::Native => {
                    return Err(refused(Mode::Native, refusal));
                }
                Err(refusal) => Some(refusal.to_string()),
            },
        };
        match link::make(object, interface, Mode::Generic)? {
            Ok(link) => Ok((link, Mode::Generic, native)),
            Err(refusal) => Err(refused(Mode::Generic, refusal)),
        }
    }

    fn native_link(
        &self,
        object: &mut Ebpf,
        interface: &Interface,
    ) -> Result<std::result::Result<FdLink, Refusal>> {
        if interface.is_bond {
            return Ok(Err(Refusal {
                reason: format!(
                    "{} is a bond: it would pass the program to its ports, each of which may strip VLAN tags",
                    interface.name
                ),
                advice: Some("attach to the ports instead; the bond's addresses are served there".into()),
            }));
        }
        for condition in refusal::conditions(interface) {
            info!("{}: {condition} prevents native XDP with some drivers", interface.name);
        }
        let made = match self.keep_tags(interface, Mode::Native) {
            Ok(()) => link::make(object, interface, Mode::Native),
            Err(Error { what, .. }) => Ok(Err(Refusal { reason: what, advice: None })),
        };
        if !matches!(made, Ok(Ok(_)))
            && let Err(error) = tags::give_back(&self.directory, interface.index)
        {
            warn!("{error}");
        }
        made
    }

    /// Sees to it that a native program sees the VLAN tags of frames; also later, should somebody else have
    /// changed the NIC's settings.
    ///
    /// # Errors
    ///
    /// The NIC does not let tags stay in frames.
    pub fn keep_tags(&self, interface: &Interface, mode: Mode) -> Result<()> {
        if mode == Mode::Native {
            for feature in tags::keep(&self.directory, interface)? {
                info!(
                    "{}: {} is turned off while the program is attached, so that it sees VLAN tags",
                    interface.name,
                    feature.ethtool_name()
                );
            }
        }
        Ok(())
    }

    /// Why an attached program does not run natively, and what else there is to know of it.
    #[must_use]
    pub fn notes(&self, interface: u32) -> (Option<String>, Option<String>) {
        let note = |note: Note| note.read(&self.directory, interface);
        (note(Note::Fallback), note(Note::Remark))
    }

    /// Detaches the program from an interface, and restores the settings that attaching changed.
    ///
    /// # Errors
    ///
    /// The link cannot be removed, or the settings cannot be restored. In the latter case the program is detached.
    pub fn detach(&self, interface: u32) -> Result<()> {
        if self.is_pinned(interface) {
            link::remove(&self.pin_of(interface))?;
        }
        let given_back = tags::give_back(&self.directory, interface);
        notes::forget(&self.directory, interface);
        given_back
    }

    /// Whether the XDP program on an interface is this instance's, and its mode.
    #[must_use]
    pub fn own_mode(&self, interface: &Interface) -> Option<Mode> {
        let AttachedXdp { mode, program_id } = interface.xdp?;
        let link = PinnedLink::from_pin(self.pin_of(interface.index)).ok()?;
        let own = FdLink::from(link).info().ok()?.program_id();
        (own == program_id).then_some(mode)
    }

    /// Whether the instance has a link for an interface.
    #[must_use]
    pub fn is_pinned(&self, interface: u32) -> bool {
        self.pin_of(interface).exists()
    }

    fn pin_of(&self, interface: u32) -> PathBuf {
        self.directory.join(pin_name(interface))
    }
}

impl From<Mode> for ModeRequest {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

/// Whether answers of a native program will wait for each other: virtio gives each CPU a transmit queue for
/// them if there are so many to spare, and else lets all share the others' under a lock. To be asked before
/// the program is attached, for it is counted among the queues in use then.
pub(crate) fn slow_transmit(interface: &Interface) -> Option<String> {
    let name = &interface.name;
    let nic = Nic(name);
    if nic.driver()? != "virtio_net" {
        return None;
    }
    let Queues { combined, max_combined } = nic.queues()?;
    let cpus = u32::try_from(aya::util::nr_cpus().ok()?).ok()?;
    let needed = combined.checked_add(cpus)?;
    if needed <= max_combined {
        return None;
    }
    let remedy = match max_combined.checked_sub(cpus) {
        Some(rest @ 1..) => format!(
            "`ethtool -L {} combined {rest}` leaves enough; it takes effect at the next `detach` and `attach`",
            shell_word(name)
        ),
        _ => format!(
            "the hypervisor has to give the machine {needed} queues, or one CPU less for each missing queue"
        ),
    };
    Some(format!(
        "{name} has {max_combined} queue pairs, but {combined} in use and one for each of {cpus} CPUs would be \
         {needed}: answers share transmit queues under a lock, and cost more under load; {remedy}"
    ))
}

/// The name under which the link of an interface is pinned.
pub(super) fn pin_name(interface: u32) -> String {
    format!("{LINK_PREFIX}{interface}")
}

pub(super) fn is_link_pin(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX))
}
