//! A virtual machine: QEMU's monitor and the guest's shell, and how both are found again when the machine is restored.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::guest::Guest;
use crate::qmp::Qmp;

/// For QEMU to start.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(10);

/// A running machine.
pub(crate) struct Machine {
    pub(crate) guest: Guest,
    qmp: Option<Qmp>,
    monitor: PathBuf,
    line: PathBuf,
    start: PathBuf,
    store: PathBuf,
    has_slept: bool,
}

impl Machine {
    /// Connects to a machine that is booting: to the sockets of its monitor and of its shell. The script starts it
    /// again; the file is to have its state in the meantime.
    pub(crate) fn boot(monitor: &Path, line: &Path, start: &Path, store: &Path) -> Result<Self> {
        Ok(Self {
            guest: Guest::boot(line)?,
            qmp: Some(Qmp::connect(monitor)?),
            monitor: monitor.into(),
            line: line.into(),
            start: start.into(),
            store: store.into(),
            has_slept: false,
        })
    }

    /// The monitor.
    pub(crate) fn qmp(&mut self) -> Result<&mut Qmp> {
        self.qmp.as_mut().ok_or_else(|| "the machine has ended".into())
    }

    /// Saves the whole state, which stops the machine for a moment.
    pub(crate) fn save(&mut self) -> Result<()> {
        let store = self.store.clone();
        self.qmp()?.save(&store)
    }

    /// Ends the machine, and starts another one in the state that was saved. A machine that took a state back in the
    /// same process would not take its time back: QEMU's emulation lets no time stamp counter go backwards.
    pub(crate) fn restore(&mut self) -> Result<()> {
        let from = format!("file:{}", self.store.display());
        self.replace(&["-incoming", &from])?;
        self.guest = Guest::connect(&self.line)?;
        self.qmp()?.wait_until_it_runs()
    }

    /// Wakes a machine that is suspended.
    pub(crate) fn wake(&mut self) -> Result<()> {
        self.has_slept = true;
        self.qmp()?.wake()
    }

    /// Boots a machine that has slept anew: it would wake at once from a second sleep.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        if self.has_slept {
            self.replace(&[])?;
            self.guest = Guest::boot(&self.line)?;
        }
        Ok(())
    }

    /// Ends the machine, and starts one with these options.
    fn replace(&mut self, options: &[&str]) -> Result<()> {
        if let Some(qmp) = self.qmp.take() {
            qmp.quit()?;
        }
        for socket in [&self.monitor, &self.line] {
            let _gone_already = std::fs::remove_file(socket);
        }
        let mut start = Command::new("bash");
        start.arg(&self.start).args(options).stdin(Stdio::null()).stdout(Stdio::null());
        // It ends when its monitor is told to, or by scripts/vm.
        let _qemu = start.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while !(self.monitor.exists() && self.line.exists()) {
            if Instant::now() > deadline {
                return Err("QEMU does not start again".into());
            }
            sleep(LOOK);
        }
        self.qmp = Some(Qmp::connect(&self.monitor)?);
        self.has_slept = false;
        Ok(())
    }
}
