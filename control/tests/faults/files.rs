//! Faults of disks and files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use testlab::{Output, pooltime_xdp, wait_for};

use crate::fault::Fault;
use crate::fault::PLAIN;
use crate::fault::Promise::Unharmed;
use crate::scene::Scene;

/// `EX_CONFIG` of sysexits.h.
const EX_CONFIG: i32 = 78;

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, play| Fault { name, what, promise: Unharmed, setup: PLAIN, play };
    vec![
        fault("disk-full", "the file system of the state is full, then two restarts", disk_full),
        fault(
            "state-read-only",
            "the file system of the state is read-only, then two restarts",
            state_read_only,
        ),
        fault("state-garbage", "the state's files are garbage, then a restart", state_garbage),
        fault("runtime-removed", "its directory in /run is removed, then a restart", runtime_removed),
        fault("config-broken", "five broken configurations, each with a reload", config_broken),
        fault(
            "config-broken-at-start",
            "a restart with a broken configuration is refused, then one with a good one",
            config_broken_at_start,
        ),
        fault("list-removed", "a file of access lists is removed, then a reload", list_removed),
        fault("thousand-reloads", "1,000 reloads of configurations that differ", thousand_reloads),
        fault("log-blocked", "nobody reads its log, and there is much to log", log_blocked),
    ]
}

/// A file system of its own in the place of a directory, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn on(directory: &Path, options: &str) -> Self {
        fs::create_dir_all(directory).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory);
        Output::of(&mut mount).expect_success();
        Self(directory.into())
    }

    fn make_read_only(&self) {
        Output::of(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0)).expect_success();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _not_mounted = Output::of(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn restart(scene: &mut Scene<'_>) {
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    scene.server.restart();
}

fn disk_full(scene: &mut Scene<'_>) -> Result<(), String> {
    let state = scene.server.paths().state_directory();
    let _mounted = Mounted::on(&state, "size=16k");
    let _no_space = fs::write(state.join("ballast"), vec![0; 1 << 20]);
    for _ in 0..2 {
        restart(scene);
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn state_read_only(scene: &mut Scene<'_>) -> Result<(), String> {
    let mounted = Mounted::on(&scene.server.paths().state_directory(), "size=64k");
    mounted.make_read_only();
    for _ in 0..2 {
        restart(scene);
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn state_garbage(scene: &mut Scene<'_>) -> Result<(), String> {
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    let state = scene.server.paths().state_directory();
    for file in fs::read_dir(&state).into_iter().flatten() {
        fs::write(file.unwrap().path(), [0xff; 4096]).unwrap();
    }
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("drift"), "nan 1e300\n").unwrap();
    scene.server.restart();
    Ok(())
}

fn runtime_removed(scene: &mut Scene<'_>) -> Result<(), String> {
    fs::remove_dir_all(scene.server.paths().runtime_directory()).unwrap();
    sleep(Duration::from_secs(2));
    restart(scene);
    Ok(())
}

fn config_broken(scene: &mut Scene<'_>) -> Result<(), String> {
    let unknown = format!("{}\n[unknown]\nkey = 1\n", scene.config);
    let half = scene.config[..scene.config.len() / 2].to_owned() + "[[";
    for text in ["\0\0", "interfaces = 7\n", "]", &unknown, &half] {
        scene.reload(text);
        sleep(Duration::from_millis(500));
    }
    let refused = || scene.server.log().matches("configuration not reloaded").count();
    wait_for("each of them to be refused", || (refused() == 5).then_some(()));
    scene.reload(&scene.config);
    Ok(())
}

fn config_broken_at_start(scene: &mut Scene<'_>) -> Result<(), String> {
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    scene.write_config("interfaces = 7\n");
    let run = ["run", "--config", scene.config_file.to_str().unwrap()];
    scene.server.command(&run).expect_code(EX_CONFIG);
    scene.write_config(&scene.config);
    scene.server.restart();
    Ok(())
}

fn list_removed(scene: &mut Scene<'_>) -> Result<(), String> {
    let list = scene.lab.file("some.acl", "deny 203.0.113.0/24\n");
    let with_list =
        scene.config.replace("[access]\n", &format!("[access]\nfiles = [\"{}\"]\n", list.display()));
    scene.reload(&with_list);
    let is_listed = || scene.server.command(&["access", "list"]).stdout.contains("203.0.113.0/24");
    wait_for("the list to be in force", || is_listed().then_some(()));
    fs::remove_file(&list).unwrap();
    scene.server.signal(Signal::SIGHUP);
    wait_for("the complaint", || scene.server.log().contains("some.acl").then_some(()));
    assert!(is_listed(), "the old list stays");
    Ok(())
}

fn thousand_reloads(scene: &mut Scene<'_>) -> Result<(), String> {
    for number in 0..1000_u32 {
        let deny = format!("[access]\ndeny = [\"203.0.113.{}\"]\n", number % 256);
        scene.reload(&scene.config.replace("[access]\n", &deny));
        sleep(Duration::from_millis(10));
    }
    let listed = || scene.server.command(&["access", "list"]).stdout.contains("203.0.113.231");
    wait_for("the last of them to be in force", || listed().then_some(()));
    scene.reload(&scene.config);
    Ok(())
}

fn log_blocked(scene: &mut Scene<'_>) -> Result<(), String> {
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    // A pipe that has a reader, who does not read.
    let script = scene.lab.file(
        "unread.sh",
        &format!("#!/bin/sh\nexec {} \"$@\" 2> >(exec sleep 60)\n", pooltime_xdp())
            .replace("/bin/sh", "/bin/bash"),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    scene.server.restart_as(&script);
    for number in 0..600 {
        scene.reload(&format!("{}\n[unknown{number}]\n", scene.config));
        sleep(Duration::from_millis(15));
    }
    scene.write_config(&scene.config);
    // Whoever replaces a daemon that hangs kills it.
    scene.server.kill_9();
    scene.server.restart_as(pooltime_xdp().as_ref());
    Ok(())
}
