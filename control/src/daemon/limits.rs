//! The daemon's part in the limits: policy and lists to both answering paths, and the commands about them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use responder::{Access, Policy};
use tracing::{error, info, warn};

use super::Daemon;
use super::protocol::AccessWord;
use crate::config::Config;
use crate::error::Result;
use crate::net::prefix::Prefix;
use crate::serving::limits::{Entry, Listed, Lists, configured, effective, flags};

/// Entries that a command shows; the answer has to fit into a line.
const SHOWN: usize = 5000;

/// The lists as they should be, and as the program has them.
#[derive(Default)]
pub(super) struct Limits {
    lists: Lists,
    applied: BTreeMap<Prefix, Access>,
}

impl Limits {
    /// The configuration's entries.
    pub(super) fn configured(&self) -> &BTreeMap<Prefix, Access> {
        self.lists.configured()
    }
}

impl Daemon {
    /// At the start: what an earlier daemon left in the maps is the basis.
    pub(super) fn configure_limits(&mut self, config: &Config) -> Result<()> {
        let entries = configured(&config.access)?;
        self.limits.applied = self.datapath.access()?.into_iter().collect();
        self.apply_limits(config, entries)
    }

    /// Puts a configuration in force, with the entries of its lists.
    pub(super) fn apply_limits(&mut self, config: &Config, entries: BTreeMap<Prefix, Access>) -> Result<()> {
        let cpus = u32::try_from(aya::util::nr_cpus().unwrap_or(1)).unwrap_or(u32::MAX);
        let policy = config.limits.policy(config.access.denied, cpus)?;
        if config.limits.table_entries != self.datapath.table_entries() {
            warn!(
                "limits.table_entries: the table keeps its {} entries until the daemon is restarted",
                self.datapath.table_entries()
            );
        }
        self.limits.lists.configure(entries);
        // The lists stay switched on as they are: `apply_lists` sees to them.
        let lists = self.datapath.policy().lists;
        let chances = self.rounds.traffic.chances();
        self.datapath.publish_policy(&Policy { lists, chances, ..policy })?;
        self.apply_lists()?;
        self.try_look_at_traffic()
    }

    /// Brings the program's lists to what they should be, entry by entry and only where they differ. A list is
    /// switched on before it has its first entry and off after it has lost its last.
    fn apply_lists(&mut self) -> Result<()> {
        let wanted = self.limits.lists.entries();
        let lists = flags(wanted.keys());
        self.switch_lists(lists | self.datapath.policy().lists)?;
        self.datapath.publish_access(&mut self.limits.applied, &wanted)?;
        self.switch_lists(lists)?;
        self.sockets.shared.publish_limits(self.datapath.policy(), effective(&wanted));
        Ok(())
    }

    fn switch_lists(&mut self, lists: u8) -> Result<()> {
        let policy = *self.datapath.policy();
        if policy.lists == lists {
            return Ok(());
        }
        self.datapath.publish_policy(&Policy { lists, ..policy })
    }

    /// Drops entries whose time has come.
    pub(super) fn expire_access(&mut self) {
        if self.limits.lists.expire(Instant::now())
            && let Err(error) = self.apply_lists()
        {
            error!("cannot take ended entries off the access lists: {error}");
        }
    }

    /// Puts other lists in force, or if that fails halfway, those that were.
    fn change_lists(&mut self, lists: Lists) -> Result<()> {
        let before = std::mem::replace(&mut self.limits.lists, lists);
        let changed = self.apply_lists();
        if changed.is_err() {
            self.limits.lists = before;
            if let Err(error) = self.apply_lists() {
                error!("the access lists could not be put back: {error}");
            }
        }
        changed
    }

    pub(super) fn set_access(
        &mut self,
        prefix: Prefix,
        access: AccessWord,
        seconds: Option<u64>,
    ) -> Result<String> {
        let access = Access::from(access);
        let until = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let mut lists = self.limits.lists.clone();
        lists.set(prefix, Entry { access, until });
        self.change_lists(lists)?;
        let end = match seconds {
            Some(seconds) => format!("for {seconds} s"),
            None => "until it is removed or the daemon ends".into(),
        };
        let message = format!("{prefix}: {} {end}", access.label());
        info!("{message}");
        Ok(message)
    }

    pub(super) fn remove_access(&mut self, prefix: Prefix) -> Result<String> {
        let mut lists = self.limits.lists.clone();
        lists.remove(prefix)?;
        self.change_lists(lists)?;
        let message = format!("{prefix}: removed");
        info!("{message}");
        Ok(message)
    }

    pub(super) fn list_access(&self) -> Vec<Listed> {
        self.limits.lists.show(Instant::now(), SHOWN)
    }

    pub(super) fn access_entries(&self) -> usize {
        self.limits.applied.len()
    }
}
