//! The configuration file: whether it can be read, is valid, and is sensible.

use std::io::ErrorKind;
use std::path::Path;

use super::finding::Finding;
use crate::config::{ClockSource, Config, ConfigError, DEFAULT_PATH, Fault, Warning};
use crate::error::Result;
use crate::instance::Instance;
use crate::safe_text::shell_word;
use crate::service_manager::{self, Verb};
use crate::status::Status;

/// Reads the file. An error in it is a finding, and everything else is examined as if the file were empty.
pub(super) fn examine(path: Option<&Path>) -> (Config, Vec<Finding>) {
    let shown = path.unwrap_or(DEFAULT_PATH.as_ref());
    let read = Config::load(path).map(|config| {
        let is_there = config.origin.files().next().is_some();
        is_there.then_some(config)
    });
    judge(&shown.display().to_string(), read)
}

/// Whether the daemon runs with its file as it is now.
pub(super) fn compare(config: &Config, status: &Status, instance: &Instance) -> Option<Finding> {
    (!is_in_force(config, status)?).then(|| {
        Finding::warning("config-other", "the daemon is not using the configuration that was checked")
            .why("it was not reloaded after a change, or the reload failed")
            .fix(service_manager::command(instance, Verb::Reload))
            .advice("the journal shows why a reload was refused; `doctor --config FILE` checks another file")
    })
}

/// Tells that the file that was checked is not the daemon's, if that makes a difference.
pub(super) fn checked_another(
    checked: &Config,
    status: &Status,
    file: Option<&Path>,
    running: &Path,
) -> Option<Finding> {
    let file = file.unwrap_or(DEFAULT_PATH.as_ref()).display();
    (!is_in_force(checked, status)?).then(|| {
        Finding::note(
            "config-elsewhere",
            format!("the daemon runs with {}, and not with {file}", running.display()),
        )
        .why("the file that was named is checked by itself; what runs is judged by the daemon's own file")
    })
}

/// Whether the daemon uses this configuration, as far as its status shows. `None` if no daemon runs.
fn is_in_force(config: &Config, status: &Status) -> Option<bool> {
    let (clock, limits) = (&status.clock, status.limits.as_ref()?);
    let source = match config.clock.source {
        ClockSource::System => "system",
        ClockSource::Upstream => "upstream",
    };
    #[expect(clippy::cast_precision_loss, reason = "a config's milliseconds")]
    let is_limit = |limit_s: Option<f64>, limit_ms: u64| limit_s == Some(limit_ms as f64 / 1e3);
    let asked = config.upstream.iter().filter(|_| config.clock.source == ClockSource::Upstream);
    let same = clock.source.as_deref() == Some(source)
        && asked.map(|upstream| &upstream.address).eq(status.upstreams.iter().map(|peer| &peer.name))
        && is_limit(clock.error_limit_s, config.clock.max_error_ms)
        && is_limit(clock.horizon_limit_s, config.clock.horizon_ms)
        && (limits.enabled, limits.rate, limits.burst)
            == (config.limits.enabled, config.limits.rate, config.limits.burst)
        && (limits.budget_answers_per_s, limits.budget_bits_per_s)
            == (config.limits.budget_answers_per_s, config.limits.budget_bits_per_s)
        && is_quota(config, status);
    Some(same)
}

/// Whether the daemon's quota is that of this configuration.
fn is_quota(config: &Config, status: &Status) -> bool {
    let configured = config.limits.quota().map(|quota| (quota.bytes, quota.counts.label(), quota.netspeed));
    let used = status.quota.as_ref();
    configured == used.map(|quota| (quota.quota_bytes, quota.counts.as_str(), quota.netspeed_bits_per_s))
}

