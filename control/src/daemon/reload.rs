//! A reload puts all of a new configuration in force, or leaves all of the old one.

use tracing::{error, info, warn};

use super::Daemon;
use super::interfaces::Job;
use super::limits::Configured;
use super::service::Service;
use crate::config::{Config, LeapFile};
use crate::error::Result;
use crate::net::own_addresses::OwnAddresses;

/// A configuration, and which lists it has.
struct Configuration {
    config: Config,
    lists: u8,
}

impl Daemon {
    /// Reads the file again. Its lists come first, and [`Self::reloaded`] when they are in force.
    pub(super) fn reload(&self) {
        let path = self.config_path.clone();
        self.limits.configure(move || Ok(Config::load(path.as_deref())?));
    }

    /// The lists of a configuration are in force: now the rest of it, or the lists go back, too.
    pub(super) fn reloaded(&mut self, configured: Configured, lists: u8) {
        let before = Configuration { config: self.config.clone(), lists: self.datapath.policy().lists };
        let replaced = configured.and_then(|(config, settle)| {
            self.require_room(&config)?;
            let new = Configuration { config: *config, lists };
            replace(&before, &new, |configuration| self.put_in_force(configuration))?;
            settle.keep();
            Ok(())
        });
        match replaced {
            Ok(()) => {
                let warnings = self.config.warnings().into_iter().chain(self.lasting_warnings());
                warnings.for_each(|warning| warn!("{warning}"));
                tell_if_there_is_no_file(&self.config);
                self.publish_or_tell();
                self.interfaces.put(Job::Follow);
                info!("configuration reloaded");
            }
            Err(error) => error!("configuration not reloaded, the old one stays in force: {error}"),
        }
        Service::reloaded();
    }

    fn put_in_force(&mut self, Configuration { config, lists }: &Configuration) -> Result<()> {
        let before = std::mem::replace(&mut self.config, config.clone());
        if before.metrics.listen != config.metrics.listen {
            warn!("metrics.listen: the addresses stay what they are until the daemon is restarted");
        }
        if before.metrics.hosts != config.metrics.hosts {
            warn!("metrics.hosts: the names stay what they are until the daemon is restarted");
        }
        let own = OwnAddresses::new(&self.interfaces.own_addresses, &config.serve);
        self.timekeeper.configure(config, &super::host(&self.instance, &self.sockets, own))?;
        self.leap_file = LeapFile::read(&config.clock)?;
        self.publish_served()?;
        self.apply_limits(config, *lists)
    }
}

/// Whoever has a file with a wrong name, or lost it, is told.
pub(super) fn tell_if_there_is_no_file(config: &Config) {
    if config.origin.files().next().is_none() {
        info!("{} does not exist: the defaults hold", crate::config::DEFAULT_PATH);
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
