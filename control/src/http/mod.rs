//! Metrics, health and a status page over HTTP.
//!
//! All of this runs on its own thread. It reads the counters from the maps itself, and asks the daemon's
//! loop for what only the loop knows. Whatever clients do here, the clock is published in time.

mod history;
mod hosts;
mod listening;
mod metrics;
mod routes;
mod server;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tracing::error;

pub(crate) use listening::{Listeners, Listening};
pub use server::{Site, converse};

use crate::error::{Code, Error, Result};
use crate::status::Status;
use crate::status::probes::LatestRound;
use crate::status::traffic::Talker;
use crate::sys::capabilities::{self, Capability};
use history::History;

/// How long a status that was read is used for further requests.
const FRESH: Duration = Duration::from_millis(100);
/// How often the history takes in a status.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Access to the server's state from the HTTP thread.
pub trait Look {
    /// Returns the state at this moment.
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status>> + '_>>;

    /// Returns the sources that are limited most, if they may be shown.
    fn sources(&self) -> Option<Vec<Talker>>;

    /// Returns the latest rounds of the pool's monitors, with their addresses if these may be shown.
    fn latest_rounds(&self) -> Vec<LatestRound>;
}

/// Starts the thread, which ends with the process. The [`Look`] is created on that thread, within its event
/// loop.
///
/// # Errors
///
/// The kernel cannot create the thread.
pub(crate) fn start(
    listeners: Listeners,
    open: impl FnOnce() -> Result<Box<dyn Look>> + Send + 'static,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop of the HTTP listener"))?;
    // The thread is never joined: it ends with the process, and a panic in it ends the process (see
    // Cargo.toml).
    std::thread::Builder::new()
        .name("observe".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            // An address that the host does not have yet is tried again.
            let kept = listeners.need_low_ports().then_some(Capability::CAP_NET_BIND_SERVICE);
            capabilities::keep(kept.as_slice());
            let served = LocalSet::new().block_on(&runtime, serve(listeners, open));
            if let Err(error) = served {
                error!("metrics and the status page are not available: {error}");
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread of the HTTP listener"))?;
    Ok(())
}

async fn serve(listeners: Listeners, open: impl FnOnce() -> Result<Box<dyn Look>>) -> Result<()> {
    let observer = Rc::new(Observer::new(open()?));
    server::serve(listeners, &observer);
    let mut due = tokio::time::interval(SAMPLE_INTERVAL);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        if let Ok(status) = observer.status().await {
            observer.history.borrow_mut().add(&status, Instant::now());
        }
    }
}

/// Reads the server's state on behalf of all clients.
struct Observer {
    server: Box<dyn Look>,
    last: Cell<Option<(Instant, Rc<Status>)>>,
    history: RefCell<History>,
}

impl Observer {
    fn new(server: Box<dyn Look>) -> Self {
        Self { server, last: Cell::new(None), history: RefCell::new(History::default()) }
    }

    /// See [`Look::sources`].
    fn sources(&self) -> Option<Vec<Talker>> {
        self.server.sources()
    }

    /// See [`Look::latest_rounds`].
    fn latest_rounds(&self) -> Vec<LatestRound> {
        self.server.latest_rounds()
    }

    /// Returns the server's state, not older than [`FRESH`].
    async fn status(&self) -> Result<Rc<Status>> {
        if let Some((read, status)) = self.last.take().filter(|(read, _)| read.elapsed() < FRESH) {
            self.last.set(Some((read, Rc::clone(&status))));
            return Ok(status);
        }
        let status = Rc::new(self.server.status().await?);
        self.last.set(Some((Instant::now(), Rc::clone(&status))));
        Ok(status)
    }
}
