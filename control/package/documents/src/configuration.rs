//! What is made of the definition of the configuration's keys: the shipped file, the tables of `docs/configure.md`, and
//! the manual's page.

use std::fmt::Write as _;

use control::config::{DEFAULT_PATH, Key, REQUIRED, SCHEMA_PATH, Section, sections};
use roff::{Inline, Roff, bold, roman};

/// Columns of the shipped file.
const WIDTH: usize = 100;
/// What stands around a table in the documentation. The first one names the section and the `clock.source`.
const BEGIN: &str = "<!-- keys: begin ";
const END: &str = "<!-- keys: end -->";

/// The beginning of the shipped file, after the line for editors.
const INTRODUCTION: &str = "\
pooltime-xdp's configuration. Every key is here with its default, commented out, or with an example where there is
no default.

As it is, `systemctl start pooltime-xdp` answers on the interface of the default route with the system clock's time,
which another daemon has to keep (systemd-timesyncd, chronyd, ntpd, ptp4l); while it is not synchronised, answers
say so. For a server with upstreams of its own, as the NTP Pool wants it, `pooltime-xdp import /etc/ntpsec/ntp.conf`
(or chronyd's file) writes such a configuration, and `pooltime-xdp upstream probe NAME...` measures candidates.

Settings of your own may stand here, or in files /etc/pooltime-xdp.toml.d/*.toml, which are read after this one.
`pooltime-xdp config check` says whether all of it is right, and `pooltime-xdp config show` what holds and from where.
Unknown keys are errors. `systemctl reload pooltime-xdp` puts all of it in force or nothing.

See man 5 pooltime-xdp.toml and /usr/share/doc/pooltime-xdp/docs/configure.md.";

/// Returns the configuration file that the package installs. All that is in it is commented out.
pub(crate) fn shipped() -> String {
    // Editors that know TOML check the file by it.
    let mut text = format!("#:schema file://{SCHEMA_PATH}\n\n");
    comment(&mut text, INTRODUCTION);
    for section in sections() {
        if !section.header.is_empty() {
            text.push('\n');
            comment(&mut text, &section.meaning);
            // Without its keys, an upstream would be wrong.
            let hash = if section.header.starts_with("[[") { "#" } else { "" };
            let _to_text = writeln!(text, "{hash}{}", section.header);
        }
        for key in &section.keys {
            text.push('\n');
            comment(&mut text, &key.meaning);
            comment(&mut text, &facts(key));
            let _to_text = writeln!(text, "#{} = {}", key.name, key.sample);
        }
    }
    text
}

/// Says on a line what a key's value is and may be.
fn facts(key: &Key) -> String {
    let mut facts = capitalised(&key.kind);
    if let Some(range) = &key.range {
        let _to_text = write!(facts, ": {range}");
    }
    if let Some(source) = &key.source {
        let _to_text = write!(facts, "; with source = \"{source}\"");
    }
    if key.default == REQUIRED {
        facts.push_str("; required. An example");
    } else if key.is_example {
        let _to_text = write!(facts, ". An example; the default is: {}", key.default);
    }
    facts + "."
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Writes text as comments, folded between words.
fn comment(to: &mut String, text: &str) {
    for paragraph in text.split("\n\n") {
        if text.contains("\n\n") && !text.starts_with(paragraph) {
            to.push_str("#\n");
        }
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _to_text = writeln!(to, "{line}");
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _to_text = writeln!(to, "{line}");
    }
}

/// Returns a document with all of its tables of keys as the definition has them.
///
/// # Errors
///
/// A mark names a section that does not exist, or has no end.
pub(crate) fn with_tables(document: &str) -> Result<String, String> {
    let sections = sections();
    let mut parts = document.split(BEGIN);
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").ok_or("a mark of a table does not end with its line")?;
        let (_, rest) = rest.split_once(END).ok_or_else(|| format!("the table `{name}` has no end"))?;
        let table =
            table(&sections, name).ok_or_else(|| format!("there are no keys for the table `{name}`"))?;
        let _to_text = write!(made, "{BEGIN}{name} -->\n{table}{END}{rest}");
    }
    Ok(made)
}

/// Returns the table of a section's keys, by its name and the `clock.source` that they are for.
fn table(sections: &[Section], name: &str) -> Option<String> {
    let (name, source) = name.split_once(' ').map_or((name, None), |(name, source)| (name, Some(source)));
    let name = if name == "top" { "" } else { name };
    let section = sections.iter().find(|section| section.name == name)?;
    let keys: Vec<_> = section.keys.iter().filter(|key| key.source.as_deref() == source).collect();
    if keys.is_empty() {
        return None;
    }
    let has_ranges = keys.iter().any(|key| key.range.is_some());
    let mut table = String::from(if has_ranges {
        "| key | type, unit | default | range | meaning |\n|---|---|---|---|---|\n"
    } else {
        "| key | type | default | meaning |\n|---|---|---|---|\n"
    });
    for Key { name, kind, default, range, meaning, .. } in keys {
        let range =
            if has_ranges { format!("{} | ", range.as_deref().unwrap_or_default()) } else { String::new() };
        let row =
            format!("| `{name}` | {kind} | {default} | {range}{meaning} |\n").replace(" |  | ", " | | ");
        table.push_str(&row);
    }
    Some(table)
}

/// Returns the page pooltime-xdp.toml(5) of the manual.
pub(crate) fn manual() -> String {
    let mut page = Roff::new();
    let version = format!("pooltime-xdp {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["pooltime-xdp.toml", "5", "", &version]);
    page.control("SH", ["NAME"]);
    page.text([roman("pooltime-xdp.toml - the configuration of pooltime-xdp")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in [
        "The configuration is a TOML file. Every key is optional, and so is the file at its default place. Unknown keys \
         are errors.",
        "After a file, the files of the directory beside it are read, in the order of their names: those whose name ends \
         in `.toml` and does not begin with a dot. A key of a later file replaces that of an earlier one; the sections \
         `[[upstream]]` and the lists `deny`, `allow`, `unlimited`, `limit` and `files` of `[access]` add up.",
        "`pooltime-xdp config check` names the file, the line and the key that is wrong. `pooltime-xdp config show` shows \
         all values that hold and where they are from. A reload puts all of the configuration in force or nothing.",
    ] {
        page.control("PP", []);
        page.text(inline(paragraph));
    }
    for section in sections() {
        let title = if section.header.is_empty() { "TOP LEVEL" } else { &section.header };
        page.control("SH", [title]);
        if !section.meaning.is_empty() {
            page.text(inline(&section.meaning));
        }
        for key in &section.keys {
            page.control("TP", []);
            let mut title = vec![bold(&*key.name), roman(" (")];
            title.extend(inline(&key.kind));
            title.push(roman(")"));
            page.text(title);
            page.text(inline(&key.meaning));
            page.control("br", []);
            page.text(inline(&standing(key)));
        }
    }
    page.control("SH", ["FILES"]);
    for (file, what) in [
        (DEFAULT_PATH, "The file that is read without `--config`."),
        ("/etc/pooltime-xdp.toml.d/*.toml", "What is read after it."),
        (SCHEMA_PATH, "The keys as a JSON schema, by which editors check and complete them."),
    ] {
        page.control("TP", []);
        page.text([bold(file)]);
        page.text(inline(what));
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("pooltime-xdp"),
        roman("(1), "),
        bold("pooltime-xdp-config"),
        roman("(1), /usr/share/doc/pooltime-xdp/docs/configure.md"),
    ]);
    page.render()
}

/// Says what holds without a key, its range, and when it is used.
fn standing(key: &Key) -> String {
    let mut text = format!("Default: {}.", key.default);
    if let Some(range) = &key.range {
        let _to_text = write!(text, " Range: {range}.");
    }
    if let Some(source) = &key.source {
        let _to_text = write!(text, " Only with `source = \"{source}\"`.");
    }
    text
}

/// Makes what stands between backticks bold.
fn inline(markdown: &str) -> Vec<Inline> {
    let part = |(number, text): (usize, &str)| if number % 2 == 1 { bold(text) } else { roman(text) };
    markdown.split('`').enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use control::config::Config;

    use super::*;

    /// Takes the hash off the lines that are no prose.
    fn uncommented(text: &str) -> String {
        let is_key =
            |line: &&str| line.starts_with('#') && !line.starts_with("# ") && !line.starts_with("#:");
        let lines = text.lines().map(|line| if is_key(&line) { &line[1..] } else { line });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_shipped_changes_nothing_and_has_every_key_ready_to_be_uncommented() {
        let shipped = shipped();
        assert_eq!(Config::parse(&shipped), Ok(Config::default()));
        let all = uncommented(&shipped);
        let config = Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
        assert_eq!((config.upstream.len(), config.upstream[0].minpoll), (1, 6));
        assert!(config.limits.quota.is_some() && config.interfaces.len() == 2, "{config:?}");
        let keys: usize = sections().iter().map(|section| section.keys.len()).sum();
        assert!(keys > 50, "{keys}");
        // Whatever is not an example is the default.
        for section in sections() {
            for key in section.keys.iter().filter(|key| !key.is_example) {
                let required = if section.name == "upstream" { "address = \"a\"\n" } else { "" };
                let of =
                    |line: String| Config::parse(&format!("{}\n{required}{line}", section.header)).unwrap();
                assert_eq!(of(format!("{} = {}\n", key.name, key.sample)), of(String::new()), "{}", key.name);
            }
        }
    }

    #[test]
    fn lines_of_the_shipped_file_are_short_enough_for_an_editor() {
        for line in shipped().lines().filter(|line| line.starts_with("# ")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn every_key_is_in_one_table_of_the_documentation_and_a_mark_without_keys_is_an_error() {
        let document = std::fs::read_to_string(crate::root().join(crate::TABLES)).unwrap();
        for key in sections().iter().flat_map(|section| &section.keys) {
            let row = format!("\n| `{}` | {} | {} |", key.name, key.kind, key.default);
            assert_eq!(document.matches(&row).count(), 1, "{row}");
        }
        let marked = |name: &str| with_tables(&format!("a\n{BEGIN}{name} -->\nold\n{END}\nb\n"));
        assert!(marked("clock upstream").unwrap().contains("`panic_s`"));
        assert!(marked("clocks").unwrap_err().contains("clocks"));
        assert!(with_tables(&format!("{BEGIN}clock -->\n")).unwrap_err().contains("no end"));
    }

    #[test]
    fn the_manual_s_page_has_every_key() {
        let page = manual();
        assert!(page.is_ascii(), "groff knows nothing else without help");
        for key in sections().iter().flat_map(|section| &section.keys) {
            assert!(
                page.contains(&format!("\\fB{}\\fR (", key.name.replace('-', "\\-"))),
                "{}:\n{page}",
                key.name
            );
        }
    }
}
