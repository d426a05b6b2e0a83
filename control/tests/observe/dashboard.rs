//! The Grafana dashboard, and the names in the alert rules: nothing in them is of another version of this server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use serde_json::Value;
use testlab::{Output, not_run, tool};

/// Units by the names that Grafana has for them (`packages/grafana-data/src/valueFormats/categories.ts`).
const UNITS: [&str; 12] =
    ["Bps", "bps", "bytes", "cps", "decbytes", "none", "percentunit", "ppm", "pps", "reqps", "s", "short"];
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;
/// What Prometheus adds to every series.
const TARGET: [&str; 2] = ["instance", "job"];
/// Of `pooltime-xdp pool score --metrics`, which `node_exporter` shows: not of a job of this server.
const OF_THE_POOL: [(&str, &[&str]); 2] =
    [("pooltime_pool_score", &["address"]), ("pooltime_pool_monitor_score", &["address", "monitor"])];

/// The dashboard as it is shipped.
pub(crate) fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../dist/grafana-dashboard.json")).unwrap()
}

/// Panels that show something: all but the titles of rows.
pub(crate) fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The queries of a panel.
pub(crate) fn targets(panel: &Value) -> &[Value] {
    panel["targets"].as_array().unwrap()
}

/// An expression with the dashboard's variables filled in.
pub(crate) fn filled(target: &Value) -> String {
    let expression = target["expr"].as_str().unwrap();
    let filled =
        expression.replace("$instance", ".*").replace("$job", ".*").replace("$__rate_interval", "10s");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// Every metric with its labels, from the table in the documentation, which has exactly what is exported.
fn exported() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let table = include_str!("../../../docs/metrics.md").split("| metric |").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let of_row = |row: &'static str| {
        let cells: Vec<_> = row.split('|').collect();
        // Every second piece is between a pair of backquotes.
        let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
        (quoted(cells[1]).next().unwrap(), quoted(cells[3]).collect())
    };
    let of_the_pool = OF_THE_POOL.map(|(name, labels)| (name, labels.iter().copied().collect()));
    rows.map(of_row).chain(of_the_pool).collect()
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pooltime_") || word.starts_with("process_"))
}

/// The names in `{{...}}`.
fn placeholders<'a>(text: &'a str, open: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).map(|rest| rest.split("}}").next().unwrap().trim())
}

#[test]
fn the_panels_fit_into_the_grid_and_are_told_apart() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "each has an id of its own");
    let titles: BTreeSet<_> = all.iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    assert_eq!(titles.len(), all.len(), "each has a title of its own");
    let mut taken = BTreeSet::new();
    for panel in all {
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (left, top, width, height) = (of("x"), of("y"), of("w"), of("h"));
        assert!(width > 0 && height > 0 && left + width <= COLUMNS, "{}", panel["title"]);
        for column in left..left + width {
            for line in top..top + height {
                assert!(taken.insert((line, column)), "{} lies over another panel", panel["title"]);
            }
        }
    }
    let bottom = taken.last().unwrap().0 + 1;
    assert_eq!(taken.len() as u64, bottom * COLUMNS, "there are holes");
    assert_eq!(all[0]["type"], "row");
    assert!(all.iter().filter(|panel| panel["type"] == "row").count() >= 5);
}

#[test]
fn every_panel_asks_the_chosen_data_source_for_metrics_that_there_are_of_the_chosen_servers() {
    let dashboard = dashboard();
    let exported = exported();
    assert!(exported.len() > 70, "{exported:?}");
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}");
        let mut letters = BTreeSet::new();
        for target in targets(panel) {
            let expression = target["expr"].as_str().unwrap();
            assert!(letters.insert(target["refId"].as_str().unwrap()), "{title}");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let names: Vec<_> = metrics(expression).collect();
            assert!(!names.is_empty(), "{title}: {expression}");
            let mut labels = BTreeSet::from(TARGET);
            for name in names {
                labels.extend(exported.get(name).unwrap_or_else(|| panic!("{title}: there is no {name}")));
                if OF_THE_POOL.iter().all(|(of_the_pool, _)| *of_the_pool != name) {
                    let chosen = format!("{name}{{job=~\"$job\",instance=~\"$instance\"");
                    assert!(expression.contains(&chosen), "{title}: {expression} is of all servers");
                }
            }
            for label in placeholders(target["legendFormat"].as_str().unwrap_or_default(), "{{") {
                assert!(labels.contains(label), "{title}: there is no label {label} in {expression}");
            }
            // What is shown at this moment alone is asked for this moment alone.
            let is_momentary = panel["type"] == "table" || panel["options"]["graphMode"] == "none";
            assert_eq!(target["instant"] == true, is_momentary, "{title}");
        }
    }
}

#[test]
fn every_unit_is_one_that_grafana_knows() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let config = &panel["fieldConfig"];
        let default = config["defaults"].get("unit").into_iter();
        let of_columns = config["overrides"].as_array().unwrap().iter();
        let of_columns = of_columns.flat_map(|column| column["properties"].as_array().unwrap());
        let of_columns =
            of_columns.filter(|property| property["id"] == "unit").map(|property| &property["value"]);
        let units: Vec<_> = default.chain(of_columns).map(|unit| unit.as_str().unwrap()).collect();
        assert!(units.iter().all(|unit| UNITS.contains(unit)), "{}: {units:?}", panel["title"]);
        assert!(panel["type"] != "timeseries" || !units.is_empty(), "{} has no unit", panel["title"]);
    }
}

#[test]
fn servers_are_chosen_by_job_and_instance_and_one_crosshair_is_over_all_panels() {
    let dashboard = dashboard();
    assert_eq!(dashboard["graphTooltip"], 1);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    for variable in &variables[1..] {
        let query = variable["query"]["query"].as_str().unwrap();
        assert!(query.starts_with("label_values(pooltime_build_info"), "{query}");
        assert_eq!((&variable["multi"], &variable["includeAll"]), (&true.into(), &true.into()));
    }
}

#[test]
fn prometheus_can_read_every_expression() {
    let Some(promtool) = tool("promtool") else {
        return not_run("promtool is not there");
    };
    let dashboard = dashboard();
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let expressions = panels(&dashboard).flat_map(targets).map(filled);
    let mut count = 0;
    for (number, expression) in expressions.enumerate() {
        let expression = Value::from(expression);
        writeln!(rules, "      - {{ record: \"panel:{number}\", expr: {expression} }}").unwrap();
        count = number + 1;
    }
    let path = std::env::temp_dir().join(format!("pooltime-dashboard-{}.yml", std::process::id()));
    std::fs::write(&path, rules).unwrap();
    let checked = Output::of(Command::new(promtool).args(["check", "rules"]).arg(&path));
    std::fs::remove_file(path).unwrap();
    assert!(checked.stdout.contains(&format!("SUCCESS: {count} rules found")), "{checked:#?}");
}

#[test]
fn the_alerts_are_about_metrics_and_labels_that_there_are() {
    let rules = include_str!("../../dist/prometheus-alerts.yml");
    let exported = exported();
    let mut found = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().unwrap();
        let expression = rule.split("annotations:").next().unwrap();
        let mut labels = BTreeSet::from(TARGET);
        for name in metrics(expression) {
            labels.extend(exported.get(name).unwrap_or_else(|| panic!("{alert}: there is no {name}")));
            found += 1;
        }
        for label in placeholders(rule, "{{ $labels.") {
            assert!(labels.contains(label), "{alert}: there is no label {label}");
        }
    }
    assert!(found > 20, "{found}");
}
