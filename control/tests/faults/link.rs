//! Faults of interfaces, addresses and the network stack.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use testlab::foreign::xdp;
use testlab::{Lab, wait_for};

use crate::fault::Promise::{Gap, Unharmed};
use crate::fault::{Fault, PLAIN, Setup};
use crate::scene::{Scene, Stage};

/// How long an interface or an address is away.
const AWAY: Duration = Duration::from_secs(3);
const ROUTER: Setup = Setup { lab: &["--router"], ..PLAIN };
const QUEUES: Setup = Setup { lab: &["--queues", "2"], ..PLAIN };

pub(crate) fn faults() -> Vec<Fault> {
    let fault = |name, what, promise, setup, play| Fault { name, what, promise, setup, play };
    vec![
        fault("interface-down", "down for 3 s", Gap("the interface is down"), PLAIN, |scene| {
            down(&mut scene.stage())
        }),
        fault("interface-flaps", "down and up 10 times", Gap("the interface is down"), PLAIN, |scene| {
            flaps(&mut scene.stage())
        }),
        fault("cable-out", "the other end is down for 3 s", Gap("there is no carrier"), PLAIN, |scene| {
            cable_out(&mut scene.stage())
        }),
        fault(
            "interface-deleted",
            "deleted, and made anew after 3 s",
            Gap("there is no interface"),
            PLAIN,
            deleted,
        ),
        fault(
            "interface-renamed",
            "renamed, and back after 3 s",
            Gap("it is down for its rename"),
            PLAIN,
            renamed,
        ),
        fault(
            "interface-moved",
            "moved to another network namespace, and back after 3 s",
            Gap("it is elsewhere"),
            PLAIN,
            moved,
        ),
        fault(
            "address-changed",
            "another address for 3 s",
            Gap("there is no such address"),
            PLAIN,
            |scene| address_changed(&mut scene.stage()),
        ),
        fault("addresses-come-and-go", "40 addresses are added and removed", Unharmed, PLAIN, |scene| {
            addresses_come_and_go(&mut scene.stage())
        }),
        fault(
            "mac-changed",
            "another MAC address for 3 s",
            Gap("frames go to the old MAC address"),
            PLAIN,
            |scene| mac_changed(&mut scene.stage()),
        ),
        fault("mtu-changed", "MTU 1400, 1280 and 1500", Unharmed, PLAIN, |scene| {
            mtu_changed(&mut scene.stage())
        }),
        fault(
            "channels-changed",
            "one queue instead of two, and back, 5 times",
            Gap("the driver rebuilds its queues"),
            QUEUES,
            |scene| channels_changed(&mut scene.stage()),
        ),
        fault(
            "offloads-changed",
            "GRO, checksum and segmentation offload off and on",
            Gap("the driver changes its receive path"),
            PLAIN,
            |scene| offloads_changed(&mut scene.stage()),
        ),
        fault("other-program", "other programs try to take the interface", Unharmed, PLAIN, other_program),
        fault("ipv6-off", "IPv6 is switched off for 3 s", Gap("there is no IPv6"), PLAIN, |scene| {
            ipv6_off(&mut scene.stage())
        }),
        fault(
            "neighbours-flushed",
            "the table of neighbours is flushed 50 times",
            Unharmed,
            PLAIN,
            |scene| neighbours_flushed(&mut scene.stage()),
        ),
        fault("routes-flushed", "no route for 10 s", Unharmed, PLAIN, |scene| {
            routes_flushed(&mut scene.stage())
        }),
        fault("firewall", "the firewall drops all of UDP for 10 s", Unharmed, PLAIN, |scene| {
            firewall(&mut scene.stage())
        }),
        fault(
            "other-interface-flaps",
            "a second served interface goes down and up 10 times",
            Unharmed,
            ROUTER,
            other_interface_flaps,
        ),
    ]
}

/// An interface that was down has lost its IPv6 addresses.
fn up_again(lab: &Lab) {
    lab.ip("server", "link set lan0 up");
    lab.ip("server", "address replace fd77::1/64 dev lan0 nodad");
}

