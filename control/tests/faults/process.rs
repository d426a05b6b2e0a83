//! Faults of the daemon's process, and of who starts and stops it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use responder::layout;
use testlab::rebuild::{other_layout, rebuild};
use testlab::{Output, pooltime_xdp, wait_for};

use crate::cgroup::Cgroup;
use crate::fault::Promise::{Gap, Honest, Unharmed};
use crate::fault::{Fault, PLAIN, SHORT_HORIZON, Setup};
use crate::scene::{Scene, Stage};

/// `EX_UNAVAILABLE` of sysexits.h: what a second daemon ends with.
const EX_UNAVAILABLE: i32 = 69;

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, promise, setup, play| Fault { name, what, promise, setup, play };
    vec![
        fault("killed", "kill -9, a new daemon after 3 s", Unharmed, PLAIN, |scene| {
            killed(&mut scene.stage())
        }),
        fault(
            "killed-past-horizon",
            "kill -9, a new daemon 2 s after the horizon",
            Honest,
            SHORT_HORIZON,
            |scene| killed_past_horizon(&mut scene.stage()),
        ),
        fault(
            "killed-often",
            "kill -9 at 12 moments, each with a new daemon at once",
            Unharmed,
            PLAIN,
            |scene| killed_often(&mut scene.stage()),
        ),
        fault("hangs", "SIGSTOP until 2 s after the horizon", Honest, SHORT_HORIZON, |scene| {
            hangs(&mut scene.stage())
        }),
        fault(
            "writer-stopped",
            "SIGSTOP and SIGCONT at 300 moments, in the middle of publishing, too",
            Unharmed,
            PLAIN,
            writer_stopped,
        ),
        fault(
            "reader-stopped",
            "SIGSTOP for 6 s: nobody reads the ring buffer",
            Unharmed,
            PLAIN,
            reader_stopped,
        ),
        fault("restarted", "SIGTERM and a new daemon, 8 times", Unharmed, PLAIN, |scene| {
            restarted(&mut scene.stage())
        }),
        fault("upgraded", "another build with the same layout, and back", Unharmed, PLAIN, upgraded),
        fault(
            "upgraded-layout",
            "another build with another layout of the maps, and back",
            Unharmed,
            PLAIN,
            upgraded_layout,
        ),
        fault(
            "upgraded-layout-killed",
            "the same with kill -9 at 12 moments of taking over, and either build after it",
            Unharmed,
            PLAIN,
            upgraded_layout_killed,
        ),
        fault("two-at-once", "six more daemons and an attach while one runs", Unharmed, PLAIN, two_at_once),
        fault("two-at-start", "two daemons start at once after a kill -9", Unharmed, PLAIN, two_at_start),
        fault(
            "out-of-memory",
            "a reload with 400,000 prefixes does not fit into its control group: killed by the kernel",
            Unharmed,
            PLAIN,
            out_of_memory,
        ),
        fault("starved", "2 % of a CPU for 8 s, as where a host's time is stolen", Unharmed, PLAIN, starved),
        fault(
            "no-descriptors",
            "no file descriptor is left for 5 s, while commands and an interface come",
            Unharmed,
            PLAIN,
            no_descriptors,
        ),
        fault(
            "memory-pressure",
            "its control group is full, and a program in it writes 900 MB",
            Unharmed,
            PLAIN,
            memory_pressure,
        ),
        fault("cold-caches", "the kernel's caches are dropped 20 times", Unharmed, PLAIN, cold_caches),
        fault(
            "thousand-attachments",
            "a second interface is attached and detached 1,000 times",
            Unharmed,
            Setup { lab: &["--router"], ..PLAIN },
            thousand_attachments,
        ),
        fault(
            "detached",
            "detach of the interface, and attach after 2 s: the socket answers",
            Gap("the driver changes its receive path"),
            Setup { lab: &["--router"], ..PLAIN },
            detached,
        ),
    ]
}

pub(crate) fn killed(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.daemon.kill_9();
    sleep(Duration::from_secs(3));
    stage.daemon.start_again();
    Ok(())
}

pub(crate) fn killed_past_horizon(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.daemon.kill_9();
    sleep(Duration::from_secs(6));
    stage.daemon.start_again();
    Ok(())
}

pub(crate) fn killed_often(stage: &mut Stage<'_>) -> Result<(), String> {
    for number in 0..12 {
        stage.daemon.kill_9();
        stage.daemon.start_again();
        sleep(Duration::from_millis(37 * number));
    }
    Ok(())
}

