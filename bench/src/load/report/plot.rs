//! Plots as SVG, drawn once: colours and sizes of letters come from the page's style.

use std::fmt::Write as _;

/// The size of a plot in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
/// The margins around the plotted area: for labels of the vertical axis, below for those of the horizontal one.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
/// Labels of the horizontal axis are at least this far apart, which is enough for the letters on a phone.
const LABEL_WIDTH: f64 = 88.0;

/// An axis: its scale, its range, and how its values are written.
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    show: fn(f64) -> String,
    /// Whether only powers of ten are labelled.
    only_decades: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Axis {
    /// Makes a linear axis from 0, or from the lowest value if that is negative, to the highest value.
    pub(super) fn linear(values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Self {
        let (low, high) =
            values.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let step = nice_step((high - low).max(f64::MIN_POSITIVE) / 4.0);
        let high = if high > low { (high / step).ceil() * step } else { low + 1.0 };
        Self { scale: Scale::Linear, low, high, show, only_decades: false }
    }

    /// Makes a linear axis with this range.
    pub(super) fn range(low: f64, high: f64, show: fn(f64) -> String) -> Self {
        Self {
            scale: Scale::Linear,
            low,
            high: if high > low { high } else { low + 1.0 },
            show,
            only_decades: false,
        }
    }

    /// Makes a logarithmic axis around all positive values.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>, show: fn(f64) -> String) -> Self {
        let positive = values.filter(|value| *value > 0.0);
        let (low, high) =
            positive.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
        // A single value still needs an extent, and a point at the edge is cut in half.
        Self { scale: Scale::Logarithmic, low: low / 1.15, high: high * 1.15, show, only_decades: false }
    }

    /// Labels only powers of ten.
    pub(super) fn by_decades(self) -> Self {
        Self { only_decades: true, ..self }
    }

    /// Where a value is on the axis, from 0 to 1. `None` if it has no place.
    fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic if value > 0.0 => (value / self.low).ln() / (self.high / self.low).ln(),
            Scale::Logarithmic => return None,
        };
        (-1e-9..=1.0 + 1e-9).contains(&place).then_some(place)
    }

    /// Returns the round values that are labelled: few enough for `most`.
    fn ticks(&self, most: usize) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                #[expect(clippy::cast_precision_loss, reason = "a few")]
                let step = nice_step((self.high - self.low) / most.max(1) as f64);
                let first = (self.low / step - 1e-9).ceil();
                let at = |index: u32| (first + f64::from(index)) * step;
                (0..=32).map(at).take_while(|value| *value <= self.high + step * 1e-6).collect()
            }
            Scale::Logarithmic => {
                let decades = self.low.log10().floor();
                // As many of each decade as there is room for.
                let choices = [&[1.0, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
                for parts in choices.iter().skip(if self.only_decades { 3 } else { 0 }) {
                    for every in 1..=12_u32 {
                        if every > 1 && parts.len() > 1 {
                            break;
                        }
                        let ticks: Vec<f64> = (0..=20)
                            .step_by(usize::try_from(every).unwrap_or(1))
                            .flat_map(|decade| {
                                parts.iter().map(move |part| part * 10_f64.powf(decades + f64::from(decade)))
                            })
                            .filter(|value| (self.low..=self.high).contains(value))
                            .collect();
                        if ticks.len() <= most {
                            return if ticks.is_empty() {
                                vec![(self.low * self.high).sqrt()]
                            } else {
                                ticks
                            };
                        }
                    }
                }
                Vec::new()
            }
        }
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below the step.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|part| part * power)
        .find(|nice| *nice >= step * 0.999)
        .unwrap_or(step)
}

/// How the points of a series are drawn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mark {
    /// Joined in the order of the horizontal axis, with a dot at each.
    Dots,
    /// Joined, without dots.
    Line,
    /// A bar from the one before to each.
    Bars,
}

/// Points of one kind.
pub(super) struct Series {
    /// What they are; empty if there is only one series.
    pub(super) name: &'static str,
    pub(super) mark: Mark,
    pub(super) points: Vec<(f64, f64)>,
}

