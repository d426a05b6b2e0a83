//! `pooltime-bench cost` as a user meets it.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");
const NOBODY: u32 = 65_534;

fn bench(arguments: &[&str]) -> Output {
    Command::new(BENCH).args(arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for arguments in [&["cost", "--rounds", "0"][..], &["cost", "--repeat", "many"], &["const"], &[]] {
        assert_eq!(bench(arguments).status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn help_is_no_error() {
    let output = bench(&["cost", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--repeat"));
}

#[test]
fn earlier_results_that_cannot_be_read_are_named_before_anything_is_measured() {
    let output = bench(&["cost", "--against", "/nonexistent/results.json"]);
    assert_eq!(output.status.code(), Some(74));
    assert!(errors(&output).contains("/nonexistent/results.json"));
    let output = bench(&["cost", "--against", "/proc/version"]);
    assert_eq!(output.status.code(), Some(74));
    assert!(errors(&output).contains("--json"), "{}", errors(&output));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_privileges_the_missing_capabilities_are_named_and_the_way_out() {
    // Where nobody may look for it, whatever the directory it was built in.
    let copy = std::env::temp_dir().join(format!("pooltime-bench-{}", std::process::id()));
    std::fs::copy(BENCH, &copy).unwrap();
    let output = Command::new(&copy).arg("cost").uid(NOBODY).gid(NOBODY).output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", errors(&output));
    assert!(errors(&output).contains("CAP_BPF") && errors(&output).contains("sudo"), "{}", errors(&output));
    assert!(output.stdout.is_empty());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_object_that_is_none_is_named() {
    let output = bench(&["cost", "--candidate", "/proc/version"]);
    assert_eq!(output.status.code(), Some(69), "{}", errors(&output));
    assert!(errors(&output).contains("/proc/version"), "{}", errors(&output));
    assert!(output.stdout.is_empty());
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_short_run_gives_every_row_as_json_and_can_be_compared_with() {
    let output = bench(&["cost", "--rounds", "3", "--repeat", "2000", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for name in ["XDP_PASS", "bare reflector", "parse and pass, TCP, IPv4", "answer, IPv4", "answer, IPv6"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"));
        assert_eq!(row["rounds_ns"].as_array().unwrap().len(), 3);
        assert!(row["ns"]["median"].as_f64().unwrap() > 0.0);
        assert!(row["ratio"]["median"].as_f64().unwrap() > 0.0);
    }

    let results: PathBuf = std::env::temp_dir().join(format!("pooltime-bench-{}.json", std::process::id()));
    std::fs::write(&results, &output.stdout).unwrap();
    let again = bench(&["cost", "--rounds", "1", "--repeat", "2000", "--against", results.to_str().unwrap()]);
    std::fs::remove_file(&results).unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", errors(&again));
    let table = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(table.lines().any(|line| line.starts_with("answer, IPv4") && line.contains("before")), "{table}");
}
