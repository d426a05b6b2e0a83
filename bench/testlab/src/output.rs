//! What commands say.

use std::process::{Command, ExitStatus};

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit status, if it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output, of a command that must not fail.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// Standard error, of a command that must fail with this exit status.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> String {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self.stderr
    }
}
