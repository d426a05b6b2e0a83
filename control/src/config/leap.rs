//! The list of leap seconds that the configuration names, or that the system ships.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::text::read_text;
use super::{ClockConfig, ConfigError, Warning};
use crate::discipline::LeapList;

/// Where Debian's tzdata has the list of leap seconds.
pub(super) const SHIPPED: &str = "/usr/share/zoneinfo/leap-seconds.list";
/// The value of `clock.leap_seconds_list` for no list at all.
const NONE: &str = "none";
/// Largest size of a list; those of the IERS have a few KiB.
const MOST_BYTES: u64 = 1 << 20;

/// A list of leap seconds, or why the file is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeapFile {
    path: PathBuf,
    list: Result<LeapList, String>,
}

impl LeapFile {
    /// Reads the configured list, or else the one that the system ships. There may be none.
    ///
    /// # Errors
    ///
    /// The configured list cannot be read. One that is damaged is no error, because leap seconds are safe without it:
    /// [`LeapFile::warning`] tells of it.
    pub fn read(clock: &ClockConfig) -> Result<Option<Self>, ConfigError> {
        let path = match &clock.leap_seconds_list {
            None if !Path::new(SHIPPED).exists() => return Ok(None),
            None => Path::new(SHIPPED),
            Some(none) if none.as_os_str() == NONE => return Ok(None),
            Some(path) => path,
        };
        let key = "clock.leap_seconds_list";
        let text = match read_text(path, format_args!("{key}: {}", path.display()), MOST_BYTES) {
            Ok(text) => Ok(text),
            Err(error) if clock.leap_seconds_list.is_none() || error.is_of_content() => {
                Err(error.error.what.replacen(&format!("{key}: {} ", path.display()), "it ", 1))
            }
            Err(error) => {
                return Err(error.about(key).remedy(
                    "name a list that is there, take the key out to use the system's, or set it to \"none\"",
                ));
            }
        };
        let list = text.and_then(|text| LeapList::parse(&text).map_err(|error| error.to_string()));
        Ok(Some(Self { path: path.into(), list }))
    }

    /// Returns the list, if it could be understood. It may have expired.
    #[must_use]
    pub fn list(&self) -> Option<&LeapList> {
        self.list.as_ref().ok()
    }

    /// Returns what an operator has to know about the list now.
    #[must_use]
    pub fn warning_now(&self) -> Option<Warning> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.warning(i64::try_from(now_s).unwrap_or(i64::MAX))
    }

    /// Returns what an operator has to know about the list at a time in s since 1970.
    fn warning(&self, now_unix_s: i64) -> Option<Warning> {
        let path = self.path.clone();
        match &self.list {
            Err(why) => Some(Warning::LeapListDamaged { path, why: why.clone() }),
            Ok(list) if list.expires_unix_s() <= now_unix_s => {
                Some(Warning::LeapListExpired { path, days: (now_unix_s - list.expires_unix_s()) / 86_400 })
            }
            Ok(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fault;

    /// An entry of 2017, and an expiry at the end of June 2024.
    const LIST: &str = "#$ 3676924800\n#@ 3928521600\n3644697600 36\n3692217600 37\n";
    /// The expiry in s since 1970.
    const EXPIRY: i64 = 3_928_521_600 - 2_208_988_800;

    fn read(name: &str, content: &[u8]) -> LeapFile {
        let path = std::env::temp_dir().join(format!("pooltime-leap-{name}-{}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let clock = ClockConfig { leap_seconds_list: Some(path.clone()), ..ClockConfig::default() };
        let file = LeapFile::read(&clock).unwrap().unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn a_list_is_warned_of_from_its_expiry_on() {
        let file = read("expiry", LIST.as_bytes());
        assert_eq!(file.warning(EXPIRY - 1), None);
        let warning = file.warning(EXPIRY + 3 * 86_400).unwrap().to_string();
        assert!(
            warning.contains("expired 3 days ago") && warning.contains("pooltime-leap-expiry"),
            "{warning}"
        );
    }

    #[test]
    fn a_damaged_list_is_not_used_and_warned_of_and_one_that_is_not_there_is_refused() {
        let half = &LIST.as_bytes()[..20];
        let halved = LIST.replace(" 37\n", "");
        for (name, content) in [
            ("half", half),
            ("halved", halved.as_bytes()),
            ("page", b"<html>"),
            ("empty", b""),
            ("bytes", b"\0"),
        ] {
            let file = read(name, content);
            assert_eq!(file.list(), None);
            let warning = file.warning(0).unwrap().to_string();
            assert!(warning.contains("damaged") && warning.contains(name), "{warning}");
        }
        let clock = ClockConfig { leap_seconds_list: Some("/nowhere/leap".into()), ..ClockConfig::default() };
        let error = LeapFile::read(&clock).unwrap_err();
        assert!(matches!(error.fault, Fault::Unreadable(_)), "{error}");
        assert!(error.error.what.contains("clock.leap_seconds_list: /nowhere/leap: "), "{error}");
        let clock = ClockConfig { leap_seconds_list: Some(NONE.into()), ..ClockConfig::default() };
        assert_eq!(LeapFile::read(&clock), Ok(None));
    }
}
