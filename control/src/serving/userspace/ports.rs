//! Port 123 of each family: whether it is ours, and how it becomes ours when its holder ends.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use responder::layout::FAMILIES;
use responder::message::LENGTH;
use responder::udp::NTP_PORT;
use responder::verdict::Family;
use tracing::info;

use super::{open, table, why_not};
use crate::sys::port_owner;

/// How often a port in use is looked at.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Whether a family's port 123 is ours, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The family.
    pub family: Family,
    /// What is in the way, if something is.
    pub failure: Option<String>,
}

/// The state of the ports, which the thread of the sockets changes.
#[derive(Clone, Debug, Default)]
pub struct Ports(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    all: Vec<Listening>,
    ours_until_ns: [u64; FAMILIES],
}

impl Ports {
    /// Returns the present state of each family.
    #[must_use]
    pub fn all(&self) -> Vec<Listening> {
        self.state().all.clone()
    }

    /// Returns for each of [`Family::ALL`] the moment of `CLOCK_MONOTONIC` until which nobody else on this host is known
    /// to wait for what comes to the port; 0 if somebody may.
    #[must_use]
    pub fn ours_until_ns(&self) -> [u64; FAMILIES] {
        self.state().ours_until_ns
    }

    pub(super) fn set_ours_until_ns(&self, family: Family, until_ns: u64) {
        self.state().ours_until_ns[family as usize] = until_ns;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, family: Family, failure: Option<String>) {
        let all = &mut self.state().all;
        match all.iter_mut().find(|listening| listening.family == family) {
            Some(listening) => listening.failure = failure,
            None => all.push(Listening { family, failure }),
        }
    }
}

/// A port that another process holds.
pub(super) struct AwaitedPort {
    family: Family,
    /// The holder's socket at the last look.
    holder: Option<String>,
    due: Instant,
}

impl AwaitedPort {
    /// Looks who holds the port, and tells it in `ports`.
    pub(super) fn new(family: Family, ports: &Ports) -> Self {
        ports.set(family, Some(held(family)));
        let holder = port_owner::socket(table(family), NTP_PORT);
        Self { family, holder, due: Instant::now() + RETRY_INTERVAL }
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    /// Returns when it is to be looked at again.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Takes the port if it is free and was so at the last look, too: a time daemon that is restarted needs it back at
    /// once, or does not start.
    pub(super) fn try_again(&mut self, ports: &Ports) -> Option<OwnedFd> {
        if Instant::now() < self.due {
            return None;
        }
        self.due = Instant::now() + RETRY_INTERVAL;
        let holder = port_owner::socket(table(self.family), NTP_PORT);
        let before = std::mem::replace(&mut self.holder, holder);
        if self.holder.is_some() {
            if self.holder != before {
                ports.set(self.family, Some(held(self.family)));
            }
            return None;
        }
        if before.is_some() {
            ports.set(
                self.family,
                Some(format!("who held port {NTP_PORT} has ended: it is tried again soon")),
            );
            return None;
        }
        match open(self.family) {
            Ok(socket) => {
                info!(
                    "port {NTP_PORT} ({}): its holder has ended, and this server answers there",
                    self.family.label()
                );
                ports.set(self.family, None);
                Some(socket)
            }
            Err(error) => {
                ports.set(self.family, Some(why_not(error)));
                None
            }
        }
    }
}

fn held(family: Family) -> String {
    format!(
        "port {NTP_PORT} is held by {}: it answers the requests that are not answered in the NIC path \
         (longer than {LENGTH} bytes, fragments, loopback)",
        port_owner::of_port(table(family), NTP_PORT)
            .map_or_else(|| "another program".into(), |holder| holder.to_string())
    )
}
