//! The client of the control socket: commands send the daemon a request, and wait as long as it says that it is
//! working.

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
use crate::service_manager::how_to_start;

/// A user who has to wait longer than this is told why.
const QUIET: Duration = Duration::from_secs(3);
/// How long a daemon is waited for that is starting or ending. Drivers may take seconds for each interface.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked for meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Why a request was not carried out.
#[derive(Debug)]
pub enum AskError {
    /// No daemon runs.
    NoDaemon {
        /// How one is started.
        start: String,
    },
    /// The user may not use the socket.
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// How commands for its instance begin.
        command: String,
    },
    /// A daemon is starting or ending, and has not listened for long.
    NotUp {
        /// Its process ID.
        process: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A daemon runs, but it does not answer.
    Silent {
        /// The socket.
        path: PathBuf,
        /// Whether it accepted the request. If so, it may still carry it out.
        accepted: bool,
        /// The error instead of an answer.
        error: io::Error,
    },
    /// The socket cannot be used for another reason.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The request or the answer cannot be converted.
    Garbled(serde_json::Error),
    /// The daemon refused the request.
    Refused(Error),
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NoDaemon { start } => Self::new(Code::Unavailable, "no daemon runs").remedy(start),
            AskError::NotAllowed { path, command } => {
                Self::new(Code::NoPermission, format_args!("{} is root's", path.display())).remedy(
                    format_args!(
                        "run it as root: `sudo {command} ...`; members of the group pooltime may look"
                    ),
                )
            }
            AskError::NotUp { process, waited } => Self::new(
                Code::TryAgain,
                format_args!(
                    "a daemon (process {process}) is starting or ending, and has not listened for {} s",
                    waited.as_secs()
                ),
            )
            .remedy(format_args!("its log says what it waits for; `kill {process}` ends it")),
            AskError::Silent { path, accepted, error } => {
                let what = format!("the daemon behind {} does not answer", path.display());
                Self::because(Code::TryAgain, what)(error).remedy(if accepted {
                    "it accepted the command and may still carry it out: check with `status` before you repeat it"
                } else {
                    "it did not accept the command: nothing was changed"
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

/// Sends a request to the instance's daemon, and waits for the answer as long as the daemon says that it is working.
///
/// # Errors
///
/// See [`AskError`].
pub fn ask<T: DeserializeOwned>(instance: &Instance, request: &Request) -> Result<T, AskError> {
    let path = instance.socket();
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                    AskError::NoDaemon { start: how_to_start(instance) }
                }
                ErrorKind::PermissionDenied => AskError::NotAllowed { path, command: instance.command() },
                _ => AskError::Socket { path, error },
            });
        }
    };
    let started = Instant::now();
    let mut notified = false;
    let on_working = || {
        if !notified && started.elapsed() >= QUIET {
            notified = true;
            eprintln!("pooltime-xdp: the daemon is still working on this or on earlier commands; waiting");
        }
    };
    let value = exchange(&stream, request, PATIENCE, on_working).map_err(|failure| match failure {
        Failure::Silent { accepted, error } => AskError::Silent { path, accepted, error },
        Failure::Garbled(error) => AskError::Garbled(error),
        Failure::Refused(error) => AskError::Refused(error),
    })?;
    serde_json::from_value(value).map_err(AskError::Garbled)
}

/// Sends a request as [`ask`]. A daemon that is starting or ending does not listen, and is waited for.
///
/// # Errors
///
/// See [`AskError`].
pub fn ask_when_up<T: DeserializeOwned>(instance: &Instance, request: &Request) -> Result<T, AskError> {
    when_up(START_PATIENCE, || ask(instance, request), || instance.holder())
}

