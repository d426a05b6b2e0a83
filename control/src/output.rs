//! Standard output of the commands: for people folded and coloured where it is a terminal, and JSON for programs.

use std::fmt::Arguments;
use std::io::{self, IsTerminal as _, Write as _};

use crate::error::{Code, Error, Result};
use crate::safe_text;

/// Version of the JSON formats. Keys may be added within a version; none is removed.
const FORMAT: u32 = 1;
/// A terminal that does not say how wide it is has so many columns.
const USUAL_WIDTH: usize = 80;
/// Text behind a label that is longer than this is not aligned when its line is folded.
const WIDEST_LABEL: usize = 20;

/// Converts nanoseconds to seconds, the unit that is shown.
#[expect(clippy::cast_precision_loss, reason = "for showing")]
pub(crate) fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

/// An object with the version of its format.
#[derive(serde::Serialize)]
struct Versioned<'a, T> {
    format: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// Prints a structure as JSON to standard output, with the version of its format as the key `format`.
pub(crate) fn print_versioned_json<T: serde::Serialize>(value: &T) -> Result<()> {
    print_json(&Versioned { format: FORMAT, value })
}

/// The same on one line, for one of many objects.
pub(crate) fn print_versioned_json_line<T: serde::Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string(&Versioned { format: FORMAT, value })
        .map_err(Error::because(Code::Software, "cannot write JSON"))?;
    write_bytes(&format!("{text}\n"))
}

/// Prints a value as JSON to standard output.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(Error::because(Code::Software, "cannot write JSON"))?;
    // JSON has escapes of its own.
    write_bytes(&format!("{text}\n"))
}

/// Prints a line to standard output.
pub(crate) fn print_line(line: Arguments<'_>) -> Result<()> {
    write(&format!("{line}\n"))
}

/// Writes lines to standard output. Names in them may come from elsewhere, so whatever does not print is escaped.
pub(crate) fn write(text: &str) -> Result<()> {
    write_bytes(&for_people(text, io::stdout().is_terminal()))
}

/// Writes lines whose columns are wider than any fold would leave them, such as a table.
pub(crate) fn write_table(text: &str) -> Result<()> {
    write_bytes(&safe_text::lines(text))
}

/// Writes lines to standard error, as [`write()`].
pub(crate) fn complain(text: &str) {
    let _nobody_reads = io::stderr().write_all(for_people(text, io::stderr().is_terminal()).as_bytes());
}

/// Whether output to a terminal may be coloured: <https://no-color.org>.
pub(crate) fn may_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns the number of columns of the terminal.
pub(crate) fn width() -> usize {
    terminal_size::terminal_size().map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0).max(20))
}

fn for_people(text: &str, is_terminal: bool) -> String {
    let safe = safe_text::lines(text);
    if !is_terminal {
        return safe.into_owned();
    }
    let (width, colour) = (width(), may_colour());
    let mut shown = String::with_capacity(safe.len());
    for line in safe.lines() {
        // A command of `doctor` is for copying, so it stays on one line.
        let is_command = line.trim_start().starts_with("type  ");
        let folded = if is_command { line.to_owned() } else { fold(line, width) };
        shown.push_str(&if colour { paint(&folded) } else { folded });
        shown.push('\n');
    }
    shown
}

