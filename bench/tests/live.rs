//! The generator in the kernel, on a real link to the real server program: two network namespaces and a veth
//! pair, and nothing of the host's network.

#[path = "../src/map_values.rs"]
mod map_values;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use aya::maps::Array;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use map_values::Value;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use responder::clock::{DispersionRate, Rate};
use responder::layout::{self, State};
use responder::{ClockState, NtpShort, NtpTimestamp, ServedTable};
use serde_json::Value as Json;

const BENCH: &str = env!("CARGO_BIN_EXE_pooltime-bench");

/// A server and a client on a link of their own; gone when it goes out of scope, whatever happens.
struct Lab {
    server: String,
    client: String,
    /// Attached as long as it lives.
    ebpf: Option<Ebpf>,
}

impl Lab {
    /// With the server's program at the server's end.
    fn new(name: &str, ahead_s: i64) -> Self {
        let mut lab = Self::bare(name);
        lab.ebpf = Some(Lab::inside(&lab.server, move || serve("link0", ahead_s)));
        lab
    }

    fn bare(name: &str) -> Self {
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
        Self { server, client, ebpf: None }
    }

    /// Calls a function on a thread that ends: the namespace is the thread's.
    fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::spawn(inside).join().unwrap()
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
    let _other = Lab::inside(&lab.client, || serve("link0", 0));
    let output = lab.bench(&["load", "10.99.0.1", "--generator", "live", "--rate", "1000"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("link0 has an XDP program already"), "{error}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn requests_come_from_as_many_clients_as_asked_for_over_both_families() {
    let lab = Lab::new("clients", 0);
    for (target, net) in [("10.99.0.1", "10.64.0.0/16"), ("fd99::1", "fd64::/32"), ("fd99::1", "fd64::/64")] {
        let arguments = ["load", target, "--rate", "20k", "--duration", "300ms", "--spacing", "poisson"];
        let clients = ["--clients", "1000", "--source-net", net];
        let step = lab.step(&[&arguments[..], &clients, &LIVE].concat());
        let sent = number(&step, "sent");
        assert!(sent > 1000, "{step}");
        // The server's checksums are right only if the requests' addresses were what they were summed as.
        assert_eq!((number(&step, "answered"), number(&step, "invalid")), (sent, 0), "{net}: {step}");
    }
    let output = lab.bench(&["load", "10.99.0.1", "--source-net", "8.8.0.0/16", "--clients", "9"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("public Internet"), "{error}");
}

/// A server whose UDP checksums are all wrong, by a raw socket: the kernel's own would be right.
fn serve_wrong_checksums() {
    let bound = UdpSocket::bind("10.99.0.1:123").unwrap();
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Udp).unwrap();
    thread::spawn(move || {
        let mut request = [0; 48];
        while let Ok((_, client)) = bound.recv_from(&mut request) {
            let SocketAddr::V4(client) = client else { continue };
            let mut answer = vec![0, 123];
            answer.extend(client.port().to_be_bytes());
            answer.extend([0, 56, 0xba, 0xad, request[0] & 0x38 | 4, 2, 0, 0]);
            answer.extend([0; 20]);
            answer.extend(&request[40..48]);
            answer.extend([0xee; 16]);
            let _client_may_be_gone =
                sendto(raw.as_raw_fd(), &answer, &SockaddrIn::from(client), MsgFlags::empty());
        }
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_wrong_checksum_is_named_whatever_takes_the_answers() {
    let lab = Lab::bare("checksum");
    // So that its end takes frames without an XDP program.
    let namespace = format!("--net=/run/netns/{}", lab.server);
    let on = Command::new("nsenter").args([&namespace, "ethtool", "-K", "link0", "gro", "on"]).status();
    assert!(on.unwrap().success());
    Lab::inside(&lab.server, serve_wrong_checksums);
    for generator in ["live", "socket"] {
        let arguments = ["load", "10.99.0.1", "--rate", "500", "--duration", "400ms", "--json"];
        let output = lab.bench(&[&arguments[..], &["--generator", generator, "--timeout", "200ms"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Json = serde_json::from_slice(&output.stdout).unwrap();
        let step = &report["steps"][0];
        assert_eq!(number(step, "answered"), 0, "{generator}: {step}");
        // One in 65536 is right by chance.
        assert!(number(&step["faults"], "checksum") + 2 >= number(step, "sent"), "{generator}: {step}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ctrl_c_leaves_no_program_on_the_interface() {
    let lab = Lab::new("ctrlc", 0);
    let namespace = format!("--net=/run/netns/{}", lab.client);
    let programs = || {
        let output = Command::new("ip").args(["-n", &lab.client, "link", "show", "link0"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("xdp")
    };
    let mut load = Command::new("nsenter")
        .args([&namespace, BENCH, "load", "10.99.0.1", "--generator", "live", "--duration", "60s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the load to begin", programs);
    thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
    load.wait().unwrap();
    wait_for("the program to go", || !programs());
}

/// What `compare` needs besides this package, if it is there.
fn compare(arguments: &[&str]) -> Option<Command> {
    let ours = Path::new(BENCH).with_file_name("pooltime-xdp");
    let tools = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from).unwrap_or_default();
    let missing = [ours, tools.join("chronyd")].into_iter().find(|path| !path.exists());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let reason = match missing {
        Some(path) => format!("there is no {}", path.display()),
        None if cores < 2 => "a comparison needs two CPUs".into(),
        None => {
            let mut command = Command::new(BENCH);
            command.args(["compare", "--rounds", "1", "--only", "native,chronyd"]).args(arguments);
            return Some(command);
        }
    };
    println!("not run: {reason}");
    if let Some(path) = std::env::var_os("POOLTIME_NOT_RUN") {
        let mut list = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(list, "{}: {reason}", thread::current().name().unwrap_or("a test")).unwrap();
    }
    None
}

fn labs_of(process: u32) -> bool {
    Path::new(&format!("/run/netns/compare{process}-server")).exists()
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_comparison_has_figures_for_ours_and_for_chronyd_and_leaves_nothing() {
    let directory = std::env::temp_dir().join(format!("pooltime-compare-{}", std::process::id()));
    // A machine that is busy with other things loses some: it is not the speed that is tested here.
    let quick = ["--duration", "300ms", "--rate", "10k", "--at-most", "10k", "--loss", "90%"];
    let results = ["--results", directory.to_str().unwrap()];
    let Some(mut command) = compare(&[&quick[..], &results].concat()) else { return };
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = process.id();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("| native (pooltime-xdp") && table.contains("| chronyd (chronyd"), "{table}");
    let json: Json = serde_json::from_slice(&std::fs::read(directory.join("compare.json")).unwrap()).unwrap();
    for name in ["native", "chronyd"] {
        let run = &json["contestants"][name]["runs"][0];
        assert!(number(&run["common"]["step"], "answered") > 0, "{run}");
        assert_eq!(number(&run["common"]["step"], "invalid"), 0, "{run}");
        assert!(run["near"]["core_s"].as_f64().unwrap() > 0.0, "{run}");
    }
    assert!(directory.join("compare.md").exists() && !labs_of(id), "{said}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ctrl_c_takes_a_comparison_down() {
    let Some(mut command) = compare(&[]) else { return };
    let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the lab", || labs_of(process.id()));
    thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(!labs_of(process.id()));
}

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..400 {
        if happened() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}
