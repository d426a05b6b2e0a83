//! The results as one HTML page that contains its plots and loads nothing.

use std::fmt::Write as _;

use super::super::step::{Percentiles, Step};
use super::plot::{Axis, Mark, Series, figure};
use super::{LoadReport, short_time};

const STYLE: &str = include_str!("page.css");

/// Points of the course over time: as many as can be told apart.
const COURSE_POINTS: usize = 120;

/// Returns the page.
pub(super) fn render(report: &LoadReport) -> String {
    let mut conclusion = String::new();
    for text in report.conclusion.iter().chain(&report.remarks) {
        let _infallible = write!(conclusion, "<p class=conclusion>{}</p>", escaped(text));
    }
    let shown = report.shown_step();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width, initial-scale=1'>\
         <meta name=color-scheme content='light dark'>\
         <title>{target}: pooltime-bench {command}</title><style>{STYLE}</style>\
         <h1>{target}</h1><p class=soft>{generator}; profile {profile}</p>{conclusion}\
         <section>{plots}</section>{of_step}\
         <section class=scroll>{table}</section><section>{facts}</section></html>\n",
        target = escaped(&report.target),
        command = report.command,
        generator = escaped(&report.generator),
        profile = escaped(&report.profile),
        plots = loss_plot(&report.steps) + &times_plot(&report.steps),
        of_step = shown.map(|step| of_step(step, report)).unwrap_or_default(),
        table = table(report),
        facts = facts(report),
    )
}

/// Plots one step: how its round trips are distributed, and its course over time.
fn of_step(step: &Step, report: &LoadReport) -> String {
    let which = if report.steps.len() == 1 {
        String::new()
    } else {
        format!("<h2>The step at {} requests/s</h2>", count(step.rate))
    };
    format!("<section>{which}{}{}{}</section>", histogram(step), quantiles(step), course(step))
}

fn loss_plot(steps: &[Step]) -> String {
    // A step in which nothing was sent says nothing about loss.
    let points: Vec<_> =
        sent(steps).map(|step| (step.sent_rate, 100.0 * step.failure_fraction(0.0))).collect();
    let x = Axis::logarithmic(points.iter().map(|point| point.0), count);
    // A server without loss would have its line drawn in the noise of rounding.
    let y = Axis::linear(points.iter().map(|point| point.1).chain([0.1]), percent);
    let series = [Series { name: "", mark: Mark::Dots, points }];
    figure(
        "Lost, refused or answered wrongly",
        ("requests sent per second", "share of requests"),
        (&x, &y),
        &series,
    )
}

/// Chooses one of the percentiles.
type Pick = fn(&Percentiles) -> u64;