pub(crate) fn hangs(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.daemon.send(Signal::SIGSTOP);
    sleep(Duration::from_secs(6));
    stage.daemon.send(Signal::SIGCONT);
    Ok(())
}

fn writer_stopped(scene: &mut Scene<'_>) -> Result<(), String> {
    for number in 0..300_u64 {
        scene.server.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(11));
        scene.server.signal(Signal::SIGCONT);
        // Moments that are no multiple of the daemon's quarter of a second.
        sleep(Duration::from_micros(1000 + number * 97 % 7000));
    }
    Ok(())
}

fn reader_stopped(scene: &mut Scene<'_>) -> Result<(), String> {
    scene.server.signal(Signal::SIGSTOP);
    sleep(Duration::from_secs(6));
    scene.server.signal(Signal::SIGCONT);
    Ok(())
}

pub(crate) fn restarted(stage: &mut Stage<'_>) -> Result<(), String> {
    for _ in 0..8 {
        stage.daemon.end();
        stage.daemon.start_again();
    }
    Ok(())
}

fn upgraded(scene: &mut Scene<'_>) -> Result<(), String> {
    let other = rebuild(scene.lab);
    for program in [other.as_path(), pooltime_xdp().as_ref()] {
        assert!(scene.server.stop().success(), "{}", scene.server.log());
        scene.server.restart_as(program);
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn upgraded_layout(scene: &mut Scene<'_>) -> Result<(), String> {
    let other = other_layout()?;
    let back = format!("this build has layout {};", layout::VERSION);
    for (program, told) in [(other.as_path(), "begun anew: counters\n"), (pooltime_xdp().as_ref(), &*back)] {
        assert!(scene.server.stop().success(), "{}", scene.server.log());
        scene.server.restart_as(program);
        assert!(scene.server.log().contains(told), "{}", scene.server.log());
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn upgraded_layout_killed(scene: &mut Scene<'_>) -> Result<(), String> {
    let (other, own) = (other_layout()?, Path::new(pooltime_xdp()));
    let started = Instant::now();
    scene.server.kill_9();
    scene.server.restart();
    let start = started.elapsed();
    for number in 0..12 {
        scene.server.kill_9();
        let (next, last) = if number % 2 == 0 { (other.as_path(), own) } else { (own, other.as_path()) };
        let mut command = scene.lab.command("server", next.to_str().unwrap());
        command.args([
            "--instance",
            scene.lab.name(),
            "run",
            "--config",
            scene.config_file.to_str().unwrap(),
        ]);
        let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From its first moment to its last.
        sleep(start * number / 12);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        scene.server.restart_as(if number % 4 < 2 { next } else { last });
    }
    scene.server.kill_9();
    scene.server.restart_as(own);
    Ok(())
}

fn two_at_once(scene: &mut Scene<'_>) -> Result<(), String> {
    let config = scene.config_file.to_str().unwrap();
    for _ in 0..6 {
        let said = scene.server.command(&["run", "--config", config]).expect_code(EX_UNAVAILABLE);
        assert!(said.contains("already running"), "{said}");
    }
    scene.server.command(&["attach", "lan0"]).expect_success();
    Ok(())
}

fn two_at_start(scene: &mut Scene<'_>) -> Result<(), String> {
    scene.server.kill_9();
    let config = scene.config_file.to_str().unwrap();
    let start = || {
        let mut command = scene.lab.command("server", pooltime_xdp());
        command.args(["--instance", scene.lab.name(), "run", "--config", config]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut both = [start(), start()];
    let refused = wait_for("one of two daemons to be refused", || {
        both.iter_mut().position(|one| one.try_wait().unwrap().is_some())
    });
    let [one, other] = &mut both;
    let (refused, winner) = if refused == 0 { (one, other) } else { (other, one) };
    let code = refused.wait().unwrap().code();
    // The other one serves until the scene's own takes over.
    sleep(Duration::from_secs(2));
    let lives = winner.try_wait().unwrap().is_none();
    kill(Pid::from_raw(winner.id().cast_signed()), Signal::SIGTERM).unwrap();
    winner.wait().unwrap();
    assert!(lives && code == Some(EX_UNAVAILABLE), "the other one lives: {lives}; refused with {code:?}");
    scene.server.restart();
    Ok(())
}

fn out_of_memory(scene: &mut Scene<'_>) -> Result<(), String> {
    let group = Cgroup::make("memory", scene.lab.name())?;
    let mut list = String::new();
    for number in 0..400_000_u32 {
        let [_, second, third, fourth] = number.to_be_bytes();
        writeln!(list, "deny 20.{second}.{third}.{fourth}").unwrap();
    }
    let list = scene.lab.file("many.acl", &list);
    restart_inside(scene, &group);
    // It has its pages by now, and a little more fits.
    group.limit_memory(resident_bytes(scene.server.pid()) + (8 << 20));
    scene.write_config(
        &scene.config.replace("[access]\n", &format!("[access]\nfiles = [\"{}\"]\n", list.display())),
    );
    scene.server.signal(Signal::SIGHUP);
    let ended = scene.server.wait();
    assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{ended}");
    scene.write_config(&scene.config);
    scene.server.restart_as(pooltime_xdp().as_ref());
    Ok(())
}

/// Restarts the daemon as a process of a control group.
fn restart_inside(scene: &mut Scene<'_>, group: &Cgroup) {
    let inside = scene.lab.file(
        "inside.sh",
        &format!("#!/bin/sh\necho $$ >{} && exec {} \"$@\"\n", group.processes().display(), pooltime_xdp()),
    );
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(scene.server.stop().success());
    scene.server.restart_as(&inside);
}

fn memory_pressure(scene: &mut Scene<'_>) -> Result<(), String> {
    let group = Cgroup::make("memory", scene.lab.name())?;
    restart_inside(scene, &group);
    // What the file takes of the cache has to go as fast as it comes, and pages of the daemon's program with it.
    group.limit_memory(resident_bytes(scene.server.pid()) + (16 << 20));
    let script =
        "echo $$ >\"$1\" && for _ in 1 2 3; do dd if=/dev/zero of=\"$2\" bs=1M count=300 status=none; done";
    let file = scene.lab.file("ballast", "");
    let mut hog = Command::new("sh");
    hog.args(["-c", script, "sh"]).arg(group.processes()).arg(&file);
    let wrote = Output::of(&mut hog);
    fs::remove_file(file).unwrap();
    wrote.expect_success();
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    scene.server.restart_as(pooltime_xdp().as_ref());
    Ok(())
}

fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn starved(scene: &mut Scene<'_>) -> Result<(), String> {
    let group = Cgroup::make("cpu", scene.lab.name())?;
    group.limit_cpu(2_000);
    let process = scene.server.pid();
    group.take(process);
    sleep(Duration::from_secs(8));
    group.release(process);
    Ok(())
}

fn no_descriptors(scene: &mut Scene<'_>) -> Result<(), String> {
    let process = scene.server.pid();
    let limit = |most: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &process.to_string(), &format!("--nofile={most}:")]);
        Output::of(&mut prlimit).expect_success()
    };
    let before = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let before = before.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let before = before.split_whitespace().nth(3).unwrap().to_owned();
    limit("3");
    // None of these may hold up what matters. Whether they are carried out is another matter.
    for _ in 0..5 {
        let mut status = scene.lab.command("server", "timeout");
        status.args(["1", pooltime_xdp(), "--instance", scene.lab.name(), "status"]);
        assert!(!Output::of(&mut status).status.success(), "without a descriptor nobody is accepted");
    }
    scene.ip("link add gone0 type veth peer name gone1");
    scene.ip("link delete gone0");
    limit(&before);
    Ok(())
}

fn cold_caches(_scene: &mut Scene<'_>) -> Result<(), String> {
    for _ in 0..20 {
        fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| error.to_string())?;
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn thousand_attachments(scene: &mut Scene<'_>) -> Result<(), String> {
    for _ in 0..1000 {
        scene.server.command(&["attach", "lan2"]).expect_success();
        scene.server.command(&["detach", "lan2"]).expect_success();
    }
    Ok(())
}

fn detached(scene: &mut Scene<'_>) -> Result<(), String> {
    // Without any interface the daemon would end.
    scene.server.command(&["attach", "lan2"]).expect_success();
    scene.server.command(&["detach", "lan0"]).expect_success();
    sleep(Duration::from_secs(2));
    scene.server.command(&["attach", "lan0"]).expect_success();
    scene.server.command(&["detach", "lan2"]).expect_success();
    Ok(())
}