fn judge(shown: &str, read: Result<Option<Config>, ConfigError>) -> (Config, Vec<Finding>) {
    let config = match read {
        Ok(Some(config)) => config,
        Ok(None) => {
            let none = Finding::note("config", format!("{shown} does not exist: the defaults apply"));
            return (Config::default(), vec![none]);
        }
        Err(error) => return (Config::default(), vec![wrong(shown, error)]),
    };
    // This reads the other files that the configuration names.
    let mut findings: Vec<_> = match config.entries().and_then(|entries| config.all_warnings(&entries)) {
        Ok(warnings) => warnings.iter().map(warn).collect(),
        Err(error) => {
            std::iter::once(wrong(shown, error)).chain(config.warnings().iter().map(warn)).collect()
        }
    };
    if findings.iter().all(|found| found.id != "config") {
        let files: Vec<_> = config.origin.files().collect();
        let valid = match files[..] {
            [only] if only != Path::new(shown) => format!("{} is valid", only.display()),
            [] | [_] => format!("{shown} is valid"),
            _ => format!("{shown} is valid, with what is beside it: {} files", files.len()),
        };
        findings.push(Finding::ok("config", valid));
    }
    (config, findings)
}

fn wrong(shown: &str, ConfigError { fault, error, .. }: ConfigError) -> Finding {
    let (id, fix) = match fault {
        Fault::Unreadable(ErrorKind::PermissionDenied) => {
            return Finding::unseen("config", shown, error.what);
        }
        Fault::NoUpstreams => {
            let directory = format!("{shown}.d");
            let file = format!("{directory}/upstreams.toml");
            let (directory, file) = (shell_word(&directory), shell_word(&file));
            let fix = format!("mkdir -p {directory} && pooltime-xdp upstream probe NAME... >{file}");
            ("config-upstreams", fix)
        }
        Fault::Unreadable(_) | Fault::Wrong => {
            ("config", format!("pooltime-xdp config check {}", shell_word(shown)))
        }
    };
    let found = Finding::problem(id, error.what)
        .why("the daemon refuses to start with it; a running daemon keeps its present configuration")
        .fix(fix);
    match error.remedy {
        Some(remedy) => found.advice(remedy),
        None => found,
    }
}

