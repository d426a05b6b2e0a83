//! The entries of the access lists: those of the configuration and those of the files that it names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use responder::layout::LIST_ENTRIES;
use responder::{Access, Family};

use super::text::read_text;
use super::{AccessConfig, ConfigError};
use crate::error::{Code, Error, Result};
use crate::net::prefix::Prefix;

/// Largest size of a file: more than two million entries with comments have.
const MOST_BYTES: u64 = 1 << 28;

/// Returns the entries of a configuration and of the files that it names.
///
/// # Errors
///
/// A file that cannot be read, a line that is no entry, two entries for the same prefix, or too many.
pub(super) fn entries(config: &AccessConfig) -> Result<BTreeMap<Prefix, Access>, ConfigError> {
    let mut entries = listed(config)?;
    for (index, path) in config.files.iter().enumerate() {
        read(path, &mut entries).map_err(|error| error.about(format!("access.files[{index}]")))?;
    }
    let ipv4 = entries.keys().filter(|prefix| prefix.address().is_ipv4()).count();
    if ipv4.max(entries.len() - ipv4) > LIST_ENTRIES {
        return Err(ConfigError::of("access", format_args!("more than {LIST_ENTRIES} entries of a family")));
    }
    Ok(entries)
}

/// Returns the entries of the configuration itself.
///
/// # Errors
///
/// Two different entries for the same prefix.
pub(super) fn listed(config: &AccessConfig) -> Result<BTreeMap<Prefix, Access>, ConfigError> {
    let mut entries = BTreeMap::new();
    for (prefixes, access) in lists(config) {
        let key = format!("access.{}", access.label());
        for (index, prefix) in prefixes.iter().enumerate() {
            add(&mut entries, *prefix, access, &|| key.clone()).map_err(|error| {
                let error = ConfigError::from(error).about(format!("{key}[{index}]"));
                match first_place(config, *prefix) {
                    Some(other) => error.against(other),
                    None => error,
                }
            })?;
        }
    }
    Ok(entries)
}

fn lists(config: &AccessConfig) -> [(&[Prefix], Access); 4] {
    [
        (&config.deny, Access::Denied),
        (&config.allow, Access::Ordinary),
        (&config.unlimited, Access::Unlimited),
        (&config.limit, Access::Strict),
    ]
}