fn times_plot(steps: &[Step]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a plot has fewer than 53 bits of resolution")]
    let of = |pick: Pick| -> Vec<(f64, f64)> {
        let answered = sent(steps).filter(|step| step.answered > 0);
        answered.map(|step| (step.sent_rate, pick(&step.round_trip_ns) as f64)).collect()
    };
    let picks: [(&'static str, Pick); 4] = [
        ("p50", |times| times.p50),
        ("p99", |times| times.p99),
        ("p99.9", |times| times.p99_9),
        ("max", |times| times.max),
    ];
    let series = picks.map(|(name, pick)| Series { name, mark: Mark::Dots, points: of(pick) });
    let all = || series.iter().flat_map(|one| &one.points);
    let x = Axis::logarithmic(all().map(|point| point.0), count);
    let y = Axis::logarithmic(all().map(|point| point.1), time);
    figure("Round trip", ("requests sent per second", "time"), (&x, &y), &series)
}

#[expect(clippy::cast_precision_loss, reason = "a plot has fewer than 53 bits of resolution")]
fn histogram(step: &Step) -> String {
    let points: Vec<_> =
        step.classes.iter().map(|class| (class.below_ns as f64, class.count as f64)).collect();
    let x = Axis::logarithmic(points.iter().map(|point| point.0), time);
    let y = Axis::linear(points.iter().map(|point| point.1), count);
    let series = [Series { name: "", mark: Mark::Bars, points }];
    figure("Answers by round trip", ("round trip", "answers"), (&x, &y), &series)
}

/// Plots the percentile curve as `HdrHistogram` draws it: the axis has each further nine as far from the last.
#[expect(clippy::cast_precision_loss, reason = "a plot has fewer than 53 bits of resolution")]
fn quantiles(step: &Step) -> String {
    // The last one is at infinity.
    let points: Vec<_> = step
        .quantiles
        .iter()
        .filter(|point| point.quantile < 1.0)
        .map(|point| (1.0 / (1.0 - point.quantile), point.ns as f64))
        .collect();
    let x = Axis::logarithmic(points.iter().map(|point| point.0).chain([1.0]), percentile).by_decades();
    let y = Axis::logarithmic(points.iter().map(|point| point.1), time);
    let series = [Series { name: "", mark: Mark::Line, points }];
    figure("Round trip by percentile", ("percentile of answers", "time"), (&x, &y), &series)
}

fn course(step: &Step) -> String {
    let course = step.loss_windows.course(COURSE_POINTS);
    let line = |pick: fn(&(f64, f64, f64)) -> f64| -> Vec<(f64, f64)> {
        course.iter().map(|point| (point.0, pick(point))).collect()
    };
    let series = [
        Series { name: "sent", mark: Mark::Line, points: line(|point| point.1) },
        Series { name: "answered right", mark: Mark::Line, points: line(|point| point.2) },
    ];
    let all = || series.iter().flat_map(|one| &one.points);
    let x = Axis::range(0.0, all().map(|point| point.0).fold(0.0, f64::max), seconds);
    let y = Axis::linear(all().map(|point| point.1), count);
    figure("Course", ("time since the start of the step", "requests/s"), (&x, &y), &series)
}

fn sent(steps: &[Step]) -> impl Iterator<Item = &Step> {
    steps.iter().filter(|step| step.sent > 0)
}

fn table(report: &LoadReport) -> String {
    let mut rows = String::new();
    let mut steps: Vec<&Step> = report.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    for step in steps {
        let times = &step.round_trip_ns;
        let _infallible = write!(
            rows,
            "<tr><th scope=row>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            count(step.rate),
            count(step.sent_rate),
            step.answered,
            super::loss(step).replace(' ', "&nbsp;"),
            step.invalid,
            step.kisses,
            short_time(times.p50),
            short_time(times.p99),
            short_time(times.p99_9),
            short_time(times.max),
        );
    }
    format!(
        "<table><caption>All steps, by rate</caption><thead><tr><th scope=col>rate<th scope=col>sent/s\
         <th scope=col>answered<th scope=col>lost<th scope=col>invalid<th scope=col>KoD<th scope=col>p50\
         <th scope=col>p99<th scope=col>p99.9<th scope=col>max</thead><tbody>{rows}</tbody></table>"
    )
}

fn facts(report: &LoadReport) -> String {
    let machine = &report.machine;
    let rows = [
        ("Command", format!("<code>{}</code>", escaped(&report.command_line))),
        ("Program", format!("pooltime-bench {}", version::TEXT.as_str())),
        ("Machine", format!("{}, {} CPUs", escaped(&machine.processor), machine.cpus)),
        ("Kernel", format!("Linux {}", escaped(&machine.kernel))),
        ("Date", escaped(&report.date)),
        ("Step", format!("{} s; answers within {} s count", report.duration_s, report.timeout_s)),
    ];
    let mut list = String::new();
    for (name, text) in rows {
        let _infallible = write!(list, "<dt>{name}<dd>{text}");
    }
    format!("<dl>{list}</dl>")
}

/// Formats a count or a rate: `950`, `12.5k`, `2M`.
pub(super) fn count(value: f64) -> String {
    let (value, unit) = match value {
        ..1000.0 => (value, ""),
        ..1e6 => (value / 1e3, "k"),
        ..1e9 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn percent(value: f64) -> String {
    format!("{} %", count(value))
}

fn seconds(value: f64) -> String {
    format!("{} s", count(value))
}

/// Formats a time in ns.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "us"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", count(value))
}

/// Formats a quantile that is given as the reciprocal of its distance to 1: 100 is the 99th percentile.
fn percentile(reciprocal: f64) -> String {
    let digits = (reciprocal.log10() - 2.0).ceil().clamp(0.0, 9.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few digits")]
    let digits = digits as usize;
    format!("{:.digits$} %", 100.0 - 100.0 / reciprocal)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_units_and_no_digits_too_many() {
        assert_eq!(
            ["950", "12.5k", "2M", "1.23M"].map(String::from),
            [950.0, 12_500.0, 2e6, 1_234_000.0].map(count)
        );
        assert_eq!(["20 us", "1.5 ms", "250 ns"].map(String::from), [2e4, 1.5e6, 250.0].map(time));
        assert_eq!(
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"].map(String::from),
            [1.0, 10.0, 100.0, 1000.0, 10_000.0].map(percentile)
        );
    }
}
