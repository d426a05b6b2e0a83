//! The server as the HTTP thread sees it: that thread reads the maps and the kernel itself, and hears from the loop
//! what only that knows.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::view::Report;
use crate::error::{Code, Error, Result};
use crate::http::{self, Listeners, Look};
use crate::instance::Instance;
use crate::net::interfaces::Netlink;
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;
use crate::status::Status;
use crate::status::traffic::Talker;

/// Where the loop says what only it knows.
pub(super) type Reports = watch::Sender<Option<Arc<Report>>>;

struct Observer {
    datapath: RefCell<Datapath>,
    netlink: Netlink,
    reports: watch::Receiver<Option<Arc<Report>>>,
    sockets: Arc<Shared>,
}

/// Starts the HTTP thread, if it is to listen anywhere.
///
/// # Errors
///
/// The kernel's.
pub(super) fn start(listeners: Listeners, instance: &Instance, sockets: Arc<Shared>) -> Result<Reports> {
    let (reports, receiver) = watch::channel(None);
    if listeners.is_empty() {
        return Ok(reports);
    }
    let failed = || Error::new(Code::Software, "the maps are not pinned");
    let datapath = Datapath::open(instance)?.ok_or_else(failed)?;
    http::start(listeners, move || {
        Ok(Box::new(Observer {
            datapath: RefCell::new(datapath),
            netlink: Netlink::connect()?,
            reports: receiver,
            sockets,
        }))
    })?;
    Ok(reports)
}

impl Look for Observer {
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status>> + '_>> {
        Box::pin(async {
            let starting = || Error::new(Code::TryAgain, "the daemon is starting");
            let report = self.reports.borrow().clone().ok_or_else(starting)?;
            let links = self.netlink.interfaces().await?;
            let mut datapath = self.datapath.borrow_mut();
            datapath.reread()?;
            report.status(&datapath, &self.sockets, &links)
        })
    }

    fn sources(&self) -> Option<Vec<Talker>> {
        self.reports.borrow().as_ref().and_then(|report| report.sources.clone())
    }
}
