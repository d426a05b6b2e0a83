//! The monthly traffic quota in `[limits]`: amounts of data, what is counted, and from which day of the month on.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ConfigError, LimitsConfig};

/// Units of amounts of data, with their bytes.
const DATA_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
/// Units of speeds, with their bits per second.
const SPEED_UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
/// The smallest quota in bytes: an answer every four minutes.
const LEAST_QUOTA: u64 = 1_000_000;
/// The largest quota in bytes, a million TB.
const MOST_QUOTA: u64 = 1_000_000_000_000_000_000;
/// Both in words.
pub(super) const QUOTAS: &str = "1 MB to 1000000 TB";
/// The largest speed in bits per second.
const MOST_SPEED: u64 = 1_000_000_000_000;
/// From the smallest one, 1000 bits per second, to it.
pub(super) const SPEEDS: &str = "1 kbit to 1000 Gbit";

/// An amount of data in bytes, written like `4 TB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSize(pub u64);

/// A speed in bits per second, written like `50 Mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed(pub u64);

/// The value of `limits.quota_counts`: which traffic uses the quota up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuotaCounts {
    /// What the server sends.
    #[default]
    Out,
    /// What it receives.
    In,
    /// The sum of both.
    Both,
}

impl QuotaCounts {
    /// Returns the value as it is written in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
            Self::Both => "both",
        }
    }
}

/// A traffic quota that begins again each month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in each period.
    pub bytes: u64,
    /// What is counted.
    pub counts: QuotaCounts,
    /// The day of the month (1 to 31) on which a period begins, at 00:00 UTC. In shorter months it is the last day.
    pub day: u8,
    /// The speed that the server has in the pool, in bits per second, if it is told.
    pub netspeed: Option<u64>,
}

impl LimitsConfig {
    /// Returns the traffic quota, if there is one.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        let DataSize(bytes) = self.quota?;
        let netspeed = self.pool_netspeed.map(|Speed(bits)| bits);
        Some(Quota { bytes, counts: self.quota_counts, day: self.quota_day, netspeed })
    }

    /// Checks the amount and the speed, whose ranges no schema can tell.
    pub(super) fn check_quota(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, why: String| Err(ConfigError::of(&format!("limits.{key}"), why));
        if self.quota.is_some_and(|DataSize(bytes)| !(LEAST_QUOTA..=MOST_QUOTA).contains(&bytes)) {
            return wrong("quota", format!("must be {QUOTAS} a month"));
        }
        if self.pool_netspeed.is_some_and(|Speed(bits)| !(1_000..=MOST_SPEED).contains(&bits)) {
            return wrong("pool_netspeed", format!("must be {SPEEDS}"));
        }
        Ok(())
    }
}

impl FromStr for DataSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &DATA_UNITS).map(Self).ok_or_else(|| {
            format!("`{}` is not an amount of data, like 4 TB: {}", shown(text), wanted(&DATA_UNITS))
        })
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, &SPEED_UNITS).map(Self).ok_or_else(|| {
            format!("`{}` is not a speed, like 50 Mbit: {}", shown(text), wanted(&SPEED_UNITS))
        })
    }
}

impl<'de> Deserialize<'de> for DataSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for DataSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(self.0, &DATA_UNITS))
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&written(self.0, &SPEED_UNITS))
    }
}

impl JsonSchema for DataSize {
    fn schema_name() -> Cow<'static, str> {
        "DataSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        amount(&DATA_UNITS)
    }
}

impl JsonSchema for Speed {
    fn schema_name() -> Cow<'static, str> {
        "Speed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        amount(&SPEED_UNITS)
    }
}

/// Describes the texts that [`parse`] takes.
fn amount(units: &[(&str, u64)]) -> Schema {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    json_schema!({
        "type": "string",
        "pattern": format!(r"^\s*[0-9]{{1,20}}(\.[0-9]{{1,15}})?\s*({})\s*$", names.join("|")),
        "x-type": format!("text, a number and {}", listed(&names, "or")),
    })
}

/// Writes a number in the largest unit in which it is a whole number, or else with as many decimals as it needs.
fn written(number: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().filter(|(_, size)| number.is_multiple_of(*size)).max_by_key(|(_, size)| *size);
    match (whole, units.first()) {
        (Some((name, size)), _) => format!("{} {name}", number / size),
        // Decimals of the smallest unit of a speed, 1000 bits per second.
        (None, Some((name, size))) => format!("{}.{:03} {name}", number / size, number % size),
        (None, None) => number.to_string(),
    }
}

/// Parses a number and its unit. A fraction is rounded down.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Longer numbers fit nothing, and a fraction is not told more exactly.
    if whole.len() > 20 || fraction.len() > 15 || fraction.is_empty() {
        return None;
    }
    let (whole, size): (u128, u128) = (whole.parse().ok()?, (*size).into());
    let part = fraction.parse::<u128>().ok()? * size / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(whole * size + part).ok()
}

fn wanted(units: &[(&str, u64)]) -> String {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    format!("write a number and one of {}", listed(&names, "and"))
}

fn listed(names: &[&str], joint: &str) -> String {
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("{} {joint} {last}", others.join(", "))
}

