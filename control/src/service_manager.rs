//! The commands with which an operator starts, reloads and restarts the daemon: those of its systemd unit where one is
//! installed, otherwise the program's own.

use std::path::Path;

use crate::instance::Instance;

/// Where systemd looks for units of the system, most important first: see systemd.unit(5).
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// An action on the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Starts it.
    Start,
    /// Makes it read its configuration again.
    Reload,
    /// Ends it and starts it.
    Restart,
}

/// Returns the command for an action on the daemon of `instance`.
#[must_use]
pub fn command(instance: &Instance, verb: Verb) -> String {
    command_with(instance, verb, has_unit(instance))
}

/// Returns the advice on how an instance without a daemon begins to answer.
#[must_use]
pub fn how_to_start(instance: &Instance) -> String {
    how_to_start_with(instance, has_unit(instance))
}

fn command_with(instance: &Instance, verb: Verb, has_unit: bool) -> String {
    let (command, lock) = (instance.command(), instance.runtime_directory().join("lock"));
    let (unit, lock) = (instance.unit(), lock.display());
    match (has_unit, verb) {
        (true, Verb::Start) => format!("systemctl start {unit}"),
        (true, Verb::Reload) => format!("systemctl reload {unit}"),
        (true, Verb::Restart) => format!("systemctl restart {unit}"),
        (false, Verb::Start) => format!("{command} run"),
        (false, Verb::Reload) => format!("kill -HUP $(cat {lock})"),
        (false, Verb::Restart) => format!("kill -KILL $(cat {lock}); {command} run"),
    }
}

fn how_to_start_with(instance: &Instance, has_unit: bool) -> String {
    let attach = format!("sudo {} attach IFACE", instance.command());
    if has_unit {
        let start = command_with(instance, Verb::Start, has_unit);
        format!("`sudo {start}` starts the service; `{attach}` answers in the foreground")
    } else {
        format!("`{attach}` starts it")
    }
}

/// Whether systemd manages this machine and knows a unit for the daemon.
fn has_unit(instance: &Instance) -> bool {
    is_systemd() && unit_files(instance).iter().any(|name| is_unit(&UNIT_DIRECTORIES, name))
}

/// Whether systemd manages this machine, as `sd_booted(3)` tells.
#[must_use]
pub fn is_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The files that may define the unit: its own, and the template of named instances.
fn unit_files(instance: &Instance) -> Vec<String> {
    let unit = instance.unit();
    let template = unit.split_once('@').map(|(program, _)| format!("{program}@.service"));
    std::iter::once(format!("{unit}.service")).chain(template).collect()
}

/// Whether the first of the directories that has something of this name has a unit. A unit that is masked is a link to
/// /dev/null.
fn is_unit(directories: &[impl AsRef<Path>], name: &str) -> bool {
    let mut paths = directories.iter().map(|directory| directory.as_ref().join(name));
    let first = paths.find(|path| path.symlink_metadata().is_ok());
    first.and_then(|path| path.canonicalize().ok()).is_some_and(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemctl_is_named_where_there_is_a_unit_and_our_own_command_elsewhere() {
        let unnamed = Instance::new(None).unwrap();
        let lab = Instance::new(Some("lab")).unwrap();
        for (verb, with, without) in [
            (Verb::Start, "systemctl start pooltime-xdp", "pooltime-xdp run"),
            (Verb::Reload, "systemctl reload pooltime-xdp", "kill -HUP $(cat /run/pooltime-xdp/lock)"),
            (
                Verb::Restart,
                "systemctl restart pooltime-xdp",
                "kill -KILL $(cat /run/pooltime-xdp/lock); pooltime-xdp run",
            ),
        ] {
            assert_eq!(command_with(&unnamed, verb, true), with);
            assert_eq!(command_with(&unnamed, verb, false), without);
        }
        assert_eq!(command_with(&lab, Verb::Start, true), "systemctl start pooltime-xdp@lab");
        assert_eq!(command_with(&lab, Verb::Start, false), "pooltime-xdp --instance lab run");
        assert_eq!(
            how_to_start_with(&lab, false),
            "`sudo pooltime-xdp --instance lab attach IFACE` starts it"
        );
        let advice = how_to_start_with(&unnamed, true);
        assert!(advice.starts_with("`sudo systemctl start pooltime-xdp` starts the service"), "{advice}");
        assert!(advice.contains("`sudo pooltime-xdp attach IFACE`"), "{advice}");
    }

    #[test]
    fn a_named_instance_may_have_a_unit_of_its_own_or_the_templates() {
        assert_eq!(unit_files(&Instance::new(None).unwrap()), ["pooltime-xdp.service"]);
        let lab = Instance::new(Some("lab")).unwrap();
        assert_eq!(unit_files(&lab), ["pooltime-xdp@lab.service", "pooltime-xdp@.service"]);
    }

    #[test]
    fn a_unit_is_a_file_or_leads_to_one_and_a_masked_one_is_none() {
        let directory = std::env::temp_dir().join(format!("pooltime-units-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.join(name));
        for at in [&first, &second] {
            std::fs::create_dir(at).unwrap();
        }
        std::fs::write(first.join("a.service"), "[Service]\n").unwrap();
        std::os::unix::fs::symlink("a.service", first.join("b.service")).unwrap();
        // As the package has it, and as the operator has masked it.
        std::os::unix::fs::symlink("/dev/null", first.join("c.service")).unwrap();
        std::fs::write(second.join("c.service"), "[Service]\n").unwrap();
        std::fs::write(second.join("d.service"), "[Service]\n").unwrap();
        let directories = [first, second];
        let found = ["a", "b", "c", "d", "e"].map(|name| is_unit(&directories, &format!("{name}.service")));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, [true, true, false, true, false]);
    }
}
