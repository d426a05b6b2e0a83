//! Standard output of the commands.

use std::fmt::Arguments;
use std::io::{self, Write as _};

use crate::error::{Code, Error, Result};
use crate::safe_text;

/// Converts nanoseconds to seconds, the unit that is shown.
#[expect(clippy::cast_precision_loss, reason = "for showing")]
pub(crate) fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
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
    write_bytes(&safe_text::lines(text))
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
