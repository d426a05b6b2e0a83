//! Debian's Prometheus scrapes the server, and knows exactly what was sent to it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testlab::{Lab, Output, not_run, tool, wait_for};

use crate::dashboard::{dashboard, filled, panels, targets};
use crate::web::{get, try_request};
use crate::{CONFIG, LISTEN, LOCAL, ask};

const PROMETHEUS: &str = "127.0.0.1:9090";
/// What is in expressions of the dashboard that have no data in the first minute of a server that is well, in a lab.
const LATER: [&str; 6] = [
    // After a walk through a table, which takes two minutes.
    "pooltime_known_sources",
    // They take a minute to be known.
    "pooltime_quota_forecast_bytes",
    "pooltime_quota_rate_bytes_per_second",
    // There is none.
    "pooltime_upstream_rejections_total",
    // Of the pool itself, by way of another exporter.
    "pooltime_pool_score",
    "pooltime_pool_monitor_score",
];

/// A Prometheus on the host of the server, which ends with the test.
pub(crate) struct Prometheus<'lab> {
    lab: &'lab Lab,
    process: Child,
}

impl<'lab> Prometheus<'lab> {
    /// Starts to scrape twice a second.
    pub(crate) fn start(lab: &'lab Lab, program: &str) -> Self {
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms }}\n\
             scrape_configs:\n  - job_name: pooltime\n    static_configs: [{{ targets: ['{LISTEN}'] }}]\n"
        );
        let config = lab.file("prometheus.yml", &config);
        let storage = config.with_file_name("prometheus");
        let log = std::fs::File::create(config.with_file_name("prometheus.log")).unwrap();
        let process = lab
            .command("server", program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", storage.display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .args(["--log.level=warn", "--storage.tsdb.retention.time=1h"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { lab, process }
    }

    /// The series that an expression gives; none while Prometheus is starting.
    fn query(&self, expression: &str) -> Vec<Value> {
        let escaped = expression.bytes().fold(String::new(), |escaped, byte| format!("{escaped}%{byte:02X}"));
        let request = format!(
            "GET /api/v1/query?query={escaped} HTTP/1.1\r\nHost: {PROMETHEUS}\r\nConnection: close\r\n\r\n"
        );
        let Ok(answer) = try_request(self.lab, "server", PROMETHEUS, &request) else {
            return Vec::new();
        };
        if answer.code == 503 {
            return Vec::new();
        }
        assert_eq!(answer.code, 200, "{expression}: {answer:?}");
        answer.json()["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until an expression gives one series with this value.
    #[track_caller]
    pub(crate) fn expect(&self, expression: &str, value: u64) {
        let mut last = Vec::new();
        wait_for(&format!("{expression} to be {value}"), || {
            last = self.query(expression);
            let found = last.first()?["value"][1].as_str()?.parse::<u64>().ok()?;
            assert!(found <= value, "{expression} is {found}, not {value}");
            (found == value).then_some(())
        });
        assert_eq!(last.len(), 1, "{last:?}");
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended = self.process.wait();
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn prometheus_knows_exactly_what_was_sent_over_a_restart_of_the_daemon_too() {
    let (Some(prometheus), Some(promtool)) = (tool("prometheus"), tool("promtool")) else {
        return not_run("prometheus is not there");
    };
    let lab = Lab::up(&[]);
    let mut server = lab.server(&format!("{CONFIG}{LOCAL}"), &[]);
    let prometheus = Prometheus::start(&lab, prometheus.to_str().unwrap());
    prometheus.expect("up", 1);
    ask(&lab, "10.77.0.1", 4, 1234);
    ask(&lab, "fd77::1", 3, 567);
    prometheus.expect("sum(pooltime_packets_total)", 1801);
    prometheus.expect("sum(pooltime_packets_total{verdict=\"answered\",family=\"ipv6\",version=\"3\"})", 567);

    assert!(server.stop().success());
    ask(&lab, "10.77.0.1", 4, 100);
    server.restart();
    ask(&lab, "10.77.0.1", 4, 99);
    prometheus.expect("pooltime_daemon_starts_total", 2);
    prometheus.expect("sum(pooltime_packets_total{verdict=\"answered\",family=\"ipv4\"})", 1433);
    prometheus.expect("sum(pooltime_packets_total)", 2000);
    prometheus.expect("sum(resets(pooltime_packets_total[5m]))", 0);
    // Ethernet, IP, UDP and NTP.
    prometheus.expect("sum(pooltime_sent_bytes_total)", 1433 * 90 + 567 * 110);

    let scraped = get(&lab, "server", LISTEN, "/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(scraped.head.contains("application/openmetrics-text; version=1.0.0"), "{}", scraped.head);
    assert!(scraped.body.ends_with("# EOF\n"));
    let classic = get(&lab, "server", LISTEN, "/metrics", "");
    assert!(classic.head.contains("text/plain; version=0.0.4"), "{}", classic.head);
    check_metrics(&lab, promtool, &classic.body);
}

/// Every expression of the dashboard has data, of a server that takes its time from upstreams.
pub(crate) fn fill_the_dashboard(lab: &Lab, prometheus: &Prometheus<'_>) {
    let dashboard = dashboard();
    let mut empty: Vec<_> = panels(&dashboard).flat_map(targets).map(filled).collect();
    for metric in LATER {
        assert!(empty.iter().any(|expression| expression.contains(metric)), "{metric} is in none");
        empty.retain(|expression| !expression.contains(metric));
    }
    assert!(empty.len() > 40, "{empty:#?}");
    wait_for("all expressions to have data", || {
        ask(lab, "fd77::1", 3, 10);
        empty.retain(|expression| prometheus.query(expression).is_empty());
        empty.is_empty().then_some(())
    });
}

#[test]
fn every_alert_fires_when_it_should_and_not_for_a_server_that_is_well() {
    let Some(promtool) = tool("promtool") else {
        return not_run("promtool is not there");
    };
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/prometheus-alerts.test.yml");
    let tested = Output::of(Command::new(promtool).args(["test", "rules", test]));
    assert!(tested.status.success() && tested.stdout.contains("SUCCESS"), "{tested:#?}");
}

/// `promtool check metrics` has nothing to say, not even of style.
fn check_metrics(lab: &Lab, promtool: PathBuf, metrics: &str) {
    let file = std::fs::File::open(lab.file("metrics", metrics)).unwrap();
    let said = Output::of(Command::new(promtool).args(["check", "metrics"]).stdin(file));
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
}
