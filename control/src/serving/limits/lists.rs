//! The access lists: entries of the configuration and its files, and the operator's over them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use responder::Access;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;

/// An entry that the operator made while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub access: Access,
    /// When it ends, if it does.
    pub until: Option<Instant>,
}

/// An entry as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Of these sources.
    pub prefix: Prefix,
    /// [`Access::label`].
    pub access: String,
    /// Whether a command made it, and not the configuration.
    pub live: bool,
    /// When it ends, if it does.
    pub seconds_left: Option<u64>,
}

/// All entries: the configuration's, and the operator's, which go before them.
#[derive(Debug, Default)]
pub struct Lists {
    configured: BTreeMap<Prefix, Access>,
    live: BTreeMap<Prefix, Entry>,
    /// Of the live entries that end.
    ends: BTreeSet<(Instant, Prefix)>,
}

impl Lists {
    /// Takes the configuration's entries in place of those that were, which it gives back.
    pub fn configure(&mut self, entries: BTreeMap<Prefix, Access>) -> BTreeMap<Prefix, Access> {
        std::mem::replace(&mut self.configured, entries)
    }

    /// Makes a live entry, or takes it away; gives what was there before.
    pub fn set(&mut self, prefix: Prefix, entry: Option<Entry>) -> Option<Entry> {
        let before = match entry {
            Some(entry) => self.live.insert(prefix, entry),
            None => self.live.remove(&prefix),
        };
        if let Some(until) = before.and_then(|before| before.until) {
            self.ends.remove(&(until, prefix));
        }
        if let Some(until) = entry.and_then(|entry| entry.until) {
            self.ends.insert((until, prefix));
        }
        before
    }

    /// Refuses a prefix that no command made an entry for.
    ///
    /// # Errors
    ///
    /// That; one of the configuration is told as such.
    pub fn require_live(&self, prefix: Prefix) -> Result<()> {
        if self.live.contains_key(&prefix) {
            return Ok(());
        }
        let error = Error::new(Code::NoInput, format_args!("no command made an entry for {prefix}"));
        Err(if self.configured.contains_key(&prefix) {
            error.remedy(
                "it is the configuration's: take it out there and reload, or override it by a command",
            )
        } else {
            error.remedy("`pooltime-xdp access list` shows the entries")
        })
    }

    /// The live entry that ends first.
    #[must_use]
    pub fn next_end(&self) -> Option<(Instant, Prefix)> {
        self.ends.first().copied()
    }

    /// What is wanted of a prefix.
    #[must_use]
    pub fn get(&self, prefix: &Prefix) -> Option<Access> {
        let live = self.live.get(prefix).map(|entry| entry.access);
        live.or_else(|| self.configured.get(prefix).copied())
    }

    /// All that is wanted, each prefix once.
    pub fn entries(&self) -> impl Iterator<Item = (Prefix, Access)> + '_ {
        let configured = self.configured.iter().filter(|(prefix, _)| !self.live.contains_key(prefix));
        let live = self.live.iter().map(|(prefix, entry)| (*prefix, entry.access));
        configured.map(|(prefix, access)| (*prefix, *access)).chain(live)
    }

    /// The live entries, and the first so many of the configuration's.
    #[must_use]
    pub fn show(&self, now: Instant, most: usize) -> Vec<Listed> {
        let live = self.live.iter().map(|(prefix, entry)| Listed {
            prefix: *prefix,
            access: entry.access.label().into(),
            live: true,
            seconds_left: entry.until.map(|until| until.saturating_duration_since(now).as_secs()),
        });
        let configured = self.configured.iter().map(|(prefix, access)| Listed {
            prefix: *prefix,
            access: access.label().into(),
            live: false,
            seconds_left: None,
        });
        live.chain(configured.filter(|listed| !self.live.contains_key(&listed.prefix))).take(most).collect()
    }
}

/// A time like `90s`, `10m`, `2h` or `1d`.
///
/// # Errors
///
/// It is not, or it is longer than a year.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write it like 90s, 10m, 2h or 1d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=366 * 86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is not between a second and a year"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_command_goes_before_the_configuration_until_it_ends() {
        let mut lists = Lists::default();
        let now = Instant::now();
        lists.configure([(prefix("192.0.2.0/24"), Access::Denied)].into());
        let until = Some(now + Duration::from_secs(5));
        let net = prefix("192.0.2.0/24");
        lists.set(net, Some(Entry { access: Access::Unlimited, until }));
        assert_eq!(lists.get(&net), Some(Access::Unlimited));
        assert_eq!(lists.entries().collect::<Vec<_>>(), [(net, Access::Unlimited)]);
        assert_eq!(lists.next_end(), until.map(|until| (until, net)));
        lists.require_live(net).unwrap();
        lists.set(net, Some(Entry { access: Access::Strict, until: None }));
        assert_eq!(lists.next_end(), None, "the later entry does not end");
        lists.set(net, None);
        assert_eq!(lists.get(&net), Some(Access::Denied));
        assert!(lists.require_live(net).unwrap_err().remedy.unwrap().contains("configuration"));
        assert!(lists.require_live(prefix("10.0.0.0/8")).is_err());
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        for text in ["", "m", "0s", "10x", "-1s", "99999999999999999999s", "400d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