/// Returns the first place at which a prefix is listed.
fn first_place(config: &AccessConfig, prefix: Prefix) -> Option<String> {
    lists(config).into_iter().find_map(|(prefixes, access)| {
        let index = prefixes.iter().position(|listed| *listed == prefix)?;
        Some(format!("access.{}[{index}]", access.label()))
    })
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

/// Returns the entries of a list as it stands in a file of its own.
///
/// # Errors
///
/// A line that is no entry, or two entries for the same prefix.
pub fn parse_list(text: &str) -> Result<BTreeMap<Prefix, Access>, ConfigError> {
    let mut entries = BTreeMap::new();
    read_lines(text, Path::new("the list"), &mut entries)?;
    Ok(entries)
}

/// One entry a line, `deny`, `allow`, `unlimited` or `limit` before the prefix; without a word, `deny`. What
/// follows a `#` is a comment.
fn read(path: &Path, entries: &mut BTreeMap<Prefix, Access>) -> Result<(), ConfigError> {
    let text = read_text(path, format_args!("access.files: {}", path.display()), MOST_BYTES)?;
    read_lines(&text, path, entries)
}

/// Reads a list from its text. `path` is for messages.
fn read_lines(text: &str, path: &Path, entries: &mut BTreeMap<Prefix, Access>) -> Result<(), ConfigError> {
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

/// Whether these entries leave nobody of a family to answer. The longest prefix that contains a client decides.
///
/// It goes once through the entries, which are in the order of their first addresses, the shorter ones first. So those
/// around an address are on a stack, and what is between two entries is decided by the top of it.
#[must_use]
pub fn answers_nobody(entries: &BTreeMap<Prefix, Access>, family: Family) -> bool {
    let most = match family {
        Family::Ipv4 => u128::from(u32::MAX),
        Family::Ipv6 => u128::MAX,
    };
    let mut around = vec![(most, Access::Ordinary)];
    // Before this address, everybody is denied.
    let mut next = 0_u128;
    // IPv4 addresses come before IPv6 addresses.
    let Ok(first_ipv6) = Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0) else { return false };
    let of_family = match family {
        Family::Ipv4 => entries.range(..first_ipv6),
        Family::Ipv6 => entries.range(first_ipv6..),
    };
    for (prefix, access) in of_family {
        let (first, last) = ends(*prefix);
        while let Some((end, access)) = around.pop_if(|(end, _)| *end < first) {
            if next <= end && access != Access::Denied {
                return false;
            }
            next = next.max(end.saturating_add(1));
        }
        if next < first && around.last().is_some_and(|(_, access)| *access != Access::Denied) {
            return false;
        }
        next = first;
        around.push((last, *access));
    }
    while let Some((end, access)) = around.pop() {
        if next <= end && access != Access::Denied {
            return false;
        }
        match end.checked_add(1) {
            Some(after) => next = next.max(after),
            None => return true,
        }
    }
    true
}

/// Returns the first and the last address as numbers.
fn ends(prefix: Prefix) -> (u128, u128) {
    let length = u32::from(prefix.length());
    match prefix.address() {
        IpAddr::V4(address) => {
            let first = u128::from(address.to_bits());
            (first, first | u128::from(u32::MAX.checked_shr(length).unwrap_or(0)))
        }
        IpAddr::V6(address) => {
            let first = address.to_bits();
            (first, first | u128::MAX.checked_shr(length).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_prefix_cannot_be_two_things() {
        let both = AccessConfig {
            deny: vec![prefix("192.0.2.0/24")],
            unlimited: vec![prefix("192.0.2.0/24")],
            ..AccessConfig::default()
        };
        let error = entries(&both).unwrap_err().error;
        assert!(error.what.contains("192.0.2.0/24 is `deny` and `unlimited`"), "{error}");
    }

    #[test]
    fn files_are_read_line_by_line_and_errors_name_the_line() {
        let path = std::env::temp_dir().join(format!("pooltime-lists-{}", std::process::id()));
        let config = AccessConfig { files: vec![path.clone()], ..AccessConfig::default() };
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            entries(&config)
        };
        let read_entries =
            read("# all of these\n192.0.2.0/24 # one\n\n  unlimited 2001:db8::/32\nlimit 10.0.0.1\n")
                .unwrap();
        assert_eq!(read_entries.len(), 3);
        assert_eq!(read_entries[&prefix("10.0.0.1/32")], Access::Strict);
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
        let error = entries(&config).unwrap_err().error;
        assert!(error.what.contains("access.files") && error.what.contains("pooltime-lists"), "{error}");
    }

    #[test]
    fn whether_anybody_is_answered_is_what_each_address_says() {
        let listed = |texts: &[&str]| -> BTreeMap<Prefix, Access> {
            let entry = |text: &&str| match text.strip_prefix('+') {
                Some(allowed) => (prefix(allowed), Access::Strict),
                None => (prefix(text), Access::Denied),
            };
            texts.iter().map(entry).collect()
        };
        for (texts, nobody) in [
            (&[][..], [false, false]),
            (&["0.0.0.0/0"], [true, false]),
            (&["0.0.0.0/0", "::/0"], [true, true]),
            (&["0.0.0.0/1", "128.0.0.0/1"], [true, false]),
            (&["0.0.0.0/1", "128.0.0.0/2"], [false, false]),
            (&["0.0.0.0/0", "+192.0.2.1"], [false, false]),
            (&["0.0.0.0/0", "+192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25"], [true, false]),
            (&["0.0.0.0/0", "+255.255.255.255/32", "::/0", "+ffff::/16"], [false, false]),
            (&["+0.0.0.0/0", "10.0.0.0/8"], [false, false]),
        ] {
            let entries = listed(texts);
            let found = [Family::Ipv4, Family::Ipv6].map(|family| answers_nobody(&entries, family));
            assert_eq!(found, nobody, "{texts:?}");
        }
    }

    /// The oracle looks at addresses of a space that is small enough to look at all of them: the /8s.
    #[test]
    fn whether_anybody_is_answered_agrees_with_a_look_at_every_address() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (mut nobody, mut somebody) = (0, 0);
        for _ in 0..2_000 {
            let mut entries = BTreeMap::new();
            for _ in 0..random(12) {
                let length = u8::try_from(random(5)).unwrap();
                let octet = u8::try_from(random(16)).unwrap() << 4;
                let address = crate::net::prefix::truncated([octet, 0, 0, 0].into(), length);
                let access = if random(4) == 0 { Access::Strict } else { Access::Denied };
                entries.insert(Prefix::new(address, length).unwrap(), access);
            }
            let of = |address: IpAddr| {
                (0..=32).rev().find_map(|length| {
                    let prefix = Prefix::new(crate::net::prefix::truncated(address, length), length).unwrap();
                    entries.get(&prefix).copied()
                })
            };
            let all_denied = (0..=255_u8).all(|octet| of([octet, 0, 0, 0].into()) == Some(Access::Denied));
            assert_eq!(answers_nobody(&entries, Family::Ipv4), all_denied, "{entries:?}");
            if all_denied { nobody += 1 } else { somebody += 1 }
        }
        assert!(nobody > 100 && somebody > 100, "{nobody} {somebody}");
    }
}
