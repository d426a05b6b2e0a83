//! `pooltime-xdp top`: the traffic, refreshed in the terminal until Ctrl-C, or once.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use crate::daemon::client::ask;
use crate::daemon::protocol::Request;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::status::traffic::Top;

const INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor to the upper left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Prints the traffic: once as JSON or if there is no terminal, otherwise until it is interrupted.
///
/// # Errors
///
/// No daemon runs, or standard output is closed.
pub(super) fn show(instance: &Instance, json: bool, once: bool) -> Result<()> {
    let gone = |error: std::io::Error| Error::because(Code::Io, "standard output")(error);
    loop {
        let top: Top = ask(instance, &Request::Top)?;
        let live = stdout().is_terminal() && !json && !once;
        let text = if json {
            let text = serde_json::to_string_pretty(&top);
            text.map_err(Error::because(Code::Software, "cannot write JSON"))? + "\n"
        } else {
            top.to_string()
        };
        let mut output = stdout().lock();
        let written = if live { write!(output, "{CLEAR}{text}") } else { write!(output, "{text}") }
            .and_then(|()| output.flush());
        match written {
            // A reader that has gone away (`| head`) is no error.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(gone)?,
        }
        if !live {
            return Ok(());
        }
        drop(output);
        std::thread::sleep(INTERVAL);
    }
}
