//! The machine: its kernel, and the directories in which the server keeps its files.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::finding::Finding;
use crate::config::ClockSource;
use crate::instance::{BPFFS, Instance};
use crate::service_manager;

/// The oldest kernel that has everything that the program needs.
const OLDEST: (u32, u32) = (5, 10);

/// The facts about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    /// Release of the kernel.
    release: String,
    /// Value of `net.core.bpf_jit_enable`.
    jit: Option<String>,
    /// Whether bpffs is mounted where the server expects it.
    bpffs: bool,
    /// Directories on read-only file systems, with what the server keeps there.
    read_only: Vec<(PathBuf, Kept)>,
    /// Whether systemd is the init system.
    systemd: bool,
}

/// What the server keeps in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Pins,
    Socket,
    Drift,
}

/// Examines the machine.
pub(super) fn examine(instance: &Instance, source: ClockSource) -> Vec<Finding> {
    judge(&look(instance, source))
}

fn look(instance: &Instance, source: ClockSource) -> Facts {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let jit = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    let mut places =
        vec![(instance.pin_directory(), Kept::Pins), (instance.runtime_directory(), Kept::Socket)];
    if source == ClockSource::Upstream {
        places.push((instance.state_directory(), Kept::Drift));
    }
    Facts {
        release: release.unwrap_or_default(),
        jit: jit.ok().map(|text| text.trim().to_owned()),
        bpffs: statfs(BPFFS).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC),
        read_only: places.into_iter().filter_map(|(place, what)| Some((read_only(&place)?, what))).collect(),
        systemd: service_manager::is_systemd(),
    }
}

/// Returns the directory, or the one in which it would be created, if its file system is read-only.
fn read_only(place: &Path) -> Option<PathBuf> {
    let there = place.ancestors().find(|directory| directory.exists())?;
    let flags = statvfs(there).ok()?.flags();
    flags.contains(FsFlags::ST_RDONLY).then(|| there.to_owned())
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts)];
    if facts.jit.as_deref() == Some("0") {
        findings.push(
            Finding::warning("bpf-jit", "the kernel interprets eBPF programs instead of compiling them")
                .why("each answer takes several times as long")
                .fix("sysctl -w net.core.bpf_jit_enable=1"),
        );
    }
    if !facts.bpffs {
        findings.push(
            Finding::note("bpffs", format!("no bpffs is mounted on {BPFFS}"))
                .why("the program is pinned there; `attach` mounts it if it has the permission")
                .fix(format!("mount -t bpf -o mode=0700 bpf {BPFFS}")),
        );
    }
    findings.extend(
        facts.read_only.iter().map(|(place, kept)| read_only_finding(&place.display().to_string(), *kept)),
    );
    if !facts.systemd {
        findings.push(
            Finding::note("no-systemd", "systemd is not running on this machine")
                .why("nothing restarts the daemon, and `systemctl` has no effect")
                .advice("run `pooltime-xdp run` under your init system; SIGHUP reloads it, SIGTERM ends it"),
        );
    }
    findings
}

fn read_only_finding(place: &str, kept: Kept) -> Finding {
    let what = format!("{place} is read-only");
    let (finding, setting) = match kept {
        Kept::Pins => (
            Finding::problem("read-only", what)
                .why("the program and its maps are pinned there, so nothing can be attached"),
            "ReadWritePaths=/sys/fs/bpf",
        ),
        Kept::Socket => (
            Finding::problem("read-only", what)
                .why("the lock and the control socket are created there, so no daemon can start"),
            "RuntimeDirectory=",
        ),
        Kept::Drift => (
            Finding::warning("read-only", what)
                .why("the learned frequency of the oscillator is lost when the daemon ends"),
            "StateDirectory=",
        ),
    };
    finding
        .fix(format!("mount -o remount,rw $(findmnt -no TARGET --target {place})"))
        .advice(format!("in a systemd unit, set `{setting}`"))
}

fn kernel(facts: &Facts) -> Finding {
    let release = &facts.release;
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Finding::problem("kernel", format!("Linux {release} is too old"))
                .why(format!("the program needs {}.{} or later", OLDEST.0, OLDEST.1))
                .fix("apt-get install linux-image-amd64")
        }
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn facts() -> Facts {
        Facts {
            release: "6.1.0-50-amd64".into(),
            jit: Some("1".into()),
            bpffs: true,
            read_only: Vec::new(),
            systemd: true,
        }
    }

    #[test]
    fn a_machine_as_debian_makes_it_is_well() {
        assert_eq!(ids(&judge(&facts())), [("kernel", Ok)]);
    }

    #[test]
    fn each_fault_of_the_machine_is_found() {
        let judged = |facts: Facts, id: &str| only(&judge(&facts), id).clone();
        assert_eq!(
            judged(Facts { release: "4.19.0-27-amd64".into(), ..facts() }, "kernel").severity,
            Problem
        );
        assert_eq!(judged(Facts { release: "5.10.0".into(), ..facts() }, "kernel").severity, Ok);
        assert_eq!(judged(Facts { jit: Some("0".into()), ..facts() }, "bpf-jit").severity, Warning);
        assert_eq!(judged(Facts { bpffs: false, ..facts() }, "bpffs").severity, Note);
        assert_eq!(judged(Facts { systemd: false, ..facts() }, "no-systemd").severity, Note);
        for (kept, severity) in [(Kept::Pins, Problem), (Kept::Socket, Problem), (Kept::Drift, Warning)] {
            let read_only = vec![(PathBuf::from("/run"), kept)];
            let found = judged(Facts { read_only, ..facts() }, "read-only");
            assert!(found.severity == severity && found.fix.unwrap().contains("--target /run)"));
        }
    }

    #[test]
    fn a_place_is_judged_by_the_directory_that_it_would_be_made_in() {
        assert_eq!(read_only(&std::env::temp_dir().join("not/there/yet")), None);
    }
}