/// Returns a figure with its title, a legend, and the names of both axes.
pub(super) fn figure(title: &str, names: (&str, &str), (x, y): (&Axis, &Axis), series: &[Series]) -> String {
    let mut legend = String::new();
    for (number, one) in series.iter().enumerate().filter(|(_, one)| !one.name.is_empty()) {
        let _infallible = write!(legend, "<span class='key c{number}'>{}</span>", one.name);
    }
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |value| x.place(value).map(|place| LEFT + place * width);
    let at_y = |value| y.place(value).map(|place| TOP + (1.0 - place) * height);
    let mut svg = format!("<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{title}'>");
    for tick in y.ticks(5) {
        let Some(at) = at_y(tick) else { continue };
        let _infallible = write!(
            svg,
            "<line x1={LEFT} x2={} y1={at:.1} y2={at:.1} /><text x={} y={:.1} text-anchor=end>{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            (y.show)(tick)
        );
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few")]
    let most = (width / LABEL_WIDTH) as usize;
    let mut free_from = 0.0;
    for tick in x.ticks(most + 1) {
        // The label is in the middle of its place, which has to be inside.
        let shown = |at: &f64| *at >= free_from && *at <= WIDTH - LABEL_WIDTH * 0.45;
        let Some(at) = at_x(tick).filter(shown) else { continue };
        free_from = at + LABEL_WIDTH;
        let _infallible = write!(
            svg,
            "<line x1={at:.1} x2={at:.1} y1={:.1} y2={:.1} /><text x={at:.1} y={:.1} text-anchor=middle>{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 5.0,
            HEIGHT - BOTTOM + 32.0,
            (x.show)(tick)
        );
    }
    for (number, one) in series.iter().enumerate() {
        let mut points = one.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let placed: Vec<_> =
            points.iter().filter_map(|(px, py)| Some((at_x(*px)?, at_y(*py)?, (*px, *py)))).collect();
        draw(&mut svg, number, one.mark, &placed, (x, y));
    }
    format!(
        "<figure><figcaption><b>{title}</b>{legend}</figcaption><p class=axis>{}</p>{svg}</svg>\
         <p class='axis below'>{}</p></figure>",
        names.1, names.0
    )
}

/// Draws a series. Each point has its place and its values.
fn draw(
    svg: &mut String,
    number: usize,
    mark: Mark,
    placed: &[(f64, f64, (f64, f64))],
    (x, y): (&Axis, &Axis),
) {
    let title = |(px, py): (f64, f64)| format!("<title>{}: {}</title>", (x.show)(px), (y.show)(py));
    if mark == Mark::Bars {
        let bottom = HEIGHT - BOTTOM;
        let mut left = placed.first().map_or(LEFT, |first| first.0 - 6.0).max(LEFT);
        for (px, py, values) in placed {
            let _infallible = write!(
                svg,
                "<rect class='bar' x={left:.1} y={py:.1} width={:.1} height={:.1}>{}</rect>",
                (px - left - 1.0).max(0.5),
                bottom - py,
                title(*values)
            );
            left = *px;
        }
        return;
    }
    let mut line = String::new();
    for (px, py, _) in placed {
        let _infallible = write!(line, "{px:.1},{py:.1} ");
    }
    let _infallible = write!(svg, "<polyline class='c{number}' points='{}' />", line.trim_end());
    if mark == Mark::Dots {
        for (px, py, values) in placed {
            let _infallible = write!(
                svg,
                "<circle class='c{number}' cx={px:.1} cy={py:.1} r=3.5>{}</circle>",
                title(*values)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(value: f64) -> String {
        format!("{value}")
    }

    #[test]
    fn ticks_are_round_and_no_more_than_there_is_room_for() {
        let axis = Axis::linear([0.0, 0.37].into_iter(), plain);
        assert_eq!(axis.ticks(5).len(), 5, "{:?}", axis.ticks(5));
        let axis = Axis::logarithmic([1000.0, 2e6].into_iter(), plain);
        assert_eq!(axis.ticks(4), [1000.0, 10_000.0, 100_000.0, 1_000_000.0]);
        for (low, high) in [(1.0, 1.0), (3.0, 3.4), (20.0, 90.0), (1.0, 1e9), (1e-3, 1e12)] {
            let axis = Axis::logarithmic([low, high].into_iter(), plain);
            let ticks = axis.ticks(5);
            assert!((1..=5).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| axis.place(*tick).is_some()), "{ticks:?}");
        }
    }

    #[test]
    fn points_are_joined_in_the_order_of_the_axis_and_stay_inside() {
        let points = vec![(100.0, 1.0), (400.0, 2.0), (200.0, 3.0)];
        let x = Axis::logarithmic(points.iter().map(|point| point.0), plain);
        let y = Axis::linear(points.iter().map(|point| point.1), plain);
        let svg = figure("t", ("x", "y"), (&x, &y), &[Series { name: "n", mark: Mark::Dots, points }]);
        let line = svg.split("points='").nth(1).unwrap().split('\'').next().unwrap();
        let places: Vec<f64> =
            line.split(' ').map(|point| point.split(',').next().unwrap().parse().unwrap()).collect();
        assert!(places.is_sorted() && places.len() == 3, "{line}");
        assert!(places.iter().all(|place| (LEFT..=WIDTH - RIGHT).contains(place)), "{line}");
    }

    #[test]
    fn a_value_without_a_place_on_a_logarithmic_axis_is_left_out() {
        let x = Axis::range(0.0, 1.0, plain);
        let y = Axis::logarithmic([0.0, 5.0].into_iter(), plain);
        let points = vec![(0.0, 0.0), (1.0, 5.0)];
        let svg = figure("t", ("x", "y"), (&x, &y), &[Series { name: "", mark: Mark::Dots, points }]);
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
