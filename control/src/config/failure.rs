//! Why a configuration cannot be used: for programs beside the words for people.

use std::fmt::{self, Display};
use std::io;

use crate::error::{Code, Error};

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A file cannot be read: the configuration's own, or one that it names.
    Unreadable(io::ErrorKind),
    /// `clock.source = "upstream"`, and no upstream.
    NoUpstreams,
    /// Anything else: what is written there is wrong.
    Wrong,
}

/// An error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// For whoever has to tell errors apart.
    pub fault: Fault,
    /// For people.
    pub error: Error,
}

impl ConfigError {
    /// The file that is named here cannot be read.
    pub(crate) fn unreadable(named: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            fault: Fault::Unreadable(error.kind()),
            error: Error::because(Code::NoInput, named)(error),
        }
    }

    /// The same, with the place where it is.
    pub(super) fn at(self, place: impl Display) -> Self {
        let error = Error { what: format!("{place}: {}", self.error.what), ..self.error };
        Self { error, ..self }
    }
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        Self { fault: Fault::Wrong, error }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        error.error
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ConfigError {}
