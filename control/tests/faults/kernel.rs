//! Faults of what the server has in the kernel.

use std::fmt::Write as _;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use testlab::wait_for;

use crate::fault::Promise::Unharmed;
use crate::fault::{Fault, PLAIN, Setup};
use crate::scene::Scene;

const OWN_MOUNTS: Setup = Setup { lab: &["--router"], own_mounts: true, ..PLAIN };

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, promise, setup, play| Fault { name, what, promise, setup, play };
    vec![
        fault("pins-removed", "all pins are removed by hand", Unharmed, PLAIN, pins_removed),
        fault(
            "pins-removed-and-killed",
            "all pins are removed by hand, and the daemon is killed 3 s later",
            Unharmed,
            PLAIN,
            pins_removed_and_killed,
        ),
        fault(
            "bpffs-unmounted",
            "bpffs is unmounted where the daemon sees it, and mounted anew after 5 s",
            Unharmed,
            OWN_MOUNTS,
            bpffs_unmounted,
        ),
        fault(
            "netlink-overrun",
            "4,000 addresses come and go while the daemon does not read",
            Unharmed,
            PLAIN,
            netlink_overrun,
        ),
    ]
}

fn remove_pins(scene: &Scene<'_>) {
    fs::remove_dir_all(scene.server.paths().pin_directory()).unwrap();
}

fn pins_removed(scene: &mut Scene<'_>) -> Result<(), String> {
    remove_pins(scene);
    wait_for("the pins to be put back", || scene.server.log().contains("they are back").then_some(()));
    let there = fs::read_dir(scene.server.paths().pin_directory()).unwrap();
    let links = there.flatten().filter(|pin| pin.file_name().to_string_lossy().starts_with("link-")).count();
    assert_eq!(links, 1, "{}", scene.server.log());
    sleep(Duration::from_secs(3));
    Ok(())
}

fn pins_removed_and_killed(scene: &mut Scene<'_>) -> Result<(), String> {
    remove_pins(scene);
    sleep(Duration::from_secs(3));
    scene.server.kill_9();
    sleep(Duration::from_secs(1));
    scene.server.restart();
    Ok(())
}

fn bpffs_unmounted(scene: &mut Scene<'_>) -> Result<(), String> {
    let process = scene.server.pid().to_string();
    let unmount = ["nsenter", "--target", &process, "--mount", "umount", "--lazy", "/sys/fs/bpf"];
    scene.lab.exec("server", &unmount).expect_success();
    sleep(Duration::from_secs(5));
    assert!(scene.server.log().contains("pins of this server are gone"), "{}", scene.server.log());
    // Another interface is refused then, and the one that is served stays so.
    assert!(!scene.server.command(&["attach", "lan2"]).status.success());
    let mount = [
        "nsenter",
        "--target",
        &process,
        "--mount",
        "mount",
        "-t",
        "bpf",
        "-o",
        "mode=0700",
        "bpf",
        "/sys/fs/bpf",
    ];
    scene.lab.exec("server", &mount).expect_success();
    Ok(())
}

fn netlink_overrun(scene: &mut Scene<'_>) -> Result<(), String> {
    let mut batch = String::new();
    for action in ["add", "delete"] {
        for number in 0..4000 {
            writeln!(batch, "address {action} 172.20.{}.{}/32 dev lo", number / 250, number % 250 + 1)
                .unwrap();
        }
    }
    let batch = scene.lab.file("batch", &batch);
    scene.server.signal(Signal::SIGSTOP);
    scene.lab.exec("server", &["ip", "-batch", batch.to_str().unwrap()]).expect_success();
    // What is changed now is read by nobody.
    scene.ip("address add 10.77.0.9/24 dev lan0");
    sleep(Duration::from_secs(1));
    scene.server.signal(Signal::SIGCONT);
    let shown = || scene.server.status().interfaces[0].addresses.iter().any(|address| address == "10.77.0.9");
    wait_for("the address that came meanwhile", || shown().then_some(()));
    scene.lab.pooltime("client", &["query", "10.77.0.9"]).expect_success();
    scene.ip("address delete 10.77.0.9/24 dev lan0");
    Ok(())
}
