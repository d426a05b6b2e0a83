//! Where the values of a configuration were read, and how several files become one configuration.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::ConfigError;
use super::place::{Lines, walk};

/// What adds up over the files. Every other key of a later file replaces that of an earlier one.
const ADDING_UP: [&str; 6] =
    ["upstream", "access.deny", "access.allow", "access.unlimited", "access.limit", "access.files"];

/// The files and their texts, for errors that are found after they were parsed. It is no part of what is configured, so
/// all of them are equal.
///
/// Of a key in several files the last one holds; `[[upstream]]` and the lists of `[access]` add up.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    files: Vec<TextFile>,
}

/// A file that was read, or a text that is in none.
#[derive(Clone, Debug)]
pub(super) struct TextFile {
    path: Option<PathBuf>,
    text: String,
}

/// The place of a key or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// `None` if the text is in no file.
    pub(super) path: Option<&'a Path>,
    /// Counted from 1.
    pub(super) line: usize,
}

/// The places of all keys and values of a configuration.
pub(super) struct Places<'a>(BTreeMap<String, (usize, Place<'a>)>);

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl TextFile {
    pub(super) const fn new(path: PathBuf, text: String) -> Self {
        Self { path: Some(path), text }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Puts the file before the message of an error.
    pub(super) fn name(&self, error: ConfigError) -> ConfigError {
        match &self.path {
            Some(path) => error.at(path.display()),
            None => error,
        }
    }
}

impl Origin {
    pub(super) const fn of_files(files: Vec<TextFile>) -> Self {
        Self { files }
    }

    /// A text that is in no file.
    pub(super) fn of_text(text: &str) -> Self {
        Self { files: vec![TextFile { path: None, text: text.to_owned() }] }
    }

    /// Texts that are in no file and are told apart by their numbers.
    pub(super) fn of_texts(texts: &[&str]) -> Self {
        let named = |(number, text): (usize, &&str)| {
            TextFile::new(format!("text {number}").into(), (*text).to_owned())
        };
        Self { files: (1..).zip(texts).map(named).collect() }
    }

    /// Returns the files that were read, in their order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|file| file.path.as_deref())
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter()
    }

    /// Adds files and lines to an error.
    pub(super) fn place(&self, error: ConfigError) -> ConfigError {
        let places = self.places();
        let error = match error.other.as_deref().and_then(|key| places.around(key)) {
            Some(place) => error.beside(format_args!("the other one: {place}")),
            None => error,
        };
        match (error.key.as_deref().and_then(|key| places.around(key)), self.files.first()) {
            (Some(place), _) => ConfigError { key: None, ..error.at(place) },
            (None, Some(file)) => file.name(error),
            (None, None) => error,
        }
    }

    /// Returns where each value that holds was read.
    pub(super) fn places(&self) -> Places<'_> {
        let mut places = BTreeMap::new();
        let mut lengths = BTreeMap::new();
        for (number, file) in self.files.iter().enumerate() {
            let lines = Lines::of(&file.text);
            let before = lengths.clone();
            walk(&file.text, &mut |path, span| {
                let path = if let Some((list, index, rest)) = item_of_list(path) {
                    let index = index + before.get(list).copied().unwrap_or(0);
                    lengths.insert(list, index + 1);
                    format!("{list}[{index}]{rest}")
                } else {
                    forget_values(&mut places, path);
                    path.to_owned()
                };
                // A key comes before its value, which may begin on a later line.
                let is_known = places.get(&path).is_some_and(|(of, _)| *of == number);
                if !is_known {
                    let place = Place { path: file.path.as_deref(), line: lines.at(span.start) };
                    places.insert(path, (number, place));
                }
            });
        }
        Places(places)
    }
}

/// Takes a value apart that is of a list that adds up: into the list, the index, and what follows it.
fn item_of_list(path: &str) -> Option<(&'static str, usize, &str)> {
    let (list, rest) = path.split_once('[')?;
    let list = ADDING_UP.into_iter().find(|known| *known == list)?;
    let (index, rest) = rest.split_once(']')?;
    Some((list, index.parse().ok()?, rest))
}

/// Forgets the values of a list in an earlier file, which a later list replaces.
fn forget_values<T>(places: &mut BTreeMap<String, T>, list: &str) {
    if ADDING_UP.contains(&list) {
        return;
    }
    let first = format!("{list}[");
    while let Some((path, _)) = places.range(first.clone()..).next() {
        if !path.starts_with(&first) {
            return;
        }
        let path = path.clone();
        places.remove(&path);
    }
}

impl<'a> Places<'a> {
    /// Returns the place of a key or value.
    pub(super) fn of(&self, key: &str) -> Option<Place<'a>> {
        self.0.get(key).map(|(_, place)| *place)
    }

    /// Returns the place of a key or value, or of the closest thing that is around it. Around everything there is
    /// nothing.
    fn around(&self, key: &str) -> Option<Place<'a>> {
        let mut key = key;
        loop {
            if let Some(place) = self.of(key) {
                return Some(place);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Some(path) => write!(f, "{}: line {}", path.display(), self.line),
            None => write!(f, "line {}", self.line),
        }
    }
}

/// Puts the keys of a later file over those of the earlier ones.
pub(super) fn merge(earlier: &mut Table, later: Table) {
    merge_section(earlier, later, "");
}

