//! Where a key is in the text of a configuration, and which key is at a place.
//!
//! A key is written as a path: `clock.horizon_ms`, `upstream[2].address`.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Returns the line of a key, counted from 1. For a key that is not in the text, it is the line of what the key would
/// be in, and `None` if that is the whole file.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut found = None;
    walk(text, &mut |path, span| {
        let rest = key.strip_prefix(path)?;
        let is_around = rest.is_empty() || rest.starts_with(['.', '[']);
        let is_closer = found.as_ref().is_none_or(|(length, _)| *length < path.len());
        (is_around && is_closer).then(|| found = Some((path.len(), span.start)))
    });
    found.map(|(_, offset)| line_at(text, offset))
}

/// Returns the key that an offset belongs to.
pub(super) fn key_at(text: &str, offset: usize) -> Option<String> {
    let mut found: Option<(usize, String)> = None;
    walk(text, &mut |path, span| {
        let is_closer = found.as_ref().is_none_or(|(length, _)| span.len() <= *length);
        (span.contains(&offset) && is_closer).then(|| found = Some((span.len(), path.to_owned())))
    });
    found.map(|(_, path)| path)
}

/// Returns the line of an offset, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Shows all keys and values with their places. Each key comes before its value.
fn walk(text: &str, see: &mut impl FnMut(&str, Range<usize>) -> Option<()>) {
    if let Ok(table) = DeTable::parse(text) {
        walk_table(table.get_ref(), "", see);
    }
}

fn walk_table(table: &DeTable<'_>, within: &str, see: &mut impl FnMut(&str, Range<usize>) -> Option<()>) {
    for (key, value) in table {
        let dot = if within.is_empty() { "" } else { "." };
        let path = format!("{within}{dot}{}", key.get_ref());
        see(&path, key.span());
        walk_value(value, &path, see);
    }
}

fn walk_value(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    see: &mut impl FnMut(&str, Range<usize>) -> Option<()>,
) {
    see(path, value.span());
    match value.get_ref() {
        DeValue::Table(table) => walk_table(table, path, see),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                walk_value(value, &format!("{path}[{index}]"), see);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "serve = [\n  \"192.0.2.1\",\n  \"192.0.2.2\"]\n[clock]\nmakestep = { updates = 3 }\n\n\
                        [[upstream]]\naddress = \"a\"\n\n[[upstream]]\nport = 5\naddress = \"b\"\n";

    #[test]
    fn keys_have_their_lines_and_missing_ones_the_line_of_what_they_would_be_in() {
        for (key, line) in [
            ("serve", Some(1)),
            ("serve[1]", Some(3)),
            ("clock", Some(4)),
            ("clock.horizon_ms", Some(4)),
            ("clock.makestep.updates", Some(5)),
            ("upstream[0].address", Some(8)),
            ("upstream[1].address", Some(12)),
            ("upstream[1].minpoll", Some(10)),
            ("interfaces", None),
            ("serv", None),
        ] {
            assert_eq!(line_of(TEXT, key), line, "{key}");
        }
        assert_eq!(line_of("not = = toml", "not"), None);
    }

    #[test]
    fn places_have_their_keys() {
        for (part, key) in [
            ("\"192.0.2.2\"", "serve[1]"),
            ("3 }", "clock.makestep.updates"),
            ("5\n", "upstream[1].port"),
            ("\"b\"", "upstream[1].address"),
            ("serve", "serve"),
        ] {
            assert_eq!(key_at(TEXT, TEXT.find(part).unwrap()).as_deref(), Some(key), "{part}");
        }
    }
}
