//! Each number is the same wherever it is shown, and is what was sent.

use std::path::Path;
use std::time::Duration;

use aya::maps::{Map, MapData, PerCpuArray};
use control::status::Status;
use control::status::health::Health;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use responder::layout;
use responder::verdict::{COUNTERS, Family, Verdict};
use serde_json::Value;
use testlab::{Lab, Tally, wait_for};

use crate::web::get;
use crate::{CONFIG, LISTEN, LOCAL, ask};

/// After this nothing is shown again that was read before.
const NOT_FRESH: Duration = Duration::from_millis(150);

/// Requests by address, family and version.
const LOAD: [(&str, Family, u8, u64); 5] = [
    ("10.77.0.1", Family::Ipv4, 1, 11),
    ("10.77.0.1", Family::Ipv4, 3, 300),
    ("10.77.0.1", Family::Ipv4, 4, 1000),
    ("fd77::1", Family::Ipv6, 3, 77),
    ("fd77::1", Family::Ipv6, 4, 500),
];

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn page_status_metrics_and_sender_agree_in_every_number() {
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}{LOCAL}"), &[]);
    for (address, _, version, often) in LOAD {
        ask(&lab, address, version, often);
    }
    // What was read for somebody else a moment ago is shown again.
    std::thread::sleep(NOT_FRESH);
    let sent = Tally::of(LOAD.map(|(_, family, version, often)| (Verdict::Answered, family, version, often)));
    let status = server.status();
    assert_eq!(Tally::of_program(&status), sent);

    let page = get(&lab, "server", LISTEN, "/status.json", "").json();
    let shown: Status = serde_json::from_value(page["status"].clone()).unwrap();
    assert_eq!(Tally::of_program(&shown), sent);
    let steady = |status: &Status| {
        let mut status = status.clone();
        // What passes between two looks.
        status.daemon = None;
        status.clock = status::at_rest(&status.clock);
        status.limits = None;
        status
    };
    assert_eq!(steady(&shown), steady(&status));
    let health: Health = serde_json::from_value(page["health"].clone()).unwrap();
    assert_eq!(health, Health { healthy: true, ..Health::default() });

    let metrics = get(&lab, "server", LISTEN, "/metrics", "").body;
    for (_, family, version, often) in LOAD {
        let labels = format!("verdict=\"answered\",family=\"{}\",version=\"{version}\"", family.label());
        assert_has(&metrics, &format!("pooltime_packets_total{{interface=\"lan0\",{labels}}} {often}"));
    }
    let counters = &status.interfaces[0].counters;
    for family in Family::ALL.iter().map(|family| family.label()) {
        let bytes: u64 =
            counters.iter().filter(|counter| counter.family == family).map(|counter| counter.bytes).sum();
        for direction in ["received", "sent"] {
            let name = format!("pooltime_{direction}_bytes_total");
            assert_has(&metrics, &format!("{name}{{interface=\"lan0\",family=\"{family}\"}} {bytes}"));
        }
    }
    let clock = &status.clock;
    let frequency_ppm = clock.frequency_ppm.expect("the kernel has one");
    let reference = format!("reference=\"{}\",reference_id=\"{:08x}\"", clock.reference, clock.reference_id);
    let revision = status.revision.as_deref().unwrap_or("unknown");
    let build =
        format!("version=\"{}\",revision=\"{revision}\",target=\"{}\"", status.version, status.target);
    for (name, value) in [
        (format!("pooltime_build_info{{{build}}}").as_str(), Value::from(1)),
        (format!("pooltime_clock_reference_info{{source=\"system\",{reference}}}").as_str(), 1.into()),
        ("pooltime_clock_stratum", clock.stratum.into()),
        ("pooltime_clock_leap_indicator", clock.leap.into()),
        ("pooltime_clock_synchronised", 1.into()),
        ("pooltime_healthy", 1.into()),
        ("pooltime_daemon_starts_total", 1.into()),
        ("pooltime_access_list_entries", 2.into()),
        ("pooltime_limiter_entries", 65_536.into()),
        ("pooltime_map_memory_bytes{map=\"PT_STATE\"}", status.maps.by_name["PT_STATE"].into()),
        ("pooltime_interface_info{interface=\"lan0\",mode=\"native\"}", 1.into()),
    ] {
        assert_has(&metrics, &format!("{name} {value}"));
    }
    assert_eq!((clock.reference.as_str(), clock.reference_id), ("127.127.1.1", 0x7f7f_0101));
    // In base units, and nothing is lost.
    assert_has(&metrics, &format!("pooltime_clock_frequency_ratio {}", frequency_ppm / 1e6));
    // The clock is corrected all the time: what is scraped is from between two looks.
    let corrected =
        metrics.lines().find_map(|line| line.strip_prefix("pooltime_clock_reference_timestamp_seconds "));
    let corrected: f64 = corrected.expect(&metrics).parse().unwrap();
    let [earlier, later] = [status, server.status()].map(|status| status.clock.reference_unix_s.unwrap());
    assert!((earlier..=later).contains(&corrected), "{corrected} is not between {earlier} and {later}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_scrape_has_the_sum_of_what_each_cpu_counted() {
    const OFTEN: u64 = 50;
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}{LOCAL}"), &[]);
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<_> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    for cpu in &cpus {
        // A veth's frames are received on the CPU that sends them.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut only = CpuSet::new();
                only.set(*cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &only).unwrap();
                ask(&lab, "10.77.0.1", 4, OFTEN);
            });
            sender.join().unwrap();
        });
    }
    let counted = packets_by_cpu(&server.paths().pin_directory());
    assert_eq!(counted.iter().filter(|packets| **packets > 0).count(), cpus.len(), "{counted:?}");

    std::thread::sleep(NOT_FRESH);
    let metrics = get(&lab, "server", LISTEN, "/metrics", "").body;
    let labels = "interface=\"lan0\",verdict=\"answered\",family=\"ipv4\",version=\"4\"";
    assert_has(&metrics, &format!("pooltime_packets_total{{{labels}}} {}", OFTEN * cpus.len() as u64));
}

