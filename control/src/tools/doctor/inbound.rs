//! Incoming requests: whether those from other hosts reach the program.
//!
//! A query from this host to its own address goes over loopback and never meets the NIC, so it shows
//! nothing. What can be shown is which interface has the address, and that the program's counters rise when
//! another host asks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use responder::Access;
use responder::udp::NTP_PORT;
use responder::verdict::{Action, Verdict};

use super::StatusError;
use super::finding::Finding;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::safe_text::shell_word;
use crate::service_manager::{self, Verb};
use crate::serving::limits::Effective;
use crate::status::Status;
use crate::status::traffic::SourceTraffic;

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

/// Returns the addresses of the other host. A name that cannot be resolved has none.
pub(super) fn addresses(peer: &str) -> Vec<IpAddr> {
    let resolved = (peer, NTP_PORT).to_socket_addrs();
    resolved.map(|all| all.map(|address| address.ip().to_canonical()).collect()).unwrap_or_default()
}

/// What is known of the other host's requests while it is waited for.
pub(super) struct Listening<'a, L, S> {
    /// The other host, as it was named.
    pub(super) peer: &'a str,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) patience: Duration,
    /// Returns the status.
    pub(super) look: L,
    /// Returns what is known of the requests of a source.
    pub(super) source: S,
}

/// What came while the other host was waited for.
#[derive(Debug, Default)]
struct Came {
    /// All packets by their verdicts, whoever sent them.
    all: Tally,
    /// Requests of the other host, if one was among them: how many, and how many of them were dropped. Estimated.
    of_peer: Option<(f64, f64)>,
    /// One in this many requests was looked at.
    sampled_one_in: u64,
}

impl<L, S> Listening<'_, L, S>
where
    L: FnMut() -> Result<Option<Status>, StatusError>,
    S: FnMut(IpAddr) -> Result<SourceTraffic>,
{
    /// Waits for a request of the other host, and reports what became of it.
    pub(super) fn wait(mut self, before: &Status) -> Finding {
        let unseen = |what: String| Finding::unseen("inbound-from", "received packets", what);
        if self.addresses.is_empty() {
            return unseen(format!(
                "{} has no address that could be recognised: name it by its address",
                self.peer
            ));
        }
        let start = Instant::now();
        let before = tally(&before.interfaces);
        let mut known = Vec::new();
        for address in &self.addresses {
            match (self.source)(*address) {
                Ok(traffic) => known.push(traffic),
                Err(error) => return unseen(error.what),
            }
        }
        let mut came = Came::default();
        while came.of_peer.is_none() && start.elapsed() < self.patience {
            std::thread::sleep(INTERVAL.min(self.patience));
            match (self.look)() {
                Ok(Some(status)) => came.all = difference(&before, tally(&status.interfaces)),
                Ok(None) => {}
                Err(error) => return unseen(Error::from(error).what),
            }
            for (address, known) in self.addresses.iter().zip(&mut known) {
                let Ok(now) = (self.source)(*address) else { continue };
                came.sampled_one_in = came.sampled_one_in.max(now.sampled_one_in);
                // Without a request the numbers only fade.
                if now.requests > known.requests {
                    came.of_peer =
                        Some((now.requests - known.requests, (now.dropped - known.dropped).max(0.0)));
                }
                *known = now;
            }
        }
        judge(self.peer, &came, self.patience)
    }
}

