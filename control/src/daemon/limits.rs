//! The daemon's part in the limits: the policy to both answering paths, and what is asked of the access lists.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use responder::{Access, Family, Policy};
use tokio::sync::mpsc as to_loop;
use tokio::time::interval;
use tracing::{error, warn};

use super::access::{self, Done, Job, Next, Settle};
use super::listener::Call;
use super::protocol::Request;
use super::{Daemon, PUBLISH_INTERVAL, wait_until};
use crate::config::{Config, Warning};
use crate::error::{Code, Error, Result};
use crate::serving::limits::Entry;
use crate::serving::userspace::Shared;
use crate::serving::xdp::Datapath;

/// The way to the thread that changes the access lists, and back.
pub(super) struct Limits {
    jobs: mpsc::Sender<Job>,
    done: to_loop::UnboundedReceiver<Done>,
    entries: usize,
    /// The families of which all clients are denied.
    unanswered: Vec<Family>,
}

impl Limits {
    /// What an earlier daemon left in the maps is the basis.
    pub(super) fn start(datapath: &Datapath, sockets: &Shared) -> Result<Self> {
        let (jobs, done) = access::start(datapath.access_maps()?, Arc::clone(&sockets.lists))?;
        Ok(Self { jobs, done, entries: 0, unanswered: Vec::new() })
    }

    /// The next job that is done.
    pub(super) async fn done(&mut self) -> Option<Done> {
        self.done.recv().await
    }

    /// Has the entries of a configuration put in force, after what is to be done already.
    pub(super) fn configure(&self, read: impl FnOnce() -> Result<Config> + Send + 'static) {
        // The thread ends with the process.
        let _ended = self.jobs.send(Job::Configure(Box::new(read)));
    }

    /// Passes on what is asked of the lists, and gives back what is not.
    pub(super) fn take(&self, Call { request, caller }: Call) -> Option<Call> {
        let job = match request {
            Request::SetAccess { prefix, access, seconds } => {
                let access = Access::from(access);
                let until =
                    seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
                let end = match seconds {
                    Some(seconds) => format!("for {seconds} s"),
                    None => "until it is removed or the daemon ends".into(),
                };
                let message = format!("{prefix}: {} {end}", access.label());
                Job::Set { prefix, entry: Some(Entry { access, until }), message, caller }
            }
            Request::RemoveAccess { prefix } => {
                Job::Set { prefix, entry: None, message: format!("{prefix}: removed"), caller }
            }
            Request::ListAccess => Job::Show(caller),
            request => return Some(Call { request, caller }),
        };
        let _ended = self.jobs.send(job);
        None
    }
}

impl Daemon {
    /// At the start: the clock is published while the lists are loaded.
    pub(super) async fn configure_limits(&mut self, config: &Config) -> Result<()> {
        let config = config.clone();
        self.limits.configure(move || Ok(config));
        let mut publish = interval(PUBLISH_INTERVAL);
        let done = loop {
            let next_publication = self.next_publication();
            tokio::select! {
                done = self.limits.done() => break done,
                _ = publish.tick() => self.publish_or_tell(),
                () = wait_until(next_publication) => self.publish_waiting(),
            }
        };
        match done {
            Some(Done { lists, entries, unanswered, next: Next::Configure(configured) }) => {
                let (config, settle) = configured?;
                self.limits.entries = entries;
                self.limits.unanswered = unanswered;
                self.apply_limits(&config, lists)?;
                settle.keep();
                Ok(())
            }
            _ => Err(Error::new(Code::Software, "the thread of the access lists did not configure them")),
        }
    }

    /// Puts the limits of a configuration in force, for these lists.
    pub(super) fn apply_limits(&mut self, config: &Config, lists: u8) -> Result<()> {
        let cpus = u32::try_from(aya::util::nr_cpus().unwrap_or(1)).unwrap_or(u32::MAX);
        let policy = config.policy(cpus)?;
        if config.limits.table_entries != self.datapath.table_entries() {
            warn!(
                "limits.table_entries: the table keeps its {} entries until the daemon is restarted",
                self.datapath.table_entries()
            );
        }
        let chances = self.rounds.traffic.chances();
        self.datapath.publish_policy(&Policy { lists, chances, ..policy })?;
        self.sockets.shared.publish_limits(self.datapath.policy());
        self.try_look_at_traffic()
    }

    /// Does what comes after a change of the lists.
    pub(super) fn lists_changed(&mut self, Done { lists, entries, unanswered, next }: Done) {
        self.limits.entries = entries;
        for family in unanswered.iter().filter(|family| !self.limits.unanswered.contains(family)) {
            warn!("{}", Warning::NobodyAnswered(*family));
        }
        self.limits.unanswered = unanswered;
        match next {
            Next::Configure(configured) => self.reloaded(configured, lists),
            Next::Nothing => {
                if let Err(error) = self.switch_lists(lists) {
                    error!("cannot switch the access lists: {error}");
                }
            }
            Next::Answer(caller, answer) => {
                caller.answer(self.switch_lists(lists).and(answer));
            }
        }
    }

    /// Lists without entries are not asked. One is switched on with its first entry and off after its last.
    fn switch_lists(&mut self, lists: u8) -> Result<()> {
        let policy = *self.datapath.policy();
        if policy.lists == lists {
            return Ok(());
        }
        self.datapath.publish_policy(&Policy { lists, ..policy })?;
        self.sockets.shared.publish_limits(self.datapath.policy());
        Ok(())
    }

    /// The families of which all clients are denied.
    pub(super) fn unanswered(&self) -> &[Family] {
        &self.limits.unanswered
    }

    pub(super) fn access_entries(&self) -> usize {
        self.limits.entries
    }
}

/// What a reload is given, once its lists are in force.
pub(super) type Configured = Result<(Box<Config>, Settle)>;
