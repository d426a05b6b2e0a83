//! The daemon's part in the traffic quota: it counts what the program and the sockets have counted, keeps the account
//! on disk, and says how much may be answered.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::time::unix_ns;
use tracing::{error, info};

use super::Daemon;
use crate::config::Quota;
use crate::error::{Code, Error, Result};
use crate::instance::Instance;
use crate::serving::quota::{Account, Bytes, Identity, Record, RecordFile, came};
use crate::serving::xdp::Datapath;
use crate::status;
use crate::status::units::amount;
use crate::sys::capabilities;
use crate::sys::kernel_clock::monotonic_ns;
use crate::sys::process::boot_id;

/// How often the account is written: no more than this and one write is lost if the machine stops.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// The account, and what it was last brought up to.
pub(super) struct Metering {
    file: RecordFile,
    identity: Identity,
    account: Account,
    /// What the counters of the interfaces, by index, and of the sockets said.
    counters: BTreeMap<u32, Bytes>,
    sockets: Bytes,
    /// What is counted and not in the account yet.
    pending: Bytes,
    stepped: Instant,
    written: Option<Instant>,
    writer: Option<(SyncSender<String>, JoinHandle<()>)>,
}

impl Metering {
    /// Goes on with the account that was kept, and counts what the program has answered since. To be called before any
    /// interface's counters are given up.
    ///
    /// # Errors
    ///
    /// The counters cannot be read, or the thread that writes the account cannot be started.
    pub(super) fn start(instance: &Instance, datapath: &Datapath) -> Result<Self> {
        let file = RecordFile::new(instance.state_directory());
        let (identity, counters) = (identity(datapath)?, counters(datapath)?);
        let record = match file.load() {
            Some(record) => record.catch_up(&identity, counters),
            None => Record { account: Account::new(), identity: Some(identity.clone()), counters },
        };
        Ok(Self {
            writer: Some(start_writer(file.clone())?),
            file,
            identity,
            account: record.account,
            counters: record.counters,
            sockets: Bytes::default(),
            pending: Bytes::default(),
            stepped: Instant::now(),
            written: None,
        })
    }

    /// Counts what has come since the last call.
    fn count(&mut self, counters: BTreeMap<u32, Bytes>, sockets: Bytes) {
        let came = came(true, &self.counters, &counters).plus(sockets.since(self.sockets));
        self.pending = self.pending.plus(came);
        (self.counters, self.sockets) = (counters, sockets);
    }

    /// Brings the account up to now. Where there is a quota, the account is written from time to time.
    fn step(&mut self, time_s: Option<f64>, quota: Option<&Quota>) {
        let passed_s = std::mem::replace(&mut self.stepped, Instant::now()).elapsed().as_secs_f64();
        let was_capped = quota.and_then(|quota| self.account.cap(quota)).is_some();
        self.account.step(std::mem::take(&mut self.pending), passed_s, time_s, quota);
        let Some(quota) = quota else { return };
        let view = self.account.view(quota);
        if !was_capped && view.cap_bytes_per_s.is_some() {
            info!(
                "traffic quota: {} of {} are used, answers are capped from now on",
                amount(view.used_bytes),
                amount(quota.bytes)
            );
        }
        if self.written.is_none_or(|written| written.elapsed() >= WRITE_INTERVAL) {
            self.write();
        }
    }

    /// Gives the account to the thread that writes it. If that is still busy, the next call tries again.
    fn write(&mut self) {
        let Some((writer, _)) = &self.writer else { return };
        match self.record().to_text() {
            Ok(text) => {
                if writer.try_send(text).is_ok() {
                    self.written = Some(Instant::now());
                }
            }
            Err(error) => error!("{error}"),
        }
    }

    fn record(&self) -> Record {
        let (identity, counters) = (Some(self.identity.clone()), self.counters.clone());
        Record { account: self.account, identity, counters }
    }

