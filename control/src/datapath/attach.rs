//! Putting the program on interfaces, and off them again.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp, loaded_programs};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use responder::layout::{self, Count, INTERFACES};
use responder::verdict;
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::{Datapath, load_object, map_error};
use crate::error::{Code, Error, Result, chain};
use crate::instance::Instance;
use crate::interfaces::{AttachedXdp, Interface};
use crate::sys::Plain;

const LINK_PREFIX: &str = "link-";

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before a socket buffer is made of the frame.
    Native,
    /// Behind the driver, on socket buffers: works everywhere, at a part of the speed.
    Generic,
}

impl Mode {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

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
    /// Whether it took over from an earlier daemon's program.
    pub took_over: bool,
}

impl Datapath {
    /// Puts this build's program on the interface: in place of an earlier build's between two packets, or
    /// anew.
    ///
    /// # Errors
    ///
    /// The driver's refusal, or the kernel's of the program. The interface is as it was then.
    pub fn attach(&mut self, interface: &Interface, request: ModeRequest) -> Result<Attachment> {
        let new_slot = self.slot_of(interface.index).is_none();
        let slot = self.take_slot(interface)?;
        let attached = self.attach_counting(interface, request, slot);
        if attached.is_err() && new_slot {
            self.free_slot(interface.index)?;
        }
        attached
    }

    fn attach_counting(&self, interface: &Interface, request: ModeRequest, slot: u32) -> Result<Attachment> {
        let mut object = load_object(&self.directory, slot, self.table_entries())?;
        let program: &mut Xdp = object
            .program_mut(layout::PROGRAM)
            .ok_or_else(|| Error::new(Code::Software, "the object has no program"))?
            .try_into()
            .map_err(Error::because(Code::Software, "the object's program"))?;
        program.load().map_err(refused_program)?;
        let pin = self.pin_of(interface.index);
        if let Some(mode) = self.own_mode(interface) {
            if request != ModeRequest::Auto && request != mode.into() {
                return Err(Error::new(
                    Code::Unavailable,
                    format_args!("{} is attached in {} mode already", interface.name, mode.label()),
                )
                .remedy("detach it first: the change costs a moment without answers"));
            }
            replace_program(program, &pin, &interface.name)?;
            return Ok(Attachment { mode, fallback: None, took_over: true });
        }
        // Left by an interface that is gone and had the same index.
        let _not_there = fs::remove_file(&pin);
        let (link, mode, fallback) = new_link(program, interface, request)?;
        link.pin(&pin).map_err(Error::because(Code::Os, format_args!("cannot pin {}", pin.display())))?;
        Ok(Attachment { mode, fallback, took_over: false })
    }

    /// Takes the program off an interface.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn detach(&mut self, interface: u32) -> Result<()> {
        let pin = self.pin_of(interface);
        if pin.exists() {
            detach_link(&pin)?;
        }
        self.free_slot(interface)
    }

    /// Whether the XDP program on an interface is this instance's, and its mode.
    #[must_use]
    pub fn own_mode(&self, interface: &Interface) -> Option<Mode> {
        let AttachedXdp { mode, program_id } = interface.xdp?;
        let link = PinnedLink::from_pin(self.pin_of(interface.index)).ok()?;
        let own = FdLink::from(link).info().ok()?.program_id();
        (own == program_id).then_some(mode)
    }

    fn pin_of(&self, interface: u32) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{interface}"))
    }

    /// The interface's place in the counters; a place that is taken anew starts at zero.
    fn take_slot(&mut self, interface: &Interface) -> Result<u32> {
        if let Some(slot) = self.slot_of(interface.index) {
            return Ok(slot);
        }
        let free = self.slot_of(0).ok_or_else(|| {
            Error::new(
                Code::Unavailable,
                format_args!(
                    "{} would be interface {}; a server takes {INTERFACES}",
                    interface.name,
                    INTERFACES + 1
                ),
            )
            .remedy("detach one, or run a second instance: `--instance NAME`")
        })?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(file, error)| Error::because(Code::Os, format_args!("cannot read {file}"))(error))?;
        let zeros =
            aya::maps::PerCpuValues::try_from(vec![Plain([Count::default(); verdict::COUNTERS]); cpus])
                .map_err(Error::because(Code::Software, "counters"))?;
        self.counters_map.set(free, zeros, 0).map_err(map_error(layout::COUNTERS))?;
        self.state.interfaces[free as usize] = interface.index;
        self.write_state()?;
        Ok(free)
    }

    fn free_slot(&mut self, interface: u32) -> Result<()> {
        for index in &mut self.state.interfaces {
            if *index == interface {
                *index = 0;
            }
        }
        self.write_state()
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

fn replace_program(program: &mut Xdp, pin: &Path, name: &str) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(Code::Os, format_args!("cannot replace the program on {name}: {}", chain(error)))
    };
    let link = PinnedLink::from_pin(pin).map_err(|error| failed(&error))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| failed(&error))?;
    // The pin keeps the link; this descriptor may go with the object.
    program.attach_to_link(link).map_err(|error| failed(&error))?;
    Ok(())
}

