//! The XDP attachment at which answers are taken. It is held from the first step to the last, because some
//! NICs reset the link whenever a native program comes or goes.

use std::fmt;

use aya::programs::ProgramError;
use aya::programs::xdp::{XdpLink, XdpMode};
use nix::errno::Errno;

use super::LinkError;
use super::collector::Collector;
use crate::failure::Failure;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver.
    Native,
    /// In the generic path, after the driver.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Native => "native XDP",
            Self::Generic => "generic XDP",
        })
    }
}

/// The attachment; see the module. It is detached when this is dropped, or by the kernel when the process
/// ends for any reason.
pub(super) struct XdpAttachment {
    interface: String,
    mode: Mode,
    link: Option<XdpLink>,
}

impl XdpAttachment {
    /// Attaches in the driver if that is possible, and otherwise in the generic path.
    pub(super) fn take(interface: &str) -> Result<Self, Failure> {
        let mut collector = Collector::of_object(1)?;
        let mut take = |mode| -> Result<XdpLink, LinkError> {
            let how = if mode == Mode::Native { XdpMode::Driver } else { XdpMode::Skb };
            let program = collector.collect().map_err(|error| refused(interface, error))?;
            let taken = program.attach(interface, how).and_then(|id| program.take_link(id));
            taken.map_err(|error| refused(interface, error))
        };
        let (mode, link) = match take(Mode::Native) {
            Err(LinkError::NoProgram { .. }) => (Mode::Generic, take(Mode::Generic)?),
            native => (Mode::Native, native?),
        };
        Ok(Self { interface: interface.into(), mode, link: Some(link) })
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Replaces the program atomically, so that another collector takes the answers from now on.
    pub(super) fn give_to(&mut self, collector: &mut Collector) -> Result<(), Failure> {
        let link = self.link.take().ok_or_else(|| refused(&self.interface, ProgramError::NotLoaded))?;
        let program = collector.collect().map_err(|error| refused(&self.interface, error))?;
        let given = program.attach_to_link(link).and_then(|id| program.take_link(id));
        self.link = Some(given.map_err(|error| refused(&self.interface, error))?);
        Ok(())
    }
}

fn refused(interface: &str, error: ProgramError) -> LinkError {
    let number = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    match number.map(Errno::from_raw) {
        Some(Errno::EBUSY | Errno::EEXIST) => LinkError::Taken(interface.into()),
        _ => LinkError::NoProgram {
            interface: interface.into(),
            reason: format!("{:#}", anyhow::Error::from(error)),
        },
    }
}