pub(crate) fn down(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.ip("link set lan0 down");
    sleep(AWAY);
    up_again(stage.lab);
    Ok(())
}

pub(crate) fn flaps(stage: &mut Stage<'_>) -> Result<(), String> {
    for _ in 0..10 {
        stage.ip("link set lan0 down");
        sleep(Duration::from_millis(70));
        up_again(stage.lab);
        sleep(Duration::from_millis(130));
    }
    Ok(())
}

pub(crate) fn cable_out(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.lab.ip("client", "link set lan0 down");
    sleep(AWAY);
    stage.lab.ip("client", "link set lan0 up");
    stage.lab.ip("client", "address replace fd77::2/64 dev lan0 nodad");
    Ok(())
}

fn deleted(scene: &mut Scene<'_>) -> Result<(), String> {
    scene.ip("link delete lan0");
    sleep(AWAY);
    let namespace = format!("{}-client", scene.lab.name());
    scene.ip(&format!("link add lan0 type veth peer name lan0 netns {namespace}"));
    let object = scene.lab.file("pass.o", "");
    fs::write(&object, bench_ebpf::BASELINE).unwrap();
    scene.lab.ip("client", &format!("link set dev lan0 xdpdrv obj {} program pass", object.display()));
    for (host, number) in [("server", 1), ("client", 2)] {
        scene.lab.ip(host, "link set lan0 up");
        scene.lab.ip(host, &format!("address add 10.77.0.{number}/24 dev lan0"));
        scene.lab.ip(host, &format!("address add fd77::{number}/64 dev lan0 nodad"));
    }
    for upstream in &scene.upstreams {
        scene.lab.ip("client", &format!("address add {}/24 dev lan0", upstream.address()));
    }
    Ok(())
}

fn renamed(scene: &mut Scene<'_>) -> Result<(), String> {
    for (from, to) in [("lan0", "wan0"), ("wan0", "lan0")] {
        for command in [format!("set {from} down"), format!("set {from} name {to}"), format!("set {to} up")] {
            scene.ip(&format!("link {command}"));
        }
        scene.ip(&format!("address replace fd77::1/64 dev {to} nodad"));
        sleep(AWAY);
    }
    Ok(())
}

fn moved(scene: &mut Scene<'_>) -> Result<(), String> {
    let namespace = |host: &str| format!("{}-{host}", scene.lab.name());
    scene.ip(&format!("link set lan0 name away0 netns {}", namespace("client")));
    sleep(AWAY);
    scene.lab.ip("client", &format!("link set away0 name lan0 netns {}", namespace("server")));
    scene.ip("address add 10.77.0.1/24 dev lan0");
    up_again(scene.lab);
    Ok(())
}

pub(crate) fn address_changed(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.ip("address delete 10.77.0.1/24 dev lan0");
    stage.ip("address add 10.77.0.5/24 dev lan0");
    let asked = || stage.lab.pooltime("client", &["query", "10.77.0.5"]).status.success();
    wait_for("the new address to be answered for", || asked().then_some(()));
    sleep(AWAY);
    stage.ip("address delete 10.77.0.5/24 dev lan0");
    stage.ip("address add 10.77.0.1/24 dev lan0");
    Ok(())
}

pub(crate) fn addresses_come_and_go(stage: &mut Stage<'_>) -> Result<(), String> {
    for action in ["add", "delete"] {
        for number in 100..140 {
            stage.ip(&format!("address {action} 10.77.0.{number}/24 dev lan0"));
        }
    }
    Ok(())
}

pub(crate) fn mac_changed(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.ip("link set lan0 address 02:00:00:77:00:99");
    sleep(AWAY);
    stage.ip("link set lan0 address 02:00:00:77:00:01");
    Ok(())
}

