//! Errors of configurations: a fault that code can match on, with the message for people.

use std::fmt::{self, Display};
use std::io;

use crate::error::{Code, Error};

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The configuration file, or a file that it names, cannot be read.
    Unreadable(io::ErrorKind),
    /// `clock.source` is `"upstream"`, but no upstream is configured.
    NoUpstreams,
    /// The content of a file is wrong in another way.
    Wrong,
}

/// An error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The kind of error, for code that handles some kinds differently.
    pub fault: Fault,
    /// The message for people.
    pub error: Error,
}

impl ConfigError {
    /// Makes the error of a file that cannot be read, for `map_err`. `named` names the file.
    pub(crate) fn unreadable(named: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            fault: Fault::Unreadable(error.kind()),
            error: Error::because(Code::NoInput, named)(error),
        }
    }

    /// Adds the place of the error in front of the message.
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