fn merge_section(earlier: &mut Table, later: Table, section: &str) {
    for (key, value) in later {
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match (earlier.get_mut(&key), value) {
            (Some(Value::Table(earlier)), Value::Table(later)) => merge_section(earlier, later, &path),
            (Some(Value::Array(earlier)), Value::Array(later)) if ADDING_UP.contains(&path.as_str()) => {
                earlier.extend(later);
            }
            (_, value) => {
                earlier.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const FIRST: &str = "serve = [\n  \"192.0.2.1\",\n  \"192.0.2.2\"]\n[clock]\nmakestep = { updates = 3 }\n\n\
                         [[upstream]]\naddress = \"a\"\n\n[[upstream]]\nport = 5\naddress = \"b\"\n";
    const SECOND: &str = "serve = [\"192.0.2.3\"]\n[[upstream]]\naddress = \"c\"\n\n[clock]\nstratum = 3\n";

    fn line(origin: &Origin, key: &str) -> Option<String> {
        origin.places().around(key).map(|place| place.to_string())
    }

    #[test]
    fn keys_have_their_lines_and_missing_ones_the_line_of_what_they_would_be_in() {
        let origin = Origin::of_text(FIRST);
        for (key, expected) in [
            ("serve", Some("line 1")),
            ("serve[1]", Some("line 3")),
            ("clock", Some("line 4")),
            ("clock.horizon_ms", Some("line 4")),
            ("clock.makestep.updates", Some("line 5")),
            ("upstream[0].address", Some("line 8")),
            ("upstream[1].address", Some("line 12")),
            ("upstream[1].minpoll", Some("line 10")),
            ("interfaces", None),
            ("serv", None),
        ] {
            assert_eq!(line(&origin, key).as_deref(), expected, "{key}");
        }
        assert_eq!(line(&Origin::of_text("not = = toml"), "not"), None);
    }

    #[test]
    fn values_of_several_files_are_found_in_the_one_that_holds() {
        let origin = Origin::of_texts(&[FIRST, SECOND]);
        for (key, expected) in [
            ("serve[0]", Some("text 2: line 1")),
            // What was in the first file alone is replaced.
            ("serve[1]", Some("text 2: line 1")),
            ("clock.makestep.updates", Some("text 1: line 5")),
            ("clock.stratum", Some("text 2: line 6")),
            ("clock.horizon_ms", Some("text 2: line 5")),
            ("upstream[1].port", Some("text 1: line 11")),
            ("upstream[2].address", Some("text 2: line 3")),
            ("upstream[2].port", Some("text 2: line 2")),
        ] {
            assert_eq!(line(&origin, key).as_deref(), expected, "{key}");
        }
    }

    #[test]
    fn a_later_key_replaces_an_earlier_one_and_upstreams_and_access_lists_add_up() {
        let config = Config::parse_all(&[
            FIRST,
            "[access]\ndeny = [\"192.0.2.0/24\"]\n[metrics]\nlisten = []\n",
            SECOND,
            "[access]\ndeny = [\"198.51.100.0/24\"]\nlimit = [\"203.0.113.0/24\"]\n[clock.makestep]\nthreshold_ms = 9\n",
        ])
        .unwrap();
        assert_eq!(config.serve, ["192.0.2.3".parse::<std::net::IpAddr>().unwrap()]);
        let names: Vec<_> = config.upstream.iter().map(|upstream| upstream.address.as_str()).collect();
        assert_eq!((names, config.upstream[1].port), (vec!["a", "b", "c"], 5));
        assert_eq!((config.access.deny.len(), config.access.limit.len()), (2, 1));
        assert_eq!((config.clock.makestep.updates, config.clock.makestep.threshold_ms), (3, 9));
        assert_eq!((config.clock.stratum, config.metrics.listen.len()), (3, 0));
    }

    #[test]
    fn what_two_files_contradict_each_other_in_is_said_with_both_places() {
        for (texts, said) in [
            (
                [FIRST, "\n[[upstream]]\naddress = \"d\"\n[[upstream]]\naddress = \"A.\"\n"],
                "text 2: line 5: upstream 4: `A.` is listed twice, as upstream 1 as well: each server has one vote \
                 (the other one: text 1: line 8)",
            ),
            (
                ["[access]\ndeny = [\"192.0.2.7\",\n\"192.0.2.8\"]\n", "access.limit = [\"192.0.2.8\"]\n"],
                "text 2: line 1: access.limit: 192.0.2.8/32 is `deny` and `limit` (the other one: text 1: line 3)",
            ),
            // The number of upstreams is not told before all of them are known.
            (
                ["[clock]\nsource = \"upstream\"\nmin_sources = 2\n", "[[upstream]]\naddress = \"a\"\n"],
                "text 1: line 3: clock.min_sources: must be at most 1, the number of upstreams",
            ),
            (
                ["[clock]\nstratum = 3\n", "[clock]\nstratum = 99\n"],
                "text 2: line 2: clock.stratum: must be 1 to 15",
            ),
            (
                ["[clock]\nstratum = 3\n", "\n[clock]\nstratun = 9\n"],
                "text 2: line 3: unknown key `stratun` in [clock]",
            ),
        ] {
            assert_eq!(Config::parse_all(&texts).unwrap_err().what, said);
        }
        Config::parse_all(&["[clock]\nsource = \"upstream\"\n", "[[upstream]]\naddress = \"a\"\n"]).unwrap();
        let twice = Config::parse_all(&["", "serve = []\nserve = []\n"]).unwrap_err();
        assert!(
            twice.what.starts_with("text 2: line 2: ") && twice.what.contains("duplicate key"),
            "{twice}"
        );
    }
}
