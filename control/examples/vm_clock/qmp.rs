//! QEMU's monitor: pause, resume, snapshots and wake-ups of the machine, over the JSON protocol (QMP).

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;

/// How long the monitor may take for a command or a job, on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at a job.
const LOOK: Duration = Duration::from_millis(100);
/// The block device that snapshots are kept in.
const STORE: &str = "snapshots";
/// The machine's memory and some to spare, in bytes.
const STORE_SIZE: u64 = 4 << 30;

/// The monitor of a running machine.
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
    events: VecDeque<Value>,
    /// Of a line that has not come to its end yet.
    partial: Vec<u8>,
    jobs: u32,
}

impl Qmp {
    /// Connects to the socket that QEMU listens on.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .map_err(|error| format!("QEMU's monitor at {}: {error}", path.display()))?;
        stream.set_read_timeout(Some(LOOK))?;
        let mut qmp =
            Self { lines: BufReader::new(stream), events: VecDeque::new(), partial: Vec::new(), jobs: 0 };
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

    /// Makes room for snapshots in this file.
    pub(crate) fn make_store(&mut self, file: &Path) -> Result<()> {
        let name = file.to_str().ok_or("a path that is not UTF-8")?;
        let create = |options| json!({ "job-id": "create", "options": options });
        self.job("blockdev-create", create(json!({ "driver": "file", "filename": name, "size": 0 })))?;
        self.execute(
            "blockdev-add",
            &json!({ "driver": "file", "filename": name, "node-name": "store-file" }),
        )?;
        self.job(
            "blockdev-create",
            create(json!({ "driver": "qcow2", "file": "store-file", "size": STORE_SIZE })),
        )?;
        let store = json!({ "driver": "qcow2", "file": "store-file", "node-name": STORE });
        self.execute("blockdev-add", &store).map(|_empty| ())
    }

    /// Saves the machine's whole state.
    pub(crate) fn save(&mut self, tag: &str) -> Result<()> {
        self.snapshot("snapshot-save", tag)
    }

    /// Brings back a state that was saved.
    pub(crate) fn restore(&mut self, tag: &str) -> Result<()> {
        self.snapshot("snapshot-load", tag)?;
        // It is paused afterwards if it was when it was saved.
        self.resume()
    }

    fn snapshot(&mut self, command: &str, tag: &str) -> Result<()> {
        self.job(command, json!({ "tag": tag, "vmstate": STORE, "devices": [STORE] }))
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

    /// Runs a command that starts a job, and waits for the job's end.
    fn job(&mut self, command: &str, mut arguments: Value) -> Result<()> {
        self.jobs += 1;
        let id = format!("job{}", self.jobs);
        arguments["job-id"] = json!(id);
        self.execute(command, &arguments)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = self.execute("query-jobs", &json!({}))?;
            let Some(job) = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == *id)) else {
                return Ok(());
            };
            if job["status"] == "concluded" {
                let error = job["error"].as_str().map(str::to_owned);
                self.execute("job-dismiss", &json!({ "id": id }))?;
                return error.map_or(Ok(()), |error| Err(format!("QEMU: {command}: {error}").into()));
            }
            if Instant::now() > deadline {
                return Err(format!("QEMU: {command} does not come to an end").into());
            }
            sleep(LOOK);
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
