//! Text files as people save them: with a byte order mark, with comments in an 8-bit character set, or no text at all.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use super::{ConfigError, Fault};
use crate::error::{Code, Error};

/// What editors on Windows put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What they put before a text in UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
/// What begins a comment in the files that are read here; all but the first do so only at the beginning of a line.
const COMMENTS: [u8; 4] = *b"#;!%";

/// Reads a file of at most `most` bytes. Errors begin with `named`.
///
/// # Errors
///
/// The file cannot be read, is no regular file, is too large, or is not text.
pub(crate) fn read_text(path: &Path, named: impl Display, most: u64) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::unreadable(&named)(error);
    let metadata = path.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > most {
        let what = format!("{named} cannot be read: not a regular file, or above {most} bytes");
        let fault = Fault::Unreadable(ErrorKind::InvalidInput);
        return Err(ConfigError::from(Error::new(Code::Config, what)).fault(fault));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    decode(bytes).map_err(|why| Error::new(Code::Config, format_args!("{named} {why}")).into())
}

/// Makes text of bytes. In comments, what is not UTF-8 is replaced: nobody but a person reads them.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("is not UTF-8 text but UTF-16, it seems; save it as UTF-8".into());
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        let line = 1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
        return Err(format!("is not UTF-8 text: line {line} has a byte that no text has"));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let bytes = error.as_bytes();
            for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
                if !is_right_but_for_its_comment(line) {
                    return Err(format!(
                        "is not UTF-8 text: line {number} has other bytes outside of a comment; save it as UTF-8"
                    ));
                }
            }
            String::from_utf8_lossy(bytes).into_owned()
        }
    };
    let mark = String::from_utf8_lossy(BYTE_ORDER_MARK);
    Ok(text.strip_prefix(mark.as_ref()).map(str::to_owned).unwrap_or(text))
}

fn is_right_but_for_its_comment(line: &[u8]) -> bool {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    let Err(error) = std::str::from_utf8(line) else { return true };
    let (right, _) = line.split_at(error.valid_up_to());
    right.contains(&b'#') || line.trim_ascii_start().first().is_some_and(|first| COMMENTS.contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_and_comments_in_other_character_sets_change_nothing() {
        for (bytes, text) in [
            (&b"\xef\xbb\xbfa = 1\n"[..], "a = 1\n"),
            (b"\xef\xbb\xbf# f\xfcr\na = 1 # \xfc\n", "# f\u{fffd}r\na = 1 # \u{fffd}\n"),
            (b"  ! f\xfcr\n;\xfc\n%\xfc", "  ! f\u{fffd}r\n;\u{fffd}\n%\u{fffd}"),
            ("a = \"\u{fc}\"".as_bytes(), "a = \"\u{fc}\""),
            (b"", ""),
        ] {
            assert_eq!(decode(bytes.into()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_text_is_refused_and_other_bytes_are_named_by_their_line() {
        for (bytes, why) in [
            (&b"\xff\xfea\0"[..], "UTF-16"),
            (b"\x7fELF\0", "no text has"),
            (b"a = 1\nb = \"f\xfcr\" # ok\n", "line 2"),
            (b"\xfc", "line 1"),
        ] {
            let error = decode(bytes.into()).unwrap_err();
            assert!(error.contains(why) && error.contains("is not UTF-8 text"), "{error}");
        }
    }
}