/// What was written, and not more of it than fits on a line.
fn shown(text: &str) -> String {
    const MOST: usize = 40;
    let shown: String = text.chars().take(MOST).collect();
    let more = if text.chars().count() > MOST { "..." } else { "" };
    format!("{}{more}", shown.escape_debug())
}

impl fmt::Display for QuotaCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use testinput::random::Random;

    use super::*;
    use crate::config::Config;

    #[test]
    fn amounts_have_decimal_and_binary_units_and_fractions() {
        for (text, bytes) in [
            ("4 TB", 4_000_000_000_000),
            ("4TB", 4_000_000_000_000),
            (" 1.5 TiB ", 1_649_267_441_664),
            ("0.25 GB", 250_000_000),
            ("500 MB", 500_000_000),
            ("1000 kB", 1_000_000),
            ("1 KiB", 1024),
            ("3 MiB", 3_145_728),
            ("2 GiB", 2_147_483_648),
            ("5000000 B", 5_000_000),
            ("1.9 B", 1),
            ("18446744073709551615 B", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(DataSize(bytes)), "{text}");
        }
        assert_eq!("512 kbit".parse(), Ok(Speed(512_000)));
        assert_eq!("1.5 Mbit".parse(), Ok(Speed(1_500_000)));
        assert_eq!("3Gbit".parse(), Ok(Speed(3_000_000_000)));
    }

    #[test]
    fn what_is_no_amount_is_named_with_what_one_looks_like() {
        for text in [
            "",
            "4",
            "TB",
            "4 T",
            "4 Tb",
            "4 tb",
            "4 PB",
            "4 TB/month",
            "-4 TB",
            "+4 TB",
            "4,5 TB",
            "4..5 TB",
            "4. TB",
            ".5 TB",
            "1e3 GB",
            "inf TB",
            "NaN B",
            "0x10 B",
            "4 TB 5 GB",
            "18446744073709551616 B",
            "99999999999999999999999999999999999999 TB",
            "4\u{a0}TB\u{0}",
            "\u{0664} TB",
        ] {
            let error = text.parse::<DataSize>().unwrap_err();
            assert!(
                error.contains("is not an amount of data, like 4 TB") && error.contains("TiB"),
                "{error}"
            );
            assert!(error.len() < 300 && !error.contains('\0'), "{error}");
            let error = text.parse::<Speed>().unwrap_err();
            assert!(error.contains("is not a speed, like 50 Mbit") && error.contains("Gbit"), "{error}");
        }
    }

    #[test]
    fn any_whole_number_of_any_unit_is_read_as_it_is_and_any_text_without_a_panic() {
        for seed in 0..2000 {
            let mut random = Random::new(seed);
            let (unit, size) = random.pick(&DATA_UNITS);
            let number = random.bits() >> random.between(24, 63);
            let space = if random.chance(50) { " " } else { "" };
            let text = format!("{number}{space}{unit}");
            assert_eq!(text.parse::<DataSize>().ok(), number.checked_mul(size).map(DataSize), "{text}");
            let length = random.between(0, 30);
            let any = String::from_utf8_lossy(&random.bytes(length)).into_owned();
            let _no_panic = any.parse::<DataSize>();
        }
    }

    #[test]
    fn a_quota_is_read_with_its_defaults_and_wrong_values_are_refused_by_their_key() {
        let limits = |text: &str| Config::parse(&format!("[limits]\n{text}")).map(|config| config.limits);
        assert_eq!(limits("").unwrap().quota(), None);
        let quota = limits("quota = \"4 TB\"").unwrap().quota().unwrap();
        let expected = Quota { bytes: 4_000_000_000_000, counts: QuotaCounts::Out, day: 1, netspeed: None };
        assert_eq!(quota, expected);
        let text = "quota = \"1 MB\"\nquota_counts = \"both\"\nquota_day = 31\npool_netspeed = \"50 Mbit\"";
        let quota = limits(text).unwrap().quota().unwrap();
        let expected =
            Quota { bytes: 1_000_000, counts: QuotaCounts::Both, day: 31, netspeed: Some(50_000_000) };
        assert_eq!(quota, expected);
        for (text, said) in [
            ("quota = \"999 kB\"", "limits.quota: must be 1 MB to 1000000 TB"),
            ("quota = \"1000001 TB\"", "limits.quota: must be 1 MB to 1000000 TB"),
            ("quota = \"4 XB\"", "limits.quota: `4 XB` is not an amount of data"),
            ("quota = 4000000", "limits.quota: must be text in quotes, not 4000000"),
            ("quota_counts = \"down\"", "limits.quota_counts: must be one of `out`, `in`, `both`"),
            ("quota_day = 0", "limits.quota_day: must be 1 to 31"),
            ("quota_day = 32", "limits.quota_day: must be 1 to 31"),
            ("pool_netspeed = \"50 MB\"", "limits.pool_netspeed: `50 MB` is not a speed"),
            ("pool_netspeed = \"0 Mbit\"", "limits.pool_netspeed: must be 1 kbit to 1000 Gbit"),
        ] {
            let error = limits(text).unwrap_err();
            assert!(error.what.starts_with("line 2: ") && error.what.contains(said), "{text}: {error}");
        }
    }
}
