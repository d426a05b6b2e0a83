//! Log lines as the journal and as programs want them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;
use testlab::{Lab, pooltime_xdp};

use crate::{CONFIG, LOCAL};

/// What a daemon with these arguments says on standard error in a short life, of which it believes that it is the
/// journal or not.
fn log_of(lab: &Lab, arguments: &[&str], journal: bool) -> String {
    let config = lab.file("log.toml", &format!("{CONFIG}{LOCAL}"));
    let log = lab.file("log", "");
    let stderr = File::options().append(true).open(&log).unwrap();
    let metadata = stderr.metadata().unwrap();
    let mut command = lab.command("server", "timeout");
    if journal {
        command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    } else {
        command.env_remove("JOURNAL_STREAM");
    }
    command.args(["--signal=INT", "2", pooltime_xdp(), "--instance", lab.name(), "attach", "lan0"]);
    command.arg("--config").arg(&config).args(arguments).stderr(stderr);
    command.status().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("lan0: attached") && text.contains("SIGINT"), "{text}");
    text
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_journal_gets_priorities_and_programs_get_json() {
    let lab = Lab::up(&[]);
    let journal = log_of(&lab, &[], true);
    assert!(journal.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{journal}");
    assert!(journal.contains("<6>lan0: attached in "), "{journal}");
    let json = log_of(&lab, &["--log-format", "json"], false);
    for line in json.lines() {
        let line: Value = serde_json::from_str(line).expect(line);
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
}