/// Asks until there is an answer, or no process holds the instance any more.
fn when_up<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<T, AskError>,
    holder: impl Fn() -> Option<u32>,
) -> Result<T, AskError> {
    let started = Instant::now();
    let mut notified = false;
    loop {
        match ask() {
            Err(AskError::NoDaemon { start }) => {
                let Some(process) = holder() else { return Err(AskError::NoDaemon { start }) };
                if started.elapsed() >= patience {
                    return Err(AskError::NotUp { process, waited: patience });
                }
                if !notified && started.elapsed() >= QUIET {
                    notified = true;
                    eprintln!("pooltime-xdp: the daemon (process {process}) is starting or ending; waiting");
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
            answer => return answer,
        }
    }
}

/// Why a request on an open socket failed.
#[derive(Debug)]
enum Failure {
    Silent { accepted: bool, error: io::Error },
    Garbled(serde_json::Error),
    Refused(Error),
}

/// Sends a request and reads lines up to the answer, each for at most `patience`. Calls `on_working` at each
/// [`Response::Working`].
fn exchange(
    stream: &UnixStream,
    request: &Request,
    patience: Duration,
    mut on_working: impl FnMut(),
) -> Result<Value, Failure> {
    let silent = |accepted| move |error| Failure::Silent { accepted, error };
    stream.set_read_timeout(Some(patience)).map_err(silent(false))?;
    stream.set_write_timeout(Some(patience)).map_err(silent(false))?;
    let mut line = serde_json::to_string(request).map_err(Failure::Garbled)?;
    line.push('\n');
    (&mut &*stream).write_all(line.as_bytes()).map_err(silent(false))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut accepted, mut given_up) = (Vec::new(), false, None);
    loop {
        let ended = || io::Error::from(ErrorKind::UnexpectedEof);
        let rest = MAX_LINE.saturating_sub(line.len() as u64);
        match reader.by_ref().take(rest).read_until(b'\n', &mut line) {
            Ok(0) => return Err(silent(accepted)(given_up.unwrap_or_else(ended))),
            Ok(_) => {}
            Err(error) if given_up.is_none() => {
                // From now on the daemon cannot accept the request any more, because writing to this socket fails. What
                // it has written before can still be read.
                stream.shutdown(Shutdown::Both).map_err(silent(accepted))?;
                given_up = Some(error);
                continue;
            }
            Err(error) => return Err(silent(accepted)(given_up.unwrap_or(error))),
        }
        match serde_json::from_slice(&line).map_err(Failure::Garbled)? {
            Response::Working => {
                accepted = true;
                line.clear();
                on_working();
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

    /// Sends a request to a daemon that reads it and then calls this with its socket.
    fn asked<T: Send>(
        patience: Duration,
        daemon: impl FnOnce(UnixStream) -> T + Send,
    ) -> (Result<Value, Failure>, T) {
        let (stream, other) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let daemon = scope.spawn(move || {
                let mut line = String::new();
                BufReader::new(&other).read_line(&mut line).unwrap();
                assert_eq!(line, "{\"command\":\"top\"}\n");
                daemon(other)
            });
            let answer = exchange(&stream, &Request::Top, patience, || ());
            // Nothing depends on the client ending its connection.
            let daemon = daemon.join().unwrap();
            (answer, daemon)
        })
    }

    /// Waits until the client has given up.
    fn wait_for_client(daemon: &mut UnixStream) {
        assert_eq!(daemon.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_daemon_that_says_that_it_is_working_is_waited_for_however_long_it_takes() {
        let patience = Duration::from_secs(2);
        let start = Instant::now();
        let (answer, ()) = asked(patience, |mut daemon| {
            while start.elapsed() < patience + patience / 4 {
                daemon.write_all(b"\"working\"\n").unwrap();
                thread::sleep(patience / 20);
            }
            daemon.write_all(b"{\"ok\":7}\n").unwrap();
        });
        assert_eq!(answer.unwrap(), Value::from(7));
    }

    #[test]
    fn a_daemon_cannot_accept_a_request_after_the_client_has_given_up() {
        let (answer, written) = asked(Duration::from_millis(50), |mut daemon| {
            wait_for_client(&mut daemon);
            daemon.write_all(b"\"working\"\n")
        });
        assert!(matches!(answer, Err(Failure::Silent { accepted: false, .. })), "{answer:?}");
        assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_daemon_that_falls_silent_after_it_accepted_the_request_is_reported_as_such() {
        let (answer, ()) = asked(Duration::from_millis(50), |mut daemon| {
            daemon.write_all(b"\"working\"\n").unwrap();
            wait_for_client(&mut daemon);
        });
        assert!(matches!(answer, Err(Failure::Silent { accepted: true, .. })), "{answer:?}");
        let (answer, ()) = asked(PATIENCE, |mut daemon| daemon.write_all(b"\"working\"\n").unwrap());
        assert!(
            matches!(answer, Err(Failure::Silent { accepted: true, .. })),
            "the daemon has ended: {answer:?}"
        );
        let (answer, ()) = asked(PATIENCE, drop);
        assert!(
            matches!(answer, Err(Failure::Silent { accepted: false, .. })),
            "the daemon has ended: {answer:?}"
        );
    }

    #[test]
    fn a_daemon_that_does_not_listen_is_waited_for_while_there_is_one_and_not_for_ever() {
        let no_daemon = || AskError::NoDaemon { start: "attach".into() };
        let mut asked = 0;
        let answer = when_up(
            PATIENCE,
            || {
                asked += 1;
                if asked < 3 { Err(no_daemon()) } else { Ok(asked) }
            },
            || Some(7),
        );
        assert_eq!(answer.unwrap(), 3, "it listens after a while");

        let looks = std::cell::Cell::new(0);
        let holder = || {
            looks.set(looks.get() + 1);
            (looks.get() < 3).then_some(7)
        };
        let answer = when_up(PATIENCE, || Err::<(), _>(no_daemon()), holder);
        assert!(matches!(answer, Err(AskError::NoDaemon { .. })), "it has ended: {answer:?}");
        assert_eq!(looks.get(), 3);

        let answer = when_up(Duration::from_millis(120), || Err::<(), _>(no_daemon()), || Some(7));
        let error = Error::from(answer.unwrap_err());
        assert!(error.what.contains("(process 7) is starting or ending"), "{error}");
        assert!(error.remedy.unwrap().contains("`kill 7` ends it"));
    }

    #[test]
    fn a_refusal_and_an_answer_that_cannot_be_parsed_are_told_apart() {
        let refusal = Error::new(Code::NoInput, "not attached to `lan1`");
        let line = serde_json::to_string(&Response::Error(refusal.clone())).unwrap() + "\n";
        let (answer, ()) = asked(PATIENCE, |mut daemon| daemon.write_all(line.as_bytes()).unwrap());
        assert!(matches!(answer, Err(Failure::Refused(error)) if error == refusal));
        let (answer, ()) = asked(PATIENCE, |mut daemon| daemon.write_all(b"hello\n").unwrap());
        assert!(matches!(answer, Err(Failure::Garbled(_))), "{answer:?}");
    }
}