/// What the program counted on each CPU for its first interface.
fn packets_by_cpu(pins: &Path) -> Vec<u64> {
    let map = MapData::from_pin(pins.join(layout::COUNTERS)).unwrap();
    // Packets and bytes, as `layout::Count` has them.
    let counters: PerCpuArray<_, [[u64; 2]; COUNTERS]> = Map::PerCpuArray(map).try_into().unwrap();
    counters
        .get(&0, 0)
        .unwrap()
        .iter()
        .map(|of_cpu| of_cpu.iter().map(|[packets, _]| packets).sum())
        .collect()
}

/// Parts of a status.
mod status {
    use control::status::Clock;

    /// Without what goes on with time.
    pub(super) fn at_rest(clock: &Clock) -> Clock {
        Clock {
            root_dispersion_s: 0.0,
            error_bound_s: 0.0,
            reference_unix_s: None,
            age_s: 0.0,
            horizon_s: 0.0,
            ..clock.clone()
        }
    }
}

#[track_caller]
fn assert_has(metrics: &str, line: &str) {
    assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn health_follows_the_clock_and_the_interface_over_http_and_on_the_command_line() {
    let lab = Lab::up(&["--router"]);
    let config = CONFIG.replace("\"lan0\"", "\"lan0\", \"lan2\"");
    let server = lab.server(&format!("{config}{LOCAL}"), &[]);
    let healthz = || get(&lab, "server", LISTEN, "/healthz", "");
    let is_healthy = |wanted: bool, reason: &str| {
        wait_for(&format!("health {wanted}"), || {
            let answer = healthz();
            let (code, text) = (answer.code, answer.body);
            assert!(code == 200 || code == 503, "{code}");
            ((code == 200) == wanted && text.contains(reason)).then_some(())
        });
        let command = server.command(&["health"]);
        assert_eq!(command.code(), Some(if wanted { 0 } else { 69 }), "{command:?}");
        assert!(command.stdout.contains(reason), "{command:?}");
        let json = server.command(&["health", "--json"]).stdout;
        assert_eq!(serde_json::from_str::<Health>(&json).unwrap().healthy, wanted);
    };
    is_healthy(true, "serving synchronised time");

    // The kernel's clock here may be synchronised or not: an error bound that no clock keeps says the rest.
    lab.file("server.toml", &format!("{config}max_error_ms = 1\n"));
    server.signal(Signal::SIGHUP);
    is_healthy(false, "not synchronised");
    lab.file("server.toml", &format!("{config}{LOCAL}"));
    server.signal(Signal::SIGHUP);
    is_healthy(true, "serving synchronised time");

    lab.ip("server", "link set lan2 down");
    is_healthy(false, "lan2 is down");
    lab.ip("server", "link set lan2 up");
    is_healthy(true, "serving synchronised time");
    lab.ip("server", "link del lan2");
    is_healthy(false, "lan2: the program is not attached");
    server.command(&["detach", "lan2"]).expect_success();
    is_healthy(true, "serving synchronised time");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_its_daemon_a_server_is_healthy_up_to_the_horizon() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(&format!("{CONFIG}{LOCAL}horizon_ms = 1500\n"), &[]);
    server.kill_9();
    let left_alone = server.command(&["health"]);
    assert_eq!(left_alone.code(), Some(0), "{left_alone:?}");
    assert!(left_alone.stdout.contains("no daemon is running"), "{left_alone:?}");
    wait_for("the horizon", || {
        let command = server.command(&["health"]);
        (command.code() == Some(69) && command.stdout.contains("horizon has passed")).then_some(())
    });
    server.restart();
    assert_eq!(server.command(&["health"]).code(), Some(0));
    assert_eq!(server.status().daemon.unwrap().starts, 2);
}
