//! Load profiles: what is unusual about the requests, modelled on what real servers receive.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bench_ebpf::load_token::{MAX_EXTENSION, Spike};

use super::clock::nanos;
use super::plan::fraction;

/// Default length of the extension field in words of 32 bits: the shortest that is allowed for the last field
/// (RFC 7822).
const WORDS: u16 = 7;
/// The shortest extension field that is allowed anywhere, in words.
const FEWEST_WORDS: u16 = 4;
/// Default factor of the rate at the top of the hour.
const FACTOR: f64 = 10.0;
/// Fractions of the duration before the spike, in it, and while it decays.
const BEFORE: f64 = 0.25;
const HIGH: f64 = 0.125;
const FALLING: f64 = 0.375;

/// A profile; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Profile {
    /// Nothing is unusual.
    #[default]
    Normal,
    /// A share of the requests comes from one of the sources.
    HotSource(f64),
    /// Each request comes from another address, whoever owns it.
    Spoofed,
    /// A share of the requests must not be answered.
    Malformed(f64),
    /// Requests have an extension field of this many bytes.
    Long(u16),
    /// The rate jumps up by this factor and decays.
    TopOfHour(f64),
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let share = |usual: f64| match argument.map_or(Ok(usual), fraction) {
            Ok(share) if share > 0.0 => Ok(share),
            Ok(_) => Err(format!("{text}: the share must not be zero")),
            Err(error) => Err(error),
        };
        match (name, argument) {
            ("normal", None) => Ok(Self::Normal),
            ("spoofed", None) => Ok(Self::Spoofed),
            ("hot-source", _) => share(0.5).map(Self::HotSource),
            ("malformed", _) => share(0.1).map(Self::Malformed),
            ("long", _) => {
                let words = argument.map_or(Some(WORDS), |words| words.parse().ok());
                let fits = words.filter(|words| (FEWEST_WORDS..=MAX_EXTENSION / 4).contains(words));
                let most = MAX_EXTENSION / 4;
                fits.map(|words| Self::Long(4 * words)).ok_or_else(|| {
                    format!("{text}: an extension field has {FEWEST_WORDS} to {most} words of four bytes")
                })
            }
            ("top-of-hour", _) => {
                let factor = argument.map_or(Some(FACTOR), |factor| factor.parse().ok());
                let fits = factor.filter(|factor| (1.1..=1000.0).contains(factor));
                fits.map(Self::TopOfHour)
                    .ok_or_else(|| format!("{text}: a spike is 1.1 to 1000 times the rate"))
            }
            ("normal" | "spoofed", Some(_)) => Err(format!("{name} takes no value after a colon")),
            _ => Err(format!(
                "{text} is none of normal, hot-source[:SHARE], spoofed, malformed[:SHARE], long[:WORDS] and \
                 top-of-hour[:FACTOR]"
            )),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => formatter.write_str("normal"),
            Self::HotSource(share) => write!(formatter, "hot-source:{}%", share * 100.0),
            Self::Spoofed => formatter.write_str("spoofed"),
            Self::Malformed(share) => write!(formatter, "malformed:{}%", share * 100.0),
            Self::Long(bytes) => write!(formatter, "long:{}", bytes / 4),
            Self::TopOfHour(factor) => write!(formatter, "top-of-hour:{factor}"),
        }
    }
}

impl Profile {
    /// Returns the number of requests per 65,536 that come from one source.
    pub(super) fn hot(self) -> u64 {
        if let Self::HotSource(share) = self { of_65536(share) } else { 0 }
    }

    /// Returns the number of requests per 65,536 that must not be answered.
    pub(super) fn malformed(self) -> u64 {
        if let Self::Malformed(share) = self { of_65536(share) } else { 0 }
    }

    /// Returns what requests have behind the message: an extension field of an experimental type (RFC 9748),
    /// which servers must ignore.
    pub(super) fn extension(self) -> Vec<u8> {
        let Self::Long(bytes) = self else { return Vec::new() };
        let mut field = vec![0; bytes.into()];
        field[..2].copy_from_slice(&[0xf0, 0x00]);
        field[2..4].copy_from_slice(&bytes.to_be_bytes());
        field
    }

    /// Returns when the rate is above the base rate in a step of this duration.
    pub(super) fn spike(self, duration: Duration) -> Spike {
        let Self::TopOfHour(factor) = self else { return Spike::default() };
        let at = |part: f64| nanos(duration.mul_f64(part));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.1 to 1000")]
        let extra = ((factor - 1.0) * 256.0) as u64;
        Spike { start_ns: at(BEFORE), end_ns: at(BEFORE + HIGH), gone_ns: at(BEFORE + HIGH + FALLING), extra }
    }

    /// Returns the highest rate as a multiple of the base rate.
    pub(super) fn peak(self) -> f64 {
        if let Self::TopOfHour(factor) = self { factor } else { 1.0 }
    }

    /// Returns the mean rate as a multiple of the base rate.
    pub(super) fn mean(self) -> f64 {
        1.0 + (self.peak() - 1.0) * (HIGH + FALLING / 2.0)
    }

    /// Whether the load is one that a server's limits are to refuse in part.
    pub(super) const fn provokes_limits(self) -> bool {
        matches!(self, Self::HotSource(_) | Self::Spoofed)
    }

    /// Returns why a search for the highest rate makes no sense with this profile, if it makes none.
    pub(super) fn unsearchable(self) -> Option<&'static str> {
        matches!(self, Self::TopOfHour(_))
            .then_some("find-max searches for a steady rate, and top-of-hour has none: use load")
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 65,536")]
fn of_65536(share: f64) -> u64 {
    (share * 65_536.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_written_as_they_are_read() {
        for text in ["normal", "hot-source:25%", "spoofed", "malformed:5%", "long:4", "top-of-hour:20"] {
            assert_eq!(text.parse::<Profile>().unwrap().to_string(), text);
        }
        assert_eq!("long".parse(), Ok(Profile::Long(28)));
    }

    #[test]
    fn what_is_no_profile_is_named_with_those_there_are() {
        for wrong in
            ["", "odd", "normal:1", "malformed:0", "malformed:200%", "long:3", "long:99", "top-of-hour:1"]
        {
            assert!(wrong.parse::<Profile>().is_err(), "{wrong}");
        }
        assert!("odd".parse::<Profile>().unwrap_err().contains("top-of-hour"));
    }

    #[test]
    fn an_extension_field_says_how_long_it_is() {
        let field = Profile::Long(28).extension();
        assert_eq!((field.len(), &field[..4]), (28, &[0xf0, 0, 0, 28][..]));
        assert!(Profile::Spoofed.extension().is_empty());
    }

    #[test]
    fn the_mean_is_that_of_the_spike() {
        let (profile, duration) = (Profile::TopOfHour(9.0), Duration::from_secs(1));
        let spike = profile.spike(duration);
        let sum: u64 = (0..1000).map(|ms| spike.factor(ms * 1_000_000)).sum();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let mean = sum as f64 / 256_000.0;
        assert!((mean - profile.mean()).abs() < 0.02, "{mean} {}", profile.mean());
    }
}