fn judge(peer: &str, came: &Came, patience: Duration) -> Finding {
    let seconds = patience.as_secs();
    let mut list = String::new();
    for (label, packets) in &came.all {
        let _infallible = write!(list, " {packets} {label}");
    }
    match came.of_peer {
        Some((requests, dropped)) if dropped < requests => {
            Finding::ok("inbound-from", format!("a request of {peer} arrived, and its answer went out; in all:{list}"))
        }
        Some(_) => {
            Finding::warning("inbound-from", format!("requests of {peer} arrive, but a limit refuses them; in all:{list}"))
                .why("it has sent more than its rate allows, or the budget of the server is used up")
                .advice("`pooltime-xdp top` shows which sources are refused; `pooltime-xdp allow PREFIX --unlimited` exempts one")
        }
        None if came.all.is_empty() => {
            Finding::problem("inbound-from", format!("no packet arrived within {seconds} s"))
                .why("something on the way drops UDP port 123: the provider's filter, a security group, a router")
                .advice(format!(
                    "if the query on {peer} got no answer, check the provider's firewall settings or ask the provider; no firewall \
                     on this host drops packets before the program sees them"
                ))
        }
        None if came.sampled_one_in > 1 => Finding::note(
            "inbound-from",
            format!("packets arrive, but none of {peer} was recognised within {seconds} s:{list}"),
        )
        .why(format!(
            "the server is busy: only one request in {} is looked at for its sender, so a single query may be missed",
            came.sampled_one_in
        ))
        .advice(format!(
            "whether the query on {peer} was answered tells more; or repeat it there some {} times while this waits",
            came.sampled_one_in.saturating_mul(4)
        )),
        None => Finding::warning(
            "inbound-from",
            format!("packets arrive, but none of them came from {peer} within {seconds} s:{list}"),
        )
        .why("the way from there is blocked, or its requests come from another address (NAT), or were denied")
        .advice(format!(
            "if the query on {peer} was answered, name the address that it comes from; `pooltime-xdp access list` shows which \
             clients are denied"
        )),
    }
}

/// Whether the configuration refuses the other host.
pub(super) fn denied(peer: &str, instance: &Instance, config: &Config) -> Option<Finding> {
    let address: IpAddr = peer.parse().ok()?;
    // A list that cannot be read has a finding of its own.
    let entries = config.entries().ok()?;
    let access = entries.into_iter().collect::<Effective>().of(address);
    (access == Access::Denied).then(|| {
        Finding::problem("inbound-denied", format!("the access lists deny {peer}"))
            .why("its requests are dropped, as configured")
            .advice(format!("change `[access]`, then `{}`", service_manager::command(instance, Verb::Reload)))
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

    /// Waits for 192.0.2.9 on a server on which this rises by the first look.
    fn waited(rise: &dyn Fn(&mut Status), traffic: [SourceTraffic; 2]) -> Finding {
        let (before, mut after, mut asked) = (sample(), sample(), traffic.into_iter());
        rise(&mut after);
        let listening = Listening {
            peer: "192.0.2.9",
            addresses: addresses("192.0.2.9"),
            patience: Duration::from_millis(30),
            look: || Ok(Some(after.clone())),
            source: |address| {
                assert_eq!(address, "192.0.2.9".parse::<IpAddr>().unwrap());
                Ok(asked.next().unwrap_or(traffic[1]))
            },
        };
        listening.wait(&before)
    }

    fn sampled(requests: f64, dropped: f64, sampled_one_in: u64) -> SourceTraffic {
        SourceTraffic { requests, dropped, fades_in_s: 10.0, sampled_one_in }
    }

    #[test]
    fn the_waiting_ends_when_the_counters_rise_or_the_patience_does() {
        let none = sampled(0.0, 0.0, 1);
        assert_eq!(waited(&|_| {}, [none; 2]).severity, Problem);
        let answered = |status: &mut Status| status.interfaces[0].counters[0].packets += 2;
        let found = waited(&answered, [none, sampled(2.0, 0.0, 1)]);
        assert!(found.severity == Well && found.what.contains("2 answered"), "{found:?}");
        let refused = |status: &mut Status| status.interfaces[0].counters[1].packets += 1;
        let found = waited(&refused, [none, sampled(1.0, 1.0, 1)]);
        assert!(found.severity == Warning && found.what.contains("1 drop_limited"), "{found:?}");
    }

    #[test]
    fn the_traffic_of_others_is_not_taken_for_that_of_the_peer() {
        let answered = |status: &mut Status| status.interfaces[0].counters[0].packets += 2;
        // What the peer sent before fades meanwhile.
        let found = waited(&answered, [sampled(9.0, 0.0, 1), sampled(8.5, 0.0, 1)]);
        assert!(
            found.severity == Warning && found.what.contains("none of them came from 192.0.2.9"),
            "{found:?}"
        );
        let found = waited(&answered, [sampled(0.0, 0.0, 64); 2]);
        assert!(
            found.severity == Note && found.why.as_ref().unwrap().contains("one request in 64"),
            "{found:?}"
        );
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
