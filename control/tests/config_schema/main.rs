//! What holds for every configuration: the schema and the parser agree about it, and what `config show` prints means the
//! same.
//!
//! The documents are those of `config_trials`, every key with every kind of value, and many keys at once.

mod evaluate;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use control::config::{Config, Key, Section, Shown, schema, sections};
use evaluate::accepts;
use serde_json::Value;
use testinput::random::Random;
use testlab::{Output, pooltime_xdp};

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

/// Values of every kind, most of which are wrong for most keys.
const VALUES: [&str; 34] = [
    "\"x\"",
    "\"\"",
    "\"-1\"",
    "\"5\"",
    "\"192.0.2.1\"",
    "\"::1\"",
    "\"192.0.2.0/24\"",
    "\"127.0.0.1:9200\"",
    "\"[::1]:9200\"",
    "\"none\"",
    "\"system\"",
    "\"upstream\"",
    "\"kod\"",
    "\"both\"",
    "\"4 TB\"",
    "\" 1.5GiB \"",
    "\"50 Mbit\"",
    "-1",
    "0",
    "1",
    "131072",
    "9223372036854775807",
    "1.5",
    "1e400",
    "nan",
    "true",
    "false",
    "[]",
    "[1]",
    "[\"x\"]",
    "[\"192.0.2.1\"]",
    "[\"[::1]:1\", \"ntp1.example.net\"]",
    "{}",
    "{ a = 1 }",
];

/// Words of errors about types, ranges and unknown keys, all of which the schema has to refuse as well.
const OF_SCHEMAS: [&str; 5] = [
    "must be ",
    "unknown key `",
    "is missing",
    "upstream: at most 32",
    "is one too many: at most 8 addresses",
];

/// Words of such errors that depend on other keys, or on what a text means.
const BEYOND_SCHEMAS: [&str; 5] = [
    "(an hour's worth)",
    "the number of upstreams",
    "limits.quota: must be 1 MB",
    "limits.pool_netspeed: must be 1 kbit",
    "must be an IPv4 address",
];

/// A TOML document as JSON. `None` if it is not TOML, or if JSON cannot tell its numbers.
fn as_json(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(text).ok()?;
    serde_json::to_value(table).ok()
}

#[test]
fn the_schema_is_printed_for_editors() {
    let printed = Output::of(Command::new(pooltime_xdp()).args(["config", "schema"])).expect_success();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), *SCHEMA);
}

/// What became of the documents that were compared.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    /// Compares what the parser and the schema make of a document.
    fn compare(&mut self, text: &str) {
        let Some(json) = as_json(text) else { return };
        let (parsed, is_accepted) = (Config::parse(text), accepts(&SCHEMA, &json));
        let kind = match parsed {
            Ok(_) => {
                assert!(is_accepted, "the parser accepts, and the schema refuses:\n{text}");
                "accepted"
            }
            Err(_) if !is_accepted => "refused",
            Err(error) => {
                let says = |words: &&str| error.what.contains(*words);
                let is_missed = OF_SCHEMAS.iter().any(says) && !BEYOND_SCHEMAS.iter().any(says);
                assert!(!is_missed, "the parser refuses, and the schema accepts:\n{text}{}", error.what);
                "beyond"
            }
        };
        *self.0.entry(kind).or_default() += 1;
    }

    fn has_seen(&self, kind: &str, least: usize) {
        let seen = self.0.get(kind).copied().unwrap_or_default();
        assert!(seen >= least, "{kind}: {seen} of {:?}", self.0);
    }
}

/// Returns a document with a single key, and what its section needs.
fn single(section: &Section, key: &str, value: &str) -> String {
    let required = if section.name == "upstream" && key != "address" { "address = \"a\"\n" } else { "" };
    format!("{}\n{required}{key} = {value}\n", section.header)
}

/// Returns the one or two bounds of a number, each between what is just beyond it on both sides.
fn around_bounds(key: &Key) -> Vec<String> {
    let range = key.range.as_deref().unwrap_or_default().replace("an hour's worth", "36000000");
    let numbers = range.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse::<i64>().ok());
    numbers
        .take(2)
        .flat_map(|number| [number - 1, number, number.saturating_add(1)])
        .map(|number| number.to_string())
        .collect()
}

#[test]
fn the_schema_refuses_and_accepts_what_the_parser_does_in_every_key_alone() {
    let mut tally = Tally::default();
    for section in sections() {
        tally.compare(&single(&section, "nothing_like_it", "1"));
        for key in &section.keys {
            tally.compare(&single(&section, &key.name, &key.sample));
            for value in VALUES.iter().map(|value| (*value).to_owned()).chain(around_bounds(key)) {
                tally.compare(&single(&section, &key.name, &value));
            }
        }
    }
    for section in ["clock", "limits", "access", "metrics", "clock.makestep"] {
        for value in VALUES {
            tally.compare(&format!("{section} = {value}\n"));
        }
        tally.compare(&format!("[[{section}]]\n"));
    }
    tally.compare("[upstream]\naddress = \"a\"\n");
    tally.compare("[[upstream]]\nport = 123\n");
    for count in [32, 33] {
        let upstreams = (0..count).map(|number| format!("[[upstream]]\naddress = \"a{number}\"\n"));
        tally.compare(&upstreams.collect::<String>());
    }
    tally.has_seen("accepted", 200);
    tally.has_seen("refused", 1_500);
    tally.has_seen("beyond", 20);
}

