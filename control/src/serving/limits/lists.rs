//! The access lists: entries of the configuration and its files, and the operator's over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use responder::Access;
use responder::layout::LIST_ENTRIES;
use serde::{Deserialize, Serialize};

use crate::config::{AccessConfig, ConfigError};
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

/// The entries of a configuration and of the files it names.
///
/// # Errors
///
/// A file that cannot be read, a line that is no entry, two entries for the same prefix, or too many.
pub fn configured(config: &AccessConfig) -> Result<BTreeMap<Prefix, Access>, ConfigError> {
    let mut entries = BTreeMap::new();
    for (prefixes, access) in [
        (&config.deny, Access::Denied),
        (&config.allow, Access::Ordinary),
        (&config.unlimited, Access::Unlimited),
        (&config.limit, Access::Strict),
    ] {
        for prefix in prefixes {
            add(&mut entries, *prefix, access, &|| format!("access.{}", access.label()))?;
        }
    }
    for path in &config.files {
        read(path, &mut entries)?;
    }
    let ipv4 = entries.keys().filter(|prefix| prefix.address().is_ipv4()).count();
    if ipv4.max(entries.len() - ipv4) > LIST_ENTRIES {
        let what = format!("access: more than {LIST_ENTRIES} entries of a family");
        return Err(Error::new(Code::Config, what).into());
    }
    Ok(entries)
}

fn add(
    entries: &mut BTreeMap<Prefix, Access>,
    prefix: Prefix,
    access: Access,
    place: &dyn Fn() -> String,
) -> Result<()> {
    match entries.insert(prefix, access) {
        Some(other) if other != access => Err(Error::new(
            Code::Config,
            format_args!("{}: {prefix} is `{}` and `{}`", place(), other.label(), access.label()),
        )
        .remedy("keep one of them; prefixes of other lengths may overlap: the longest wins")),
        _ => Ok(()),
    }
}

/// One entry a line, `deny`, `allow`, `unlimited` or `limit` before the prefix; without a word, `deny`. What
/// follows a `#` is a comment.
fn read(path: &Path, entries: &mut BTreeMap<Prefix, Access>) -> Result<(), ConfigError> {
    let named = || format!("access.files: {}", path.display());
    let text = std::fs::read_to_string(path).map_err(ConfigError::unreadable(named()))?;
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        let (access, prefix) = match words[..] {
            [] => continue,
            [prefix] => (Access::Denied, prefix),
            [word, prefix] => {
                let known = [Access::Denied, Access::Ordinary, Access::Unlimited, Access::Strict];
                let access = known.into_iter().find(|access| access.label() == word).ok_or_else(|| {
                    Error::new(Code::Config, format_args!("{}: `{word}` is not an access", place()))
                        .remedy("it is deny, allow, unlimited or limit")
                })?;
                (access, prefix)
            }
            _ => {
                return Err(Error::new(Code::Config, format_args!("{}: more than a prefix", place()))
                    .remedy("comments begin with #")
                    .into());
            }
        };
        let prefix = prefix.parse().map_err(|error: Error| Error {
            code: Code::Config,
            what: format!("{}: {}", place(), error.what),
            ..error
        })?;
        add(entries, prefix, access, &place)?;
    }
    Ok(())
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
    fn the_same_prefix_cannot_be_two_things() {
        let both = AccessConfig {
            deny: vec![prefix("192.0.2.0/24")],
            unlimited: vec![prefix("192.0.2.0/24")],
            ..AccessConfig::default()
        };
        let error = configured(&both).unwrap_err().error;
        assert!(error.what.contains("192.0.2.0/24 is `deny` and `unlimited`"), "{error}");
    }

    #[test]
    fn files_are_read_line_by_line_and_errors_name_the_line() {
        let path = std::env::temp_dir().join(format!("pooltime-lists-{}", std::process::id()));
        let config = AccessConfig { files: vec![path.clone()], ..AccessConfig::default() };
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            configured(&config)
        };
        let entries =
            read("# all of these\n192.0.2.0/24 # one\n\n  unlimited 2001:db8::/32\nlimit 10.0.0.1\n")
                .unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[&prefix("10.0.0.1/32")], Access::Strict);
        for (text, part) in [
            ("\n192.0.2.0/33\n", "line 2"),
            ("permit 192.0.2.0/24\n", "`permit`"),
            ("deny 192.0.2.0/24 because\n", "line 1"),
            ("192.0.2.1/24", "192.0.2.0/24"),
        ] {
            let error = read(text).unwrap_err().error;
            assert!(error.what.contains(part) && error.what.contains("pooltime-lists"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = configured(&config).unwrap_err().error;
        assert!(error.what.contains("access.files") && error.what.contains("pooltime-lists"), "{error}");
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
