//! The control socket's end in the daemon.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Group, Uid, chown};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{interval_at, timeout};
use tracing::warn;

use super::protocol::{ALIVE_INTERVAL, MAX_LINE, PATIENCE, Request, Response};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;

/// Connections that are served at a time, including those of commands that wait in a queue. More wait to be accepted.
const CONNECTIONS: usize = 128;

/// A request on its way to the loop, with the caller.
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) caller: Caller,
}

/// The command that sent a request and waits for the answer.
pub(super) struct Caller {
    reply: oneshot::Sender<Response>,
    written: Written,
}

impl Caller {
    /// Whether the caller still waits. If it has given up, its request is not to be carried out.
    pub(super) fn is_waiting(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Answers the caller. Returns a future that is ready when the answer is written.
    pub(super) fn answer<T: Serialize>(self, answer: Result<T>) -> Written {
        let json = |value| serde_json::to_value(value).map_err(Error::because(Code::Software, "answer"));
        let response = match answer.and_then(json) {
            Ok(value) => Response::Ok(value),
            Err(error) => Response::Error(error),
        };
        let _gone = self.reply.send(response);
        self.written
    }
}

/// Is ready when the answer is written to the socket or the caller is gone, at the latest after [`PATIENCE`].
pub(super) struct Written(oneshot::Receiver<()>);

impl IntoFuture for Written {
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            // Nothing is ever sent: the task that writes holds the other end until it is done.
            let _done = self.0.await;
        })
    }
}

/// The group whose members may look at the server, and change nothing.
pub(super) const GROUP: &str = "pooltime";

/// Listens, and sends what is asked to the loop. The socket is root's, and for the members of [`GROUP`] to look, if there is
/// such a group.
pub(super) fn listen(instance: &Instance) -> Result<mpsc::Receiver<Call>> {
    let path = instance.socket();
    // The lock says that no daemon runs: what is there was left by one that was killed.
    let _not_there = std::fs::remove_file(&path);
    let failed = |error| Error::because(Code::Io, format_args!("cannot listen on {}", path.display()))(error);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && let Err(error) = chown(&path, None, Some(group.gid))
    {
        // A service is in the group, and so is its socket from the beginning.
        let is_in_it = std::fs::metadata(&path).is_ok_and(|socket| socket.gid() == group.gid.as_raw());
        if !is_in_it {
            warn!(
                "only root can look at this server: {} cannot be given to the group {GROUP}: {error}",
                path.display()
            );
        }
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(CONNECTIONS);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, for example.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let _gone_or_too_slow = serve(stream, sender, ALIVE_INTERVAL).await;
                drop(place);
            });
        }
    });
    Ok(receiver)
}

/// Serves one request, as long as the caller is connected.
async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>, alive: Duration) -> std::io::Result<()> {
    let user = Uid::from_raw(stream.peer_cred()?.uid());
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reader.take(MAX_LINE)).read_line(&mut line)).await??;
    let (_until_written, written) = oneshot::channel();
    let response = match Request::parse(&line) {
        Err(error) => Response::Error(error),
        Ok(request) if !may_send(user, &request) => Response::Error(
            Error::new(
                Code::NoPermission,
                format_args!("only root changes the server, and this is user {user}"),
            )
            .remedy(format_args!("members of the group {GROUP} may look; `sudo` does the rest")),
        ),
        Ok(request) => {
            // If this fails, the caller has given up and has reported that nothing was changed. So nothing is.
            send(&mut writer, &Response::Working).await?;
            let (reply, answer) = oneshot::channel();
            let caller = Caller { reply, written: Written(written) };
            let ended = || Response::Error(Error::new(Code::TryAgain, "the daemon is ending"));
            match calls.send(Call { request, caller }).await {
                Ok(()) => wait(answer, &mut writer, alive).await?.unwrap_or_else(ended),
                Err(_) => ended(),
            }
        }
    };
    send(&mut writer, &response).await?;
    writer.shutdown().await
}

/// Whether a user may send a request. Whoever runs the daemon is root, except in tests.
fn may_send(user: Uid, request: &Request) -> bool {
    request.only_looks() || user.is_root() || user == Uid::effective()
}

