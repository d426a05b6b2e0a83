//! The protocol of the control socket: lines of JSON, a request one way and the answer the other.
//!
//! Before the answer the daemon sends [`Response::Working`]: once when it accepts the request, and then every
//! [`ALIVE_INTERVAL`]. So a client can tell a busy daemon from one that hangs, however long an access list takes to
//! load or a driver to attach. A request that was not accepted is not carried out.

use std::net::IpAddr;
use std::time::Duration;

use responder::Access;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;
use crate::serving::xdp::ModeRequest;

/// Longer lines are refused by both sides.
pub(super) const MAX_LINE: u64 = 1 << 20;
/// The longest time that one side waits for the other side to send or receive a line.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which the daemon says that it is still working on a request.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(2);

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
    /// Gives a [`crate::status::traffic::SourceTraffic`].
    Source {
        /// An address of it.
        address: IpAddr,
    },
    /// Gives the [`crate::status::probes::ProbeRounds`].
    Probes,
    /// Gives the [`crate::status::probes::Course`].
    Course,
}

impl Request {
    /// Reads a line of the socket.
    ///
    /// # Errors
    ///
    /// It is no request.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).map_err(Error::because(Code::Data, "not a request"))
    }

    /// Whether it changes nothing, so that whoever may use the socket may send it.
    #[must_use]
    pub const fn only_looks(&self) -> bool {
        match self {
            Self::Status
            | Self::Peers
            | Self::Top
            | Self::Source { .. }
            | Self::ListAccess
            | Self::Probes
            | Self::Course => true,
            Self::Attach { .. }
            | Self::Detach { .. }
            | Self::SetAccess { .. }
            | Self::RemoveAccess { .. } => false,
        }
    }
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

/// A line of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// The request is accepted, and the answer follows.
    Working,
    /// Done, with what was asked for.
    Ok(serde_json::Value),
    /// Not done.
    Error(Error),
}
