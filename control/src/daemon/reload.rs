//! A reload puts all of a new configuration in force, or leaves all of the old one.

use std::collections::BTreeMap;

use responder::Access;
use tracing::{error, info, warn};

use super::Daemon;
use crate::config::Config;
use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;
use crate::net::prefix::Prefix;
use crate::serving::limits::configured;

/// A configuration with the entries of its lists, which stand in files of their own.
struct Configuration {
    config: Config,
    entries: BTreeMap<Prefix, Access>,
}

impl Daemon {
    /// Reads the file again.
    pub(super) async fn reload(&mut self) {
        // Looked at before anything is changed: a list's file may have vanished.
        let read = Config::load(self.config_path.as_deref()).and_then(|config| {
            let entries = configured(&config.access)?;
            Ok(Configuration { config, entries })
        });
        let before = Configuration { config: self.config.clone(), entries: self.limits.configured().clone() };
        match read.and_then(|new| replace(&before, &new, |configuration| self.put_in_force(configuration))) {
            Ok(()) => {
                self.config.warnings().iter().for_each(|warning| warn!("{warning}"));
                self.publish_or_tell();
                self.follow_interfaces().await;
                info!("configuration reloaded");
            }
            Err(error) => error!("configuration not reloaded, the old one stays in force: {error}"),
        }
    }

    fn put_in_force(&mut self, Configuration { config, entries }: &Configuration) -> Result<()> {
        let before = std::mem::replace(&mut self.config, config.clone());
        if before.metrics.listen != config.metrics.listen {
            warn!("metrics.listen: the addresses stay what they are until the daemon is restarted");
        }
        let own = OwnAddresses::new(&self.own_addresses, &config.serve);
        self.timekeeper.configure(config, &super::host(&self.instance, &self.sockets, own))?;
        self.publish_served()?;
        self.apply_limits(config, entries.clone())
    }
}

/// Puts `new` in force, or if that fails halfway, all of `before` again.
fn replace<T>(before: &T, new: &T, mut put_in_force: impl FnMut(&T) -> Result<()>) -> Result<()> {
    put_in_force(new).inspect_err(|_| {
        if let Err(error) = put_in_force(before) {
            error!("the old configuration could not be put back: {error}");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Error};

    /// Two maps, of which the second does not take everything.
    fn put_in_force(maps: &mut [u32; 2], [first, second]: [u32; 2]) -> Result<()> {
        maps[0] = first;
        if second > 9 {
            return Err(Error::new(Code::Os, "the second map refuses"));
        }
        maps[1] = second;
        Ok(())
    }

    #[test]
    fn what_was_changed_before_a_failure_is_changed_back() {
        let mut maps = [1, 1];
        let error = replace(&[1, 1], &[2, 10], |new| put_in_force(&mut maps, *new)).unwrap_err();
        assert!(error.what.contains("second"), "the first error is told: {error}");
        assert_eq!(maps, [1, 1]);
        replace(&[1, 1], &[2, 2], |new| put_in_force(&mut maps, *new)).unwrap();
        assert_eq!(maps, [2, 2]);
    }
}
