//! Validates values by a JSON schema (draft 2020-12), as far as the schema of the configuration needs it. The crates that
//! know all of JSON Schema bring some forty others along.

use regex::Regex;
use serde_json::Value;

/// Whether a schema accepts a value.
///
/// # Panics
///
/// The schema has a keyword that is not known here.
pub(crate) fn accepts(schema: &Value, value: &Value) -> bool {
    if let Some(everything) = schema.as_bool() {
        return everything;
    }
    schema.as_object().unwrap().iter().all(|(keyword, of)| holds(keyword, of, schema, value))
}

fn holds(keyword: &str, of: &Value, schema: &Value, value: &Value) -> bool {
    let size = || usize::try_from(of.as_u64().unwrap()).unwrap();
    match keyword {
        "$schema" => of == "https://json-schema.org/draft/2020-12/schema",
        // These say something to people, and to editors.
        "title" | "description" | "default" | "format" => true,
        "type" => is_of_type(of.as_str().unwrap(), value),
        "const" => of == value,
        "enum" => of.as_array().unwrap().contains(value),
        "oneOf" => of.as_array().unwrap().iter().filter(|choice| accepts(choice, value)).count() == 1,
        "minimum" => value.as_f64().is_none_or(|number| number >= of.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= of.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= size()),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= size()),
        "pattern" => {
            value.as_str().is_none_or(|text| Regex::new(of.as_str().unwrap()).unwrap().is_match(text))
        }
        "maxItems" => value.as_array().is_none_or(|values| values.len() <= size()),
        "items" => value.as_array().is_none_or(|values| values.iter().all(|value| accepts(of, value))),
        "required" => value.as_object().is_none_or(|object| {
            of.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(key, value)| of.get(key).is_none_or(|schema| accepts(schema, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let others = object.iter().filter(|(key, _)| schema["properties"].get(key).is_none());
            others.into_iter().all(|(_, value)| accepts(of, value))
        }),
        other => panic!("the keyword {other} is not known here"),
    }
}

fn is_of_type(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // To JSON Schema, 1.0 is an integer.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("the type {other} is not known here"),
    }
}

#[test]
fn each_keyword_accepts_and_refuses() {
    for (schema, good, bad) in [
        (r#"{"type": "integer", "minimum": 2, "maximum": 3}"#, "3", "4"),
        (r#"{"type": "integer", "minimum": 2, "maximum": 3}"#, "2.0", "2.5"),
        (r#"{"type": "boolean"}"#, "true", "null"),
        (r#"{"type": "string", "minLength": 1, "maxLength": 2}"#, "\"äö\"", "\"\""),
        (r#"{"pattern": "^[0-9]+$"}"#, "\"12\"", "\"1a\""),
        (r#"{"const": false}"#, "false", "true"),
        (r#"{"enum": [1, 2]}"#, "2", "3"),
        (r#"{"oneOf": [{"const": "a"}, {"const": "b"}]}"#, "\"b\"", "\"c\""),
        (r#"{"type": "array", "items": {"type": "string"}, "maxItems": 1}"#, "[\"a\"]", "[1]"),
        (r#"{"type": "array", "items": {"type": "string"}, "maxItems": 1}"#, "[]", "[\"a\", \"b\"]"),
        (r#"{"type": "object", "required": ["a"]}"#, "{\"a\": 1}", "{\"b\": 1}"),
        (r#"{"properties": {"a": {"const": 1}}}"#, "{\"a\": 1, \"b\": 2}", "{\"a\": 2}"),
        (r#"{"properties": {"a": true}, "additionalProperties": false}"#, "{\"a\": 2}", "{\"b\": 2}"),
    ] {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert!(accepts(&read(schema), &read(good)), "{schema} {good}");
        assert!(!accepts(&read(schema), &read(bad)), "{schema} {bad}");
    }
}
