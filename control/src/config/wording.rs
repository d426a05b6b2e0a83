//! What is wrong with a file's syntax or with the type of a value, in the words of the person who wrote the file.
//!
//! The parser's messages name types of the programming language: "invalid type: string "x", expected u32". Their
//! forms are those of serde ([`serde::de::Error`], [`serde::de::Unexpected`]), and a test sees to it that all that can
//! occur in a configuration is known here.

use super::place::{key_at, line_at};
use crate::error::{Code, Error};

/// Explains why a text is no configuration, with line and key.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> Error {
    let message = error.message().lines().next().unwrap_or_default().trim();
    let offset = error.span().map(|span| span.start);
    let line = offset.map_or_else(String::new, |offset| format!("line {}: ", line_at(text, offset)));
    let key = offset.and_then(|offset| key_at(text, offset));
    let Explained { what, names_key, remedy } = explained(message, key.as_deref());
    let place = match key {
        Some(key) if !names_key => format!("{line}{}: ", as_said(&key)),
        _ => line,
    };
    let error = Error::new(Code::Config, format_args!("{place}{what}"));
    match remedy {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

struct Explained {
    what: String,
    /// Whether the key is part of it.
    names_key: bool,
    remedy: Option<String>,
}

fn explained(message: &str, key: Option<&str>) -> Explained {
    let plain = |what: String| Explained { what, names_key: false, remedy: None };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let unknown = rest.split('`').nth(1).unwrap_or_default();
        let section = key.and_then(|key| key.strip_suffix(unknown)?.strip_suffix('.'));
        let section = section.map_or_else(String::new, |section| format!(" in {}", as_header(section)));
        let remedy = nearest_key(rest).map(|key| format!("did you mean `{key}`?"));
        return Explained { what: format!("unknown key `{unknown}`{section}"), names_key: true, remedy };
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return plain(format!("the key {name} is missing"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ")
        && let Some((found, known)) = rest.split_once(", expected ")
    {
        return plain(format!("must be {known}, not {found}"));
    }
    if let Some(rest) =
        message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        let remedy = (key == Some("upstream")).then(|| {
            "each upstream is a section of its own, with two brackets on each side: `[[upstream]]`".to_owned()
        });
        let what = format!("must be {}, not {}", of_type(expected), as_written(found));
        return Explained { what, names_key: false, remedy };
    }
    if message == "invalid IPv4 address syntax" {
        return plain("must be an IPv4 address, such as 192.0.2.1".to_owned());
    }
    if message.ends_with("value was too large") {
        return plain(format!("is above {}, the largest number of a configuration", i64::MAX));
    }
    // The parser says this of everything that is not a value of another kind, and of nothing at all.
    if message.starts_with("string values must be quoted") {
        let remedy = Some("text is written in quotes: `source = \"system\"`".to_owned());
        return Explained { remedy, ..plain("here is no value, or text without quotes".to_owned()) };
    }
    plain(message.trim_end_matches(", expected nothing").to_owned())
}

/// Returns what a value must be, from what serde says was expected.
fn of_type(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a string" | "path string" | "string or table" => "text in quotes",
        "a sequence" => "a list in square brackets",
        other if other.starts_with("struct ") => "a section of keys",
        other => other,
    }
}

/// Returns a value as it was written, from what serde says was found.
fn as_written(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match (kind, found) {
        (_, "map") => "a section of keys".into(),
        (_, "sequence") => "a list".into(),
        // A number that fits no type has the name of the largest behind it.
        ("boolean" | "integer", _) => value.split('`').nth(1).unwrap_or(value).into(),
        (_, found) if found.starts_with("floating point") => {
            found.trim_start_matches("floating point").trim().trim_matches('`').into()
        }
        ("string", _) => format!("the text {value}"),
        (_, found) => found.into(),
    }
}

/// Returns a path as people say it: sections of a list are counted from 1, and values of a list are not counted.
fn as_said(key: &str) -> String {
    match key.split_once('[') {
        Some((list @ "upstream", rest)) => {
            let (index, rest) = rest.split_once(']').unwrap_or((rest, ""));
            let number = index.parse::<usize>().map_or(0, |index| index.saturating_add(1));
            format!("{list} {number}{rest}")
        }
        Some((list, _)) => list.to_owned(),
        None => key.to_owned(),
    }
}

/// Returns a path as the header of a section: `[clock]`, `[[upstream]]`.
fn as_header(section: &str) -> String {
    match section.split_once('[') {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{section}]"),
    }
}

/// Takes "`x`, expected one of `a`, `b`" and returns the expected key that is most similar.
fn nearest_key(rest: &str) -> Option<String> {
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned())
}
