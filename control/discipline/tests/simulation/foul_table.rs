//! The table of foul weather.

use std::fmt::Write as _;

use crate::foul::Row;
use crate::table::{Aim, optional, reached, short};

const HEADER: &str = "\
Median over 8 seeds. Errors in us, each second from 4 h to 24 h, or from 600 s to 2 h at start-up; events at 12 h.
L1: 1 server 300/40 us; W1: 18/.7 ms; T1: 20/3 us; P4: 3/.15, 8/.4, 18/.5 and 28/1 ms; P7: seven from 3 to 35 ms.
none: share of the time without a line, %. out: seconds outside of the bound, all seeds, but for those in which a
jump cannot be seen yet. back: s from the event until the error is below 1 ms (3 ms on W1, .5 s where all is lost)
for good. equal: RMS where each source is asked at the fixed interval that chrony was. Right of the bar chrony
4.8 as it serves, and at an equal poll; x and =x: our RMS over chrony's.

";

pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::from(HEADER);
    let _ = writeln!(
        text,
        "{:9} {:41} {:>5} {:>5} {:>7} {:>7} {:>8} {:>8} {:>7} {:>6} {:>6} | {:>6} {:>6} {:>5} {:>5}",
        "id",
        "conditions",
        "poll",
        "none",
        "RMS",
        "p99",
        "max",
        "bound",
        "out",
        "back",
        "equal",
        "serves",
        "equal",
        "x",
        "=x"
    );
    for row in rows {
        line(&mut text, row);
    }
    text.push('\n');
    for aim in aims(rows) {
        let _ = writeln!(text, "{aim}");
    }
    text
}

fn line(text: &mut String, row: &Row) {
    let (foul, median) = (&row.foul, &row.median);
    let ratio = |ours_us: f64, theirs_us: f64| format!("{:.2}", ours_us / theirs_us);
    let chrony_equal_us = foul.equal.map(|(_, rms_us)| rms_us);
    let back = if median.back_s == f64::INFINITY { String::from("never") } else { short(median.back_s) };
    let written = format!(
        "{:9} {:41} {:>5} {:>5} {:>7} {:>7} {:>8} {:>8} {:>7} {:>6} {:>6} | {:>6} {:>6} {:>5} {:>5}",
        foul.id,
        foul.about,
        short(median.poll_s),
        short(100.0 * median.silent),
        short(median.rms_us),
        short(median.p99_us),
        short(median.max_us),
        short(median.bound_us),
        short(median.outside_s),
        back,
        optional(row.equal_us),
        foul.served_us.map_or_else(|| String::from("-"), short),
        chrony_equal_us.map_or_else(|| String::from("-"), short),
        foul.served_us.map_or_else(String::new, |served_us| ratio(median.rms_us, served_us)),
        row.equal_us
            .zip(chrony_equal_us)
            .map_or_else(String::new, |(ours_us, theirs_us)| ratio(ours_us, theirs_us)),
    );
    let _ = writeln!(text, "{}", written.trim_end());
}

/// The aims, and which rows reach them.
fn aims(rows: &[Row]) -> Vec<String> {
    let aims: [Aim<Row>; 6] = [
        ("RMS error no worse than what chronyd serves", |row| Some(row.median.rms_us <= row.foul.served_us?)),
        ("RMS error at most half of what chronyd serves", |row| {
            Some(row.median.rms_us <= row.foul.served_us? / 2.0)
        }),
        ("at an equal poll, one server: no worse than chrony's", |row| {
            let alone = row.foul.case.members.len() == 1;
            alone.then_some(row.equal_us? <= row.foul.equal?.1)
        }),
        ("at an equal poll, four servers: at most .6 of chrony's", |row| {
            let several = row.foul.case.members.len() > 1;
            several.then_some(row.equal_us? <= 0.6 * row.foul.equal?.1)
        }),
        ("never outside of the bound, where most servers are truthful", |row| {
            row.has_truthful_majority().then_some(row.median.outside_s == 0.0)
        }),
        ("always back, where most servers are truthful", |row| {
            let event = row.has_truthful_majority() && !row.median.back_s.is_nan();
            event.then_some(row.runs.iter().all(|run| run.back_s.is_finite()))
        }),
    ];
    let lines = aims.iter().map(|aim| reached(rows, |row| row.foul.id.as_str(), aim));
    lines.chain([after_jumps(rows)]).collect()
}

/// How many runs come back after a jump, and after how many polls.
fn after_jumps(rows: &[Row]) -> String {
    let runs = rows.iter().filter(|row| row.has_jump()).flat_map(|row| &row.runs);
    let mut polls: Vec<f64> =
        runs.filter(|run| !run.back_s.is_nan()).map(|run| run.back_s / run.poll_s).collect();
    polls.sort_by(f64::total_cmp);
    let back = polls.iter().filter(|polls| polls.is_finite()).count();
    let median = polls.get(polls.len() / 2).copied().map_or_else(|| String::from("-"), short);
    format!("serves the time again after a jump: {back} of {} runs, median after {median} polls", polls.len())
}
