//! The machine's second serial line: runs commands in the guest, whose init reads them one by one.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;

/// An emulated machine on a busy host boots slowly.
const BOOT: Duration = Duration::from_mins(10);
/// For a command.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(50);

/// A shell in the guest.
pub(crate) struct Guest {
    line: UnixStream,
    /// What was read and is not a whole line yet.
    pending: Vec<u8>,
}

/// What a command said and how it ended.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) text: String,
}

impl Guest {
    /// Connects to a machine that is booting, and waits until its shell is ready.
    pub(crate) fn boot(path: &Path) -> Result<Self> {
        let mut guest = Self::connect(path)?;
        guest.answer(BOOT).map_err(|error| format!("the machine does not come up: {error}"))?;
        Ok(guest)
    }

    /// Connects to a machine whose shell waits for a command.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let line = UnixStream::connect(path)
            .map_err(|error| format!("the machine's serial line at {}: {error}", path.display()))?;
        line.set_read_timeout(Some(LOOK))?;
        Ok(Self { line, pending: Vec::new() })
    }

    /// Runs a command to its end, whatever its exit status.
    pub(crate) fn try_run(&mut self, command: &str) -> Result<Said> {
        assert!(!command.contains('\n'), "a command is one line: {command:?}");
        self.line.write_all(format!("{command}\n").as_bytes())?;
        self.answer(PATIENCE).map_err(|error| format!("`{command}` in the guest: {error}").into())
    }

    /// Runs a command that must not fail: what it said.
    pub(crate) fn run(&mut self, command: &str) -> Result<String> {
        match self.try_run(command)? {
            Said { status: 0, text } => Ok(text),
            Said { status, text } => {
                Err(format!("`{command}` in the guest ended with {status}: {}", text.trim()).into())
            }
        }
    }

    /// Sends a command whose answer comes later: [`Guest::finish`] waits for it.
    pub(crate) fn send(&mut self, command: &str) -> Result<()> {
        Ok(self.line.write_all(format!("{command}\n").as_bytes())?)
    }

    /// Waits for the answer to a command that was sent.
    pub(crate) fn finish(&mut self) -> Result<Said> {
        self.answer(PATIENCE)
    }

    /// Writes a file.
    pub(crate) fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let escaped = text.replace('\\', "\\\\").replace('\'', "'\\''").replace('\n', "\\n");
        self.run(&format!("printf '%b' '{escaped}' >{path}")).map(|_nothing| ())
    }

    /// All lines up to the one that has the exit status.
    fn answer(&mut self, limit: Duration) -> Result<Said> {
        let deadline = Instant::now() + limit;
        let mut text = String::new();
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\r', '\n']);
                if let Some(status) = line.strip_prefix("<<").and_then(|rest| rest.strip_suffix(">>"))
                    && let Ok(status) = status.parse()
                {
                    return Ok(Said { status, text });
                }
                text.push_str(line);
                text.push('\n');
            }
            let mut buffer = [0; 4096];
            match self.line.read(&mut buffer) {
                Ok(0) => return Err("the machine has ended".into()),
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > deadline {
                return Err(format!("no answer within {} s", limit.as_secs()).into());
            }
        }
    }
}
