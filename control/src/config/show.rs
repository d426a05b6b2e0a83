//! The values that hold, each with the place that it is from: as a configuration, and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::origin::{Place, Places};
use super::{Config, schema};
use crate::error::{Code, Error, Result};

/// The values of a configuration with their places.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The files that were read, in their order.
    files: Vec<String>,
    /// All values. Without a value and a default, it is null.
    config: Value,
    /// The place of each value that is in a file, by its key: `clock.horizon_ms`, `upstream[2].port`. The others are
    /// defaults.
    origins: BTreeMap<String, Origin>,
}

#[derive(Clone, Debug, Serialize)]
struct Origin {
    /// `None` if the text is in no file.
    file: Option<String>,
    line: usize,
}

impl Shown {
    /// Takes the values of a configuration.
    ///
    /// # Errors
    ///
    /// The configuration names a file whose name is no text, which none that was read does.
    pub fn of(config: &Config) -> Result<Self> {
        let values = serde_json::to_value(config)
            .map_err(Error::because(Code::Software, "the configuration cannot be shown"))?;
        let places = config.origin.places();
        let mut origins = BTreeMap::new();
        collect(&values, "", &places, &mut origins);
        let files = config.origin.files().map(|path| path.display().to_string()).collect();
        Ok(Self { files, config: values, origins })
    }

    /// Writes them as a configuration with the same meaning. The place of each value is in a comment behind it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let (sections, keys): (Vec<_>, Vec<_>) =
            self.config.as_object().into_iter().flatten().partition(|(name, value)| is_section(name, value));
        for (key, value) in keys {
            self.write_key(&mut text, key, key, value);
        }
        for (name, value) in sections {
            match value {
                Value::Array(none) if none.is_empty() => {
                    let _to_text = write!(text, "\n# {name} is not set\n");
                }
                Value::Array(upstreams) => {
                    for (index, upstream) in upstreams.iter().enumerate() {
                        let path = format!("{name}[{index}]");
                        let _to_text = write!(text, "\n[[{name}]]\n");
                        self.write_section(&mut text, "", &path, upstream);
                    }
                }
                section => {
                    let _to_text = write!(text, "\n[{name}]\n");
                    self.write_section(&mut text, "", name, section);
                }
            }
        }
        text
    }

    fn write_section(&self, text: &mut String, within: &str, path: &str, section: &Value) {
        for (key, value) in section.as_object().into_iter().flatten() {
            let (name, path) = (format!("{within}{key}"), format!("{path}.{key}"));
            if value.is_object() {
                self.write_section(text, &format!("{name}."), &path, value);
            } else {
                self.write_key(text, &name, &path, value);
            }
        }
    }

    fn write_key(&self, text: &mut String, name: &str, path: &str, value: &Value) {
        let _to_text = match value {
            Value::Null => match schema::words_of_default(path) {
                Some(words) => writeln!(text, "# {name} is not set: {words}"),
                None => writeln!(text, "# {name} is not set"),
            },
            // Each value may be from another file.
            Value::Array(values) if self.origins.contains_key(&format!("{path}[0]")) => {
                let values = values.iter().enumerate().map(|(index, value)| {
                    format!("    {},  # {}\n", in_toml(value), self.origin(&format!("{path}[{index}]")))
                });
                writeln!(text, "{name} = [\n{}]", values.collect::<String>())
            }
            value => {
                let words =
                    schema::words_of_default(path).filter(|_| value.as_array().is_some_and(Vec::is_empty));
                let words = words.map_or_else(String::new, |words| format!(": {words}"));
                writeln!(text, "{name} = {}  # {}{words}", in_toml(value), self.origin(path))
            }
        };
    }

    fn origin(&self, path: &str) -> String {
        match self.origins.get(path) {
            // A line break would end the comment, and TOML has no other controls in one.
            Some(Origin { file: Some(file), line }) => {
                format!("{file}:{line}").replace(char::is_control, "\u{fffd}")
            }
            Some(Origin { file: None, line }) => format!("line {line}"),
            None => "default".into(),
        }
    }
}

fn is_section(name: &str, value: &Value) -> bool {
    value.is_object() || name == "upstream"
}

/// Collects the places of a value and of all that is in it.
fn collect(value: &Value, path: &str, places: &Places<'_>, origins: &mut BTreeMap<String, Origin>) {
    if let Some(Place { path: file, line }) = places.of(path) {
        // A section may be in several files.
        if !value.is_object() {
            origins
                .insert(path.to_owned(), Origin { file: file.map(|path| path.display().to_string()), line });
        }
    }
    match value {
        Value::Object(section) => {
            for (key, value) in section {
                let dot = if path.is_empty() { "" } else { "." };
                collect(value, &format!("{path}{dot}{key}"), places, origins);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                collect(value, &format!("{path}[{index}]"), places, origins);
            }
        }
        _ => {}
    }
}

/// Writes a value as TOML has it. Whatever does not print is escaped.
pub(super) fn in_toml(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(in_toml).collect::<Vec<_>>().join(", "))
        }
        // Of the other kinds, a configuration has numbers and booleans alone.
        value => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        let _to_text = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            c if matches!(c, ' '..='~') || c.escape_debug().eq([c]) => write!(quoted, "{c}"),
            c => write!(quoted, "\\U{:08x}", u32::from(c)),
        };
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::files;
    use crate::net::own_addresses::OwnAddresses;
    use crate::safe_text;

    #[test]
    fn each_value_has_its_place_and_what_is_not_set_is_a_comment() {
        let shown = Shown::of(
            &Config::parse_all(&[
                "clock.stratum = 3\n[access]\ndeny = [\"10.0.0.0/8\"]\n",
                "\naccess.deny = [\"10.0.0.1\"]\n",
            ])
            .unwrap(),
        );
        let text = shown.unwrap().to_toml();
        for lines in [
            "interfaces = []  # default: the interface of the default route\n",
            "stratum = 3  # text 1:1\n",
            "# reference is not set: \"127.127.1.1\"\n",
            "makestep.updates = 3  # default\n",
            "deny = [\n    \"10.0.0.0/8\",  # text 1:3\n    \"10.0.0.1/32\",  # text 2:2\n]\n",
            "# upstream is not set\n",
            "# quota is not set\n",
        ] {
            assert!(text.contains(lines), "{lines}is not in\n{text}");
        }
    }

    #[test]
    fn text_of_any_kind_is_the_same_after_it_was_written_and_prints() {
        for text in [
            "",
            "C:\\ntp \"x\" 'y'",
            "größer, 時刻",
            "a\nb\r\t\0\x1b\u{7f}\u{9b}",
            "\u{202e}\u{2028}\u{345}e\u{301}\u{10ffff}",
        ] {
            let written = quoted(text);
            assert_eq!(safe_text::lines(&written), written);
            let read: toml::Table = toml::from_str(&format!("a = {written}")).unwrap();
            assert_eq!(read["a"].as_str(), Some(text), "{written}");
        }
    }

    #[test]
    fn the_name_of_a_file_cannot_become_a_part_of_the_configuration() {
        let directory = std::env::temp_dir().join(format!("pooltime-show-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a\nserve = [\"192.0.2.9\"]\n#.toml");
        std::fs::write(&path, "clock.stratum = 3\n").unwrap();
        let config = Config::of(files::read(Some(&path)).unwrap(), &OwnAddresses::default()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(Config::parse(&Shown::of(&config).unwrap().to_toml()), Ok(config));
    }
}
