//! Incoming requests: whether those from other hosts reach the program.
//!
//! A query from this host to its own address goes over loopback and never meets the NIC, so it shows
//! nothing. What can be shown is which interface has the address, and that the program's counters rise when
//! another host asks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use responder::Access;
use responder::verdict::{Action, Verdict};

use super::StatusError;
use super::finding::Finding;
use super::system::{Verb, service};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::safe_text::shell_word;
use crate::serving::limits::Effective;
use crate::status::Status;

/// Interval between two readings of the counters.
const INTERVAL: Duration = Duration::from_millis(250);

/// Number of packets by the label of their verdict, over all families and versions.
type Tally = BTreeMap<String, u64>;

/// Reports what has come in so far on each interface.
pub(super) fn examine(status: &Status, command: &str) -> Vec<Finding> {
    let served = status.interfaces.iter().filter(|interface| interface.mode.is_some());
    served
        .map(|interface| {            let (name, addresses) = (&interface.name, to_ask(&interface.addresses));
            let tally = tally(std::iter::once(interface));
            let answered = transmitted(&tally);
            if addresses.is_empty() {
                return Finding::problem("inbound", format!("{name}: the program is attached, but there is no address to serve"))
                    .why("requests to other addresses are passed on")
                    .fix(format!("ip address show dev {}", shell_word(name)));
            }
            if answered == 0 {
                return Finding::note("inbound", format!("{name}: no request to {addresses} has been answered yet"))
                    .why("a query from this host to itself never reaches the NIC; only another host can test the inbound path")
                    .advice(format!(
                        "`{command} doctor --from HOST` waits while you run a query on HOST, another machine of yours"
                    ));
            }
            Finding::ok("inbound", format!("{name}: {answered} requests answered so far"))
        })
        .collect()
}

/// Returns the instructions that are printed before waiting for a query.
pub(super) fn instructions(peer: &str, status: &Status, patience: Duration) -> String {
    let addresses = to_ask(status.interfaces.iter().flat_map(|interface| &interface.addresses));
    format!(
        "Run on {peer} within {} s:  pooltime-xdp query {addresses}  (or: for a in {addresses}; do ntpdate -q $a; done)\n",
        patience.as_secs()
    )
}

/// Selects an address for the query: another host cannot use a link-local address without naming its own
/// interface.
fn to_ask<'a>(addresses: impl IntoIterator<Item = &'a String>) -> String {
    let others = addresses.into_iter().filter(|address| !address.starts_with("fe80:"));
    others.map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Waits until the counters rise, and reports what became of the requests that raised them.
pub(super) fn wait(
    peer: &str,
    instance: &Instance,
    config: &Config,
    before: &Status,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<Status>, StatusError>,
) -> Vec<Finding> {
    let mut findings: Vec<_> = denied(peer, instance, config).into_iter().collect();
    let start = Instant::now();
    let before = tally(&before.interfaces);
    let mut risen = Tally::new();
    while risen.is_empty() && start.elapsed() < patience {
        std::thread::sleep(INTERVAL.min(patience));
        match look() {
            Ok(Some(status)) => risen = difference(&before, tally(&status.interfaces)),
            Ok(None) => {}
            Err(error) => {
                findings.push(Finding::unseen("inbound-from", "received packets", Error::from(error).what));
                return findings;
            }
        }
    }
    findings.push(judge(peer, &risen, patience));
    findings
}

fn judge(peer: &str, risen: &Tally, patience: Duration) -> Finding {
    const ALL: &str =
        "the counters do not show who sent them: on a busy server it may have been another client";
    let mut list = String::new();
    for (label, packets) in risen {
        let _infallible = write!(list, " {packets} {label}");
    }
    if risen.is_empty() {
        return Finding::problem("inbound-from", format!("no packet arrived within {} s", patience.as_secs()))
            .why("something on the way drops UDP port 123: the provider's filter, a security group, a router")
            .advice(format!(
                "if the query on {peer} got no answer, check the provider's firewall settings or ask the provider; no firewall \
                 on this host drops packets before the program sees them"
            ));
    }
    if transmitted(risen) > 0 {
        return Finding::ok("inbound-from", format!("requests arrive and answers go out:{list}")).why(ALL);
    }
    Finding::warning("inbound-from", format!("packets arrive, but none was answered:{list}"))
        .why(ALL)
        .advice("`pooltime-xdp access list` shows which clients are refused; `pass_for_others` counts requests to addresses that are not served")
}

/// Whether the configuration refuses the other host.
fn denied(peer: &str, instance: &Instance, config: &Config) -> Option<Finding> {
    let address: IpAddr = peer.parse().ok()?;
    // A list that cannot be read has a finding of its own.
    let entries = config.entries().ok()?;
    let access = entries.into_iter().collect::<Effective>().of(address);
    (access == Access::Denied).then(|| {
        Finding::problem("inbound-denied", format!("the access lists deny {peer}"))
            .why("its requests are dropped, as configured")
            .advice(format!("change `[access]`, then `{}`", service(instance, Verb::Reload)))
    })
}

fn tally<'a>(interfaces: impl IntoIterator<Item = &'a crate::status::Interface>) -> Tally {
    let mut tally = Tally::new();
    for counter in interfaces.into_iter().flat_map(|interface| &interface.counters) {
        *tally.entry(counter.verdict.clone()).or_default() += counter.packets;
    }
    tally
}

