//! `pool score`: what the pool has published about a server.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::http::{self, From};
use super::plot;
use super::score::JOINING_SCORE;
use super::score_log;
use crate::error::{Code, Error, Result};
use crate::output::{print_line, print_versioned_json};
use crate::status::exposition::{Family, Format, Kind, Metric};

/// The address of the pool's pages.
pub(super) const PAGES: &str = "https://www.ntppool.org";
const PLOT_WIDTH: usize = 72;
/// Lines of the history that are plotted.
const LINES: u32 = 200;

/// Arguments of `pool score`.
#[derive(clap::Args, Debug)]
pub(crate) struct ScoreArguments {
    /// The server's address: each has its own score
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    /// Where the pool's pages are
    #[arg(long, value_name = "URL", default_value = PAGES)]
    base: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// As a metric for Prometheus: for the textfile collector of `node_exporter`, from a timer
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

static SCORE: Metric = Metric {
    name: "pooltime_pool_score",
    kind: Kind::Gauge,
    labels: &["address"],
    help: "Score that the NTP Pool has published; below 10 the pool sends no clients.",
};
static MONITOR_SCORE: Metric = Metric {
    name: "pooltime_pool_monitor_score",
    kind: Kind::Gauge,
    labels: &["address", "monitor"],
    help: "Score from one of the pool's monitors, as published.",
};

/// What is published about a server. The pool's page has more fields; these are the ones in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Published {
    /// History of the score, newest last.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) history: Vec<HistoryEntry>,
    /// The monitors that check this server, and the pool's own scorers.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) monitors: Vec<Monitor>,
    /// The server that it is about.
    #[serde(default, skip_serializing)]
    pub(super) server: Option<PublishedServer>,
}

/// A server as the pool knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PublishedServer {
    pub(super) ip: IpAddr,
}

/// A check, or what a scorer made of several checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HistoryEntry {
    /// Seconds since 1970.
    pub(super) ts: i64,
    /// Offset in s, if there was an answer.
    pub(super) offset: Option<f64>,
    pub(super) step: f64,
    pub(super) score: f64,
    pub(super) monitor_id: Option<u32>,
    /// What the monitor says went wrong, where that is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// A monitor or scorer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Monitor {
    pub(super) id: u32,
    pub(super) name: String,
    /// The kind, `monitor` or `score`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) ts: String,
    /// The latest score.
    pub(super) score: f64,
    #[serde(default)]
    pub(super) status: String,
}

/// Treats a missing value and null alike, because the pool's pages write an empty list as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Published {
    /// Fetches it from the pool.
    pub(super) fn of(address: IpAddr, base: &str, limit: u32) -> Result<Self> {
        let url = format!("{}/scores/{address}/json?monitor=*&limit={limit}", base.trim_end_matches('/'));
        let page = http::get(&url, From::default()).map_err(|error| {
            error.remedy("a server that was never added to the pool has no score; is the address right?")
        })?;
        Self::parse(&page).map_err(|error| Error { what: format!("{url}: {}", error.what), ..error })
    }

    /// Reads the page, or the log in its other form.
    pub(super) fn parse(page: &str) -> Result<Self> {
        let mut published: Self = if score_log::is_log(page) {
            score_log::parse(page)?
        } else {
            serde_json::from_str(page)
                .map_err(Error::because(Code::Data, "this is not the page of scores that was expected"))?
        };
        published.history.sort_by_key(|entry| entry.ts);
        Ok(published)
    }

    /// Returns the score that decides: the median over the monitors.
    pub(super) fn main(&self) -> Option<&Monitor> {
        self.monitors.iter().find(|monitor| monitor.kind == "score" && monitor.name.contains("median"))
    }

    /// Returns the history of that score.
    pub(super) fn main_history(&self) -> Vec<f64> {
        let id = self.main().map(|monitor| monitor.id);
        self.history.iter().filter(|entry| entry.monitor_id == id).map(|entry| entry.score).collect()
    }
}

