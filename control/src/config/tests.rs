//! What is wrong with a configuration is said with its place and in the words of the person who wrote it.

use super::*;
use crate::error::Code;

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest_key() {
    let error = Config::parse("interfaces = [\"eth0\"]\n\n[clock]\nlocal_stratun = 10\n").unwrap_err();
    assert!(error.what.contains("line 4") && error.what.contains("local_stratun"), "{error}");
    assert!(error.remedy.as_deref().is_some_and(|remedy| remedy.contains("`local_stratum`")), "{error}");
    assert_eq!(error.code, Code::Config);
}

#[test]
fn a_key_like_no_other_gets_no_guess() {
    let error = Config::parse("qqq = 1").unwrap_err();
    assert!(error.what.contains("qqq") && error.remedy.is_none(), "{error}");
}

#[test]
fn a_malformed_prefix_is_named_with_its_line() {
    let error = Config::parse("[access]\nallow = []\ndeny = [\"10.0.0.1/8\"]\n").unwrap_err();
    assert!(error.what.contains("line 3") && error.what.contains("10.0.0.0/8"), "{error}");
}

#[test]
fn a_listen_address_that_is_none_is_named_with_its_line() {
    for text in ["127.0.0.1", "localhost:9200", "[::1]", "127.0.0.1:99999", ""] {
        let error = Config::parse(&format!("[metrics]\nlisten = [{text:?}]")).unwrap_err();
        assert!(error.what.contains("line 2") && error.what.contains(&format!("`{text}`")), "{error}");
    }
    assert_eq!(Config::parse("[metrics]\nlisten = []").unwrap().metrics.listen, []);
}

#[test]
fn broken_syntax_is_named_with_its_line() {
    assert!(Config::parse("serve = [\n\"::1\"\n[clock").unwrap_err().what.contains("line 3"));
}

#[test]
fn values_out_of_range_are_refused_by_their_key() {
    for (text, key) in [
        ("[clock]\nhorizon_ms = 1", "clock.horizon_ms"),
        ("[clock]\nmax_error_ms = 0", "clock.max_error_ms"),
        ("[clock]\nstratum = 16", "clock.stratum"),
        ("[clock]\nlocal_stratum = 0", "clock.local_stratum"),
        ("serve = [\"0.0.0.0\"]", "serve"),
        ("serve = [\"ff02::1\"]", "serve"),
        ("interfaces = [\"\"]", "interfaces"),
        ("[metrics]\nlisten = [\"127.0.0.1:0\"]", "metrics.listen"),
        ("[metrics]\nhosts = [\"ntp1.example.net:9200\"]", "metrics.hosts"),
        ("[metrics]\nhosts = [\"\"]", "metrics.hosts"),
        ("[limits]\nrate = 0", "limits.rate"),
        ("[limits]\ntable_entries = 65537", "limits.table_entries"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(
            error.what.contains(&format!(": {key}: ")) && error.what.starts_with("line "),
            "{text}: {error}"
        );
    }
}

/// Words of the programming language and of its libraries.
const JARGON: [&str; 24] = [
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "i128",
    "f64",
    "sequence",
    "struct",
    "enum",
    "variant",
    "field",
    "newtype",
    "unit value",
    "Option",
    "os error",
    "invalid type",
    "invalid value",
    "byte array",
    "a map",
    "expected map",
    "serde",
    "Datetime",
];
const VALUES: [&str; 43] = [
    "99999999999999999999999",
    "\"x\"",
    "\"\"",
    "\"-1\"",
    "\"5\"",
    "\"192.0.2.1\"",
    "\"/nowhere\"",
    "-1",
    "0",
    "1",
    "255",
    "256",
    "65536",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999999999999999999999999999",
    "1.5",
    "1e400",
    "nan",
    "-inf",
    "true",
    "false",
    "[]",
    "[1]",
    "[true]",
    "[\"x\"]",
    "[[\"x\"]]",
    "[{}]",
    "[{ a = 1 }]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "x",
    "",
    "\"open",
    "[1, ",
    "{ a = ",
    "1_",
    "\"\\q\"",
    "0x",
];

/// Returns the keys of a section, as the parser itself names them.
fn keys(before: &str) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("{before}nothing_like_it = 1\n")).unwrap_err();
    let (_, known) = error
        .message()
        .split_once("expected one of ")
        .or_else(|| error.message().split_once("expected "))
        .unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_wrong_value_of_every_key_is_refused_with_its_line_in_a_person_s_words() {
    let mut seen = 0;
    for before in [
        "",
        "[clock]\n",
        "[clock.makestep]\n",
        "[limits]\n",
        "[access]\n",
        "[metrics]\n",
        "[[upstream]]\naddress = \"a\"\n[[upstream]]\n",
    ] {
        for key in keys(before) {
            for value in VALUES {
                let text = format!("# first\n{before}{key} = {value}\n");
                let Err(error) = Config::parse(&text) else { continue };
                seen += 1;
                let said = error.to_string();
                assert!(said.starts_with("line "), "{text}{said}");
                for word in JARGON {
                    let is_whole = |at: usize| {
                        let (left, right) = (&said[..at], &said[at + word.len()..]);
                        !left.ends_with(|c: char| c.is_alphanumeric())
                            && !right.starts_with(|c: char| c.is_alphanumeric())
                    };
                    let mut found = said.match_indices(word).map(|(at, _)| at);
                    assert!(!found.any(is_whole), "`{word}` in:\n{text}{said}");
                }
            }
        }
    }
    assert!(seen > 1_000, "{seen}");
}

