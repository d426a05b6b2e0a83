//! The generator in the kernel, on a real link to the real server program: two network namespaces and a veth
//! pair, and nothing of the host's network.

#[path = "../src/map_values.rs"]
mod map_values;

use std::fs::File;
use std::process::{Command, Output};
use std::thread;

use aya::maps::Array;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use map_values::Value;
use nix::sched::{CloneFlags, setns};
use nix::time::{ClockId, clock_gettime};
use responder::clock::{DispersionRate, Rate};
use responder::layout::{self, State};
use responder::{ClockState, NtpShort, NtpTimestamp, ServedTable};
use serde_json::Value as Json;

const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");

/// A server and a client on a link of their own; gone when it goes out of scope, whatever happens.
struct Lab {
    server: String,
    client: String,
    _ebpf: Ebpf,
}

impl Lab {
    fn new(name: &str, ahead_s: i64) -> Self {
        let [server, client] = ["s", "c"].map(|end| format!("bench{}-{name}-{end}", std::process::id()));
        for namespace in [&server, &client] {
            ip(&["netns", "add", namespace]);
        }
        ip(&[
            "-n", &server, "link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", &client,
        ]);
        for (namespace, end) in [(&server, 1), (&client, 2)] {
            ip(&["-n", namespace, "address", "add", &format!("10.99.0.{end}/24"), "dev", "link0"]);
            ip(&["-n", namespace, "address", "add", &format!("fd99::{end}/64"), "dev", "link0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "link0", "up"]);
        }
        let namespace = File::open(format!("/run/netns/{server}")).unwrap();
        // On a thread that ends: the namespace is the thread's.
        let ebpf = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            serve("link0", ahead_s)
        });
        Self { server, client, _ebpf: ebpf.join().unwrap() }
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        let namespace = format!("--net=/run/netns/{}", self.client);
        Command::new("nsenter").arg(namespace).arg(BENCH).args(arguments).output().unwrap()
    }

    fn step(&self, arguments: &[&str]) -> Json {
        let output = self.bench(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Json = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["generator"].as_str().unwrap().starts_with("live"), "{report}");
        println!("{}", report["steps"][0]);
        report["steps"][0].clone()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _gone = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The server's program on an interface, with this machine's clock, or one that is ahead of it.
fn serve(interface: &str, ahead_s: i64) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.override_global(layout::INTERFACE_SLOT, &0_u32, true);
    let mut ebpf = loader.load(xdp_ebpf::POOLTIME).unwrap();
    let served = [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let table = ServedTable::new(&[[10, 99, 0, 1]], &[[10, 99, 0, 255]], &[served]).unwrap();
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    let clock = ClockState {
        sequence: 1,
        monotonic_base_ns: u64::try_from(monotonic.tv_sec()).unwrap() * 1_000_000_000
            + u64::try_from(monotonic.tv_nsec()).unwrap(),
        ntp_base: NtpTimestamp::from_unix(now.tv_sec() + ahead_s, u32::try_from(now.tv_nsec()).unwrap()),
        rate: Rate::NOMINAL,
        horizon_ns: u64::MAX,
        reference_time: NtpTimestamp(1),
        root_delay: NtpShort(1),
        root_dispersion: NtpShort(1),
        dispersion_rate: DispersionRate::from_ppb(15_000),
        reference_id: 0x0a63_0003,
        leap: 0,
        stratum: 2,
        precision: -25,
    };
    let state = State { clocks: [clock.to_words(); 2], tables: [table; 2], ..State::EMPTY };
    let mut map = Array::try_from(ebpf.map_mut(layout::STATE).unwrap()).unwrap();
    map.set(0, Value(state), 0).unwrap();
    let program: &mut Xdp = ebpf.program_mut(layout::PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(interface, XdpMode::Driver).unwrap();
    ebpf
}

fn number(step: &Json, name: &str) -> u64 {
    step[name].as_u64().unwrap_or_else(|| panic!("no {name} in {step}"))
}

const LIVE: [&str; 7] = ["--generator", "live", "--json", "--warm-up", "100ms", "--timeout", "300ms"];

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn every_request_over_both_families_is_answered_and_every_answer_is_right() {
    let lab = Lab::new("both", 0);
    for target in ["10.99.0.1", "fd99::1"] {
        let arguments = ["load", target, "--rate", "100k", "--duration", "1s", "--shared-clock"];
        let step = lab.step(&[&arguments[..], &LIVE].concat());
        let sent = number(&step, "sent");
        assert!(sent > 50_000, "{step}");
        assert_eq!(number(&step, "answered"), sent, "{step}");
        for name in ["lost", "late", "invalid", "kisses", "duplicates"] {
            assert_eq!(number(&step, name), 0, "{name}: {step}");
        }
        assert!(step["offset_ns"]["mean"].as_f64().unwrap().abs() < 1e6, "{step}");
        assert!(number(&step["round_trip_ns"], "p50") < 10_000_000, "{step}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_clock_that_is_ahead_is_caught_in_every_single_answer() {
    let lab = Lab::new("ahead", 1);
    let arguments = ["load", "10.99.0.1", "--rate", "10k", "--duration", "500ms", "--shared-clock"];
    let step = lab.step(&[&arguments[..], &LIVE].concat());
    assert_eq!(number(&step["faults"], "outside_window"), number(&step, "sent"), "{step}");
    assert_eq!(number(&step, "answered"), 0);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_fastest_rate_has_every_answer_checked() {
    let lab = Lab::new("fast", 0);
    let rate = std::env::var("POOLTIME_BENCH_RATE").unwrap_or_else(|_| "2M".into());
    let arguments = ["load", "10.99.0.1", "--rate", &rate, "--duration", "2s", "--shared-clock"];
    let step = lab.step(&[&arguments[..], &LIVE].concat());
    assert_eq!(number(&step, "answered") + number(&step, "lost"), number(&step, "sent"), "{step}");
    assert_eq!(number(&step, "invalid"), 0, "{step}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_that_is_taken_is_named() {
    let lab = Lab::new("taken", 0);
    let namespace = File::open(format!("/run/netns/{}", lab.client)).unwrap();
    let other = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        serve("link0", 0)
    });
    let _other = other.join().unwrap();
    let output = lab.bench(&["load", "10.99.0.1", "--generator", "live", "--rate", "1000"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("link0 has an XDP program already"), "{error}");
}