/// Fetches and prints the score.
pub(super) fn run(arguments: &ScoreArguments) -> Result<()> {
    let published = Published::of(arguments.address, &arguments.base, LINES)?;
    if arguments.json {
        let score = published.main().map(|monitor| monitor.score);
        return print_versioned_json(&serde_json::json!({
            "address": arguments.address.to_string(),
            "score": score,
            "monitors": published.monitors,
            "history": published.history,
        }));
    }
    let text = if arguments.metrics {
        metrics(arguments.address, &published)
    } else {
        describe(arguments.address, &published)
    };
    print_line(format_args!("{}", text.trim_end()))
}

fn metrics(address: IpAddr, published: &Published) -> String {
    let address = address.to_string();
    let score = published.main().map(|main| (vec![address.clone()], main.score));
    let monitors = published.monitors.iter().filter(|monitor| monitor.kind == "monitor");
    Format::Classic.write(&[
        Family { metric: &SCORE, samples: score.into_iter().collect() },
        Family {
            metric: &MONITOR_SCORE,
            samples: monitors
                .map(|monitor| (vec![address.clone(), monitor.name.clone()], monitor.score))
                .collect(),
        },
    ])
}

fn describe(address: IpAddr, published: &Published) -> String {
    let mut text = match published.main() {
        Some(main) if main.score >= JOINING_SCORE => {
            format!("{address}: score {:.1}, in the pool\n", main.score)
        }
        Some(main) => {
            format!("{address}: score {:.1}, below the {JOINING_SCORE} that the pool requires\n", main.score)
        }
        None => format!("{address}: the pool has no score for it yet\n"),
    };
    text += &plot::draw(&published.main_history(), PLOT_WIDTH);
    for monitor in &published.monitors {
        let worst = published
            .history
            .iter()
            .filter(|entry| entry.monitor_id == Some(monitor.id) && entry.step < 0.0)
            .min_by(|a, b| a.step.total_cmp(&b.step))
            .map_or_else(String::new, |entry| format!("; worst step {:+.1}", entry.step));
        let Monitor { score, name, status, .. } = monitor;
        let _infallible = writeln!(text, "  {score:>6.1} {name} ({status}){worst}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{
        "history": [
            {"ts": 1700000600, "offset": 0.0012, "step": 1, "score": 12.5, "monitor_id": 24},
            {"ts": 1700000000, "step": -5, "score": 8.25, "monitor_id": 9},
            {"ts": 1700000300, "offset": -0.0001, "step": 1, "score": 11.8, "monitor_id": 24}
        ],
        "monitors": [
            {"id": 24, "name": "recentmedian", "type": "score", "ts": "2023-11-14T22:23:20Z", "score": 12.5,
             "status": "active"},
            {"id": 9, "name": "example1-yz4r8", "type": "monitor", "ts": "2023-11-14T22:13:20Z", "score": 8.3,
             "status": "testing"}
        ],
        "server": {"ip": "192.0.2.1"}
    }"#;

    #[test]
    fn the_median_is_the_score_and_losses_are_named() {
        let published: Published = serde_json::from_str(PAGE).unwrap();
        assert!((published.main().unwrap().score - 12.5).abs() < 1e-9);
        let text = describe("192.0.2.1".parse().unwrap(), &published);
        assert!(text.starts_with("192.0.2.1: score 12.5, in the pool\n"), "{text}");
        assert!(text.contains("8.3 example1-yz4r8 (testing); worst step -5.0"), "{text}");
    }

    #[test]
    fn the_scores_are_metrics_under_the_name_that_the_alert_knows() {
        let published: Published = serde_json::from_str(PAGE).unwrap();
        let text = metrics("192.0.2.1".parse().unwrap(), &published);
        for line in [
            "pooltime_pool_score{address=\"192.0.2.1\"} 12.5",
            "pooltime_pool_monitor_score{address=\"192.0.2.1\",monitor=\"example1-yz4r8\"} 8.3",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(include_str!("../../../dist/prometheus-alerts.yml").contains(SCORE.name));
    }

    #[test]
    fn a_page_without_checks_is_no_error() {
        let published: Published = serde_json::from_str(r#"{"history": null, "monitors": null}"#).unwrap();
        assert!(describe("::1".parse().unwrap(), &published).contains("no score for it yet"));
    }
}
