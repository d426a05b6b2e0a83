//! The HTTP listener: one request per connection, limited in number, size and time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::hosts::Hosts;
use super::{Listeners, Look, Observer, routes};

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

/// What connections are about: the names that the server answers to, and its state.
#[derive(Clone)]
pub struct Site {
    hosts: Rc<Hosts>,
    observer: Rc<Observer>,
}

impl Site {
    /// Makes a site of configured names and a server.
    #[must_use]
    pub fn new(names: &[String], server: Box<dyn Look>) -> Self {
        Self { hosts: Rc::new(Hosts::new(names)), observer: Rc::new(Observer::new(server)) }
    }
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections(RefCell<VecDeque<JoinHandle<()>>>);

/// Starts serving on this thread's [`tokio::task::LocalSet`].
pub(super) fn serve(listeners: Listeners, observer: &Rc<Observer>) {
    let connections = Rc::new(Connections::default());
    let Listeners { opened, listening, hosts } = listeners;
    let hosts = Rc::new(hosts);
    for (address, listener) in opened {
        let (connections, listening) = (Rc::clone(&connections), listening.clone());
        let site = Site { hosts: Rc::clone(&hosts), observer: Rc::clone(observer) };
        spawn_local(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => listening.retry(address).await,
            };
            accept(listener, &connections, &site).await;
        });
    }
}

async fn accept(listener: TcpListener, connections: &Connections, site: &Site) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream, site.clone()),
            // The process may be out of descriptors, for example.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Connections {
    fn add(&self, stream: TcpStream, site: Site) {
        let mut open = self.0.borrow_mut();
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(spawn_local(async move {
            let _too_slow = timeout(PATIENCE, converse(stream, site)).await;
        }));
    }
}

/// Handles one connection: a request, and its answer. Errors in a client's request are not reported. Needs a runtime with
/// timers. Ends with the answer, or when the head of the request takes too long.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, site: Site) {
    let answer = service_fn(move |request| {
        let site = site.clone();
        async move { routes::answer(&request, &site.hosts, &site.observer).await }
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
