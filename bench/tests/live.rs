//! The generators that put frames on a link, on a real one to the real server program.

mod program;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use aya::maps::Array;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use bench::map_values::Value;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use program::{BENCH, LINK_GENERATORS, bench};
use responder::clock::{DispersionRate, Rate};
use responder::layout::{self, State};
use responder::{ClockState, NtpShort, NtpTimestamp, ServedTable, Station, StationTable, Tags};
use serde_json::Value as Json;
use testlab::wire::{CLIENT_MAC, SERVER_MAC};
use testlab::{Lab, Output, lab_script, not_run, pooltime_xdp, tool, wait_for};

/// A lab with the server's program at the server's end.
struct Served {
    lab: Lab,
    /// Attached as long as it lives.
    _ebpf: Ebpf,
}

impl Served {
    fn up(ahead_s: i64) -> Self {
        let lab = Lab::bare();
        let ebpf = lab.inside("server", || serve("lan0", ahead_s));
        Self { lab, _ebpf: ebpf }
    }

    fn step(&self, generator: &str, arguments: &[&str]) -> Json {
        let all = ["--generator", generator, "--json", "--warm-up", "0s", "--timeout", "200ms"];
        let report = report(bench(&self.lab, &[arguments, &all].concat()));
        println!("{}: {}", report["generator"], report["steps"][0]);
        report["steps"][0].clone()
    }
}

/// What the bench printed as JSON.
#[track_caller]
fn report(output: Output) -> Json {
    serde_json::from_str(&output.expect_success()).unwrap()
}

/// The MAC address of the server's end.
fn server_mac(lab: &Lab) -> String {
    let link = lab.exec("server", &["ip", "link", "show", "dev", "lan0"]).expect_success();
    let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.unwrap_or_default().to_owned()
}

/// All that can be seen of the client's end of the link, but for what is counted.
fn settings(lab: &Lab) -> String {
    let commands = [
        &["ip", "-d", "link", "show", "dev", "lan0"][..],
        &["ethtool", "-k", "lan0"],
        &["ethtool", "-l", "lan0"],
    ];
    let seen = commands.map(|command| lab.exec("client", command).expect_success()).concat();
    let polling = "cd /sys/class/net/lan0 && cat gro_flush_timeout napi_defer_hard_irqs threaded";
    seen + &lab.sysfs("client", polling)
}

