//! The HTTP listener: one request per connection, limited in number, size and time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::{Listeners, Observer, routes};

/// Largest number of connections. One more closes the oldest, so that slow ones cannot keep others out.
const CONNECTIONS: usize = 64;
/// Timeout from the first byte of a request to the last of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Timeout for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// Largest size of a request's head.
const HEAD_BYTES: usize = 8 << 10;
/// Largest number of header fields.
const HEADERS: usize = 64;
/// Size of a connection's buffer in each direction.
const BUFFER: usize = 16 << 10;

/// The open connections, oldest first.
#[derive(Default)]
struct Connections(RefCell<VecDeque<JoinHandle<()>>>);

/// Starts serving on this thread's [`tokio::task::LocalSet`].
pub(super) fn serve(listeners: Listeners, observer: &Rc<Observer>) {
    let connections = Rc::new(Connections::default());
    let Listeners { opened, listening } = listeners;
    for (address, listener) in opened {
        let (connections, observer, listening) =
            (Rc::clone(&connections), Rc::clone(observer), listening.clone());
        spawn_local(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => listening.retry(address).await,
            };
            accept(listener, &connections, &observer).await;
        });
    }
}

async fn accept(listener: TcpListener, connections: &Connections, observer: &Rc<Observer>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream, Rc::clone(observer)),
            // The process may be out of descriptors, for example.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Connections {
    fn add(&self, stream: TcpStream, observer: Rc<Observer>) {
        let mut open = self.0.borrow_mut();
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(spawn_local(async move {
            let _too_slow = timeout(PATIENCE, converse(stream, observer)).await;
        }));
    }
}

/// Handles one connection. Errors in a client's request are not reported.
async fn converse(stream: TcpStream, observer: Rc<Observer>) {
    let answer = service_fn(move |request| {
        let observer = Rc::clone(&observer);
        async move { routes::answer(&request, &observer).await }
    });
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_PATIENCE)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(BUFFER);
    let _client_s_affair = connection.serve_connection(TokioIo::new(stream), answer).await;
}