#[test]
fn what_a_value_must_be_is_said_with_its_key_and_what_it_is() {
    for (text, said) in [
        (
            "[clock]\nhorizon_ms = \"5000\"",
            "line 2: clock.horizon_ms: must be a whole number, 0 or more, not the text \"5000\"",
        ),
        ("[clock]\nstratum = 1.5", "line 2: clock.stratum: must be a whole number from 0 to 255, not 1.5"),
        ("[clock]\nstratum = -1", "line 2: clock.stratum: must be a whole number from 0 to 255, not -1"),
        ("[clock]\nsteer = 1", "line 2: clock.steer: must be true or false, not 1"),
        ("[clock]\nsource = \"gps\"", "line 2: clock.source: must be `system` or `upstream`, not `gps`"),
        (
            "interfaces = \"eth0\"",
            "line 1: interfaces: must be a list in square brackets, not the text \"eth0\"",
        ),
        ("clock = 5", "line 1: clock: must be a section of keys, not 5"),
        ("[[upstream]]\nport = 123", "line 1: upstream 1: the key `address` is missing"),
        (
            "[upstream]\naddress = \"a\"",
            "line 1: upstream: must be a list in square brackets, not a section of keys",
        ),
        ("serve = [\"x\"]", "line 1: serve: `x` is not an IP address, like 192.0.2.1 or 2001:db8::1"),
    ] {
        assert_eq!(Config::parse(text).unwrap_err().what, said, "{text}");
    }
    assert!(
        Config::parse("[upstream]\naddress = \"a\"").unwrap_err().remedy.unwrap().contains("[[upstream]]")
    );
}

#[test]
fn what_a_start_would_refuse_is_refused_by_its_line() {
    let list = |count: u8, name: &dyn Fn(u8) -> String| (1..=count).map(name).collect::<Vec<_>>().join(",\n");
    let interfaces = |count| format!("interfaces = [{}]", list(count, &|number| format!("\"a{number}\"")));
    let serve = |count| format!("serve = [{}]", list(count, &|number| format!("\"192.0.2.{number}\"")));
    Config::parse(&interfaces(8)).unwrap();
    Config::parse(&interfaces(8).replace("a8", "a1")).unwrap();
    Config::parse(&serve(96)).unwrap();
    for (text, said) in [
        (interfaces(9), "line 9: interfaces: `a9` is one too many"),
        (serve(97), "line 97: serve: 192.0.2.97 is one too many"),
        ("interfaces = [\"eth0:1\"]".into(), "line 1: interfaces: `eth0:1` cannot be"),
        ("serve = [\n\"255.255.255.255\"]".into(), "line 2: serve: 255.255.255.255 is not"),
        ("serve = [\n\"::ffff:224.0.0.1\"]".into(), "line 2: serve: 224.0.0.1 is not"),
        (
            "[metrics]\nlisten = [\"[::1]:9\",\n\"[0::1]:9\"]".into(),
            "line 3: metrics.listen: [::1]:9 is listed twice",
        ),
        (
            "[access]\ndeny = [\"::ffff:0:0/96\"]".into(),
            "line 2: access.deny: `::ffff:0.0.0.0/96` is not a prefix",
        ),
    ] {
        let error = Config::parse(&text).unwrap_err();
        assert!(error.what.starts_with(said), "{text}: {error}");
    }
    let mapped = Config::parse("serve = [\"::ffff:192.0.2.1\"]").unwrap();
    assert_eq!(mapped.serve, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn errors_of_other_files_have_the_line_that_names_them() {
    let config = Config::parse("[access]\ndeny = [\"192.0.2.7\"]\nfiles = [\n\"/nowhere/list\"]\n").unwrap();
    let error = config.entries().unwrap_err().error.what;
    assert!(error.starts_with("line 4: access.files: /nowhere/list: No such file or directory"), "{error}");
    let twice = "[access]\ndeny = [\"192.0.2.7\"]\nunlimited = [\"::ffff:192.0.2.7\"]\n";
    let error = Config::parse(twice).unwrap_err().what;
    assert!(error.starts_with("line 3: access.unlimited: 192.0.2.7/32 is `deny` and `unlimited`"), "{error}");
}