/// Attaches in the wanted mode. The kernel does not fall back by itself where a driver has XDP but refuses
/// it for its present settings, so that is done here.
fn new_link(
    program: &mut Xdp,
    interface: &Interface,
    request: ModeRequest,
) -> Result<(FdLink, Mode, Option<String>)> {
    let refused = |mode: Mode, reason: &str| {
        Error::new(
            Code::Unavailable,
            format_args!("{} refused the program in {} mode: {reason}", interface.name, mode.label()),
        )
    };
    let native = match request {
        ModeRequest::Generic => None,
        ModeRequest::Auto | ModeRequest::Native => match link_in(program, interface, XdpMode::Driver) {
            Ok(link) => return Ok((link, Mode::Native, None)),
            Err(reason) => Some(reason),
        },
    };
    if let (ModeRequest::Native, Some(reason)) = (request, &native) {
        return Err(refused(Mode::Native, reason).remedy(
            "generic mode works with every driver: `--mode generic`, or `--mode auto` to fall back by itself",
        ));
    }
    match link_in(program, interface, XdpMode::Skb) {
        Ok(link) => Ok((link, Mode::Generic, native)),
        Err(reason) => Err(refused(Mode::Generic, &reason)),
    }
}

fn link_in(program: &mut Xdp, interface: &Interface, mode: XdpMode) -> std::result::Result<FdLink, String> {
    let id = program.attach_to_if_index(interface.index, mode).map_err(|error| explain(&error))?;
    let link = program.take_link(id).map_err(|error| explain(&error))?;
    // A link that is not a descriptor cannot be pinned: the netlink attachment of kernels before 5.9.
    FdLink::try_from(link)
        .map_err(|_| "this kernel has no XDP links (Linux 5.9 or later is needed)".to_owned())
}

/// The kernel's reason, in words where the number alone says little.
fn explain(error: &ProgramError) -> String {
    let text = chain(error);
    let hint = match error {
        ProgramError::SyscallError(call) => match call.io_error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "the driver has no native XDP, or not with its present settings",
            Some(libc::EBUSY | libc::EEXIST) => "another XDP program is in the way",
            Some(libc::EPERM) => "not allowed; is the kernel locked down?",
            Some(libc::EINVAL | libc::ERANGE | libc::E2BIG) => {
                "the driver wants a smaller MTU or other settings"
            }
            _ => return text,
        },
        _ => return text,
    };
    format!("{text} ({hint})")
}

fn refused_program(error: ProgramError) -> Error {
    if let ProgramError::LoadError { verifier_log, .. } = &error {
        debug!("verifier: {verifier_log}");
    }
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|_| "this kernel".into(), |name| format!("kernel {}", name.release().to_string_lossy()));
    Error::because(Code::Os, format_args!("{kernel} did not take the eBPF program"))(error)
        .remedy("Linux 5.10 or later is needed; run with `RUST_LOG=debug` for the verifier's words")
}

/// The name of a loaded program, for telling the operator whose it is.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(ToOwned::to_owned))
}

/// A descriptor of a loaded program.
///
/// # Errors
///
/// The kernel's; among them that the program is gone.
pub fn open_program(id: u32) -> Result<OwnedFd> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(Code::Os, format_args!("cannot open XDP program {id}: {}", chain(error)))
    };
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .ok_or_else(|| Error::new(Code::TryAgain, format_args!("XDP program {id} has just gone")))?;
    let descriptor = program.fd().map_err(|error| failed(&error))?;
    descriptor.as_fd().try_clone_to_owned().map_err(|error| failed(&error))
}

pub(super) fn is_link_pin(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX))
}

pub(super) fn detach_link(pin: &Path) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(Code::Os, format_args!("cannot detach {}: {}", pin.display(), chain(error)))
    };
    let link = PinnedLink::from_pin(pin).map_err(|error| failed(&error))?;
    // The last descriptor of an unpinned link takes the program off.
    let _link: FdLink = link.unpin().map_err(|error| failed(&error))?;
    Ok(())
}

/// Says which privilege is missing, before the kernel says only that something is.
///
/// # Errors
///
/// Names the capabilities that are missing.
pub fn require_privileges(instance: &Instance) -> Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_BPF: u32 = 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        // Without procfs there is nothing to say in advance.
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 != 0;
    let missing: Vec<_> =
        [("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)), ("CAP_NET_ADMIN", has(CAP_NET_ADMIN))]
            .into_iter()
            .filter_map(|(name, there)| (!there).then_some(name))
            .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::NoPermission, format_args!("missing privilege: {}", missing.join(", ")))
        .remedy(format_args!("run it as root: `sudo {} ...`", instance.command())))
}

/// Kernels before 5.11 count maps against the limit of locked memory; later ones do not.
pub(super) fn lift_memory_limit() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        debug!("cannot lift the limit of locked memory: {error}");
    }
}
