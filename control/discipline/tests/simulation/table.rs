//! The table of fair weather, what all tables share, and their comparison with the reviewed ones.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;

const HEADER: &str = "\
Median over 12 seeds (and the greatest). Errors in us, sampled each second from 4 h to 24 h; events from 12 h.
poll: mean interval once settled, s. ans: s to the first synchronised answer; err, bnd: its error and bound.
sync: s until the error stays under the scenario's threshold. out: seconds outside of the bound, all seeds.
back: s from an outage's end until under 1 ms. Right of the bar chrony 4.8 in the same conditions; x: RMS over
chrony's RMS, or maximum over maximum (m) where that is all there is.

";

pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let mut text = String::from(HEADER);
    let _ = writeln!(
        text,
        "{:8} {:37} {:>5} {:>5} {:>5} {:>6} {:>5} {:>13} {:>6} {:>13} {:>6} {:>6} {:>4} {:>4} | {:>5} {:>5} {:>5} {:>5} {:>6} {:>4} {:13} {:>5}",
        "id",
        "conditions",
        "poll",
        "ans",
        "err",
        "bnd",
        "sync",
        "RMS",
        "p99",
        "max",
        "ppm",
        "bound",
        "out",
        "back",
        "poll",
        "ans",
        "sync",
        "RMS",
        "max",
        "back",
        "outside",
        "x"
    );
    for outcome in outcomes {
        line(&mut text, outcome);
    }
    text.push('\n');
    for aim in aims(outcomes) {
        let _ = writeln!(text, "{aim}");
    }
    text
}

/// The aims, and which scenarios reach them.
fn aims(outcomes: &[Outcome]) -> Vec<String> {
    let aims: [Aim<Outcome>; 9] = [
        ("RMS error no worse than chrony's", |outcome| {
            Some(outcome.median.rms_us <= outcome.scenario.chrony.rms_us?)
        }),
        ("RMS error at most half of chrony's", |outcome| {
            Some(outcome.median.rms_us <= outcome.scenario.chrony.rms_us? / 2.0)
        }),
        ("RMS error no worse than what chronyd serves, where that was taken", |outcome| {
            Some(outcome.median.rms_us <= outcome.scenario.chrony.served_us?)
        }),
        ("maximum error no worse than chrony's", |outcome| {
            Some(outcome.median.max_us <= outcome.scenario.chrony.max_us?)
        }),
        ("synchronised no later than chrony", |outcome| {
            Some(outcome.median.sync_s <= outcome.scenario.chrony.sync_s?)
        }),
        ("answers no later than chrony", |outcome| {
            Some(outcome.median.answer_s <= outcome.scenario.chrony.answer_s?)
        }),
        ("back from an outage no later than chrony", |outcome| {
            Some(outcome.median.back_s <= outcome.scenario.chrony.back_s?)
        }),
        ("never outside of the bound", |outcome| Some(outcome.median.violations == 0.0)),
        ("mean poll 64 s or slower, where the limits are the default ones", |outcome| {
            let default = outcome.scenario.sources.min_poll == 6 && outcome.median.poll_s.is_finite();
            default.then_some(outcome.median.poll_s >= 64.0)
        }),
    ];
    aims.iter().map(|aim| reached(outcomes, |outcome| outcome.scenario.id, aim)).collect()
}

/// What is aimed at, and whether a row of a table reaches it, if it can be compared.
pub(crate) type Aim<R> = (&'static str, fn(&R) -> Option<bool>);

/// The aim, how many rows reach it of those that can be compared, and which do not.
pub(crate) fn reached<'a, R>(
    rows: &'a [R],
    id: impl Fn(&'a R) -> &'a str,
    (aim, reaches): &Aim<R>,
) -> String {
    let judged: Vec<(&str, bool)> = rows.iter().filter_map(|row| Some((id(row), reaches(row)?))).collect();
    let missed: Vec<&str> = judged.iter().filter(|(_, reached)| !reached).map(|(id, _)| *id).collect();
    let except = if missed.is_empty() { String::new() } else { format!("; not {}", missed.join(", ")) };
    format!("{aim}: {} of {}{except}", judged.len() - missed.len(), judged.len())
}

fn line(text: &mut String, outcome: &Outcome) {
    let (scenario, median) = (&outcome.scenario, &outcome.median);
    let chrony = &scenario.chrony;
    let ratio = match (chrony.rms_us, chrony.max_us) {
        (Some(rms_us), _) => format!("{:.2} ", median.rms_us / rms_us),
        (None, Some(max_us)) => format!("{:.2}m", median.max_us / max_us),
        _ => String::new(),
    };
    let written = format!(
        "{:8} {:37} {:>5} {:>5} {:>5} {:>6} {:>5} {:>6}/{:<6} {:>6} {:>6}/{:<6} {:>6} {:>6} {:>4} {:>4} | {:>5} {:>5} {:>5} {:>5} {:>6} {:>4} {:13} {:>5}",
        scenario.id,
        scenario.about,
        short(median.poll_s),
        short(median.answer_s),
        short(median.answer_us),
        short(median.answer_bound_us),
        short(median.sync_s),
        short(median.rms_us),
        short(outcome.greatest_rms_us),
        short(median.p99_us),
        short(median.max_us),
        short(outcome.greatest_max_us),
        short(median.frequency_ppm),
        short(median.bound_us),
        short(median.violations),
        short(median.back_s),
        optional(chrony.poll_s),
        optional(chrony.answer_s),
        optional(chrony.sync_s),
        optional(chrony.rms_us),
        optional(chrony.max_us),
        optional(chrony.back_s),
        chrony.violations,
        ratio,
    );
    let _ = writeln!(text, "{}", written.trim_end());
}

pub(crate) fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, short)
}

/// Two to three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if !value.is_finite() => String::from("-"),
        value if value >= 100.0 || value == value.round() => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}").trim_start_matches('0').to_owned(),
    }
}

/// Compares with the reviewed table, or writes it where `SIMULATION_WRITE` is set.
pub(crate) fn compare(file: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation").join(file);
    if std::env::var_os("SIMULATION_WRITE").is_some() {
        std::fs::write(&path, table)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return;
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("cannot read {}: {error}; SIMULATION_WRITE=1 writes it", path.display())
    });
    assert!(
        reviewed == table,
        "{} is not what the simulation gives; review the difference after SIMULATION_WRITE=1:\n{table}",
        path.display()
    );
}