    /// Writes the account for the last time.
    fn finish(&mut self) -> Result<()> {
        if let Some((writer, thread)) = self.writer.take() {
            drop(writer);
            let _panics_end_the_process = thread.join();
        }
        self.file.store(&self.record().to_text()?)
    }
}

impl Daemon {
    /// Counts what has come, and brings the account up to now.
    pub(super) fn look_at_quota(&mut self) -> Result<()> {
        self.count_for_quota()?;
        let (time_s, quota) = (self.known_time_s()?, self.config.limits.quota());
        self.metering.step(time_s, quota.as_ref());
        Ok(())
    }

    /// Counts what has come before the counters of an interface begin at zero, or go with it.
    pub(super) fn settle_quota(&mut self) {
        if let Err(error) = self.count_for_quota() {
            error!("cannot count traffic for the quota: {error}");
        }
        // The next look writes where the counters of the other interfaces stand then.
        self.metering.written = None;
    }

    fn count_for_quota(&mut self) -> Result<()> {
        let sockets = Bytes::of_sockets(&*self.sockets.shared.counters());
        self.metering.count(counters(&self.datapath)?, sockets);
        Ok(())
    }

    /// Returns the cap on all answers in bytes per second that the quota imposes now.
    pub(super) fn quota_cap(&self) -> Option<f64> {
        self.metering.account.cap(&self.config.limits.quota()?)
    }

    pub(super) fn quota_view(&self) -> Option<status::quota::Quota> {
        Some(self.metering.account.view(&self.config.limits.quota()?))
    }

    /// At the end, when the interfaces are let go of or left to the next daemon.
    pub(super) fn finish_quota(&mut self) {
        if self.config.limits.quota().is_none() {
            return;
        }
        let finished = self.look_at_quota().and_then(|()| self.metering.finish());
        if let Err(error) = finished {
            error!("what was used of the traffic quota: {error}");
        }
    }

    /// The time in s since 1970, as it is served, if it is known to be right.
    #[expect(clippy::cast_precision_loss, reason = "to a microsecond")]
    fn known_time_s(&self) -> Result<Option<f64>> {
        let now_ns = monotonic_ns()?;
        let state = self.publisher.state().filter(|state| state.is_synchronised_at(now_ns));
        Ok(state.map(|state| unix_ns(state.time_at(now_ns)) as f64 / 1e9))
    }
}

/// Counts what an instance without a daemon has answered since its last one, before its maps are removed. Without an
/// account there is nothing to do.
///
/// # Errors
///
/// The counters cannot be read, or the account cannot be written.
pub fn settle_without_daemon(instance: &Instance) -> Result<()> {
    let file = RecordFile::new(instance.state_directory());
    let (Some(record), Some(datapath)) = (file.load(), Datapath::open(instance)?) else { return Ok(()) };
    let record = record.catch_up(&identity(&datapath)?, counters(&datapath)?);
    file.store(&Record { identity: None, counters: BTreeMap::new(), ..record }.to_text()?)
}

fn identity(datapath: &Datapath) -> Result<Identity> {
    Ok(Identity { boot: boot_id(), map: datapath.counters_id()? })
}

fn counters(datapath: &Datapath) -> Result<BTreeMap<u32, Bytes>> {
    datapath.interfaces().map(|index| Ok((index, Bytes::of_program(&*datapath.counters(index)?)))).collect()
}

fn start_writer(file: RecordFile) -> Result<(SyncSender<String>, JoinHandle<()>)> {
    let (writer, texts): (_, Receiver<String>) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("quota".into())
        .spawn(move || {
            capabilities::keep(&[]);
            for text in texts {
                if let Err(error) = file.store(&text) {
                    error!("what was used of the traffic quota is not kept: {error}");
                }
            }
        })
        .map_err(Error::because(Code::Os, "cannot start the thread that keeps the quota"))?;
    Ok((writer, thread))
}
