//! The control socket's end in the commands: they ask the daemon, and wait for as long as it says that it is at work.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{MAX_LINE, PATIENCE, Request, Response};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;

/// Whoever waits longer is told why.
const WORDLESS: Duration = Duration::from_secs(3);

/// Why the daemon did not do what it was asked.
#[derive(Debug)]
pub enum AskError {
    /// None runs.
    NoDaemon {
        /// How commands for its instance begin.
        command: String,
    },
    /// The socket is somebody else's.
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// How commands for its instance begin.
        command: String,
    },
    /// There is a daemon, but it says nothing.
    Silent {
        /// Its socket.
        path: PathBuf,
        /// Whether it took the request: then it may still carry it out.
        taken: bool,
        /// What came instead of an answer.
        error: io::Error,
    },
    /// The socket cannot be used for another reason.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// What is said cannot be read or written.
    Garbled(serde_json::Error),
    /// The daemon's own error.
    Refused(Error),
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NoDaemon { command } => Self::new(Code::Unavailable, "no daemon runs")
                .remedy(format_args!("`sudo {command} attach IFACE` starts it")),
            AskError::NotAllowed { path, command } => {
                Self::new(Code::NoPermission, format_args!("{} is root's", path.display()))
                    .remedy(format_args!("run it as root: `sudo {command} ...`"))
            }
            AskError::Silent { path, taken, error } => {
                let what = format!("the daemon behind {} does not answer", path.display());
                Self::because(Code::TryAgain, what)(error).remedy(if taken {
                    "it took the command and may still carry it out: look at `status` before you repeat it"
                } else {
                    "it did not take the command: nothing was changed"
                })
            }
            AskError::Socket { path, error } => Self::because(Code::Io, path.display())(error),
            AskError::Garbled(error) => {
                let what = "the daemon's answer makes no sense; is it another version?";
                Self::because(Code::Software, what)(error)
            }
            AskError::Refused(error) => error,
        }
    }
}

/// Asks the instance's daemon, and waits for its answer as long as it says that it is at work.
///
/// # Errors
///
/// See [`AskError`].
pub fn ask<T: DeserializeOwned>(instance: &Instance, request: &Request) -> Result<T, AskError> {
    let path = instance.socket();
    let command = || instance.command();
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    AskError::NoDaemon { command: command() }
                }
                ErrorKind::PermissionDenied => AskError::NotAllowed { path, command: command() },
                _ => AskError::Socket { path, error },
            });
        }
    };
    let started = Instant::now();
    let mut told = false;
    let at_work = || {
        if !told && started.elapsed() >= WORDLESS {
            told = true;
            eprintln!(
                "pooltime-xdp: the daemon is still at work on this or on earlier changes; waiting for it"
            );
        }
    };
    let value = exchange(&stream, request, PATIENCE, at_work).map_err(|failure| match failure {
        Failure::Silent { taken, error } => AskError::Silent { path, taken, error },
        Failure::Garbled(error) => AskError::Garbled(error),
        Failure::Refused(error) => AskError::Refused(error),
    })?;
    serde_json::from_value(value).map_err(AskError::Garbled)
}

/// What may become of a request on an open socket.
#[derive(Debug)]
enum Failure {
    Silent { taken: bool, error: io::Error },
    Garbled(serde_json::Error),
    Refused(Error),
}

