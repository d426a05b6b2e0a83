//! The result as text, and second by second.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use nix::sys::utsname::uname;

use crate::run::{Lie, Outcome, Plan, Subject};
use crate::upstreams::PATHS;

const NAME: &str = "clock-beside-chronyd";
/// By then the bursts of first contact are over.
const START_S: f64 = 60.0;

/// Whether a second counts.
type Counts<'a> = Box<dyn Fn(f64) -> bool + 'a>;

/// The table, with what one needs to know to read it.
pub(crate) fn render(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = String::new();
    let _infallible = write_text(&mut text, plan, outcome);
    text
}

/// Into files of a directory: the text, and each second's errors.
pub(crate) fn write(directory: &Path, text: &str, outcome: &Outcome) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(format!("{NAME}.md")), text).unwrap();
    let mut rows = String::from("second,server,error_us,bound_us,round_trip_us\n");
    for subject in &outcome.subjects {
        for record in &subject.records {
            let _infallible = writeln!(
                rows,
                "{:.0},{},{:.1},{:.1},{:.1}",
                record.at_s,
                subject.name,
                record.error_s * 1e6,
                record.bound_s * 1e6,
                record.round_trip_s * 1e6
            );
        }
    }
    fs::write(directory.join(format!("{NAME}.csv")), rows).unwrap();
}

fn write_text(text: &mut String, plan: &Plan, outcome: &Outcome) -> std::fmt::Result {
    let kernel = uname().map_or_else(|_| "?".into(), |name| name.release().to_string_lossy().into_owned());
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        text,
        "# The served time beside chronyd's, over the same upstreams\n\n\
         {} seconds (`sudo scripts/compare-clock`), pooltime-xdp {},\n{}, Linux {kernel}, {cpus} CPUs.\n",
        plan.seconds,
        env!("CARGO_PKG_VERSION"),
        outcome.chronyd_version.lines().next().unwrap_or("chronyd"),
    )?;
    writeln!(
        text,
        "Four chronyds serve this machine's clock as stratum 1. A relay makes paths of the way to them, and both\n\
         `pooltime-xdp` (`steer = false`) and `chronyd -x` follow them through it, with `iburst` and the default\n\
         poll limits. Each second both are asked three times; of the answer with the shortest round trip the error\n\
         is what it says less this machine's clock, which nobody touches. The oscillator is the truth's own,\n\
         so errors come from the paths, not from a wandering clock.\n"
    )?;
    writeln!(text, "| path | there: least + mean queue, ms | back, ms | loss each way |\n|---|---|---|---|")?;
    for (index, (there, back)) in PATHS.iter().enumerate() {
        writeln!(
            text,
            "| {} | {} + {} | {} + {} | {} % |",
            index + 1,
            there.least_ms,
            there.mean_queue_ms,
            back.least_ms,
            back.mean_queue_ms,
            there.loss * 100.0
        )?;
    }
    writeln!(text)?;
    for lie in &plan.lies {
        let (ahead_ms, Range { start, end }) = (lie.ahead.as_millis(), &lie.seconds);
        writeln!(text, "Upstream {} is {ahead_ms} ms ahead from second {start} to {end}.", lie.upstream + 1)?;
    }
    write_table(text, plan, outcome)
}

fn write_table(text: &mut String, plan: &Plan, outcome: &Outcome) -> std::fmt::Result {
    let [ours, chronyd] = &outcome.subjects;
    writeln!(text, "\n| | {} | {} |\n|---|---|---|", ours.name, chronyd.name)?;
    let mut row = |what: &str, values: [String; 2]| {
        let [ours, chronyd] = values;
        writeln!(text, "| {what} | {ours} | {chronyd} |")
    };
    let each = |value: &dyn Fn(&Subject) -> String| [value(ours), value(chronyd)];
    let first = |subject: &Subject| {
        subject.first_synchronised_s.map_or_else(|| "never".into(), |first_s| format!("{first_s:.1} s"))
    };
    row("first synchronised answer after its start", each(&first))?;
    let lies =
        |at_s: f64, lie: &Lie| (f64::from(lie.seconds.start)..f64::from(lie.seconds.end)).contains(&at_s);
    let honest = |at_s: f64| !plan.lies.iter().any(|lie| lies(at_s, lie));
    let mut times: Vec<(String, Counts)> = vec![
        ("all of the time".into(), Box::new(|_| true)),
        (
            format!("while nobody lies, to second {START_S}"),
            Box::new(move |at_s| at_s < START_S && honest(at_s)),
        ),
        ("while nobody lies, after that".into(), Box::new(move |at_s| at_s >= START_S && honest(at_s))),
    ];
    for lie in &plan.lies {
        let what = format!("while upstream {} lies", lie.upstream + 1);
        times.push((what, Box::new(move |at_s| lies(at_s, lie))));
    }
    for (what, counts) in &times {
        if ours.figures(counts).seconds > 0 {
            row(&format!("RMS error, {what}"), each(&|subject| us(subject.figures(counts).rms_s)))?;
            row(&format!("maximum error, {what}"), each(&|subject| us(subject.figures(counts).max_s)))?;
        }
    }
    row("median of the bound served with it", each(&|subject| us(subject.figures(|_| true).median_bound_s)))?;
    row(
        "seconds outside of the bound",
        each(&|subject| {
            let figures = subject.figures(|_| true);
            format!("{} of {}", figures.outside, figures.seconds)
        }),
    )?;
    row("requests to the upstreams", each(&|subject| subject.requests.to_string()))?;
    let ntpq = outcome.ntpq.as_ref().map(|said| ("ntpq -np", said));
    for (command, said) in ntpq.into_iter().chain([("pooltime-xdp peers", &outcome.peers)]) {
        writeln!(text, "\nAt the end `{command}` said:\n\n```\n{said}```")?;
    }
    Ok(())
}

fn us(seconds: f64) -> String {
    format!("{:.0} us", seconds * 1e6)
}
