//! Where a key is in the text of a configuration, and which key is at a place.
//!
//! A key is written as a path: `clock.horizon_ms`, `upstream[2].address`.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Returns the key that an offset belongs to.
pub(super) fn key_at(text: &str, offset: usize) -> Option<String> {
    let mut found: Option<(usize, String)> = None;
    walk(text, &mut |path, span| {
        let is_closer = found.as_ref().is_none_or(|(length, _)| span.len() <= *length);
        if span.contains(&offset) && is_closer {
            found = Some((span.len(), path.to_owned()));
        }
    });
    found.map(|(_, path)| path)
}

/// The beginnings of the lines of a text.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect())
    }

    /// Returns the line of an offset, counted from 1.
    pub(super) fn at(&self, offset: usize) -> usize {
        1 + self.0.partition_point(|end| *end < offset)
    }
}

/// Returns the line of an offset, counted from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    Lines::of(text).at(offset)
}

/// Shows all keys and values with their places. Each key comes before its value.
pub(super) fn walk(text: &str, see: &mut impl FnMut(&str, Range<usize>)) {
    if let Ok(table) = DeTable::parse(text) {
        walk_table(table.get_ref(), "", see);
    }
}

fn walk_table(table: &DeTable<'_>, within: &str, see: &mut impl FnMut(&str, Range<usize>)) {
    for (key, value) in table {
        let dot = if within.is_empty() { "" } else { "." };
        let path = format!("{within}{dot}{}", key.get_ref());
        see(&path, key.span());
        walk_value(value, &path, see);
    }
}

fn walk_value(value: &Spanned<DeValue<'_>>, path: &str, see: &mut impl FnMut(&str, Range<usize>)) {
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
