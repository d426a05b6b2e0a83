//! Port 123: which process holds it, and whether it answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use responder::udp::NTP_PORT;
use responder::verdict::Family;

use super::finding::Finding;
use crate::config::{ClockSource, Config};
use crate::net::query::{Failure, exchange};
use crate::sys::port_owner::{self, Holder};

/// The answer comes from the same host.
const PATIENCE: Duration = Duration::from_secs(1);

/// The facts about port 123 in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    family: Family,
    held: Held,
    /// Where the server takes its time from.
    source: ClockSource,
    /// Whether this server's daemon runs.
    running: bool,
    /// Why a query over loopback failed, if this server holds the port.
    failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Free,
    /// This server's daemon holds it.
    Own,
    By(Holder),
    /// An unknown process holds it: finding out which one needs root.
    Unknown,
}

/// Examines both families. `daemon` is the process ID of this server's daemon.
pub(super) fn examine(config: &Config, daemon: Option<u32>) -> Vec<Finding> {
    let families = Family::ALL.iter().copied();
    families.filter_map(|family| judge(&look(family, config, daemon))).collect()
}

fn look(family: Family, config: &Config, daemon: Option<u32>) -> Facts {
    let (table, loopback) = match family {
        Family::Ipv4 => ("udp", IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Family::Ipv6 => ("udp6", IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let held = match port_owner::of_port(table, NTP_PORT) {
        Some(holder) if Some(holder.pid) == daemon => Held::Own,
        Some(holder) => Held::By(holder),
        None if port_owner::is_held(table, NTP_PORT) => Held::Unknown,
        None => Held::Free,
    };
    let failure = match exchange(SocketAddr::new(loopback, NTP_PORT), PATIENCE) {
        Err(failure @ Failure::Timeout(_)) if held == Held::Own => Some(failure.to_string()),
        _ => None,
    };
    Facts { family, held, source: config.clock.source, running: daemon.is_some(), failure }
}

fn judge(facts: &Facts) -> Option<Finding> {
    const PASSED_UP: &str = "it answers longer requests, fragments and this host's own requests";
    let Facts { held, source, running, failure, .. } = facts;
    let family = facts.family.label();
    let finding = match (held, failure) {
        (Held::Own, None) => {
            Finding::ok("port-123", format!("port 123 ({family}): this server's socket answers"))
        }
        (Held::Own, Some(failure)) => Finding::warning(
            "port-123",
            format!("port 123 ({family}): this server's socket does not answer: {failure}"),
        )
        .why(PASSED_UP)
        .advice("a firewall that drops packets on loopback can cause this; see the firewall findings"),
        (Held::By(holder), _) => by_another(family, holder, *source),
        (Held::Unknown, _) => {
            Finding::unseen("port-123", &format!("which process holds port 123 ({family})"), "needs root")
        }
        // Nothing is expected of a family that the kernel does not have.
        (Held::Free, _) if *running && facts.family == Family::Ipv4 => Finding::warning(
            "port-123",
            "port 123 (ipv4): the daemon is running, but nothing listens on the port".to_owned(),
        )
        .why(PASSED_UP)
        .advice("`pooltime-xdp status` shows why it could not listen"),
        (Held::Free, _) => return None,
    };
    Some(finding)
}

fn by_another(family: &str, holder: &Holder, source: ClockSource) -> Finding {
    let unit = holder.unit.as_ref().map_or_else(String::new, |unit| format!(", {unit}"));
    let what = format!("port 123 ({family}) is held by {} (process {}{unit})", holder.name, holder.pid);
    match source {
        ClockSource::System => Finding::note("port-123", what).why(
            "the time daemon that keeps the clock answers the requests that are passed up: longer ones, fragments, this host's own",
        ),
        ClockSource::Upstream => Finding::warning("port-123", what)
            .why(
                "this server asks upstreams itself and needs no other time daemon; what is passed up is answered by \
                 that one, with a time of its own",
            )
            .fix(holder.command_to_end_it())
            .advice("leave the clock to it: `source = \"system\"` in `[clock]`; then restart this server's daemon"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Warning};

    fn judged(held: Held, source: ClockSource, failure: Option<&str>) -> Option<Finding> {
        let failure = failure.map(Into::into);
        judge(&Facts { family: Family::Ipv4, held, source, running: true, failure })
    }

    #[test]
    fn the_daemon_that_keeps_the_clock_is_welcome_and_else_it_is_told_how_to_end_it() {
        let chronyd = Holder { name: "chronyd".into(), pid: 77, unit: Some("chrony.service".into()) };
        let found = judged(Held::By(chronyd.clone()), ClockSource::System, None).unwrap();
        assert!(found.severity == Note && found.fix.is_none(), "{found:?}");
        let found = judged(Held::By(chronyd), ClockSource::Upstream, None).unwrap();
        assert!(found.what.contains("chronyd (process 77, chrony.service)"), "{found:?}");
        assert_eq!(found.fix.as_deref(), Some("systemctl disable --now chrony.service"));
    }

    #[test]
    fn our_own_socket_is_well_if_it_answers() {
        assert_eq!(judged(Held::Own, ClockSource::System, None).unwrap().severity, Ok);
        let silent = judged(Held::Own, ClockSource::System, Some("no answer")).unwrap();
        assert!(silent.severity == Warning && silent.what.contains("no answer"), "{silent:?}");
    }

    #[test]
    fn a_port_that_nobody_has_matters_only_beside_a_daemon() {
        assert_eq!(judged(Held::Free, ClockSource::System, None).unwrap().severity, Warning);
        let stopped = Facts {
            family: Family::Ipv4,
            held: Held::Free,
            source: ClockSource::System,
            running: false,
            failure: None,
        };
        assert_eq!(judge(&stopped), None);
        assert_eq!(judged(Held::Unknown, ClockSource::System, None).unwrap().severity, Note);
    }
}