/// The server's program on an interface, with this machine's clock, or one that is ahead of it.
fn serve(interface: &str, ahead_s: i64) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.override_global(layout::INTERFACE_SLOT, &0_u32, true);
    let mut ebpf = loader.load(xdp_ebpf::POOLTIME).unwrap();
    let served = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let table = ServedTable::new(&[[10, 77, 0, 1]], &[[10, 77, 0, 255]], &[served]).unwrap();
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
        reference_id: 0x0a4d_0003,
        leap: 0,
        stratum: 2,
        precision: -25,
    };
    let mut state = State { tables: [table; 2], ..State::EMPTY };
    state.head.clocks = [clock.to_words(); 2];
    let stations = [SERVER_MAC, CLIENT_MAC].map(|address| Station::new(address, Tags::NONE));
    state.stations[0] = StationTable::new(&stations).unwrap();
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

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn every_request_over_both_families_is_answered_and_every_answer_is_right() {
    let served = Served::up(0);
    for generator in LINK_GENERATORS {
        for target in ["10.77.0.1", "fd77::1"] {
            let rate = if generator == "live" { "100k" } else { "20k" };
            let arguments = ["--rate", rate, "--duration", "300ms", "--shared-clock"];
            let step = served.step(generator, &[&["load", target], &arguments[..]].concat());
            let sent = number(&step, "sent");
            // A machine that is busy with other things leaves a generator little time; what was sent counts.
            assert!(sent > 100, "{step}");
            assert_eq!(number(&step, "answered"), sent, "{step}");
            for name in ["lost", "late", "invalid", "kisses", "duplicates"] {
                assert_eq!(number(&step, name), 0, "{name}: {step}");
            }
            assert!(step["offset_ns"]["mean"].as_f64().unwrap().abs() < 1e6, "{step}");
            assert!(number(&step["round_trip_ns"], "p50") < 10_000_000, "{step}");
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_clock_that_is_ahead_is_caught_in_every_single_answer() {
    let served = Served::up(1);
    for generator in LINK_GENERATORS {
        let arguments = ["load", "10.77.0.1", "--rate", "10k", "--duration", "300ms", "--shared-clock"];
        let step = served.step(generator, &arguments);
        assert_eq!(number(&step["faults"], "outside_window"), number(&step, "sent"), "{step}");
        assert_eq!(number(&step, "answered"), 0);
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_fastest_rate_has_every_answer_checked() {
    let served = Served::up(0);
    for generator in LINK_GENERATORS {
        let rate = std::env::var("POOLTIME_BENCH_RATE").unwrap_or_else(|_| "2M".into());
        let arguments = ["load", "10.77.0.1", "--rate", &rate, "--duration", "500ms", "--shared-clock"];
        let step = served.step(generator, &arguments);
        assert_eq!(number(&step, "answered") + number(&step, "lost"), number(&step, "sent"), "{step}");
        assert_eq!(number(&step, "invalid"), 0, "{step}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_interface_that_is_taken_is_named() {
    let served = Served::up(0);
    let _other = served.lab.inside("client", || serve("lan0", 0));
    for generator in LINK_GENERATORS {
        let output = bench(&served.lab, &["load", "10.77.0.1", "--generator", generator, "--rate", "1000"]);
        let error = output.expect_code(69);
        assert!(error.contains("lan0 has an XDP program already"), "{error}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn requests_come_from_as_many_clients_as_asked_for_over_both_families() {
    let served = Served::up(0);
    let nets = [("10.77.0.1", "10.64.0.0/16"), ("fd77::1", "fd64::/32"), ("fd77::1", "fd64::/64")];
    for (generator, (target, net)) in
        LINK_GENERATORS.iter().flat_map(|generator| nets.map(|net| (*generator, net)))
    {
        let arguments = ["load", target, "--rate", "20k", "--duration", "200ms", "--spacing", "poisson"];
        let clients = ["--clients", "1000", "--source-net", net, "--source-ports", "1024-65535"];
        let step = served.step(generator, &[&arguments[..], &clients].concat());
        let sent = number(&step, "sent");
        assert!(sent > 20, "{step}");
        // The server's checksums are right only if the requests' addresses were what they were summed as.
        assert_eq!((number(&step, "answered"), number(&step, "invalid")), (sent, 0), "{net}: {step}");
    }
    let output = bench(&served.lab, &["load", "10.77.0.1", "--source-net", "8.8.0.0/16", "--clients", "9"]);
    let error = output.expect_code(64);
    assert!(error.contains("public Internet"), "{error}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_real_server_answers_what_is_right_of_every_profile() {
    let served = Served::up(0);
    for generator in LINK_GENERATORS {
        for profile in [
            &["hot-source:30%", "--clients", "64", "--source-net", "fd64::/32"][..],
            &["spoofed", "--source-net", "fd64::/32"],
            &["malformed:30%"],
            &["top-of-hour"],
        ] {
            let arguments = ["load", "fd77::1", "--rate", "2000", "--duration", "100ms", "--profile"];
            let step = served.step(generator, &[&arguments[..], profile].concat());
            assert!(number(&step, "sent") > 0, "{step}");
            assert_eq!(number(&step, "answered"), number(&step, "sent"), "{profile:?}: {step}");
            // The server's program checks no UDP checksums.
            let faults = step["faults"].as_object().unwrap();
            assert!(faults.keys().all(|name| name == "answered_checksum"), "{profile:?}: {step}");
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn what_is_wrong_with_the_way_to_the_server_is_named() {
    let served = Served::up(0);
    let lab = &served.lab;
    let refused = |target: &str, options: &[&str]| {
        let arguments = [&["load", target, "--generator", "packet", "--duration", "100ms"], options].concat();
        let output = bench(lab, &arguments);
        assert!(!output.status.success(), "{arguments:?}");
        output.stderr
    };
    let nobody = refused("10.77.0.77", &[]);
    assert!(nobody.contains("nobody on lan0 answers for 10.77.0.77"), "{nobody}");
    let nowhere = refused("10.55.0.1", &[]);
    assert!(nowhere.contains("no route to 10.55.0.1") && nowhere.contains("ip route get"), "{nowhere}");
    let unknown = refused("10.77.0.1", &["--interface", "eth77"]);
    assert!(unknown.contains("no interface eth77; there are: lo, lan0"), "{unknown}");
    let by_any = bench(lab, &["load", "10.77.0.1", "--interface", "eth77"]);
    assert_eq!(by_any.stderr, unknown, "not that sockets cannot");
    let loopback = refused("10.77.0.1", &["--interface", "lo"]);
    assert!(loopback.contains("lo is not an Ethernet interface"), "{loopback}");
    lab.ip("client", "link set dev lo down");
    let down = refused("10.77.0.1", &["--interface", "lo"]);
    assert!(down.contains("lo is down"), "{down}");
    let own = refused("10.77.0.2", &[]);
    assert!(own.contains("this host itself"), "{own}");
    let step = |target: &str, options: &[&str]| {
        served.step("packet", &[&["load", target, "--duration", "100ms"], options].concat())
    };
    let mac = server_mac(lab);
    // By the station, without anybody to ask; and by a router on the link, to where no route leads.
    let answered = step("10.77.0.1", &["--interface", "lan0", "--next-hop", &mac]);
    assert!(number(&answered, "answered") > 0, "{answered}");
    // There all of it is lost, which is no success.
    let by_router =
        ["--interface", "lan0", "--gateway", "10.77.0.1", "--warm-up", "0s", "--timeout", "200ms"];
    let load = ["load", "10.55.0.1", "--generator", "packet", "--duration", "100ms", "--json"];
    let output = bench(lab, &[&load[..], &by_router].concat());
    let report: Json = serde_json::from_str(&output.stdout).unwrap();
    let passed_on = &report["steps"][0];
    assert!(number(passed_on, "sent") > 0 && number(passed_on, "answered") == 0, "{passed_on}");
    let lost = output.expect_code(1);
    assert!(lost.contains("all requests were lost"), "{lost}");
}

/// A server whose UDP checksums are all wrong, by a raw socket: the kernel's own would be right.
fn serve_wrong_checksums() {
    let bound = UdpSocket::bind("10.77.0.1:123").unwrap();
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
    let lab = Lab::bare();
    lab.inside("server", serve_wrong_checksums);
    for generator in LINK_GENERATORS.iter().chain(&["socket"]) {
        let arguments = ["load", "10.77.0.1", "--rate", "500", "--duration", "300ms", "--json"];
        let more = ["--generator", generator, "--warm-up", "0s", "--timeout", "100ms"];
        let report = report(bench(&lab, &[&arguments[..], &more].concat()));
        let step = &report["steps"][0];
        assert_eq!(number(step, "answered"), 0, "{generator}: {step}");
        // One in 65536 is right by chance.
        assert!(number(&step["faults"], "checksum") + 2 >= number(step, "sent"), "{generator}: {step}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn behind_a_driver_that_refuses_answers_are_checked_too() {
    let lab = Lab::bare();
    for host in ["server", "client"] {
        // With frames this long, veth takes no native program.
        lab.ip(host, "link set dev lan0 mtu 9000");
    }
    lab.inside("server", serve_wrong_checksums);
    for (generator, by) in [("packet", "AF_PACKET"), ("xdp", "AF_XDP"), ("auto", "AF_XDP")] {
        let arguments = ["load", "10.77.0.1", "--rate", "500", "--duration", "200ms", "--json"];
        let more = ["--generator", generator, "--warm-up", "0s", "--timeout", "100ms"];
        let report = report(bench(&lab, &[&arguments[..], &more].concat()));
        let (name, step) = (report["generator"].as_str().unwrap(), &report["steps"][0]);
        assert!(name.starts_with(by) && name.contains("generic XDP"), "{name}");
        assert_eq!(name.contains("cannot send by live frames"), generator == "auto", "{name}");
        assert!(number(step, "sent") > 0 && number(step, "answered") == 0, "{name}: {step}");
        assert!(number(&step["faults"], "checksum") + 2 >= number(step, "sent"), "{name}: {step}");
    }
    let refused = bench(&lab, &["load", "10.77.0.1", "--generator", "live"]);
    let error = refused.stderr;
    assert!(error.contains("its driver has no native XDP"), "{error}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ctrl_c_leaves_the_interface_as_it_was() {
    let served = Served::up(0);
    let before = settings(&served.lab);
    for generator in LINK_GENERATORS {
        let arguments = ["load", "10.77.0.1", "--generator", generator, "--duration", "60s"];
        let mut load =
            served.lab.command("client", BENCH).args(arguments).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the load to begin", || settings(&served.lab).contains("prog/xdp").then_some(()));
        thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(load.id().cast_signed()), Signal::SIGINT).unwrap();
        assert!(!load.wait().unwrap().success());
        wait_for("the interface to be as before", || (settings(&served.lab) == before).then_some(()));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_load_that_failed_leaves_the_interface_as_it_was() {
    let served = Served::up(0);
    let before = settings(&served.lab);
    for generator in LINK_GENERATORS {
        let arguments = ["load", "10.77.0.1", "--generator", generator, "--duration", "60s"];
        let mut load = served
            .lab
            .command("client", BENCH)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the load to begin", || settings(&served.lab).contains("prog/xdp").then_some(()));
        // Not by the load's own doing: whatever ends the process, the kernel cleans up.
        load.kill().unwrap();
        load.wait().unwrap();
        wait_for("the interface to be as before", || (settings(&served.lab) == before).then_some(()));
    }
}

/// A comparison of this server with `chronyd`, if this machine can make one.
fn compare(arguments: &[&str]) -> Option<Command> {
    if tool("chronyd").is_none() {
        not_run("chronyd is not there");
        return None;
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        not_run("a comparison needs two CPUs");
        return None;
    }
    // It looks for it beside itself.
    let _it_is_there = pooltime_xdp();
    let mut command = Command::new(BENCH);
    command.arg("compare").arg("--lab").arg(lab_script());
    command.args(["--rounds", "1", "--only", "native,chronyd"]).args(arguments);
    Some(command)
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
    wait_for("the lab", || labs_of(process.id()).then_some(()));
    thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(!labs_of(process.id()));
}