/// Folds a line between words so that no line is wider, if its words allow that. What follows is indented like the text
/// behind the label of the line.
pub(crate) fn fold(line: &str, width: usize) -> String {
    let start = text_start(line);
    let indent = if start < width / 2 { start } else { 0 };
    let mut folded: String = line.chars().take(start).collect();
    let mut column = start;
    let text = line.chars().skip(start).collect::<String>();
    for (number, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > width && column > indent {
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if number > 0 {
            folded.push(' ');
            column += 1;
        }
        folded.push_str(word);
        column += length;
    }
    folded
}

/// Returns the column at which the text of a line begins: behind its label, if two or more spaces follow one.
fn text_start(line: &str) -> usize {
    let characters: Vec<char> = line.chars().collect();
    let leading = characters.iter().take_while(|c| **c == ' ').count();
    let mut start = leading;
    // A finding of `doctor` has two labels.
    for _ in 0..2 {
        let rest = characters.get(start..).unwrap_or_default();
        let gap = rest.windows(2).position(|two| two == [' ', ' ']).filter(|gap| *gap <= WIDEST_LABEL);
        let Some(gap) = gap else { break };
        start += gap + rest.iter().skip(gap).take_while(|c| **c == ' ').count();
    }
    start
}

/// Colours the word by which a line says how well things are.
fn paint(line: &str) -> String {
    const GREEN: &str = "\x1b[32m";
    const YELLOW: &str = "\x1b[33m";
    const RED: &str = "\x1b[31m";
    const END: &str = "\x1b[0m";
    let words = [
        ("NOT HEALTHY", RED),
        ("NOT SYNCHRONISED", RED),
        ("NOT ATTACHED", RED),
        ("problem ", RED),
        ("warning:", YELLOW),
        ("warning ", YELLOW),
        ("healthy:", GREEN),
        ("synchronised,", GREEN),
        ("ok ", GREEN),
    ];
    // The word begins the line, or follows its label: what stands in the middle of a sentence is not meant.
    let label: usize = line.chars().take(text_start(line)).map(char::len_utf8).sum();
    for (word, colour) in words {
        for at in [0, line.len() - line.trim_start().len(), label] {
            if line.get(at..).is_some_and(|rest| rest.starts_with(word)) {
                let (before, rest) = line.split_at(at);
                let (word, after) = rest.split_at(word.trim_end().len());
                return format!("{before}{colour}{word}{END}{after}");
            }
        }
    }
    line.to_owned()
}

/// A reader that has gone away (`| head`) is no error.
fn write_bytes(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::because(Code::Io, "standard output")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_behind_their_labels_and_lose_nothing() {
        let line = "warning     the list of leap seconds has expired, so that nobody knows of the next one";
        let folded = fold(line, 40);
        let lines: Vec<_> = folded.lines().collect();
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() <= 40), "{folded}");
        assert!(lines.iter().skip(1).all(|line| line.starts_with("            ")), "{folded}");
        assert_eq!(
            folded.split_whitespace().collect::<Vec<_>>(),
            line.split_whitespace().collect::<Vec<_>>()
        );
        assert_eq!(fold("short", 40), "short");
        assert_eq!(fold("", 40), "");
        let finding =
            "         why   the fewer upstreams answer, the harder it is to notice a wrong one of them";
        assert!(fold(finding, 60).lines().skip(1).all(|line| line.starts_with(&" ".repeat(15))));
        let word = "x".repeat(90);
        assert_eq!(fold(&word, 80), word, "a word is not broken");
    }

    #[test]
    fn only_the_word_that_says_how_things_are_is_coloured() {
        assert_eq!(paint("NOT HEALTHY"), "\x1b[31mNOT HEALTHY\x1b[0m");
        assert_eq!(
            paint("clock       synchronised, stratum 2"),
            "clock       \x1b[32msynchronised,\x1b[0m stratum 2"
        );
        assert_eq!(paint("  warning: it is late"), "  \x1b[33mwarning:\x1b[0m it is late");
        assert_eq!(paint("problem  eth0: down"), "\x1b[31mproblem\x1b[0m  eth0: down");
        let plain = "daemon      it says that it is healthy: perhaps, and warning of nothing";
        assert_eq!(paint(plain), plain);
    }

    #[test]
    fn objects_have_the_version_of_their_format_first() {
        #[derive(serde::Serialize)]
        struct Value {
            a: u8,
        }
        let text = serde_json::to_string(&Versioned { format: FORMAT, value: &Value { a: 7 } }).unwrap();
        assert_eq!(text, r#"{"format":1,"a":7}"#);
    }
}
