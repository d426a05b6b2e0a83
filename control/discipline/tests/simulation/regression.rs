//! The other candidate: a weighted line through the latest samples, as many as lie on one.
//!
//! A window of up to 64 samples; while the signs of the residuals change too rarely to be chance, its oldest
//! samples are dropped.

use discipline::{Gaussian, LocalTime};

use crate::comparison::Filter;

const LONGEST: usize = 64;
const SHORTEST: usize = 4;

#[derive(Clone, Copy)]
struct Point {
    at: LocalTime,
    offset_s: f64,
    weight: f64,
}

#[derive(Clone, Copy)]
struct Fit {
    /// Centre of gravity of the samples, and the line through it.
    centre: LocalTime,
    offset_s: f64,
    slope: f64,
    offset_variance: f64,
    slope_variance: f64,
}

#[derive(Default)]
pub(crate) struct Regression {
    points: Vec<Point>,
    fit: Option<Fit>,
}

impl Filter for Regression {
    fn observe(&mut self, at: LocalTime, offset_s: f64, variance_s2: f64) {
        if self.points.len() == LONGEST {
            self.points.remove(0);
        }
        self.points.push(Point { at, offset_s, weight: 1.0 / variance_s2 });
        loop {
            let fit = fit(&self.points);
            self.fit = Some(fit);
            if self.points.len() <= SHORTEST || looks_random(&self.points, &fit) {
                break;
            }
            self.points.remove(0);
        }
    }

    fn offset(&self, at: LocalTime) -> Option<Gaussian> {
        let fit = self.fit?;
        let ahead_s = at.seconds_since(fit.centre);
        Some(Gaussian {
            mean: fit.offset_s + fit.slope * ahead_s,
            variance: fit.offset_variance + ahead_s * ahead_s * fit.slope_variance,
        })
    }

    fn frequency(&self, _: LocalTime) -> Option<Gaussian> {
        self.fit.map(|fit| Gaussian { mean: fit.slope, variance: fit.slope_variance })
    }
}

fn fit(points: &[Point]) -> Fit {
    let origin = points[0].at;
    let total: f64 = points.iter().map(|point| point.weight).sum();
    let mean =
        |of: &dyn Fn(&Point) -> f64| points.iter().map(|point| point.weight * of(point)).sum::<f64>() / total;
    let middle_s = mean(&|point| point.at.seconds_since(origin));
    let offset_s = mean(&|point| point.offset_s);
    let arm = |point: &Point| point.at.seconds_since(origin) - middle_s;
    let spread = mean(&|point| arm(point) * arm(point));
    let together = mean(&|point| arm(point) * (point.offset_s - offset_s));
    let slope = if spread > 0.0 { together / spread } else { 0.0 };
    let residual = mean(&|point| (point.offset_s - offset_s - slope * arm(point)).powi(2));
    let freedom = (points.len() as f64 - 2.0).max(1.0);
    // The weights are variances already; the residuals say whether they are too small.
    let scale = (residual * total / freedom).max(1.0);
    let slope_variance = if spread > 0.0 { scale / (total * spread) } else { 100e-6 * 100e-6 };
    Fit {
        centre: origin.plus_seconds(middle_s),
        offset_s,
        slope,
        offset_variance: scale / total,
        slope_variance,
    }
}

/// Whether the residuals change their sign as often as those of random numbers do, in 95 % of cases.
fn looks_random(points: &[Point], fit: &Fit) -> bool {
    let above =
        |point: &Point| point.offset_s > fit.offset_s + fit.slope * point.at.seconds_since(fit.centre);
    let runs = 1 + points.windows(2).filter(|pair| above(&pair[0]) != above(&pair[1])).count();
    let count = points.len() as f64;
    runs as f64 > count / 2.0 + 1.0 - 1.645 * (count - 1.0).sqrt() / 2.0
}