#[test]
fn the_bounds_of_every_number_are_those_of_the_parser() {
    let mut seen = 0;
    for section in sections() {
        for key in section.keys.iter().filter(|key| key.kind.starts_with("integer")) {
            let bounds = around_bounds(key);
            let [below, least, _, _, most, above] = &bounds[..] else {
                assert_eq!(
                    (key.name.as_str(), bounds.len()),
                    ("min_sources", 3),
                    "only the number of upstreams is no number"
                );
                continue;
            };
            seen += 1;
            // With a rate of an hour's burst, every burst is within its range.
            let wide = if key.name.ends_with("burst") { "rate = 10000\nstrict_rate = 10000\n" } else { "" };
            let wide = if key.name == "minpoll" { "maxpoll = 17\n" } else { wide };
            let is_right = |value: &str| {
                let wide = if key.name == "maxpoll" {
                    format!("minpoll = {}\n", value.parse::<i64>().unwrap().clamp(3, 17))
                } else {
                    wide.to_owned()
                };
                let text = single(&section, &key.name, value) + &wide;
                let (parsed, schema) =
                    (Config::parse(&text).is_ok(), accepts(&SCHEMA, &as_json(&text).unwrap()));
                assert_eq!(parsed, schema, "{text}");
                parsed
            };
            let found = [below, least, most, above].map(|value| is_right(value));
            assert_eq!(found, [false, true, true, false], "{}.{}: {bounds:?}", section.name, key.name);
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn the_schema_agrees_with_the_parser_in_the_files_that_people_write() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_trials");
    let (mut tally, mut wrong_types) = (Tally::default(), 0);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected =
            fs::read_to_string(path.with_file_name(format!("{name}.expected"))).unwrap_or_default();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if !expected.starts_with("command: config check") {
            continue;
        }
        tally.compare(&text);
        if name.starts_with("type-") {
            wrong_types += 1;
            assert!(!accepts(&SCHEMA, &as_json(&text).unwrap()), "{name}");
        }
    }
    assert!(wrong_types >= 5, "{wrong_types}");
    tally.has_seen("accepted", 5);
}

/// Makes a document of several keys of several sections. Of a hundred values, `wrong` are of any kind.
fn document(random: &mut Random, wrong: u64) -> String {
    let mut lines = Vec::new();
    for section in sections() {
        let times = if section.name == "upstream" { random.between(0, 3) } else { 1 };
        for number in 0..times {
            if section.name != "upstream" && !section.name.is_empty() && random.chance(30) {
                continue;
            }
            lines.push(section.header.clone());
            for key in &section.keys {
                let value = value(random, key, wrong);
                if key.name == "address" {
                    lines.push(format!("address = \"ntp{number}-{}.example.net\"", random.below(1 << 32)));
                } else if random.chance(40) {
                    lines.push(format!("{} = {value}", key.name));
                }
            }
            if random.chance(wrong) && random.chance(20) {
                lines.push("nothing_like_it = 1".into());
            }
        }
    }
    lines.join("\n") + "\n"
}

fn value(random: &mut Random, key: &Key, wrong: u64) -> String {
    let mut of_key = around_bounds(key);
    of_key.extend(key.kind.split('`').skip(1).step_by(2).map(str::to_owned));
    of_key.extend((key.kind == "boolean" && key.name != "burst").then(|| "true".to_owned()));
    if random.chance(wrong) {
        random.pick(&VALUES).to_owned()
    } else if random.chance(50) && !of_key.is_empty() {
        of_key.swap_remove(random.index(of_key.len()))
    } else {
        key.sample.clone()
    }
}

#[test]
fn the_schema_agrees_with_the_parser_in_many_keys_at_once() {
    let mut tally = Tally::default();
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let wrong = random.pick(&[0, 0, 1, 5]);
        tally.compare(&document(&mut random, wrong));
    }
    tally.has_seen("accepted", 100);
    tally.has_seen("refused", 500);
}

#[test]
fn what_is_shown_of_one_or_more_files_is_a_configuration_with_the_same_meaning() {
    let mut seen = 0;
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let texts: Vec<String> = (0..random.between(1, 3)).map(|_| document(&mut random, 0)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let Ok(config) = Config::parse_all(&texts) else { continue };
        seen += 1;
        let shown = Shown::of(&config).unwrap().to_toml();
        let again = Config::parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again, config, "{texts:#?}\n{shown}");
        // And the schema accepts it as well.
        assert!(accepts(&SCHEMA, &as_json(&shown).unwrap()), "{shown}");
    }
    assert!(seen >= 100, "{seen}");
}
