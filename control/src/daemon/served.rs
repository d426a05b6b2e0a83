//! Publishes the addresses and stations that are answered for in the NIC path, and tells of those without room in it.

use std::net::IpAddr;

use tracing::{info, warn};

use super::Daemon;
use super::interfaces::Reply;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::net::interfaces::Addresses;
use crate::net::served::{Served, WithoutRoom};

impl Daemon {
    /// Publishes the addresses of the attached interfaces, and replies when they are in force.
    pub(super) fn serve_addresses(&mut self, addresses: Addresses, reply: Reply<()>) {
        tell_trouble(&self.interfaces.addresses, &addresses);
        let before = std::mem::replace(&mut self.interfaces.addresses, addresses);
        match self.publish_served() {
            Ok(()) => self.interfaces.serving = Some(reply),
            Err(error) => {
                let receptions = std::mem::take(&mut self.interfaces.addresses.receptions);
                self.interfaces.addresses = Addresses { receptions, ..before };
                let _ended = reply.send(Err(error));
            }
        }
        self.confirm_served();
    }

    /// Publishes the addresses and stations of the interfaces, and the addresses that the configuration adds.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub(super) fn publish_served(&mut self) -> Result<()> {
        let addresses = &self.interfaces.addresses;
        let stations = addresses.receptions.iter().map(|(index, reception)| (*index, reception.table()));
        self.datapath.publish_stations(stations.collect())?;
        let Served { table, told, .. } = self.choose(&self.config.serve);
        self.datapath.publish_served(&table)?;
        tell_without_room(&self.interfaces.without_room, &told);
        self.interfaces.without_room = told;
        Ok(())
    }

    /// Refuses a configuration that adds addresses for which there is no room: who writes one now can be told now.
    ///
    /// # Errors
    ///
    /// An address of `serve` that is new has no room.
    pub(super) fn require_room(&self, config: &Config) -> Result<()> {
        let Served { without_room, told, .. } = self.choose(&config.serve);
        let is_new =
            |address: &&IpAddr| config.serve.contains(address) && !self.config.serve.contains(address);
        let Some(address) = without_room.iter().find(is_new) else { return Ok(()) };
        let family = told.iter().find(|told| told.example.is_ipv4() == address.is_ipv4());
        Err(Error::new(
            Code::Unavailable,
            format_args!(
                "serve: there is no room for {address}: {}",
                family.map_or_else(String::new, ToString::to_string)
            ),
        ))
    }

    fn choose(&self, also: &[IpAddr]) -> Served {
        Served::choose(&self.interfaces.addresses, also, self.datapath.served())
    }
}

/// Logs why requests are left to the sockets, where that is new.
fn tell_trouble(before: &Addresses, now: &Addresses) {
    for (index, reception) in &now.receptions {
        let known = before.receptions.get(index).and_then(|before| before.trouble.as_ref());
        if let Some(trouble) = reception.trouble.as_ref().filter(|trouble| known != Some(trouble)) {
            warn!("{trouble}");
        }
    }
}

/// Logs for which addresses there is no room, where that has changed.
fn tell_without_room(before: &[WithoutRoom], now: &[WithoutRoom]) {
    for told in now.iter().filter(|told| !before.contains(told)) {
        warn!("{told}");
    }
    if !before.is_empty() && now.is_empty() {
        info!("there is room for all addresses in the NIC path again");
    }
}
