//! The discipline over simulated days: declared limits, tables under review, and what must hold in any weather.
//!
//! `cargo test -p discipline --test simulation` runs all of it and compares the tables with `results.txt` (fair
//! weather), `foul.txt` and `filters.txt`. Where a change moves figures, `SIMULATION_WRITE=1` writes them anew,
//! for the diff to be reviewed; `SIMULATION_ONLY=b,j2` runs and prints some scenarios only,
//! `SIMULATION_SEEDS=64` more seeds of them (both with `-- --nocapture`). `property.rs` checks random scenarios.
//! Nothing is random but by seed; `ln` and `cos` of another libm may move a last digit.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "simulated seconds and counts are small, and compared with what they were set to"
)]
#![allow(clippy::struct_field_names, reason = "all fields of some are seconds")]

mod cases;
mod clients;
mod comparison;
mod exempt;
mod figures;
mod foul;
mod foul_table;
mod network;
mod oscillator;
mod processors;
mod property;
mod regression;
mod scenarios;
mod server;
mod table;
mod units;
mod world;

use figures::{Figures, greatest, measure, median};
use processors::on_all_processors;
use scenarios::Scenario;

const SEEDS: u64 = 12;
const SEEDS_OF_COMPARISON: u64 = 8;

struct Outcome {
    scenario: Scenario,
    median: Figures,
    greatest_rms_us: f64,
    greatest_max_us: f64,
}

fn outcome(scenario: Scenario, seeds: u64) -> Outcome {
    let runs: Vec<Figures> = (1..=seeds).map(|seed| measure(&scenario, seed)).collect();
    Outcome {
        median: median(&runs),
        greatest_rms_us: greatest(&runs, |run| run.rms_us),
        greatest_max_us: greatest(&runs, |run| run.max_us),
        scenario,
    }
}

#[test]
fn every_scenario_keeps_its_limits_and_the_table_is_as_reviewed() {
    let only = std::env::var("SIMULATION_ONLY").ok();
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let wanted =
        |scenario: &Scenario| only.as_ref().is_none_or(|only| only.split(',').any(|id| id == scenario.id));
    let scenarios: Vec<Scenario> = scenarios::all().into_iter().filter(wanted).collect();
    let outcomes = on_all_processors(scenarios, |scenario| outcome(scenario, seeds.unwrap_or(SEEDS)));
    let table = table::render(&outcomes);
    if only.is_some() || seeds.is_some() {
        println!("{table}");
        return;
    }
    table::compare("results.txt", &table);
    let broken: Vec<String> = outcomes.iter().flat_map(broken_limits).collect();
    assert!(broken.is_empty(), "limits not kept:\n{}", broken.join("\n"));
}

fn broken_limits(outcome: &Outcome) -> Vec<String> {
    let (limits, median) = (&outcome.scenario.limits, &outcome.median);
    [
        ("RMS error, us", median.rms_us, limits.rms_us),
        ("maximum error, us", median.max_us, limits.max_us),
        ("frequency error, ppm", median.frequency_ppm, limits.frequency_ppm),
        ("time to synchronise, s", median.sync_s, limits.sync_s),
        ("seconds outside of the bound", median.violations, 0.0),
        (
            "RMS error beside chrony's, us",
            median.rms_us,
            outcome.scenario.chrony.rms_us.unwrap_or(f64::INFINITY),
        ),
    ]
    .into_iter()
    .filter(|(_, value, limit)| value > limit)
    .map(|(what, value, limit)| format!("{}: {what} {value:.3} above {limit}", outcome.scenario.id))
    .collect()
}

#[test]
fn foul_weather_is_as_reviewed() {
    let only = std::env::var("SIMULATION_ONLY").ok();
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let rows = foul::all(only.as_deref(), seeds.unwrap_or(SEEDS_OF_COMPARISON));
    let table = foul_table::render(&rows);
    if only.is_some() || seeds.is_some() {
        println!("{table}");
        return;
    }
    table::compare("foul.txt", &table);
}

#[test]
fn the_filters_compare_as_reviewed() {
    table::compare("filters.txt", &comparison::render(SEEDS_OF_COMPARISON));
}