/// Waits for the answer, and sends [`Response::Working`] meanwhile. Returns nothing if the loop has ended.
///
/// # Errors
///
/// The caller has closed the connection.
async fn wait(
    mut answer: oneshot::Receiver<Response>,
    writer: &mut OwnedWriteHalf,
    alive: Duration,
) -> std::io::Result<Option<Response>> {
    let mut alive = interval_at(tokio::time::Instant::now() + alive, alive);
    loop {
        tokio::select! {
            answer = &mut answer => return Ok(answer.ok()),
            _ = alive.tick() => send(writer, &Response::Working).await?,
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_string(response)?;
    line.push('\n');
    timeout(PATIENCE, writer.write_all(line.as_bytes())).await?
}

/// Makes a caller for a test, and the receiver of its answer.
#[cfg(test)]
pub(super) fn caller() -> (Caller, oneshot::Receiver<Response>) {
    let (reply, answer) = oneshot::channel();
    let (_written, written) = oneshot::channel();
    (Caller { reply, written: Written(written) }, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_reply_to_be_written_waits_for_all_of_it() {
        // This is far more than a socket buffers, so writing has to wait for the client.
        let long = "x".repeat(4 << 20);
        let (mut client, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        let serving = tokio::spawn(serve(stream, sender, ALIVE_INTERVAL));
        client.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let Call { request, caller } = calls.recv().await.unwrap();
        assert_eq!(request, Request::Status);
        let written = caller.answer(Ok(&long));

        let mut written = written.into_future();
        assert!(timeout(Duration::from_millis(50), &mut written).await.is_err());
        let mut read = String::new();
        let (all, ()) = tokio::join!(client.read_to_string(&mut read), written);
        all.unwrap();
        serving.await.unwrap().unwrap();
        assert!(read.contains(&long));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_not_waited_for() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        let _serving = tokio::spawn(serve(stream, sender, ALIVE_INTERVAL));
        client.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let call = calls.recv().await.unwrap();
        drop(client);
        let written = call.caller.answer(Ok("x".repeat(4 << 20)));
        timeout(PATIENCE, written.into_future()).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_is_told_that_the_daemon_is_working_and_is_noticed_when_gone() {
        const ALIVE: Duration = Duration::from_millis(20);
        let (mut client, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        let serving = tokio::spawn(serve(stream, sender, ALIVE));
        client.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let call = calls.recv().await.unwrap();
        let mut lines = BufReader::new(client).lines();
        for _ in 0..4 {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap();
            assert_eq!(line.unwrap().unwrap(), "\"working\"");
        }
        assert!(call.caller.is_waiting());
        drop(lines);
        assert!(timeout(PATIENCE, serving).await.unwrap().unwrap().is_err());
        assert!(!call.caller.is_waiting());
    }

    #[test]
    fn others_than_root_may_look_and_change_nothing() {
        let other = Uid::from_raw(Uid::effective().as_raw() + 7);
        for (line, allowed) in [
            (r#"{"command":"status"}"#, true),
            (r#"{"command":"peers"}"#, true),
            (r#"{"command":"top"}"#, true),
            (r#"{"command":"listaccess"}"#, true),
            (r#"{"command":"source","address":"192.0.2.1"}"#, true),
            (r#"{"command":"probes"}"#, true),
            (r#"{"command":"course"}"#, true),
            (r#"{"command":"detach","interfaces":[]}"#, false),
            (r#"{"command":"attach","interfaces":["lo"],"mode":"auto","replace":false}"#, false),
            (r#"{"command":"setaccess","prefix":"192.0.2.1/32","access":"deny","seconds":null}"#, false),
            (r#"{"command":"removeaccess","prefix":"192.0.2.1/32"}"#, false),
        ] {
            let request = Request::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(may_send(other, &request), allowed, "{line}");
            assert!(may_send(Uid::from_raw(0), &request), "{line}");
        }
    }

    #[tokio::test]
    async fn the_request_of_a_client_that_has_given_up_is_not_accepted() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        client.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        drop(client);
        assert!(serve(stream, sender, ALIVE_INTERVAL).await.is_err());
        assert!(calls.recv().await.is_none());
    }
}