fn warn(warning: &Warning) -> Finding {
    let id = match warning {
        Warning::LeapListExpired { .. } | Warning::LeapListDamaged { .. } => "leap-seconds",
        Warning::NobodyAnswered(_) => "access-nobody",
        _ => "config",
    };
    let found = Finding::warning(id, warning.to_string());
    match warning.remedy() {
        Some(remedy) => found.advice(remedy),
        None => found,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::net::own_addresses::OwnAddresses;
    use crate::tools::doctor::finding::Severity::{self, Note, Ok as Well, Problem};
    use crate::tools::doctor::finding::{ids, only};

    fn judged(text: &str) -> Vec<Finding> {
        judge("/etc/x.toml", Config::parse_on(text, &OwnAddresses::default()).map(Some)).1
    }

    #[test]
    fn a_right_file_is_well_and_none_is_a_note() {
        assert_eq!(ids(&judged("interfaces = [\"eth0\"]")), [("config", Well)]);
        assert_eq!(ids(&judge("/etc/x.toml", Ok(None)).1), [("config", Note)]);
    }

    #[test]
    fn files_beside_it_are_examined_as_well() {
        let directory = std::env::temp_dir().join(format!("pooltime-doctor-beside-{}", std::process::id()));
        let main = directory.join("server.toml");
        let beside = crate::config::directory_beside(&main);
        std::fs::create_dir_all(&beside).unwrap();
        std::fs::write(&main, "").unwrap();
        std::fs::write(beside.join("a.toml"), "clock.horizon_ms = 9000\n").unwrap();
        let (config, found) = examine(Some(&main));
        assert_eq!((ids(&found), config.clock.horizon_ms), (vec![("config", Well)], 9000));
        assert!(found[0].what.contains("2 files"), "{found:?}");
        std::fs::write(beside.join("b.toml"), "clock.horizon = 9000\n").unwrap();
        let found = examine(Some(&main)).1;
        assert!(only(&found, "config").what.contains("server.toml.d/b.toml: line 1"), "{found:?}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_wrong_file_is_a_problem_with_its_line_and_no_upstream_is_one_of_its_own() {
        let findings = judged("[clock]\nhorizon = 3\n");
        let found = only(&findings, "config");
        assert!(found.severity == Problem && found.what.contains("line 2"), "{found:?}");
        assert!(found.advice.as_ref().unwrap().contains("horizon_ms"), "{found:?}");
        let findings = judged("[clock]\nsource = \"upstream\"\n");
        let fix = only(&findings, "config-upstreams").fix.as_ref().unwrap();
        assert_eq!(
            fix,
            "mkdir -p /etc/x.toml.d && pooltime-xdp upstream probe NAME... >/etc/x.toml.d/upstreams.toml"
        );
    }

    #[test]
    fn a_file_that_only_others_may_read_is_not_looked_at_and_one_that_cannot_be_read_is_a_problem() {
        let judged = |kind: ErrorKind| {
            let error = ConfigError::unreadable("/etc/x.toml")(io::Error::from(kind));
            judge("/etc/x.toml", Err(error)).1
        };
        assert_eq!(ids(&judged(ErrorKind::PermissionDenied)), [("config", Note)]);
        assert_eq!(ids(&judged(ErrorKind::NotFound)), [("config", Problem)]);
    }

    #[test]
    fn a_daemon_that_goes_by_something_else_is_told_to_reload() {
        // The sample has an upstream.
        let same = "[clock]\nsource = \"upstream\"\n[[upstream]]\naddress = \"ntp1.example.net\"\n";
        let mut status = crate::status::sample();
        status.clock.source = Some("upstream".into());
        let quota = "[limits]\nquota = \"4 TB\"\npool_netspeed = \"50 Mbit\"\n";
        let same = &format!("{quota}{same}");
        let compared =
            |text: &str| compare(&Config::parse(text).unwrap(), &status, &Instance::new(None).unwrap());
        assert_eq!(compared(same), None);
        for (from, to) in [
            ("ntp1", "ntp2"),
            ("upstream\"", "system\""),
            ("[limits]", "[limits]\nrate = 3"),
            ("4 TB", "5 TB"),
        ] {
            let other = same.replacen(from, to, 1);
            assert_eq!(compared(&other).map(|found| found.severity), Some(Severity::Warning), "{other}");
        }
    }

    #[test]
    fn another_file_than_the_daemon_s_is_a_note_and_nothing_to_reload() {
        let (status, file) = (crate::status::sample(), Path::new("/tmp/b.toml"));
        let config = Config::parse("[limits]\nrate = 3\n").unwrap();
        let found = checked_another(&config, &status, Some(file), Path::new("/etc/a.toml")).unwrap();
        assert_eq!((found.severity, found.fix), (Note, None));
        assert_eq!(found.what, "the daemon runs with /etc/a.toml, and not with /tmp/b.toml");
    }

    #[test]
    fn what_is_unwise_is_a_warning_and_a_list_that_vanished_a_problem() {
        let few = judged(
            "[clock]\nsource = \"upstream\"\nleap_seconds_list = \"none\"\n[[upstream]]\naddress = \"192.0.2.1\"\n",
        );
        assert_eq!(ids(&few), [("config", Severity::Warning)]);
        assert!(only(&few, "config").advice.as_ref().unwrap().contains("upstream probe"), "{few:?}");
        let nobody = judged("[access]\ndeny = [\"0.0.0.0/0\"]\n");
        assert_eq!(ids(&nobody), [("access-nobody", Severity::Warning), ("config", Well)]);
        let damaged = std::env::temp_dir().join(format!("pooltime-doctor-leap-{}", std::process::id()));
        std::fs::write(&damaged, "1 2\n").unwrap();
        let list = judged(&format!(
            "[clock]\nsource = \"upstream\"\nleap_seconds_list = {damaged:?}\n[[upstream]]\naddress = \"a.example\"\n"
        ));
        std::fs::remove_file(&damaged).unwrap();
        assert_eq!(ids(&list), [("config", Severity::Warning), ("leap-seconds", Severity::Warning)]);
        let vanished = judged("[access]\nfiles = [\"/nowhere/list\"]\n");
        assert!(only(&vanished, "config").what.contains("/nowhere/list"), "{vanished:?}");
    }
}
