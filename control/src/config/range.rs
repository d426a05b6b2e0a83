//! Whether numbers are in the ranges that the definition of the keys gives them.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::{ConfigError, schema};

/// Checks the numbers of a section.
///
/// # Errors
///
/// One is out of its range; the error names its key.
pub(super) fn check(section: &str, values: &impl Serialize) -> Result<(), ConfigError> {
    match broken(section, values) {
        Some((key, why)) => Err(ConfigError::of(&format!("{section}.{key}"), why)),
        None => Ok(()),
    }
}

/// Returns the first key of a section whose number is out of its range, and what it must be.
pub(super) fn broken(section: &str, values: &impl Serialize) -> Option<(String, String)> {
    match (schema::section(section), serde_json::to_value(values)) {
        (Some(schema), Ok(values)) => broken_in(schema, &values, ""),
        (None, _) => Some((String::new(), "is no section".into())),
        (_, Err(error)) => Some((String::new(), format!("cannot be checked: {error}"))),
    }
}

fn broken_in(schema: &Value, values: &Value, within: &str) -> Option<(String, String)> {
    let properties = schema["properties"].as_object()?;
    properties.iter().find_map(|(key, schema)| {
        let (value, path) = (&values[key], format!("{within}{key}"));
        match value {
            Value::Number(_) if !is_within(schema, value) => Some((path, must_be(schema))),
            Value::Object(_) => broken_in(schema, value, &format!("{path}.")),
            _ => None,
        }
    })
}

fn is_within(schema: &Value, value: &Value) -> bool {
    let number = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let Some(found) = number(value) else { return false };
    number(&schema["minimum"]).is_none_or(|least| least <= found)
        && number(&schema["maximum"]).is_none_or(|most| found <= most)
        && schema["enum"].as_array().is_none_or(|known| known.contains(value))
}

/// Says what a value must be: `must be 1 to 10000 requests per second`.
fn must_be(schema: &Value) -> String {
    let mut text = format!("must be {}", in_words(schema).unwrap_or_default());
    let unit = schema["x-unit"].as_str().filter(|_| schema["x-range"].is_null());
    if let Some(why) = schema["x-why"].as_str() {
        text.push_str(why);
    } else if let Some(unit) = unit {
        let _to_text = write!(text, " {unit}");
    }
    text
}

/// Returns the range of a number in words, if it has one.
pub(super) fn in_words(schema: &Value) -> Option<String> {
    if let Some(words) = schema["x-range"].as_str() {
        return Some(words.to_owned());
    }
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(least), Value::Number(most)) => Some(format!("{least} to {most}")),
        (Value::Number(least), _) => Some(format!("{least} or more")),
        (_, Value::Number(most)) => Some(format!("{most} or less")),
        _ => None,
    }
}
