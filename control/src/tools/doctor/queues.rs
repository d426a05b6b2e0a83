//! The queues of a NIC: whether all CPUs can take part in answering.

use responder::verdict::Family;

use super::finding::Finding;
use crate::safe_text::shell_word;
use crate::sys::ethtool::{Nic, Queues};

/// The facts about the queues.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    driver: Option<String>,
    queues: Option<Queues>,
    cpus: u32,
    /// Whether the queue of a UDP packet depends on its ports, for each family that the driver reports.
    by_ports: Vec<(Family, bool)>,
}

/// Examines the queues of an interface.
pub(super) fn examine(name: &str) -> Vec<Finding> {
    let nic = Nic(name);
    let by_ports = |family: &Family| Some((*family, nic.spreads_udp_by_ports(*family)?));
    judge(&Facts {
        name: name.into(),
        driver: nic.driver(),
        queues: nic.queues(),
        cpus: aya::util::nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1),
        by_ports: Family::ALL.iter().filter_map(by_ports).collect(),
    })
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(queues) = facts.queues.filter(|queues| queues.max_combined > 0) else {
        return Vec::new();
    };
    let mut findings = vec![number(facts, queues)];
    if queues.combined > 1 {
        findings.extend(spread(facts));
    }
    findings
}

fn number(facts: &Facts, Queues { combined, max_combined }: Queues) -> Finding {
    let Facts { name, driver, cpus, .. } = facts;
    let what = format!("{name}: {combined} of {max_combined} queues in use, for {cpus} CPUs");
    let wanted = (*cpus).min(max_combined);
    // The driver also wants a transmit queue for each CPU, out of the same queues, and that is worth more.
    if combined >= wanted || driver.as_deref() == Some("virtio_net") {
        return Finding::ok("queues", what);
    }
    Finding::warning("queues", what)
        .why("one CPU serves a queue at a time, so the others do not help to answer")
        .fix(format!("ethtool -L {} combined {wanted}", shell_word(name)))
}

fn spread(facts: &Facts) -> Vec<Finding> {
    let Facts { name, by_ports, .. } = facts;
    let by_addresses: Vec<_> = by_ports.iter().filter(|(_, by_ports)| !by_ports).collect();
    if by_addresses.is_empty() && !by_ports.is_empty() {
        return vec![Finding::ok(
            "rss",
            format!("{name}: UDP is spread over the queues by address and port"),
        )];
    }
    let finding = |(family, _): &&(Family, bool)| {
        let flow = match family {
            Family::Ipv4 => "udp4",
            Family::Ipv6 => "udp6",
        };
        let family = family.label();
        Finding::note("rss", format!("{name}: UDP over {family} is spread over the queues by address only"))
            .why("clients behind one address, or a load test from one host, keep only one CPU busy")
            .fix(format!("ethtool -N {} rx-flow-hash {flow} sdfn", shell_word(name)))
    };
    by_addresses.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn facts() -> Facts {
        Facts {
            name: "eth0".into(),
            driver: Some("igb".into()),
            queues: Some(Queues { combined: 4, max_combined: 8 }),
            cpus: 4,
            by_ports: vec![(Family::Ipv4, true), (Family::Ipv6, true)],
        }
    }

    #[test]
    fn a_queue_for_each_cpu_is_well_and_idle_ones_are_told_with_the_command() {
        assert_eq!(ids(&judge(&facts())), [("queues", Ok), ("rss", Ok)]);
        let few = Facts { queues: Some(Queues { combined: 1, max_combined: 8 }), ..facts() };
        let findings = judge(&few);
        assert_eq!(ids(&findings), [("queues", Warning)]);
        assert_eq!(findings[0].fix.as_deref(), Some("ethtool -L eth0 combined 4"));
        let virtual_one = Facts { driver: Some("virtio_net".into()), ..few };
        assert_eq!(ids(&judge(&virtual_one)), [("queues", Ok)]);
        assert_eq!(judge(&Facts { queues: None, ..facts() }), []);
    }

    #[test]
    fn a_hash_without_ports_is_told_by_family() {
        let by_addresses = Facts { by_ports: vec![(Family::Ipv4, true), (Family::Ipv6, false)], ..facts() };
        let findings = judge(&by_addresses);
        let found = only(&findings, "rss");
        assert_eq!(
            (found.severity, found.fix.as_deref()),
            (Note, Some("ethtool -N eth0 rx-flow-hash udp6 sdfn"))
        );
        // Nothing is reported about a driver that reports nothing.
        assert_eq!(ids(&judge(&Facts { by_ports: Vec::new(), ..facts() })), [("queues", Ok)]);
    }
}
