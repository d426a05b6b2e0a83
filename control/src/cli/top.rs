//! `pooltime-xdp top`: the traffic, refreshed in the terminal until Ctrl-C, or once.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use responder::Access;

use crate::daemon::client::ask;
use crate::daemon::protocol::Request;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::output::{print_versioned_json, width, write_table};
use crate::serving::limits::Listed;
use crate::status::traffic::Top;

const INTERVAL: Duration = Duration::from_secs(1);
/// Clears the screen.
const CLEAR: &str = "\x1b[2J";
/// Moves the cursor to the upper left corner. What is there is written over, so that nothing flickers.
const HOME: &str = "\x1b[H";
/// Ends a line, and clears what a longer one has left behind it.
const NEXT: &str = "\x1b[K\r\n";
/// Clears what is below the cursor.
const REST: &str = "\x1b[J";

/// Prints the traffic: once as JSON or if there is no terminal, otherwise until it is interrupted.
///
/// # Errors
///
/// No daemon runs, or standard output is closed.
pub(super) fn show(instance: &Instance, json: bool, once: bool) -> Result<()> {
    let live = stdout().is_terminal() && !json && !once;
    let mut first = true;
    loop {
        let mut top: Top = ask(instance, &Request::Top)?;
        let entries: Vec<Listed> = ask(instance, &Request::ListAccess)?;
        let denied = entries.iter().filter(|entry| entry.live && entry.access == Access::Denied.label());
        top.denied = denied.map(|entry| entry.prefix.to_string()).collect();
        if json {
            return print_versioned_json(&top);
        }
        if !live {
            return write_table(&top.to_string());
        }
        let text = screen(&top.to_string(), width(), height(), std::mem::take(&mut first));
        let mut output = stdout().lock();
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // A reader that has gone away (`| head`) is no error.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(Error::because(Code::Io, "standard output"))?,
        }
        drop(output);
        std::thread::sleep(INTERVAL);
    }
}

/// Returns what shows the text on a screen of this size in place of what is there. What does not fit is left out.
fn screen(text: &str, width: usize, height: usize, first: bool) -> String {
    let mut shown = if first { format!("{CLEAR}{HOME}") } else { HOME.to_owned() };
    // The cursor stands on a line of its own below.
    for line in text.lines().take(height.saturating_sub(1)) {
        shown.extend(line.chars().take(width));
        shown.push_str(NEXT);
    }
    shown + REST
}

/// Returns the number of lines of the terminal.
fn height() -> usize {
    const USUAL: usize = 24;
    terminal_size::terminal_size().map_or(USUAL, |(_, height)| usize::from(height.0).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_written_over_and_never_wider_or_higher_than_it_is() {
        let text = "a line that is rather long\nsecond\nthird\n";
        let first = screen(text, 10, 3, true);
        assert!(first.starts_with("\x1b[2J\x1b[H"), "{first:?}");
        let next = screen(text, 10, 3, false);
        assert_eq!(next, "\x1b[Ha line tha\x1b[K\r\nsecond\x1b[K\r\n\x1b[J");
    }
}
