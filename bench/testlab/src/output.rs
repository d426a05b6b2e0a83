//! The output and the exit status of a command.

use std::process::{Command, ExitStatus};

/// The output and the exit status of a command.
#[derive(Debug)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, read as UTF-8.
    pub stdout: String,
    /// Standard error, read as UTF-8.
    pub stderr: String,
}

impl Output {
    /// Runs a command until it ends.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit status; `None` if a signal ended the command.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts that the command succeeded, and returns its standard output.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// Asserts that the command ended with this exit status, and returns its standard error.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> String {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self.stderr
    }
}
