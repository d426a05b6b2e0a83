//! Text for terminals of 80 columns.

/// The widest line.
pub(super) const WIDTH: usize = 80;

/// Folds a text between words into lines of at most [`WIDTH`] columns, each of which begins with so many spaces. A longer
/// word is not broken.
pub(super) fn folded(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            column = 0;
        }
        if column == 0 {
            lines.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded_between_words_and_have_their_indent() {
        let text = "word ".repeat(40);
        let lines = folded(&text, 10);
        assert!(lines.lines().count() > 2);
        for line in lines.lines() {
            assert!(line.len() <= WIDTH && line.starts_with("          word"), "{line:?}");
        }
        assert_eq!(lines.split_whitespace().count(), 40);
        assert_eq!(folded("", 4), "");
        let long = "x".repeat(100);
        assert_eq!(folded(&format!("a {long} b"), 0), format!("a\n{long}\nb"));
    }
}
