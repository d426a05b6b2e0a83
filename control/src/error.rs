//! The one error type: what failed, with what, and what to do next.

use std::fmt::{self, Display};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::safe_text::one_line;

/// The exit codes of sysexits.h that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Code {
    /// The arguments are wrong.
    Usage = 64,
    /// An input file is not what it should be.
    Data = 65,
    /// A file or interface does not exist.
    NoInput = 66,
    /// A service or resource is missing or in use.
    Unavailable = 69,
    /// The program has a bug.
    Software = 70,
    /// The kernel lacks something or has refused it.
    Os = 71,
    /// Reading or writing failed.
    Io = 74,
    /// It may work later.
    TryAgain = 75,
    /// The operation is not permitted.
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// What failed, why, and what to do. Each is one line, whatever the names in it are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Exit code.
    pub code: Code,
    /// What failed. The text names the thing.
    pub what: String,
    /// What to do next, with the command to type where there is one.
    pub remedy: Option<String>,
}

/// A result with the crate's error, where no other is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error that does not yet say what to do.
    pub fn new(code: Code, what: impl Display) -> Self {
        Self { code, what: one_line(&what.to_string()).into_owned(), remedy: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(self, remedy: impl Display) -> Self {
        Self { remedy: Some(one_line(&remedy.to_string()).into_owned()), ..self }
    }

    /// Makes an argument for `map_err`: `what` failed because of the error.
    pub fn because<E: std::error::Error>(code: Code, what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::new(code, format_args!("{what}: {}", chain(&error)))
    }
}

/// Formats an error with all its causes on one line. A wrapper that repeats its cause's text is not shown
/// twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = without_number(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = without_number(error);
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Leaves out the number that the standard library puts behind the system's words: `No such file or directory (os
/// error 2)`.
fn without_number(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, rest)) => {
            let after = rest.split_once(')').map_or("", |(_, after)| after);
            format!("{words}{after}")
        }
        None => text,
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> Self {
        Self::from(error.code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_errors_are_words_without_a_number() {
        let error = std::fs::read("/nowhere").unwrap_err();
        assert_eq!(chain(&error), "No such file or directory");
        let error = Error::because(Code::NoInput, "/nowhere")(std::io::Error::other(error));
        assert_eq!(error.what, "/nowhere: No such file or directory");
    }
}
