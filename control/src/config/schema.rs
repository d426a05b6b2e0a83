//! The definition of all keys: a JSON schema, made from the structures that the configuration is parsed into.
//!
//! Their doc comments are the descriptions. What JSON Schema has no word for stands in keywords of our own:
//!
//! | keyword | what it says |
//! |---|---|
//! | `x-type` | what a value is, where JSON's type does not say enough |
//! | `x-unit` | the unit of a number |
//! | `x-range` | what a value may be, where `minimum` and `maximum` do not say enough |
//! | `x-why` | what follows "must be 1 to 9" in errors, in place of the unit |
//! | `x-default` | what holds without the key, where that is no value |
//! | `x-example` | a value for the shipped file, where the default is none |
//! | `x-source` | the `clock.source` for which the key is |

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Config, reference};

/// The file that packages install with the schema, for editors.
pub const SCHEMA_PATH: &str = "/usr/share/pooltime-xdp/pooltime-xdp.schema.json";

/// The definition, with our own keywords.
static DEFINITION: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tidy(&mut schema);
    schema
});

/// Returns the definition of a section's keys; of the top level's for `""`.
pub(super) fn section(name: &str) -> Option<&'static Value> {
    if name.is_empty() {
        return Some(&DEFINITION);
    }
    let section = &DEFINITION["properties"].get(name)?;
    Some(section.get("items").unwrap_or(section))
}

/// Returns what holds without a key, for those whose default is no value.
pub(super) fn words_of_default(key: &str) -> Option<String> {
    let (section_name, key) = key.split_once('.').unwrap_or(("", key));
    Some(section(section_name)?["properties"].get(key)?["x-default"].as_str()?.replace('`', ""))
}

/// Returns the JSON schema (draft 2020-12) of a configuration file, for editors.
///
/// It refuses unknown keys, wrong types, and numbers out of their ranges. What depends on several keys or on the host is
/// left to `config check`.
#[must_use]
pub fn published() -> Value {
    let mut schema = DEFINITION.clone();
    publish(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".into(), json!("pooltime-xdp.toml"));
        schema.insert(
            "description".into(),
            json!("The configuration of pooltime-xdp, an NTP server in the NIC path."),
        );
    }
    schema
}

/// Takes out what is of the programming language: numbers' formats, and null, which TOML does not have.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.remove("anyOf") {
        let choices = choices.into_iter().filter(|choice| choice["type"] != "null");
        for (keyword, value) in choices.filter_map(|choice| choice.as_object().cloned()).flatten() {
            object.entry(keyword).or_insert(value);
        }
    }
    let format = object.get("format").and_then(Value::as_str);
    if format == Some("uint32") {
        object.entry("maximum").or_insert_with(|| u32::MAX.into());
    } else if format == Some("uint64") || format == Some("uint") {
        // Numbers of TOML have 64 bits and a sign.
        object.entry("maximum").or_insert_with(|| i64::MAX.into());
    }
    // The others are names of this language's types.
    if object.get("format").is_some_and(|format| format != "ipv4") {
        object.shift_remove("format");
    }
    if object.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
        object.shift_remove("default");
    }
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for_each_part(object, &mut tidy);
}

/// Takes out our own keywords. What they say becomes part of the descriptions.
fn publish(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let words = reference::in_words(object);
    object.retain(|keyword, _| !keyword.starts_with("x-"));
    if let (Some(words), Some(Value::String(description))) = (words, object.get_mut("description")) {
        *description = format!("{description}\n\n{words}");
    }
    for_each_part(object, &mut publish);
}

fn for_each_part(schema: &mut Map<String, Value>, change: &mut impl FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut *change);
    }
    if let Some(items) = schema.get_mut("items") {
        change(items);
    }
    if let Some(Value::Array(choices)) = schema.get_mut("oneOf") {
        choices.iter_mut().for_each(change);
    }
}
