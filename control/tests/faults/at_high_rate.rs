//! The daemon's own faults once more at half a million requests per second. `pooltime-bench` puts the frames on the link
//! and checks every answer; the load of the other tests cannot send so many.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use testlab::rebuild::rebuild;
use testlab::{Lab, Server, pooltime_xdp};

use crate::scene;

/// Requests per second.
const RATE: u64 = 500_000;
/// A machine that sends fewer says nothing.
const LEAST_RATE: u64 = 450_000;
const DURATION: Duration = Duration::from_secs(24);

/// Plays them with the `pooltime-bench` of this path, and tells what came of it; or why this machine cannot.
pub(crate) fn live_through(bench: &Path) -> Result<String, String> {
    let lab = Lab::bare();
    let upstreams = scene::upstreams(&lab);
    let mut config = String::from(
        "interfaces = [\"lan0\"]\n[limits]\nenabled = false\n[clock]\nsource = \"upstream\"\nsteer = false\n",
    );
    for upstream in &upstreams {
        writeln!(config, "[[upstream]]\naddress = \"{}\"", upstream.address()).unwrap();
    }
    let mut server = lab.server(&config, &["--mode", "native"]);
    server.command(&["health", "--wait", "30s"]).expect_success();
    let load = start(&lab, bench);
    sleep(Duration::from_secs(3));
    suffer(&lab, &mut server);
    let output = load.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let step = &report["steps"][0];
    let count = |name: &str| step[name].as_u64().unwrap_or_else(|| panic!("no {name}: {step}"));
    let (sent, lost, wrong) = (count("sent"), count("lost"), count("invalid"));
    let said = format!(
        "{sent} requests by {}: {lost} lost ({} by the generator's own end), {wrong} wrong ({}), {} duplicates",
        report["generator"],
        count("dropped_here"),
        step["faults"],
        count("duplicates"),
    );
    assert!(wrong == 0 && count("duplicates") == 0, "{said}\n{}", server.log());
    if sent < LEAST_RATE * DURATION.as_secs() {
        return Err(format!("this machine sent too few: {said}"));
    }
    assert!(lost <= count("dropped_here"), "{said}\n{}", server.log());
    Ok(said)
}

fn start(lab: &Lab, bench: &Path) -> Child {
    let mut command = lab.command("client", bench.to_str().unwrap());
    command.args(["load", "10.77.0.1", "--generator", "live", "--json", "--shared-clock", "--warm-up", "0s"]);
    command.args(["--rate", &RATE.to_string(), "--duration", &format!("{}s", DURATION.as_secs())]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Killed, hung, restarted and upgraded, each for less than the horizon.
fn suffer(lab: &Lab, server: &mut Server<'_>) {
    server.kill_9();
    sleep(Duration::from_secs(3));
    server.restart();
    sleep(Duration::from_secs(1));
    server.signal(Signal::SIGSTOP);
    sleep(Duration::from_secs(3));
    server.signal(Signal::SIGCONT);
    sleep(Duration::from_secs(1));
    for program in [rebuild(lab).as_path(), pooltime_xdp().as_ref()] {
        assert!(server.stop().success(), "{}", server.log());
        server.restart_as(program);
        sleep(Duration::from_secs(1));
    }
}