fn difference(before: &Tally, mut now: Tally) -> Tally {
    for (label, packets) in &mut now {
        *packets = packets.saturating_sub(before.get(label).copied().unwrap_or_default());
    }
    now.retain(|_, packets| *packets != 0);
    now
}

fn transmitted(tally: &Tally) -> u64 {
    let answers = |label: &str| {
        Verdict::ALL.iter().any(|verdict| verdict.label() == label && verdict.action() == Action::Transmit)
    };
    tally.iter().filter(|(label, _)| answers(label)).map(|(_, packets)| packets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;
    use crate::tools::doctor::finding::Severity::{Note, Ok as Well, Problem, Warning};

    fn instance() -> Instance {
        Instance::new(None).unwrap()
    }

    #[test]
    fn an_interface_that_never_answered_asks_for_another_host() {
        let mut status = sample();
        assert_eq!(examine(&status, "pooltime-xdp")[0].severity, Well);
        status.interfaces[0].counters.clear();
        let found = &examine(&status, "pooltime-xdp")[0];
        assert!(
            found.severity == Note && found.advice.as_ref().unwrap().contains("doctor --from"),
            "{found:?}"
        );
        status.interfaces[0].addresses.clear();
        assert_eq!(examine(&status, "pooltime-xdp")[0].severity, Problem);
    }

    #[test]
    fn the_waiting_ends_when_the_counters_rise_or_the_patience_does() {
        let (before, patience) = (sample(), Duration::from_millis(30));
        let waited = |rise: &dyn Fn(&mut Status)| {
            let mut after = sample();
            rise(&mut after);
            let mut findings = wait("192.0.2.9", &instance(), &Config::default(), &before, patience, || {
                Ok(Some(after.clone()))
            });
            (findings.pop().unwrap(), findings)
        };
        assert_eq!(waited(&|_| {}).0.severity, Problem);
        let (found, _) = waited(&|status| status.interfaces[0].counters[0].packets += 2);
        assert!(found.severity == Well && found.what.contains("2 answered"), "{found:?}");
        let (found, _) = waited(&|status| status.interfaces[0].counters[1].packets += 1);
        assert!(found.severity == Warning && found.what.contains("1 drop_limited"), "{found:?}");
    }

    #[test]
    fn a_peer_that_the_configuration_denies_is_told_so() {
        let config = Config::parse("[access]\ndeny = [\"192.0.2.0/24\"]").unwrap();
        assert_eq!(denied("192.0.2.9", &instance(), &config).unwrap().severity, Problem);
        assert_eq!(denied("198.51.100.1", &instance(), &config), None);
        assert_eq!(denied("a.name", &instance(), &config), None);
    }

    #[test]
    fn the_peer_is_told_to_ask_the_addresses_that_are_served() {
        let mut status = sample();
        status.interfaces[0].addresses.push("fe80::1".into());
        let text = instructions("ntp.example.net", &status, Duration::from_secs(30));
        assert!(text.contains("on ntp.example.net within 30 s:  pooltime-xdp query 192.0.2.53  "), "{text}");
    }
}
