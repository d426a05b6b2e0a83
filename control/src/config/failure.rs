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
    /// The key whose place is to be put before the message, as [`super::place`] writes it.
    pub(super) key: Option<String>,
    /// The key that it contradicts, whose place is to be put behind the message.
    pub(super) other: Option<String>,
}

impl ConfigError {
    /// Makes the error of a key: `clock.stratum: must be 1 to 15`.
    pub(super) fn of(key: &str, why: impl Display) -> Self {
        Self::from(Error::new(Code::Config, format_args!("{key}: {why}"))).about(key)
    }

    /// Makes the error of a file that cannot be read, for `map_err`. `named` names the file.
    pub(crate) fn unreadable(named: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            fault: Fault::Unreadable(error.kind()),
            error: Error::because(Code::NoInput, named)(error),
            key: None,
            other: None,
        }
    }

    /// Says which key, or which value of a list, has the line of the error.
    pub(super) fn about(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Adds what to do next.
    pub(super) fn remedy(self, remedy: impl Display) -> Self {
        Self { error: self.error.remedy(remedy), ..self }
    }

    /// Whether a file was read and its content is wrong.
    pub(super) const fn is_of_content(&self) -> bool {
        matches!(self.fault, Fault::Wrong)
    }

    /// Changes the kind of the error.
    pub(super) fn fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }

    /// Says which key, or which value of a list, is the other one of two that contradict each other.
    pub(super) fn against(self, key: impl Into<String>) -> Self {
        Self { other: Some(key.into()), ..self }
    }

    /// Adds where the other one of two is.
    pub(super) fn beside(self, place: impl Display) -> Self {
        let error = Error { what: format!("{} ({place})", self.error.what), ..self.error };
        Self { error, other: None, ..self }
    }

    /// Adds the place of the error in front of the message.
    pub(super) fn at(self, place: impl Display) -> Self {
        let error = Error { what: format!("{place}: {}", self.error.what), ..self.error };
        Self { error, ..self }
    }
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        Self { fault: Fault::Wrong, error, key: None, other: None }
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
