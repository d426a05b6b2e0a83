//! Text from elsewhere, made safe to show on a terminal, to log, and to paste into a shell.
//!
//! Whoever may start a process chooses its name, and names of interfaces, chains and monitors are chosen elsewhere, too.
//! Such text must not move a cursor, begin a line of its own, read backwards, or end a word of a command.

use std::borrow::Cow;

/// Returns the text on one line: whatever does not print is escaped as Rust escapes it.
#[must_use]
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// As [`one_line`], but for text of several lines, which line feeds end.
#[must_use]
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    // These print, and text has many of them.
    let prints = |c: char| matches!(c, ' '..='~') || keeps(c);
    if text.chars().all(prints) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if prints(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_debug());
        }
    }
    Cow::Owned(safe)
}

/// Returns the text as one word of a shell's command line: in quotes where it has characters that may mean something to
/// a shell.
#[must_use]
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    let text = one_line(text);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_stays_and_the_rest_is_escaped() {
        for text in ["", "chronyd", "it's \"so\": C:\\ntp", "größer, 時刻"] {
            assert_eq!(one_line(text), text);
        }
        assert_eq!(
            one_line("a\nb\r\x1b[2J\x07\u{9b}\u{202e}\u{2028}"),
            r"a\nb\r\u{1b}[2J\u{7}\u{9b}\u{202e}\u{2028}"
        );
        assert_eq!(lines("a\tb\n\x1b[2J\r\n"), "a\tb\n\\u{1b}[2J\\r\n");
    }

    #[test]
    fn no_character_controls_a_terminal_whatever_surrounds_it() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = format!("a{c}b");
            let safe = one_line(&text);
            assert!(!safe.chars().any(char::is_control), "{c:?}");
            assert_eq!(one_line(&safe), safe, "{c:?} is escaped once and not twice");
        }
    }

    #[test]
    fn a_shell_takes_a_word_for_what_it_is() {
        let texts = (1..=0x7e).filter_map(char::from_u32).map(|c| format!("x{c}y"));
        let attacks = ["", "a;id", "$(id)", "`id`", "a b", "'", "''\\''", "a'b'c", "~", "*", "#", "-n", "!!"];
        for text in texts.chain(attacks.map(ToOwned::to_owned)) {
            let script = format!("printf %s {}", shell_word(&text));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{script}: {output:?}");
            assert_eq!(String::from_utf8(output.stdout).unwrap(), one_line(&text), "{script}");
        }
    }
}
