//! The addresses on which the HTTP server listens. Those that fail are retried.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::hosts::Hosts;
use crate::config::MetricsConfig;
use crate::error::{Code, Error, Result};
use crate::status::HttpListener;
use crate::sys::port_owner;

/// How often an address is retried: the host may get it later, or another process may release it.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The state of the configured addresses, for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listening(Arc<Mutex<Vec<HttpListener>>>);

impl Listening {
    pub(crate) fn all(&self) -> Vec<HttpListener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, address: SocketAddr, failure: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|listener| listener.address != address);
        all.push(HttpListener { address, failure });
        all.sort_by_key(|listener| listener.address);
    }
}

/// The sockets of those addresses that could be bound, and the names that are answered to.
pub(crate) struct Listeners {
    pub(super) opened: Vec<(SocketAddr, Option<TcpListener>)>,
    pub(crate) listening: Listening,
    pub(super) hosts: Hosts,
}

impl Listeners {
    /// Listens on the configured addresses.
    ///
    /// # Errors
    ///
    /// An address cannot be bound, and the configuration requires it.
    pub(crate) fn open(config: &MetricsConfig) -> Result<Self> {
        let mut listeners =
            Self { opened: Vec::new(), listening: Listening::default(), hosts: Hosts::new(&config.hosts) };
        for address in config.listen.iter().copied() {
            let listener = match listen(address) {
                Ok(listener) => Some(listener),
                Err(error) if config.required => return Err(error),
                Err(error) => {
                    warn!(
                        "metrics and the status page are not available on an address; NTP is not affected: {error}"
                    );
                    listeners.listening.set(address, Some(error.what));
                    None
                }
            };
            if listener.is_some() {
                listeners.listening.set(address, None);
            }
            listeners.opened.push((address, listener));
        }
        Ok(listeners)
    }

    /// Whether a privileged port has still to be bound.
    pub(super) fn need_low_ports(&self) -> bool {
        self.opened.iter().any(|(address, listener)| listener.is_none() && address.port() < 1024)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }
}

impl Listening {
    /// Retries until the address can be bound.
    pub(super) async fn retry(&self, address: SocketAddr) -> TcpListener {
        loop {
            tokio::time::sleep(RETRY_INTERVAL).await;
            match listen(address) {
                Ok(listener) => {
                    info!("metrics and status page: http://{address}/");
                    self.set(address, None);
                    return listener;
                }
                Err(error) => self.set(address, Some(error.what)),
            }
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let opened = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    opened.map_err(|error| {
        let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
        let what = |why: &str| format!("metrics.listen: {address}: {why}");
        match error.kind() {
            ErrorKind::AddrInUse => {
                let holder = port_owner::of_port(table, address.port());
                let holder = holder.map_or_else(|| "another program".into(), |holder| holder.to_string());
                Error::new(Code::Unavailable, what(&format!("the port is held by {holder}")))
                    .remedy("choose another port: `[metrics] listen = [\"127.0.0.1:9201\"]`, or disable the listener: `[]`")
            }
            ErrorKind::AddrNotAvailable => {
                Error::new(Code::Unavailable, what("the host has no such address"))
                    .remedy("`ip address` lists the addresses of this host")
            }
            ErrorKind::PermissionDenied => {
                Error::new(Code::NoPermission, what("ports below 1024 need CAP_NET_BIND_SERVICE"))
                    .remedy("choose a higher port")
            }
            _ => Error::because(Code::Os, what("cannot listen"))(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: SocketAddr, required: bool) -> MetricsConfig {
        MetricsConfig { listen: vec![address], required, ..MetricsConfig::default() }
    }

    #[test]
    fn a_port_in_use_is_named_with_who_holds_it_and_is_an_error_only_if_it_is_required() {
        let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = holder.local_addr().unwrap();
        let listeners = Listeners::open(&config(address, false)).unwrap();
        let failure = listeners.listening.all()[0].failure.clone().unwrap();
        assert!(failure.contains(&address.to_string()), "{failure}");
        assert!(failure.contains(&format!("process {}", std::process::id())), "{failure}");
        let error = Listeners::open(&config(address, true)).err().unwrap();
        assert_eq!(error.code, Code::Unavailable);
        drop(holder);
        let listeners = Listeners::open(&config(address, true)).unwrap();
        assert_eq!(listeners.listening.all()[0].failure, None);
    }

    #[test]
    fn an_address_that_the_host_does_not_have_is_named() {
        let address = "192.0.2.7:9200".parse().unwrap();
        let error = Listeners::open(&config(address, true)).err().unwrap();
        assert!(error.what.contains("192.0.2.7:9200") && error.what.contains("no such address"), "{error}");
    }
}
