//! The keys as people read about them, in their order: for the manual, the documentation and the shipped file.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::show::in_toml;
use super::{range, schema};

/// What [`Key::default`] is for a key that has none, and without which its section is wrong.
pub const REQUIRED: &str = "required";

/// A section of the configuration, or its top level. Texts are Markdown without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name, which is empty for the top level.
    pub name: String,
    /// How it begins in a file: `[clock]`, `[[upstream]]`. Empty for the top level.
    pub header: String,
    /// What it is for; empty for the top level.
    pub meaning: String,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// A key of the configuration. Texts are Markdown without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name within its section, such as `makestep.updates`.
    pub name: String,
    /// What its value is, with its unit.
    pub kind: String,
    /// What holds without it.
    pub default: String,
    /// What its value may be, where the kind does not say it.
    pub range: Option<String>,
    /// What it does.
    pub meaning: String,
    /// The `clock.source` for which it is; `None` means for all.
    pub source: Option<String>,
    /// A value as it is written in a file: the default, or else an example.
    pub sample: String,
    /// Whether `sample` is only an example.
    pub is_example: bool,
}

/// Returns all sections, the top level first.
#[must_use]
pub fn sections() -> Vec<Section> {
    let mut top =
        Section { name: String::new(), header: String::new(), meaning: String::new(), keys: Vec::new() };
    let mut sections = Vec::new();
    for (name, schema) in
        schema::section("").and_then(|top| top["properties"].as_object()).into_iter().flatten()
    {
        let keys = schema::section(name).filter(|section| section["properties"].is_object());
        let Some(keys) = keys else {
            top.keys.push(key(name.clone(), schema, false));
            continue;
        };
        sections.push(Section {
            name: name.clone(),
            header: if schema["type"] == "array" { format!("[[{name}]]") } else { format!("[{name}]") },
            meaning: text(schema, "description"),
            keys: keys_of(keys),
        });
    }
    std::iter::once(top).chain(sections).collect()
}

/// Returns the keys of a section, and those of the sections in it.
fn keys_of(section: &Value) -> Vec<Key> {
    let required = section["required"].as_array();
    let mut keys = Vec::new();
    for (name, schema) in section["properties"].as_object().into_iter().flatten() {
        if schema["properties"].is_object() {
            let source = schema["x-source"].as_str();
            keys.extend(keys_of(schema).into_iter().map(|key| Key {
                name: format!("{name}.{}", key.name),
                source: key.source.or_else(|| source.map(str::to_owned)),
                ..key
            }));
        } else {
            let is_required = required.is_some_and(|required| required.iter().any(|key| key == name));
            keys.push(key(name.clone(), schema, is_required));
        }
    }
    keys
}

fn key(name: String, schema: &Value, is_required: bool) -> Key {
    let example = schema.get("x-example");
    let is_example = example.is_some();
    Key {
        name,
        kind: kind(schema),
        default: if is_required { REQUIRED.into() } else { default(schema) },
        range: range::in_words(schema),
        meaning: text(schema, "description"),
        source: schema["x-source"].as_str().map(str::to_owned),
        sample: in_toml(example.unwrap_or(&schema["default"])),
        is_example,
    }
}

/// Says of a key what its kind, default and range are, if it is one.
pub(super) fn in_words(schema: &Map<String, Value>) -> Option<String> {
    let schema = &Value::Object(schema.clone());
    let is_section = |schema: &Value| schema["properties"].is_object();
    // A choice has its words in the key that it is of.
    let is_choice = schema["const"].is_string();
    if is_section(schema) || is_section(&schema["items"]) || is_choice {
        return None;
    }
    let mut words = format!("Type: {}. Default: {}.", kind(schema), default(schema));
    if let Some(range) = range::in_words(schema) {
        let _to_text = write!(words, " Range: {range}.");
    }
    Some(words)
}

fn text(schema: &Value, keyword: &str) -> String {
    schema[keyword].as_str().unwrap_or_default().to_owned()
}

fn kind(schema: &Value) -> String {
    let kind = match (schema["x-type"].as_str(), schema["type"].as_str()) {
        (Some(words), _) => words.to_owned(),
        (None, Some("string")) if schema["enum"].is_array() => choices(schema["enum"].as_array()),
        (None, Some(kind)) => kind.to_owned(),
        (None, None) => {
            let of = |choice: &Value| choice["const"].clone();
            let choices_of = |listed: &Vec<Value>| listed.iter().map(of).collect::<Vec<_>>();
            choices(schema["oneOf"].as_array().map(choices_of).as_ref())
        }
    };
    match schema["x-unit"].as_str() {
        Some(unit) => format!("{kind}, {unit}"),
        None => kind,
    }
}

/// Joins choices: `"out"`, `"in"` or `"both"`.
fn choices(values: Option<&Vec<Value>>) -> String {
    let words: Vec<_> = values.into_iter().flatten().map(|value| format!("`{}`", in_toml(value))).collect();
    match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}

fn default(schema: &Value) -> String {
    match (schema["x-default"].as_str(), &schema["default"]) {
        (Some(words), _) => words.to_owned(),
        (None, Value::Null) => "none".into(),
        (None, Value::Array(values)) if values.is_empty() => "none".into(),
        (None, value @ (Value::String(_) | Value::Array(_))) => format!("`{}`", in_toml(value)),
        (None, value) => in_toml(value),
    }
}
