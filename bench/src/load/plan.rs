//! How fast, how long, and with which versions.

use std::str::FromStr;
use std::time::Duration;

use xdp_ebpf::probe::MIX;

/// Requests a second, a single rate or a ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    first: f64,
    last: f64,
}

/// The most that is sent in one go without `--uncapped`: requests a second.
pub(crate) const RATE_CAP: f64 = 5e6;
/// The longest that is sent without `--uncapped`.
pub(crate) const TIME_CAP: Duration = Duration::from_mins(10);

impl Rates {
    /// The rates of the steps, each `factor` times the one before, the last one included.
    pub(crate) fn steps(self, factor: f64) -> Vec<f64> {
        let mut steps = Vec::new();
        let mut rate = self.first;
        // A step that falls short of the last by a hair would be the same rate twice.
        while rate < self.last * 0.999 {
            steps.push(rate);
            rate *= factor;
        }
        steps.push(self.last);
        steps
    }

    pub(crate) fn last(self) -> f64 {
        self.last
    }
}

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let rates = Self { first: rate(first)?, last: rate(last)? };
        if rates.first > rates.last {
            return Err(format!("the ramp {text} goes down: the lower rate comes first"));
        }
        Ok(rates)
    }
}

/// A rate: digits, and k or M behind them.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let rate =
        digits.parse::<f64>().map_err(|_| format!("{text} is no rate: 1000, 50k and 1.5M are"))? * unit;
    if rate.is_finite() && rate >= 1.0 {
        Ok(rate)
    } else {
        Err(format!("{text} is below one request a second"))
    }
}

/// A time: digits, and ms or s behind them.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = digits.parse::<f64>().map_err(|_| format!("{text} is no time: 5s and 250ms are"))? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} is no time that can be waited for"))
}

/// A part of all: `0.1%` or `0.001`.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let (digits, unit) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 0.01));
    let part = digits.parse::<f64>().map_err(|_| format!("{text} is no fraction: 0.1% is"))? * unit;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err(format!("{text} is not between 0 and 100 %")) }
}

/// How requests are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spacing {
    /// All intervals the same.
    Even,
    /// As independent clients come: exponential intervals.
    Poisson,
}

/// In which shares the versions are sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    shares: Vec<(u8, f64)>,
}

impl Default for Mix {
    /// What one public server counted of versions 1 to 4 in a day.
    fn default() -> Self {
        Self { shares: vec![(1, 340e3), (2, 5e3), (3, 6.0e6), (4, 5.2e6)] }
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `4`, or versions with weights: `3:1,4:2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let share = |part: &str| {
            let (version, weight) = part.split_once(':').unwrap_or((part, "1"));
            let version = version.parse().ok().filter(|version| (1..=4).contains(version));
            let weight = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
            version.zip(weight).ok_or_else(|| format!("{part}: versions are 1 to 4, as in 4 or 3:1,4:2"))
        };
        Ok(Self { shares: text.split(',').map(share).collect::<Result<_, _>>()? })
    }
}

impl Mix {
    /// A table with each version in its share, none left out.
    pub(crate) fn table(&self) -> Box<[u8; MIX]> {
        let total: f64 = self.shares.iter().map(|(_, weight)| weight).sum();
        let mut table = Box::new([self.shares.last().map_or(4, |(version, _)| *version); MIX]);
        let mut filled = 0;
        for (version, weight) in &self.shares {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a table of 4096"
            )]
            let share = (weight / total * MIX as f64).round().max(1.0) as usize;
            let end = (filled + share).min(MIX);
            table[filled..end].fill(*version);
            filled = end;
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_goes_by_its_factor_and_ends_at_its_end() {
        let rates: Rates = "1000..4k".parse().unwrap();
        assert_eq!(rates.steps(1.5), [1000.0, 1500.0, 2250.0, 3375.0, 4000.0]);
        assert_eq!("2M".parse::<Rates>().unwrap().steps(1.5), [2e6]);
        assert_eq!("1k..4k".parse::<Rates>().unwrap().steps(2.0), [1000.0, 2000.0, 4000.0]);
    }

    #[test]
    fn rates_that_make_no_sense_are_named() {
        for text in ["", "fast", "0", "-5", "5..1", "1..", "inf", "NaN"] {
            assert!(text.parse::<Rates>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_and_fractions_have_units() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5s"), Ok(Duration::from_secs(5)));
        assert!(time("-1s").is_err() && time("soon").is_err() && time("1e30").is_err());
        assert!((fraction("0.1%").unwrap() - 0.001).abs() < 1e-12);
        assert!(fraction("101%").is_err());
    }

    #[test]
    fn the_mix_has_each_version_in_its_share_and_none_left_out() {
        let shares = |mix: Mix| {
            let table = mix.table();
            [1, 2, 3, 4].map(|version| table.iter().map(|entry| u32::from(*entry == version)).sum::<u32>())
        };
        assert_eq!(shares(Mix::default()), [121, 2, 2129, 1844]);
        assert_eq!(shares("3:1,4:3".parse().unwrap()), [0, 0, 1024, 3072]);
        assert!("5".parse::<Mix>().is_err() && "4:0".parse::<Mix>().is_err() && "".parse::<Mix>().is_err());
    }
}