/// Sends a request and reads until the answer, for at most `patience` from one word of the daemon to the next. `at_work`
/// is called at each [`Response::Working`].
fn exchange(
    stream: &UnixStream,
    request: &Request,
    patience: Duration,
    mut at_work: impl FnMut(),
) -> Result<Value, Failure> {
    let silent = |taken| move |error| Failure::Silent { taken, error };
    stream.set_read_timeout(Some(patience)).map_err(silent(false))?;
    stream.set_write_timeout(Some(patience)).map_err(silent(false))?;
    let mut line = serde_json::to_string(request).map_err(Failure::Garbled)?;
    line.push('\n');
    (&mut &*stream).write_all(line.as_bytes()).map_err(silent(false))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut taken, mut given_up) = (Vec::new(), false, None);
    loop {
        let ended = || io::Error::from(ErrorKind::UnexpectedEof);
        let rest = MAX_LINE.saturating_sub(line.len() as u64);
        match reader.by_ref().take(rest).read_until(b'\n', &mut line) {
            Ok(0) => return Err(silent(taken)(given_up.unwrap_or_else(ended))),
            Ok(_) => {}
            Err(error) if given_up.is_none() => {
                // From now on the daemon cannot say that it takes the request, and so it will not. What it said before
                // can still be read.
                stream.shutdown(Shutdown::Both).map_err(silent(taken))?;
                given_up = Some(error);
                continue;
            }
            Err(error) => return Err(silent(taken)(given_up.unwrap_or(error))),
        }
        match serde_json::from_slice(&line).map_err(Failure::Garbled)? {
            Response::Working => {
                taken = true;
                line.clear();
                at_work();
            }
            Response::Ok(value) => return Ok(value),
            Response::Error(error) => return Err(Failure::Refused(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    /// Asks a daemon that reads the request and then does this with its socket.
    fn asked<T: Send>(daemon: impl FnOnce(UnixStream) -> T + Send) -> (Result<Value, Failure>, T) {
        let (stream, other) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let daemon = scope.spawn(move || {
                let mut line = String::new();
                BufReader::new(&other).read_line(&mut line).unwrap();
                assert_eq!(line, "{\"command\":\"top\"}\n");
                daemon(other)
            });
            let answer = exchange(&stream, &Request::Top, SHORT, || ());
            drop(stream);
            (answer, daemon.join().unwrap())
        })
    }

    #[test]
    fn a_daemon_that_says_that_it_is_at_work_is_waited_for_however_long_it_takes() {
        let start = Instant::now();
        let (answer, ()) = asked(|mut daemon| {
            while start.elapsed() < 3 * SHORT {
                daemon.write_all(b"\"working\"\n").unwrap();
                thread::sleep(SHORT / 4);
            }
            daemon.write_all(b"{\"ok\":7}\n").unwrap();
        });
        assert_eq!(answer.unwrap(), Value::from(7));
    }

    #[test]
    fn a_daemon_cannot_take_the_request_of_one_who_was_told_that_it_did_not() {
        let (answer, taken) = asked(|mut daemon| {
            // Longer than anybody waits: the asker has given up, but its socket may still be there.
            thread::sleep(2 * SHORT);
            daemon.write_all(b"\"working\"\n")
        });
        assert!(matches!(answer, Err(Failure::Silent { taken: false, .. })), "{answer:?}");
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_daemon_that_falls_silent_after_it_took_the_request_is_reported_as_one_that_did() {
        let (answer, ()) = asked(|mut daemon| {
            daemon.write_all(b"\"working\"\n").unwrap();
            thread::sleep(2 * SHORT);
        });
        assert!(matches!(answer, Err(Failure::Silent { taken: true, .. })), "{answer:?}");
        let (answer, ()) = asked(|mut daemon| daemon.write_all(b"\"working\"\n").unwrap());
        assert!(matches!(answer, Err(Failure::Silent { taken: true, .. })), "it has ended: {answer:?}");
        let (answer, ()) = asked(drop);
        assert!(matches!(answer, Err(Failure::Silent { taken: false, .. })), "it has ended: {answer:?}");
    }

    #[test]
    fn what_a_daemon_refuses_and_what_it_says_in_another_language_are_told_apart() {
        let refusal = Error::new(Code::NoInput, "not attached to `lan1`");
        let line = serde_json::to_string(&Response::Error(refusal.clone())).unwrap() + "\n";
        let (answer, ()) = asked(|mut daemon| daemon.write_all(line.as_bytes()).unwrap());
        assert!(matches!(answer, Err(Failure::Refused(error)) if error == refusal));
        let (answer, ()) = asked(|mut daemon| daemon.write_all(b"hello\n").unwrap());
        assert!(matches!(answer, Err(Failure::Garbled(_))), "{answer:?}");
    }
}
