//! The results as one HTML page that contains its plots.

use std::fmt::Write as _;

use super::super::step::{Bucket, Percentiles};
use super::LoadReport;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 60.0;

/// A line of a plot: its name, its colour and its points.
struct Line {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// Returns the page.
pub(super) fn render(report: &LoadReport) -> String {
    let mut rows = String::new();
    for step in &report.steps {
        let times = &step.round_trip_ns;
        let _infallible = write!(
            rows,
            "<tr><td>{:.0}<td>{:.0}<td>{}<td>{:.3}&nbsp;%<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            step.rate,
            step.sent_rate,
            step.answered,
            100.0 * step.loss_fraction(),
            step.invalid,
            step.kisses,
            super::short_time(times.p50),
            super::short_time(times.p99),
            super::short_time(times.p99_9),
            super::short_time(times.max),
        );
    }
    let conclusion = report.conclusion.as_deref().unwrap_or_default();
    let machine = &report.machine;
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{target}</title><style>\
         body{{font:15px sans-serif;max-width:720px;margin:2em auto}}table{{border-collapse:collapse}}\
         td,th{{padding:.2em .6em;text-align:right;border-bottom:1px solid #ddd}}svg{{margin-top:1em}}\
         </style><h1>{target}</h1><p>{generator}; {processor}, {cpus} CPUs, Linux {kernel}.</p>\
         <p><b>{conclusion}</b></p><table><tr><th>rate<th>sent/s<th>answered<th>lost<th>invalid<th>KoD<th>p50\
         <th>p99<th>p99.9<th>max{rows}</table>{loss}{times}{histogram}</html>\n",
        target = escaped(&report.target),
        generator = escaped(&report.generator),
        processor = escaped(&machine.processor),
        cpus = machine.cpus,
        kernel = escaped(&machine.kernel),
        conclusion = escaped(conclusion),
        loss = loss_plot(report),
        times = times_plot(report),
        histogram = histogram_plot(report),
    )
}

fn loss_plot(report: &LoadReport) -> String {
    let points = report.steps.iter().map(|step| (step.rate, 100.0 * step.loss_fraction())).collect();
    plot("Lost, % of requests, by requests/s", &[Line { name: "lost", colour: "#c33", points }], false)
}

#[expect(clippy::cast_precision_loss, reason = "a plot has fewer than 53 bits of resolution")]
fn times_plot(report: &LoadReport) -> String {
    let of = |pick: fn(&Percentiles) -> u64| {
        report.steps.iter().map(|step| (step.rate, pick(&step.round_trip_ns).max(1) as f64 / 1e3)).collect()
    };
    let lines = [
        Line { name: "p50", colour: "#36c", points: of(|times| times.p50) },
        Line { name: "p99", colour: "#c80", points: of(|times| times.p99) },
        Line { name: "p99.9", colour: "#c33", points: of(|times| times.p99_9) },
    ];
    plot("Round trip, us, by requests/s", &lines, true)
}

/// Plots the histogram of the last step.
#[expect(clippy::cast_precision_loss, reason = "a plot has fewer than 53 bits of resolution")]
fn histogram_plot(report: &LoadReport) -> String {
    let Some(step) = report.steps.last() else { return String::new() };
    let point = |bucket: &Bucket| (bucket.below_ns as f64 / 1e3, bucket.count as f64);
    let points = step.histogram.iter().map(point).collect();
    let line = Line { name: "answers", colour: "#383", points };
    plot("Answers of the last step by round trip, up to us", &[line], true)
}

/// Makes a plot with a logarithmic horizontal axis; the vertical one is logarithmic or linear.
fn plot(title: &str, lines: &[Line], logarithmic: bool) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let scale = |value: f64| if logarithmic { value.max(1e-3).log10() } else { value };
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = bounds(&mut all().map(|(x, _)| x.log10()));
    let (low, high) = bounds(&mut all().map(|(_, y)| scale(*y)));
    if !left.is_finite() {
        return String::new();
    }
    // A single point or a level line still needs an extent.
    let (width, height) = ((right - left).max(1e-3), (high - low).max(1e-3));
    let x = |value: f64| MARGIN + (value.log10() - left) / width * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN / 2.0 - (scale(value) - low) / height * (HEIGHT - MARGIN);
    let mut svg = format!(
        "<svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} height={HEIGHT} font-size=12>\
         <text x={MARGIN} y=14 font-weight=bold>{title}</text>"
    );
    for (index, line) in lines.iter().enumerate() {
        let mut points = String::new();
        for (px, py) in &line.points {
            let _infallible = write!(points, "{:.1},{:.1} ", x(*px), y(*py));
        }
        let colour = line.colour;
        let _infallible = write!(
            svg,
            "<polyline fill=none stroke='{colour}' stroke-width=2 points='{points}'/>\
             <text x={:.0} y={} fill='{colour}' text-anchor=end>{}</text>",
            WIDTH - MARGIN,
            14 + 14 * index,
            line.name
        );
        for (px, py) in &line.points {
            let _infallible = write!(
                svg,
                "<circle cx={:.1} cy={:.1} r=3 fill='{colour}'><title>{px:.0}: {py:.3}</title></circle>",
                x(*px),
                y(*py)
            );
        }
    }
    for (value, anchor) in [(10_f64.powf(left), "start"), (10_f64.powf(right), "end")] {
        let _infallible =
            write!(svg, "<text x={:.1} y={HEIGHT} text-anchor={anchor}>{value:.0}</text>", x(value));
    }
    for (_, value) in [all().min_by(|a, b| a.1.total_cmp(&b.1)), all().max_by(|a, b| a.1.total_cmp(&b.1))]
        .into_iter()
        .flatten()
    {
        let _infallible = write!(
            svg,
            "<text x={:.1} y={:.1} text-anchor=end>{value:.4}</text>",
            MARGIN - 6.0,
            y(*value) + 4.0
        );
    }
    svg + "</svg>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
