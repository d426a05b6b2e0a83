//! What ends a command early. Each failure names the thing and the way out, and has an exit code of
//! `sysexits.h`.

use std::error::Error;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;

/// The results are complete, and are not what was asked for.
pub(crate) const MISSED: u8 = 1;
/// `EX_USAGE`: the command line is wrong.
pub(crate) const USAGE: u8 = 64;
/// `EX_NOHOST`: the target does not exist.
pub(crate) const NO_HOST: u8 = 68;
/// `EX_UNAVAILABLE`: the machine or its kernel does not support what is needed.
pub(crate) const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: the measurement did not measure what it should have.
pub(crate) const SOFTWARE: u8 = 70;
/// `EX_IOERR`: a file could not be read or written.
const IO: u8 = 74;
/// `EX_NOPERM`: a privilege is missing.
const NO_PERMISSION: u8 = 77;
/// The exit code of a command that Ctrl-C ended, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Options contradict each other.
    #[error("{0}")]
    Usage(String),

    /// Capabilities that XDP programs and raw sockets need are missing.
    #[error("missing {}, which XDP programs and raw sockets need; as root: `sudo {}`", .0.join(", "), command())]
    Privilege(Vec<String>),

    /// The kernel's verifier does not accept a program.
    #[error(
        "the kernel's verifier refuses the program {program}: {log}\n\
         This kernel ({kernel}) may be too old (5.10 or newer is needed), or the object was not built \
         with the tools that `scripts/setup` installs."
    )]
    Verifier { program: String, kernel: String, log: String },

    /// A map could not be created.
    #[error(
        "cannot create the BPF map {map}: {reason}. If it is a matter of locked memory (kernels before 5.11): \
         `ulimit -l unlimited` in the calling shell, or run as root"
    )]
    Map { map: String, reason: std::io::Error },

    /// An object file is not what it should be.
    #[error("{object} does not contain this server's programs: {reason}")]
    Object { object: String, reason: String },

    /// `BPF_PROG_TEST_RUN` itself failed.
    #[error(
        "cannot run {what} in the kernel (BPF_PROG_TEST_RUN): {reason}. If a signal interrupted it, run it again"
    )]
    Run { what: String, reason: ProgramError },

    /// A map could not be read or written.
    #[error("cannot use the BPF map {map}: {reason}")]
    MapAccess { map: &'static str, reason: MapError },

    /// The results are printed, and are not what was asked for.
    #[error("{0}")]
    Missed(String),

    /// The command was interrupted after it had printed what it had.
    #[error("interrupted: the results are those until then")]
    Interrupted,

    /// An error that only one command has.
    #[error("{reason}")]
    Own { reason: Box<dyn Error + Send + Sync>, exit_code: u8 },

    /// A CPU does not exist or is not allowed.
    #[error("cannot run on CPU {cpu}: this process may use {allowed}; choose one of them with --cpu")]
    Cpu { cpu: usize, allowed: String },

    /// A file could not be read or written.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: std::io::Error },

    /// A results file has another format.
    #[error("{} is not what `pooltime-bench cost --json` writes: {reason}", path.display())]
    Results { path: PathBuf, reason: serde_json::Error },

    /// The results could not be printed.
    #[error("cannot write the results: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// Makes a failure of an error that only one command has, with its exit code.
    pub(crate) fn own(reason: impl Error + Send + Sync + 'static, exit_code: u8) -> Self {
        Self::Own { reason: Box::new(reason), exit_code }
    }

    /// Returns that error if it has this type.
    pub(crate) fn as_own<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Own { reason, .. } => reason.downcast_ref(),
            _ => None,
        }
    }

    /// Returns the exit code of the command.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Own { exit_code, .. } => *exit_code,
            Self::Missed(_) => MISSED,
            Self::Interrupted => INTERRUPTED,
            Self::Privilege(_) => NO_PERMISSION,
            Self::Cpu { .. } | Self::Usage(_) => USAGE,
            Self::Verifier { .. }
            | Self::Map { .. }
            | Self::Object { .. }
            | Self::Run { .. }
            | Self::MapAccess { .. } => UNAVAILABLE,
            Self::File { .. } | Self::Results { .. } | Self::Output(_) => IO,
        }
    }
}

/// Returns the command line as it was typed.
fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}
