//! Sections are written with the names of their keys. A structure as such could also be a list of their values, in an
//! order that nobody knows.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads a section, for `deserialize_with`.
pub(super) fn section<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(Keys(PhantomData))
}

/// Reads a list of sections, for `deserialize_with`.
pub(super) fn sections<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<One<T>>::deserialize(deserializer)?.into_iter().map(|One(section)| section).collect())
}

struct One<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        section(deserializer).map(Self)
    }
}

struct Keys<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("struct of a section")
    }

    fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(keys))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_section_is_no_list_of_its_values() {
        for (text, said) in [
            ("clock = []", "line 1: clock: must be a section of keys, not a list"),
            ("clock = [\"upstream\"]", "line 1: clock: must be a section of keys, not a list"),
            ("[[limits]]\nrate = 1", "line 1: limits: must be a section of keys, not a list"),
            ("clock.makestep = [1]", "line 1: clock.makestep: must be a section of keys, not a list"),
            ("upstream = [[\"a\"]]", "line 1: upstream 1: must be a section of keys, not a list"),
        ] {
            assert_eq!(Config::parse(text).unwrap_err().what, said, "{text}");
        }
    }
}
