//! The plan of a load: rates, durations and versions.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bench_ebpf::load_token::MIX;

/// Requests per second: a single rate or a ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    first: f64,
    last: f64,
}

/// The highest rate without `--uncapped`, in requests per second.
pub(crate) const RATE_CAP: f64 = 5e6;
/// The longest total time without `--uncapped`.
pub(crate) const TIME_CAP: Duration = Duration::from_mins(10);

impl Rates {
    /// Returns the rates of the steps. Each is `factor` times the one before; the last rate is included.
    pub(crate) fn steps(self, factor: f64) -> Vec<f64> {
        let mut steps = Vec::new();
        let mut rate = self.first;
        // A step that falls just short of the last rate would measure the same rate twice.
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
            return Err(format!("the ramp {text} goes down: the lower rate must come first"));
        }
        Ok(rates)
    }
}

/// Parses a rate: digits, followed by k or M.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let rate =
        digits.parse::<f64>().map_err(|_| format!("{text} is not a rate, such as 1000, 50k or 1.5M"))? * unit;
    if rate.is_finite() && rate >= 1.0 {
        Ok(rate)
    } else {
        Err(format!("{text} is below one request per second"))
    }
}

/// Parses a time: digits, followed by us, ms or s.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let unit = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|digits| (digits, unit)));
    let (digits, unit) = unit.unwrap_or((text, 1.0));
    let seconds =
        digits.parse::<f64>().map_err(|_| format!("{text} is not a time, such as 5s, 250ms or 50us"))? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} is too long to wait for"))
}

/// As [`time`], for how long something is measured.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("in no time nothing can be measured; give at least some milliseconds".into()),
        duration => Ok(duration),
    }
}

/// Parses a fraction: `0.1%` or `0.001`.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let (digits, unit) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 0.01));
    let part = digits.parse::<f64>().map_err(|_| format!("{text} is not a fraction, such as 0.1%"))? * unit;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err(format!("{text} is not between 0 and 100 %")) }
}

/// Parses the fraction of a step that is left out. It is limited, because a step without most of its time
/// says nothing.
pub(crate) fn left_out(text: &str) -> Result<f64, String> {
    let part = fraction(text)?;
    if part <= 0.5 {
        Ok(part)
    } else {
        Err(format!("{text} is more than half of the time: even 10% is a lot"))
    }
}

/// The spacing of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Spacing {
    /// All intervals are the same.
    Even,
    /// Exponential intervals, as between independent clients.
    Poisson,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourcePorts {
    first: u16,
    last: u16,
}

impl Default for SourcePorts {
    /// Half of the ports that Linux uses for its own connections.
    fn default() -> Self {
        Self { first: 40_960, last: 45_055 }
    }
}

impl SourcePorts {
    /// Returns the port with index `index` of `of`. All ports are different if there are enough.
    pub(crate) fn spread(self, index: u32, of: u32) -> u16 {
        let offset = u64::from(index) * u64::from(self.count()) / u64::from(of.max(1));
        self.first.saturating_add(u16::try_from(offset).unwrap_or(u16::MAX)).min(self.last)
    }

    pub(crate) fn first(self) -> u16 {
        self.first
    }

    pub(crate) fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }
}

impl FromStr for SourcePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let range = port(first).zip(port(last)).filter(|(first, last)| first <= last);
        let (first, last) =
            range.ok_or_else(|| format!("{text} is not a range of ports, such as 1024-65535"))?;
        Ok(Self { first, last })
    }
}

impl fmt::Display for SourcePorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ports {}-{}", self.first, self.last)
    }
}

/// The shares in which versions are sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    shares: Vec<(u8, f64)>,
}

impl Default for Mix {
    /// The shares of versions 1 to 4 that one public server counted in a day.
    fn default() -> Self {
        Self { shares: vec![(1, 340e3), (2, 5e3), (3, 6.0e6), (4, 5.2e6)] }
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Parses `4`, or versions with weights such as `3:1,4:2`.
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
    /// Makes a table that has each version in its share and leaves none out.
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
    fn ports_come_as_ranges_and_are_shared_out() {
        let ports: SourcePorts = "1024-65535".parse().unwrap();
        assert_eq!((ports.first(), ports.count()), (1024, 64_512));
        assert_eq!((ports.spread(0, 8), ports.spread(7, 8)), (1024, 57_472));
        let few: SourcePorts = "5000-5003".parse().unwrap();
        assert_eq!([0, 1, 2, 3].map(|index| few.spread(index, 4)), [5000, 5001, 5002, 5003]);
        assert_eq!("123".parse::<SourcePorts>().unwrap().count(), 1);
        for wrong in ["", "0", "9-8", "1-65536", "0-9", "a-b", "1-2-3"] {
            assert!(wrong.parse::<SourcePorts>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_fractions_have_units() {
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(time("0.03ms"), Ok(Duration::from_micros(30)));
        assert_eq!(time("5s"), Ok(Duration::from_secs(5)));
        assert!(time("-1s").is_err() && time("soon").is_err() && time("1e30").is_err());
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("0s").is_err() && duration("0.0000000001s").is_err() && duration("soon").is_err());
        assert!((fraction("0.1%").unwrap() - 0.001).abs() < 1e-12);
        assert!(fraction("101%").is_err());
        assert!(left_out("10%").is_ok() && left_out("51%").is_err() && left_out("much").is_err());
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
