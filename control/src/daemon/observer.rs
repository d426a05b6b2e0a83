//! The thread that reads the server's state for commands and for HTTP. It reads the maps and asks the kernel, which may
//! take long. The loop reports to it what only the loop knows.

use std::pin::Pin;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use super::probes::{LinkRecorder, SharedCourse};
use super::unsent::UnsentShares;
use super::view::{Report, Run};
use crate::error::{Code, Error, Result};
use crate::http::Look;
use crate::instance::Instance;
use crate::net::interfaces::{Interface, Netlink};
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;
use crate::status::Status;
use crate::status::probes::LatestRound;
use crate::status::traffic::Talker;
use crate::sys::capabilities::{self, Capability};

/// How often the interfaces are looked at. What is shorter shows in the kernel's counts alone.
const LINK_INTERVAL: Duration = Duration::from_secs(1);

/// The channels to the thread.
#[derive(Clone)]
pub(super) struct Observer {
    /// What only the loop knows.
    reports: watch::Sender<Option<Arc<Report>>>,
    requests: mpsc::Sender<oneshot::Sender<Result<Status>>>,
}

impl Observer {
    /// Starts the thread. The maps have to be pinned.
    ///
    /// # Errors
    ///
    /// The maps are not pinned, or the kernel cannot create the thread.
    pub(super) fn start(
        instance: &Instance,
        run: Run,
        sockets: Arc<Shared>,
        course: SharedCourse,
    ) -> Result<Self> {
        let missing = || Error::new(Code::Software, "the maps are not pinned");
        let datapath = Datapath::open(instance)?.ok_or_else(missing)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::because(Code::Os, "cannot start the event loop of the observer"))?;
        let (reports, latest) = watch::channel(None);
        let (requests, queue) = mpsc::channel::<oneshot::Sender<_>>();
        let mut reader = Reader {
            run,
            datapath,
            runtime,
            reports: latest,
            sockets,
            unsent: UnsentShares::default(),
            recorder: LinkRecorder::new(course),
            looked_at_links: Instant::now(),
        };
        // The thread is never joined: it ends with the process, and a panic in it ends the process (see Cargo.toml).
        std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || {
                // To look maps and links up.
                capabilities::keep(&[Capability::CAP_BPF]);
                loop {
                    match queue.recv_timeout(reader.until_next_look()) {
                        Ok(reply) => {
                            let _gone = reply.send(reader.status());
                        }
                        Err(RecvTimeoutError::Timeout) => reader.look_at_links(),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(Error::because(Code::Os, "cannot start the observer's thread"))?;
        Ok(Self { reports, requests })
    }

    /// Takes the latest report of the loop.
    pub(super) fn report(&self, report: Report) {
        self.reports.send_replace(Some(Arc::new(report)));
    }

    /// Requests the server's state. The thread answers requests in their order.
    pub(super) fn ask(&self) -> oneshot::Receiver<Result<Status>> {
        let (reply, answer) = oneshot::channel();
        // A thread that has ended drops the reply, and the receiver notices.
        let _ended = self.requests.send(reply);
        answer
    }

    /// Returns the server's state, as [`Observer::ask`].
    ///
    /// # Errors
    ///
    /// The state cannot be read, or the daemon is starting or ending.
    pub(super) async fn status(&self) -> Result<Status> {
        self.ask().await.unwrap_or_else(|_| Err(Error::new(Code::TryAgain, "the daemon is ending")))
    }
}

impl Look for Observer {
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status>> + '_>> {
        Box::pin(self.status())
    }

    fn sources(&self) -> Option<Vec<Talker>> {
        self.reports.borrow().as_ref().and_then(|report| report.sources.clone())
    }

    fn latest_rounds(&self) -> Vec<LatestRound> {
        self.reports.borrow().as_ref().map(|report| report.latest_rounds.clone()).unwrap_or_default()
    }
}

/// The thread's access to the server's state.
struct Reader {
    run: Run,
    datapath: Datapath,
    runtime: Runtime,
    reports: watch::Receiver<Option<Arc<Report>>>,
    sockets: Arc<Shared>,
    unsent: UnsentShares,
    recorder: LinkRecorder,
    looked_at_links: Instant,
}

impl Reader {
    fn until_next_look(&self) -> Duration {
        LINK_INTERVAL.saturating_sub(self.looked_at_links.elapsed())
    }

    /// Looks at the interfaces although nobody asks.
    fn look_at_links(&mut self) {
        self.looked_at_links = Instant::now();
        let Some(report) = self.reports.borrow().clone() else { return };
        // A kernel that lists no interfaces now is asked again.
        if let Ok(links) = self.links() {
            self.recorder.look(&report.link_looks(&self.datapath, &links));
        }
    }

    fn links(&self) -> Result<Vec<Interface>> {
        // A new connection each time needs no check that the last one is still open.
        self.runtime.block_on(async { Netlink::connect_to_ask()?.interfaces().await })
    }

    fn status(&mut self) -> Result<Status> {
        let starting = || Error::new(Code::TryAgain, "the daemon is starting");
        let report = self.reports.borrow().clone().ok_or_else(starting)?;
        let links = self.links()?;
        self.looked_at_links = Instant::now();
        self.recorder.look(&report.link_looks(&self.datapath, &links));
        self.datapath.reread()?;
        let mut status = report.status(&self.run, &self.datapath, &self.sockets, &links)?;
        self.unsent.add_to(&mut status.interfaces, Instant::now());
        Ok(status)
    }
}
