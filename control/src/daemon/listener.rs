//! The control socket's end in the daemon.

use std::os::unix::fs::PermissionsExt as _;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::protocol::{MAX_LINE, PATIENCE, Request, Response};
use crate::error::{Code, Error, Result};
use crate::instance::Instance;

/// Commands that are served at a time; more wait.
const CONNECTIONS: usize = 16;

/// A request on its way to the loop, and the way back.
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Response>,
    pub(super) written: Written,
}

/// Ends once the reply is on its way to the asker, or cannot be: within [`PATIENCE`] in any case.
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

/// Listens, and sends what is asked to the loop. The socket is root's and its group's.
pub(super) fn listen(instance: &Instance) -> Result<mpsc::Receiver<Call>> {
    let path = instance.socket();
    // The lock says that no daemon runs: what is there was left by one that was killed.
    let _not_there = std::fs::remove_file(&path);
    let failed = |error| Error::because(Code::Io, format_args!("cannot listen on {}", path.display()))(error);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(CONNECTIONS);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, for example.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let _too_slow = timeout(PATIENCE, serve(stream, sender)).await;
                drop(place);
            });
        }
    });
    Ok(receiver)
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_LINE)).read_line(&mut line).await?;
    let (_until_written, written) = oneshot::channel();
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::Error(Error::new(Code::Data, format_args!("not a request: {error}"))),
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let ended = || Response::Error(Error::new(Code::TryAgain, "the daemon is ending"));
            match calls.send(Call { request, reply, written: Written(written) }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| ended()),
                Err(_) => ended(),
            }
        }
    };
    let mut line = serde_json::to_string(&response)?;
    line.push('\n');
    writer.write_all(line.as_bytes()).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_reply_to_be_written_waits_for_all_of_it() {
        // Far more than a socket holds, so that writing has to wait for the asker.
        let long = "x".repeat(4 << 20);
        let (mut asker, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        let serving = tokio::spawn(serve(stream, sender));
        asker.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let Call { request, reply, written } = calls.recv().await.unwrap();
        assert_eq!(request, Request::Status);
        reply.send(Response::Ok(serde_json::Value::String(long.clone()))).unwrap();

        let mut written = written.into_future();
        assert!(timeout(std::time::Duration::from_millis(50), &mut written).await.is_err());
        let mut read = String::new();
        let (all, ()) = tokio::join!(asker.read_to_string(&mut read), written);
        all.unwrap();
        serving.await.unwrap().unwrap();
        assert!(read.contains(&long));
    }

    #[tokio::test]
    async fn an_asker_who_is_gone_is_not_waited_for() {
        let (mut asker, stream) = UnixStream::pair().unwrap();
        let (sender, mut calls) = mpsc::channel(1);
        let _serving = tokio::spawn(serve(stream, sender));
        asker.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let call = calls.recv().await.unwrap();
        drop(asker);
        call.reply.send(Response::Ok(serde_json::Value::String("x".repeat(4 << 20)))).unwrap();
        timeout(PATIENCE, call.written.into_future()).await.unwrap();
    }
}