pub(crate) fn mtu_changed(stage: &mut Stage<'_>) -> Result<(), String> {
    for mtu in [1400, 1280, 1500] {
        stage.ip(&format!("link set lan0 mtu {mtu}"));
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

pub(crate) fn channels_changed(stage: &mut Stage<'_>) -> Result<(), String> {
    let set = |host: &str, direction: &str, count: &str| {
        stage.lab.exec(host, &["ethtool", "-L", "lan0", direction, count]).expect_success();
    };
    for _ in 0..5 {
        // A veth with a program does not take fewer queues than the other end sends to.
        set("client", "tx", "1");
        set("server", "rx", "1");
        sleep(Duration::from_millis(300));
        set("server", "rx", "2");
        set("client", "tx", "2");
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

pub(crate) fn offloads_changed(stage: &mut Stage<'_>) -> Result<(), String> {
    let mut changed = 0;
    for feature in ["gro", "tx", "tso"] {
        for state in ["off", "on"] {
            // Some of them are fixed while a program is attached.
            let command = ["ethtool", "-K", "lan0", feature, state];
            changed += usize::from(stage.lab.exec("server", &command).status.success());
            sleep(Duration::from_millis(300));
        }
    }
    if changed == 0 { Err("no offload of this link can be changed".into()) } else { Ok(()) }
}

fn other_program(scene: &mut Scene<'_>) -> Result<(), String> {
    let ours = xdp(scene.lab, "lan0");
    let object = scene.lab.file("foreign.o", "");
    fs::write(&object, bench_ebpf::BASELINE).unwrap();
    for mode in ["xdp", "xdpdrv", "xdpgeneric"] {
        let object = object.to_str().unwrap();
        for force in [&["-force"][..], &[]] {
            let command =
                [&["ip"], force, &["link", "set", "dev", "lan0", mode, "obj", object, "program", "pass"]]
                    .concat();
            assert!(!scene.lab.exec("server", &command).status.success(), "{command:?} is refused");
        }
        // Of a mode in which there is none, that is no error.
        let _refused_or_nothing =
            scene.lab.exec("server", &["ip", "link", "set", "dev", "lan0", mode, "off"]);
    }
    assert_eq!(xdp(scene.lab, "lan0"), ours);
    Ok(())
}

pub(crate) fn ipv6_off(stage: &mut Stage<'_>) -> Result<(), String> {
    let set = |off: &str| {
        stage
            .lab
            .exec("server", &["sysctl", "-qw", &format!("net.ipv6.conf.lan0.disable_ipv6={off}")])
            .expect_success()
    };
    set("1");
    sleep(AWAY);
    set("0");
    stage.ip("address replace fd77::1/64 dev lan0 nodad");
    Ok(())
}

pub(crate) fn neighbours_flushed(stage: &mut Stage<'_>) -> Result<(), String> {
    for _ in 0..50 {
        stage.ip("neigh flush all");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub(crate) fn routes_flushed(stage: &mut Stage<'_>) -> Result<(), String> {
    stage.ip("route flush table main");
    sleep(Duration::from_secs(10));
    stage.ip("route replace 10.77.0.0/24 dev lan0");
    Ok(())
}

pub(crate) fn firewall(stage: &mut Stage<'_>) -> Result<(), String> {
    let chain = |hook: &str| {
        format!("chain {hook}s {{\n type filter hook {hook} priority 0\n meta l4proto udp drop\n}}\n")
    };
    let rules = format!("table inet closed {{\n{}{}}}\n", chain("input"), chain("output"));
    let rules = stage.lab.file("rules.nft", &rules);
    stage.lab.exec("server", &["nft", "-f", rules.to_str().unwrap()]).expect_success();
    sleep(Duration::from_secs(10));
    stage.lab.exec("server", &["nft", "flush", "ruleset"]).expect_success();
    Ok(())
}

fn other_interface_flaps(scene: &mut Scene<'_>) -> Result<(), String> {
    scene.server.command(&["attach", "lan2"]).expect_success();
    for _ in 0..10 {
        scene.ip("link set lan2 down");
        sleep(Duration::from_millis(150));
        scene.ip("link set lan2 up");
        sleep(Duration::from_millis(150));
    }
    scene.server.command(&["detach", "lan2"]).expect_success();
    Ok(())
}
