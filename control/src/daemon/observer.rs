//! The thread that looks at the server: it reads the maps and asks the kernel, which may take long, and hears from the
//! loop what only that knows. Commands and HTTP ask it.

use std::pin::Pin;
use std::sync::{Arc, mpsc};

use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use super::view::Report;
use crate::error::{Code, Error, Result};
use crate::http::Look;
use crate::instance::Instance;
use crate::net::interfaces::Netlink;
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;
use crate::status::Status;
use crate::status::traffic::Talker;

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Observer {
    /// Where the loop says what only it knows.
    reports: watch::Sender<Option<Arc<Report>>>,
    questions: mpsc::Sender<oneshot::Sender<Result<Status>>>,
}

impl Observer {
    /// Starts the thread, on maps that are pinned.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn start(instance: &Instance, sockets: Arc<Shared>) -> Result<Self> {
        let missing = || Error::new(Code::Software, "the maps are not pinned");
        let datapath = Datapath::open(instance)?.ok_or_else(missing)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::because(Code::Os, "cannot start the event loop of the observer"))?;
        let (reports, known) = watch::channel(None);
        let (questions, asked) = mpsc::channel::<oneshot::Sender<_>>();
        let mut eyes = Eyes { datapath, runtime, reports: known, sockets };
        // Nobody joins it: it ends with the process, and should it panic, the process ends with it (see Cargo.toml).
        std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || {
                for question in asked {
                    let _not_waited_for = question.send(eyes.look());
                }
            })
            .map_err(Error::because(Code::Os, "cannot start the observer's thread"))?;
        Ok(Self { reports, questions })
    }

    /// Says what only the loop knows.
    pub(super) fn report(&self, report: Report) {
        self.reports.send_replace(Some(Arc::new(report)));
    }

    /// Asks for the server's state. The answer follows when those who asked before have theirs.
    pub(super) fn ask(&self) -> oneshot::Receiver<Result<Status>> {
        let (reply, answer) = oneshot::channel();
        // Who waits for the answer sees that there is none.
        let _ended = self.questions.send(reply);
        answer
    }

    /// As [`Observer::ask`], and waits for the answer.
    ///
    /// # Errors
    ///
    /// The kernel's, or the daemon is starting or ending.
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
}

/// What the thread looks with.
struct Eyes {
    datapath: Datapath,
    runtime: Runtime,
    reports: watch::Receiver<Option<Arc<Report>>>,
    sockets: Arc<Shared>,
}

impl Eyes {
    fn look(&mut self) -> Result<Status> {
        let starting = || Error::new(Code::TryAgain, "the daemon is starting");
        let report = self.reports.borrow().clone().ok_or_else(starting)?;
        // A connection for each look: none can have ended unnoticed.
        let links = self.runtime.block_on(async { Netlink::connect_to_ask()?.interfaces().await })?;
        self.datapath.reread()?;
        report.status(&self.datapath, &self.sockets, &links)
    }
}
