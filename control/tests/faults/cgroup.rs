//! A control group that bounds a process, of version 1 or 2, whichever this machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the controllers are: one hierarchy for each in version 1, the same for all in version 2.
const ROOT: &str = "/sys/fs/cgroup";

/// A group for one controller. It is removed when this is dropped, once its processes have left or ended.
pub(crate) struct Cgroup {
    path: PathBuf,
    is_first_version: bool,
}

impl Cgroup {
    /// Makes a group with this controller; an error says why this machine cannot.
    pub(crate) fn make(controller: &str, name: &str) -> Result<Self, String> {
        let first = Path::new(ROOT).join(controller);
        let is_first_version = first.join("cgroup.procs").exists();
        let parent = if is_first_version { first } else { ROOT.into() };
        if !is_first_version {
            let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
            if !controllers.split_whitespace().any(|one| one == controller) {
                return Err(format!("this machine has no control groups for {controller}"));
            }
            let enable = format!("+{controller}");
            fs::write(parent.join("cgroup.subtree_control"), enable).map_err(|error| error.to_string())?;
        }
        let path = parent.join(name);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, is_first_version })
    }

    /// Bounds the memory to so many bytes.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        self.set(
            if self.is_first_version { "memory.limit_in_bytes" } else { "memory.max" },
            &bytes.to_string(),
        );
    }

    /// Bounds the time on a CPU to so many microseconds of every tenth of a second.
    pub(crate) fn limit_cpu(&self, us: u32) {
        if self.is_first_version {
            self.set("cpu.cfs_period_us", "100000");
            self.set("cpu.cfs_quota_us", &us.to_string());
        } else {
            self.set("cpu.max", &format!("{us} 100000"));
        }
    }

    /// Moves a process into it, with all its threads.
    pub(crate) fn take(&self, process: u32) {
        self.set("cgroup.procs", &process.to_string());
    }

    /// Moves a process back to where most are.
    pub(crate) fn release(&self, process: u32) {
        fs::write(self.path.parent().unwrap().join("cgroup.procs"), process.to_string()).unwrap();
    }

    /// The file that takes processes, for those that move by themselves.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.path.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _still_in_use = fs::remove_dir(&self.path);
    }
}
