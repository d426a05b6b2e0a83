//! QEMU's monitor: pause, resume, snapshots and wake-ups of the machine, over the JSON protocol (QMP).

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;

/// How long the monitor may take for a command, on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at the machine.
const LOOK: Duration = Duration::from_millis(100);

/// The monitor of a running machine.
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
    events: VecDeque<Value>,
    /// Of a line that has not come to its end yet.
    partial: Vec<u8>,
}

impl Qmp {
    /// Connects to the socket that QEMU listens on.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .map_err(|error| format!("QEMU's monitor at {}: {error}", path.display()))?;
        stream.set_read_timeout(Some(LOOK))?;
        let mut qmp = Self { lines: BufReader::new(stream), events: VecDeque::new(), partial: Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        while qmp.message(deadline)?.get("QMP").is_none() {}
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Stops the machine's CPUs and its virtual clock.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.execute("stop", &json!({})).map(|_empty| ())
    }

    /// Lets the machine go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.execute("cont", &json!({})).map(|_empty| ())
    }

    /// Wakes a machine that is suspended.
    pub(crate) fn wake(&mut self) -> Result<()> {
        self.execute("system_wakeup", &json!({})).map(|_empty| ())
    }

    /// Writes the machine's whole state into a file. It goes on afterwards.
    pub(crate) fn save(&mut self, file: &Path) -> Result<()> {
        self.pause()?;
        let deadline = Instant::now() + PATIENCE;
        self.execute("migrate", &json!({ "uri": format!("file:{}", file.display()) }))?;
        loop {
            let migration = self.execute("query-migrate", &json!({}))?;
            match migration["status"].as_str() {
                Some("completed") => return self.resume(),
                Some("failed") => {
                    return Err(format!("QEMU cannot save the machine: {}", migration["error-desc"]).into());
                }
                _ if Instant::now() > deadline => return Err("QEMU does not come to an end of saving".into()),
                _ => sleep(LOOK),
            }
        }
    }

    /// Waits until a machine that was started from a file runs.
    pub(crate) fn wait_until_it_runs(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.execute("query-status", &json!({}))?["status"] != "running" {
            // It was paused when it was saved, and is when it has been read.
            if self.execute("query-status", &json!({}))?["status"] == "paused" {
                self.resume()?;
            }
            if Instant::now() > deadline {
                return Err("a restored machine does not run".into());
            }
            sleep(LOOK / 10);
        }
        Ok(())
    }

    /// Ends the machine at once.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.execute("quit", &json!({})).map(|_empty| ())?;
        let deadline = Instant::now() + PATIENCE;
        while self.message(deadline).is_ok() {}
        Ok(())
    }

    /// Waits until the machine says that this has happened, since the monitor was last listened to or later.
    pub(crate) fn wait_for_event(&mut self, name: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(place) = self.events.iter().position(|event| event["event"] == name) {
                self.events.drain(..=place);
                return Ok(());
            }
            let message = self.message(deadline).map_err(|_late| format!("no {name} of the machine"))?;
            self.events.push_back(message);
        }
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = self.message(deadline)?;
            if let Some(error) = message.get("error") {
                return Err(format!("QEMU: {command}: {}", error["desc"]).into());
            }
            if message.get("return").is_some() {
                return Ok(message["return"].take());
            }
            self.events.push_back(message);
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            match self.lines.read_until(b'\n', &mut self.partial) {
                Ok(0) => return Err("the machine has ended".into()),
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    return Ok(serde_json::from_slice(&line)?);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(format!("QEMU's monitor: {error}").into()),
            }
            if Instant::now() > deadline {
                return Err("QEMU's monitor does not answer".into());
            }
        }
    }
}
