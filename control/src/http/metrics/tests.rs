//! Every metric by name, value and documentation.

use std::fmt::Write as _;

use super::*;
use crate::status::exposition::Format;
use crate::status::sample;

#[test]
fn the_documentation_lists_exactly_what_is_exported() {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { metric, samples } in families(&sample()) {
        assert!(!samples.is_empty(), "{} has no value in a full status", metric.name);
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (metric.name, metric.kind.label(), labels.join(", "));
        writeln!(table, "| `{name}` | {kind} | {labels} | {} |", metric.help).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented = text.find("| metric |").map_or("", |start| &text[start..]);
    assert!(documented == table, "{path} has to end with this table:\n{table}");
}

#[test]
fn the_documentation_lists_exactly_the_alerts_that_are_shipped_in_their_order() {
    let rules = include_str!("../../../dist/prometheus-alerts.yml");
    let shipped: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let documentation = include_str!("../../../docs/metrics.md");
    let alerts = documentation.split("| metric |").next().unwrap();
    let listed = alerts.lines().filter_map(|line| line.strip_prefix("| [`")?.split('`').next());
    assert_eq!(listed.collect::<Vec<_>>(), shipped);
}

#[test]
fn every_alert_leads_to_a_paragraph_that_the_package_installs() {
    const INSTALLED: &str = "file:///usr/share/doc/pooltime-xdp/docs/alerts.md#";
    let rules = include_str!("../../../dist/prometheus-alerts.yml");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.md")).unwrap();
    let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## Pooltime")).collect();
    let mut alerts = Vec::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap().strip_prefix("Pooltime").unwrap();
        let links: Vec<_> =
            rule.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
        // As forges make anchors of headings.
        assert_eq!(links, [format!("\"{INSTALLED}pooltime{}\"", name.to_lowercase())], "{name}");
        let paragraph = page.split(&format!("\n## Pooltime{name}\n")).nth(1).expect(name);
        let paragraph = paragraph.split("\n## ").next().unwrap();
        for part in ["*What it means.*", "*What to look at.*", "*What to do.*"] {
            assert!(paragraph.contains(part), "{name} has no {part}");
        }
        alerts.push(name);
    }
    assert_eq!(alerts, headings, "in the same order, and no paragraph of an alert that is gone");
}

#[test]
fn every_alert_is_tested_both_ways() {
    let rules = include_str!("../../../dist/prometheus-alerts.yml");
    let tests = include_str!("../../../dist/prometheus-alerts.test.yml");
    // Those of a server that is well come first, and have no alerts.
    let (well, others) = tests.split_once("\n\n  - name:").unwrap();
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(
            well.contains(&format!("alertname: {name}, exp_alerts: []")),
            "{name} for a server that is well"
        );
        let fires = others.split("alertname: ").any(|test| {
            test.strip_prefix(name).is_some_and(|rest| rest.starts_with('\n') && rest.contains("exp_labels"))
        });
        assert!(fires, "{name} never fires in the tests");
    }
}

#[test]
fn every_family_is_named_as_scrapers_expect() {
    for Family { metric, samples } in families(&sample()) {
        let name = metric.name;
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        assert!(name.starts_with("pooltime_") || name.starts_with("process_"), "{name}");
        let unit = name.strip_suffix("_total").unwrap_or(name).rsplit('_').next().unwrap();
        let derived =
            ["ppm", "ppb", "percent", "bits", "kilobytes", "milliseconds", "ms", "us", "ns", "hours"];
        assert!(!derived.contains(&unit), "{name}: {unit} is no base unit");
        let help = metric.help;
        assert!(help.ends_with('.') && help.starts_with(|first: char| first.is_ascii_uppercase()), "{help}");
        for (labels, value) in samples {
            assert_eq!(labels.len(), metric.labels.len(), "{name}");
            assert!(value.is_finite(), "{name}");
        }
    }
}

#[test]
fn what_the_program_counted_is_exported_by_verdict_family_and_version() {
    let text = Format::Classic.write(&families(&sample()));
    for line in [
        "pooltime_packets_total{interface=\"eth0\",verdict=\"answered\",family=\"ipv4\",version=\"3\"} 7",
        "pooltime_packets_total{interface=\"eth0\",verdict=\"drop_limited\",family=\"ipv4\",version=\"4\"} 2",
        "pooltime_packets_total{interface=\"eth0\",verdict=\"kiss_rate\",family=\"ipv6\",version=\"4\"} 0",
        "pooltime_received_bytes_total{interface=\"eth0\",family=\"ipv4\"} 810",
        "pooltime_sent_bytes_total{interface=\"eth0\",family=\"ipv4\"} 630",
        "pooltime_clock_stratum 2",
        "pooltime_build_info{version=\"1.2.3\",revision=\"0123456789ab\",target=\"x86_64-linux-musl\"} 1",
        "pooltime_clock_reference_info{source=\"system\",reference=\"192.0.2.1\",reference_id=\"c0000201\"} 1",
        "pooltime_clock_reference_timestamp_seconds 1700000000.25",
        "pooltime_clock_frequency_ratio -0.0000035",
        "pooltime_clock_skew_ratio 0.00000002",
        "pooltime_upstream_system_peer{upstream=\"ntp1.example.net\",address=\"192.0.2.1\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_number_of_series_is_bounded_whatever_comes() {
    let mut status = sample();
    let mut counters = Vec::new();
    for verdict in Verdict::ALL {
        for family in Protocol::ALL {
            // Requests of other versions are not admitted.
            let versions = if verdict.is_of_limits() { 1..5 } else { 0..8 };
            counters.extend(versions.map(|version| Counter {
                verdict: verdict.label().into(),
                family: family.label().into(),
                version,
                packets: u64::MAX,
                bytes: u64::MAX / 1024,
            }));
        }
    }
    status.interfaces[0].counters = counters;
    let interface = status.interfaces[0].clone();
    status.interfaces = vec![interface; responder::layout::INTERFACES];
    let series: usize = families(&status).iter().map(|family| family.samples.len()).sum();
    assert!(series < 3000, "{series}");
}
