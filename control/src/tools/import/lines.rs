//! Lines of a configuration as words, which is how most daemons read theirs.

/// A line with a directive.
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: u32,
    /// The line without spaces around it and without comments.
    pub(super) text: &'a str,
    /// The first word, in lower case.
    pub(super) directive: String,
    /// The other words. Quotation marks around them are left out.
    pub(super) arguments: Vec<&'a str>,
}

/// Returns the lines that are neither empty nor comments.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    (1..).zip(text.lines()).filter_map(|(number, line)| {
        let line = line.trim();
        // chronyd also takes these characters for comments, but only at the beginning of a line.
        if line.starts_with([';', '%', '!']) {
            return None;
        }
        let (words, text) = split(line);
        let (directive, arguments) = words.split_first()?;
        let directive = directive.to_ascii_lowercase();
        Some(Line { number, text, directive, arguments: arguments.to_vec() })
    })
}

/// Returns the words before a comment, and the part of the line that they are in. Spaces and `#` between quotation
/// marks belong to the word.
fn split(line: &str) -> (Vec<&str>, &str) {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            break;
        }
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(|c: char| c.is_whitespace() || c == '#').unwrap_or(rest.len())),
        };
        words.push(word);
        rest = after;
    }
    (words, line[..line.len() - rest.len()].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_quoted_and_comments_end_a_line() {
        let text = "Server \"ntp1.example.net\" iburst # ours\n\n# all\n; some\n  leapfile \"/a b#c\"x#d\nfile \"open\n";
        let found: Vec<_> = lines(text)
            .map(|line| (line.number, line.directive, line.arguments.join("|"), line.text))
            .collect();
        assert_eq!(
            found,
            [
                (1, "server".into(), "ntp1.example.net|iburst".into(), "Server \"ntp1.example.net\" iburst"),
                (5, "leapfile".into(), "/a b#c|x".into(), "leapfile \"/a b#c\"x"),
                (6, "file".into(), "open".into(), "file \"open"),
            ]
        );
    }
}
