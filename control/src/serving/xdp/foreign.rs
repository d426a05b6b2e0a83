//! Programs that are somebody else's.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::loaded_programs;

use crate::error::{Code, Error, Result, chain};

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
        .ok_or_else(|| Error::new(Code::TryAgain, format_args!("XDP program {id} has just been removed")))?;
    let descriptor = program.fd().map_err(|error| failed(&error))?;
    descriptor.as_fd().try_clone_to_owned().map_err(|error| failed(&error))
}
