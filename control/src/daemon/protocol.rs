//! What is said over the control socket: one line of JSON each way.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use responder::Access;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::net::prefix::Prefix;
use crate::serving::xdp::ModeRequest;

/// Longer lines are refused by both sides.
pub(super) const MAX_LINE: u64 = 1 << 20;
/// Neither side waits longer for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Gives a [`crate::status::Status`].
    Status,
    /// Gives the [`crate::status::sources::Peers`].
    Peers,
    /// Attach to more interfaces. Gives the messages to show.
    Attach {
        /// Their names.
        interfaces: Vec<String>,
        /// In which mode.
        mode: ModeRequest,
        /// In place of somebody else's program.
        replace: bool,
    },
    /// Detach from these, or from all if none is named; without any left the daemon ends. Gives the messages
    /// to show.
    Detach {
        /// Their names.
        interfaces: Vec<String>,
    },
    /// Make an entry of the access lists. Gives the messages to show.
    SetAccess {
        /// Of these sources.
        prefix: Prefix,
        /// What it says.
        access: AccessWord,
        /// How long it lasts; without, until the daemon ends.
        seconds: Option<u64>,
    },
    /// Remove such an entry. Gives the messages to show.
    RemoveAccess {
        /// Whose.
        prefix: Prefix,
    },
    /// Gives the entries, as [`crate::serving::limits::Listed`].
    ListAccess,
    /// Gives a [`crate::status::traffic::Top`].
    Top,
}

/// [`Access`] on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessWord {
    /// [`Access::Denied`].
    Deny,
    /// [`Access::Ordinary`].
    Allow,
    /// [`Access::Unlimited`].
    Unlimited,
    /// [`Access::Strict`].
    Limit,
}

impl From<AccessWord> for Access {
    fn from(word: AccessWord) -> Self {
        match word {
            AccessWord::Deny => Self::Denied,
            AccessWord::Allow => Self::Ordinary,
            AccessWord::Unlimited => Self::Unlimited,
            AccessWord::Limit => Self::Strict,
        }
    }
}

/// The daemon's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Done, with what was asked for.
    Ok(serde_json::Value),
    /// Not done.
    Error(Error),
}

/// Asks the instance's daemon; `None` if none runs.
///
/// # Errors
///
/// The daemon's own, or it does not answer.
pub fn ask<T: DeserializeOwned>(instance: &Instance, request: &Request) -> Result<Option<T>> {
    let path = instance.socket();
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Error::new(Code::NoPermission, format_args!("{} is root's", path.display()))
                .remedy(format_args!("run it as root: `sudo {} ...`", instance.command())));
        }
        Err(error) => return Err(Error::because(Code::Io, format_args!("{}", path.display()))(error)),
    };
    let silent = |error| {
        Error::because(Code::TryAgain, format_args!("the daemon behind {} does not answer", path.display()))(
            error,
        )
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(silent)?;
    let mut line = serde_json::to_string(request).map_err(Error::because(Code::Software, "request"))?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(silent)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer).map_err(silent)?;
    let garbled = |error| {
        Error::because(Code::Software, "the daemon's answer makes no sense; is it another version?")(error)
    };
    match serde_json::from_str(&answer).map_err(garbled)? {
        Response::Ok(value) => serde_json::from_value(value).map(Some).map_err(garbled),
        Response::Error(error) => Err(error),
    }
}

/// Asks the daemon, which has to run.
///
/// # Errors
///
/// It does not, or as [`ask`].
pub fn ask_running<T: DeserializeOwned>(instance: &Instance, request: &Request) -> Result<T> {
    ask(instance, request)?.ok_or_else(|| {
        Error::new(Code::Unavailable, "no daemon runs")
            .remedy(format_args!("`sudo {} attach IFACE` starts it", instance.command()))
    })
}
