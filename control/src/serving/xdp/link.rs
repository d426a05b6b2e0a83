//! The link that holds the program on an interface: made, given another program, taken off.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use responder::layout;
use tracing::debug;

use super::refusal::Refusal;
use crate::error::{Code, Error, Result, chain};
use crate::net::interfaces::Interface;
use crate::net::xdp_mode::Mode;

/// The same program twice: the second one is also for frames in several buffers, and for Linux 5.18 or later.
/// Some drivers take only that one at a large MTU.
const PROGRAMS: [&str; 2] = [layout::PROGRAM, layout::PROGRAM_FRAGS];

/// Puts the object's program on an interface in this mode.
///
/// # Errors
///
/// Outside, that the kernel does not take the program at all; inside, that it is refused there.
pub(super) fn make(
    object: &mut Ebpf,
    interface: &Interface,
    mode: Mode,
) -> Result<std::result::Result<FdLink, Refusal>> {
    let xdp_mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    first_taken(object, |program| {
        let attached = program.attach_to_if_index(interface.index, xdp_mode);
        let link = attached
            .and_then(|id| program.take_link(id))
            .map_err(|error| Refusal::of(program, interface, mode, &error))?;
        // A link that is not a descriptor cannot be pinned: the netlink attachment of kernels before 5.9.
        FdLink::try_from(link).map_err(|_| Refusal {
            reason: "this kernel has no XDP links".into(),
            advice: Some("Linux 5.10 or later is needed".into()),
        })
    })
}

/// Gives a pinned link the object's program in place of the one it has, between two packets.
///
/// # Errors
///
/// The kernel's; the link is as it was.
pub(super) fn replace(object: &mut Ebpf, pin: &Path, name: &str) -> Result<()> {
    let replaced = first_taken(object, |program| {
        let link = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?;
        let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| chain(&error))?;
        // The pin keeps the link; this descriptor may go with the object.
        program.attach_to_link(link).map_err(|error| chain(&error))
    })?;
    replaced.map(|_id| ()).map_err(|reason| {
        Error::new(Code::Os, format_args!("cannot replace the program on {name}: {reason}"))
    })
}

/// Takes the program off its interface.
///
/// # Errors
///
/// The pin cannot be opened or removed.
pub(super) fn remove(pin: &Path) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        Error::new(Code::Os, format_args!("cannot detach {}: {}", pin.display(), chain(error)))
    };
    let link = PinnedLink::from_pin(pin).map_err(|error| failed(&error))?;
    // The last descriptor of an unpinned link takes the program off.
    let _link: FdLink = link.unpin().map_err(|error| failed(&error))?;
    Ok(())
}

/// Tries the object's programs one after the other. The last refusal counts: it is of the program that asks
/// the least.
fn first_taken<T, E>(
    object: &mut Ebpf,
    mut attempt: impl FnMut(&mut Xdp) -> std::result::Result<T, E>,
) -> Result<std::result::Result<T, E>> {
    let mut refused = None;
    for name in PROGRAMS {
        let program: &mut Xdp = object
            .program_mut(name)
            .ok_or_else(|| Error::new(Code::Software, format_args!("the object has no program {name}")))?
            .try_into()
            .map_err(Error::because(Code::Software, "the object's program"))?;
        match (program.load(), refused.take()) {
            // Native mode may have been tried with it.
            (Ok(()) | Err(ProgramError::AlreadyLoaded), _) => {}
            // A kernel that knows nothing of frames in several buffers.
            (Err(_), Some(refusal)) => return Ok(Err(refusal)),
            (Err(error), None) => return Err(refused_program(error)),
        }
        match attempt(program) {
            Ok(taken) => return Ok(Ok(taken)),
            Err(refusal) => refused = Some(refusal),
        }
    }
    refused.map(Err).ok_or_else(|| Error::new(Code::Software, "there is no program to attach"))
}

fn refused_program(error: ProgramError) -> Error {
    let kernel = nix::sys::utsname::uname()
        .map_or_else(|_| "this kernel".into(), |name| format!("kernel {}", name.release().to_string_lossy()));
    let refused = format!("{kernel} rejected the eBPF program");
    let error = match error {
        // The whole log is thousands of lines.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            debug!("verifier: {log}");
            match complaint(&log) {
                Some(complaint) => Error::new(Code::Os, format_args!("{refused}: {io_error}: {complaint}")),
                None => Error::because(Code::Os, refused)(io_error),
            }
        }
        error => Error::because(Code::Os, refused)(error),
    };
    error.remedy("Linux 5.10 or later is needed; run with `RUST_LOG=debug` for the verifier's log")
}

/// What a verifier's log comes to: its last line but for statistics.
fn complaint(log: &str) -> Option<&str> {
    let is_statistics = |line: &str| {
        ["processed ", "verification time ", "stack depth "].iter().any(|start| line.starts_with(start))
    };
    log.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_statistics(line))
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn of_a_verifiers_log_the_complaint_is_told() {
        let log = "func#0 @0\n0: (bf) r6 = r1\nR2 pointer arithmetic prohibited\n\
            verification time 120 usec\nstack depth 16\nprocessed 1 insns (limit 1000000)\n\n";
        assert_eq!(complaint(log), Some("R2 pointer arithmetic prohibited"));
        assert_eq!(complaint("processed 0 insns\n"), None);
    }
}
