//! What the server does, over HTTP: metrics, health and a status page.
//!
//! On a thread of its own, which reads the counters out of the maps itself and hears from the daemon's loop what
//! only that knows: whatever clients do here, the clock is published in time.

pub(crate) mod exposition;
mod history;
mod listening;
mod metrics;
mod routes;
mod server;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::error;

pub(crate) use listening::{Listeners, Listening};

use crate::daemon::Report;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::net::interfaces::Netlink;
use crate::serving::traffic::Talker;
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;
use crate::status::Status;
use history::History;

/// What was read is good for this long, however many ask.
const FRESH: Duration = Duration::from_millis(100);
/// How often the history takes note.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Where the loop says what only it knows.
pub(crate) type Reports = watch::Sender<Option<Arc<Report>>>;

/// Starts the thread, which ends with the process.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn start(listeners: Listeners, instance: &Instance, sockets: Arc<Shared>) -> Result<Reports> {
    let (reports, receiver) = watch::channel(None);
    if listeners.is_empty() {
        return Ok(reports);
    }
    let failed = || Error::new(Code::Software, "the maps are not pinned");
    let datapath = Datapath::open(instance)?.ok_or_else(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::because(Code::Os, "cannot start the event loop of the HTTP listener"))?;
    // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
    std::thread::Builder::new()
        .name("observe".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            let served = LocalSet::new().block_on(&runtime, serve(listeners, datapath, receiver, sockets));
            if let Err(error) = served {
                error!("metrics and the status page are not available: {error}");
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread of the HTTP listener"))?;
    Ok(reports)
}

async fn serve(
    listeners: Listeners,
    datapath: Datapath,
    reports: watch::Receiver<Option<Arc<Report>>>,
    sockets: Arc<Shared>,
) -> Result<()> {
    let observer = Rc::new(Observer {
        datapath: RefCell::new(datapath),
        netlink: Netlink::connect()?,
        reports,
        sockets,
        last: Cell::new(None),
        history: RefCell::new(History::default()),
    });
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

/// Looks at the server.
struct Observer {
    datapath: RefCell<Datapath>,
    netlink: Netlink,
    reports: watch::Receiver<Option<Arc<Report>>>,
    sockets: Arc<Shared>,
    last: Cell<Option<(Instant, Rc<Status>)>>,
    history: RefCell<History>,
}

impl Observer {
    /// The sources that are limited most, if they may be shown.
    fn sources(&self) -> Option<Vec<Talker>> {
        self.reports.borrow().as_ref().and_then(|report| report.sources.clone())
    }

    /// The server's state, not older than [`FRESH`].
    async fn status(&self) -> Result<Rc<Status>> {
        if let Some((read, status)) = self.last.take().filter(|(read, _)| read.elapsed() < FRESH) {
            self.last.set(Some((read, Rc::clone(&status))));
            return Ok(status);
        }
        let starting = || Error::new(Code::TryAgain, "the daemon is starting");
        let report = self.reports.borrow().clone().ok_or_else(starting)?;
        let links = self.netlink.interfaces().await?;
        let mut datapath = self.datapath.borrow_mut();
        datapath.reread()?;
        let status = Rc::new(report.status(&datapath, &self.sockets, &links)?);
        self.last.set(Some((Instant::now(), Rc::clone(&status))));
        Ok(status)
    }
}
