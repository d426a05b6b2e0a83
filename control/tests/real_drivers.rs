//! The server on drivers of real NICs, under the kernel that Debian 12 comes with: machines in software emulation.

use std::path::Path;
use std::process::Command;

use testlab::{not_run, pooltime_xdp};

/// Of `scripts/vm`: a package cannot be had.
const EX_TEMPFAIL: i32 = 75;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn virtio_answers_in_every_mode_and_leaves_nothing() {
    every_row_is_right("virtio-queues");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn igb_answers_in_every_mode_without_a_link_reset_by_a_restart() {
    every_row_is_right("igb");
}

/// See `scripts/vm` for what a row has.
fn every_row_is_right(nic: &str) {
    let Some(said) = in_a_machine(&["6.1", nic]) else { return };
    for mode in ["native", "auto", "generic"] {
        let row = format!("| {nic} | {mode} | {} |", if mode == "generic" { "generic" } else { "native" });
        assert!(said.contains(&row), "no row `{row}` in:\n{said}");
    }
}

/// Runs `scripts/vm` with these arguments, which has to succeed, and returns what it says; nothing where a package cannot
/// be had.
fn in_a_machine(arguments: &[&str]) -> Option<String> {
    let built = Path::new(pooltime_xdp()).parent().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm");
    let output = Command::new(script).arg("--built").arg(built).args(arguments).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    if output.status.code() == Some(EX_TEMPFAIL) {
        not_run(said.lines().last().unwrap_or("a package cannot be had"));
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(said)
}
