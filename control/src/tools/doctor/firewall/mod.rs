//! The packet filter, as far as it matters. XDP answers before it, so it concerns only what the program
//! passes up and this host's own exchanges with its upstreams.

mod iptables;
mod nft;
mod ruleset;

use responder::udp::NTP_PORT;
use responder::verdict::Family;

use super::finding::Finding;
use crate::sys::subprocess::{ProgramOutput, ask};
use ruleset::{Fate, Hook, Kind, Packet, Ruleset, State};

/// A packet that a server needs a packet filter to accept.
struct Need {
    id: &'static str,
    what: &'static str,
    packet: Packet<'static>,
    /// The family, if it is needed over one family only.
    only: Option<Family>,
    why: &'static str,
    /// Whether clients or this host lose something essential without it.
    vital: bool,
    /// The packet in the syntax of nft and of iptables.
    nft: &'static str,
    iptables: &'static str,
}

/// A request to port 123 from a port that clients and this server's own requests use. Family and interface
/// are filled in.
const REQUEST: Packet<'_> = Packet {
    hook: Hook::In,
    family: Family::Ipv4,
    interface: "",
    kind: Kind::Udp,
    state: State::New,
    source_port: 40_000,
    destination_port: NTP_PORT,
};
const REPLY: Packet<'_> =
    Packet { state: State::Established, source_port: NTP_PORT, destination_port: 40_000, ..REQUEST };

/// Only the few requests with extension fields or keys are longer.
const FEW: &str = "clients with extension fields or keys get no answer; requests of 48 bytes are answered before the firewall";

const NEEDS: [Need; 5] = [
    Need {
        id: "firewall-upstream-replies",
        what: "the replies of upstreams",
        packet: REPLY,
        only: None,
        why: "the daemon that keeps this host's time receives no replies from its upstreams",
        vital: true,
        nft: "udp sport 123",
        iptables: "-p udp --sport 123",
    },
    Need {
        id: "firewall-upstream-requests",
        what: "requests to upstreams",
        packet: Packet { hook: Hook::Out, ..REQUEST },
        only: None,
        why: "the daemon that keeps this host's time cannot reach its upstreams",
        vital: true,
        nft: "udp dport 123",
        iptables: "-p udp --dport 123",
    },
    Need {
        id: "firewall-neighbours",
        what: "neighbour solicitations for this host (ICMPv6)",
        packet: Packet { kind: Kind::Solicitation, state: State::Untracked, ..REQUEST },
        only: Some(Family::Ipv6),
        why: "routers cannot resolve this host's IPv6 address, so no request over IPv6 reaches it",
        vital: true,
        nft: "meta l4proto ipv6-icmp",
        iptables: "-p ipv6-icmp",
    },
    Need {
        id: "firewall-requests",
        what: "requests that the program passes up (longer than 48 bytes, fragments)",
        packet: REQUEST,
        only: None,
        why: FEW,
        vital: false,
        nft: "udp dport 123",
        iptables: "-p udp --dport 123",
    },
    Need {
        id: "firewall-answers",
        what: "answers to requests that the program passed up",
        packet: Packet { hook: Hook::Out, ..REPLY },
        only: None,
        why: FEW,
        vital: false,
        nft: "udp sport 123",
        iptables: "-p udp --sport 123",
    },
];

/// What manages the rules, because they must be changed with the tool that made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Ufw,
    Firewalld,
    Nobody,
}

/// Examines the rules for packets of these families on these interfaces.
pub(super) fn examine(interfaces: &[String], families: &[Family]) -> Vec<Finding> {
    match rules() {
        Ok(rules) => judge(&rules, interfaces, families),
        Err(why) => vec![Finding::unseen("firewall", "the firewall's rules", why)],
    }
}

/// Reads the rules of nftables and iptables. It is not known beforehand which of them exists, and both may be
/// in use.
fn rules() -> Result<Ruleset, String> {
    // The elements of sets are left out: there may be millions.
    let nft = ask("nft", &["--json", "--terse", "list", "ruleset"]);
    let tools = [("iptables-save", Family::Ipv4), ("ip6tables-save", Family::Ipv6)];
    let saved = tools.map(|(tool, family)| (ask(tool, &[]), family));
    combine(nft, saved)
}

fn combine(nft: ProgramOutput, saved: [(ProgramOutput, Family); 2]) -> Result<Ruleset, String> {
    let mut rules = Ruleset::default();
    let mut reasons = Vec::new();
    let mut seen = false;
    for (asked, family) in saved {
        match asked {
            ProgramOutput::Text(text) => {
                seen = true;
                rules.chains.extend(iptables::read(&text, family).chains);
            }
            ProgramOutput::Failed(why) => reasons.push(why),
            ProgramOutput::NotInstalled => {}
        }
    }
    match nft {
        ProgramOutput::Text(text) => {
            let nft = nft::read(&text).map_err(|why| format!("cannot parse the output of nft: {why}"))?;
            // Today's iptables keeps its rules in nftables, but shows them better itself.
            let shown = |chain: &ruleset::Chain| {
                seen && ["filter", "mangle", "raw", "nat", "security"]
                    .iter()
                    .any(|name| chain.table == format!("ip {name}") || chain.table == format!("ip6 {name}"))
                    && chain.name.chars().all(|c| c.is_ascii_uppercase())
            };
            rules.chains.extend(nft.chains.into_iter().filter(|chain| !shown(chain)));
            seen = true;
        }
        ProgramOutput::Failed(why) => reasons.push(why),
        ProgramOutput::NotInstalled => {}
    }
    match (seen, reasons.is_empty()) {
        (true, _) => Ok(rules),
        (false, false) => Err(format!("needs root: {}", reasons.join("; "))),
        // A kernel that has rules without a tool to make them would be odd.
        (false, true) => Err("neither nft nor iptables-save is installed".into()),
    }
}

fn judge(rules: &Ruleset, interfaces: &[String], families: &[Family]) -> Vec<Finding> {
    let manager = manager(rules);
    let mut findings = Vec::new();
    for need in &NEEDS {
        for family in families.iter().copied().filter(|family| need.only.is_none_or(|only| only == *family)) {
            let unmet = unmet(need, rules, family, interfaces, manager);
            // A chain that is for both families needs one exception.
            let told =
                |new: &Finding| findings.iter().any(|old: &Finding| old.id == new.id && old.fix == new.fix);
            findings.extend(unmet.filter(|unmet| !told(unmet)));
        }
    }
    for family in families {
        findings.extend(redirected(rules, *family, interfaces));
    }
    if findings.is_empty() {
        let what = if rules.chains.iter().any(|chain| chain.hook.is_some()) {
            "the firewall accepts NTP that is passed up, this host's own requests, and their replies"
        } else {
            "no firewall rules"
        };
        findings.push(Finding::ok(
            "firewall",
            format!("{what}; XDP answers before the firewall, so `[access]` decides who is served"),
        ));
    } else {
        findings.push(
            Finding::note("firewall", "requests of 48 bytes are answered by XDP, before any firewall").why(
                "no rule affects them, not even one at the ingress hook of an interface: `[access]` and `[limits]` in the \
                 configuration decide who is served",
            ),
        );
    }
    findings
}

/// Returns the rule that sends requests to another host, container or port, on the first interface where there is one.
fn redirected(rules: &Ruleset, family: Family, interfaces: &[String]) -> Option<Finding> {
    interfaces.iter().find_map(|interface| {
        let (_, rule, sure) = rules.redirection(Packet { family, interface, ..REQUEST })?;
        let sends = if sure { "sends" } else { "may send" };
        Some(
            Finding::warning(
                "firewall-redirect",
                format!(
                    "the firewall {sends} requests to port {NTP_PORT} elsewhere ({}, {interface}): the rule `{}`",
                    family.label(),
                    rule.text
                ),
            )
            .why(
                "XDP answers requests to the served addresses before that: the container or server that the rule names \
                 gets only what the program passes up",
            )
            .advice(
                "remove the rule (for a container: its published port), or detach from the interface so that the \
                 other server answers",
            ),
        )
    })
}

/// Returns what drops a packet that NTP needs, on the first interface where that happens.
fn unmet(
    need: &Need,
    rules: &Ruleset,
    family: Family,
    interfaces: &[String],
    manager: Manager,
) -> Option<Finding> {
    interfaces.iter().find_map(|interface| {
        let packet = Packet { family, interface, ..need.packet };
        let (chain, rule, sure) = match rules.fate(packet) {
            Fate::Passes => return None,
            Fate::Dropped(chain, rule) => (chain, rule, true),
            Fate::Unsure(chain, rule) => (chain, rule, false),
        };
        let by = match rule {
            Some(rule) => format!("the rule `{}`", rule.text),
            None => format!("the policy of the chain `{} {}`", chain.table, chain.name),
        };
        let (what, family) = (need.what, family.label());
        let finding = match (sure, need.vital) {
            (true, true) => {
                Finding::problem(need.id, format!("the firewall drops {what} ({family}, {interface}): {by}"))
            }
            (true, false) => {
                Finding::warning(need.id, format!("the firewall drops {what} ({family}, {interface}): {by}"))
            }
            (false, _) => Finding::note(
                need.id,
                format!("the firewall may drop {what} ({family}, {interface}): {by}, or a rule before it"),
            ),
        };
        let matches = if chain.exception.starts_with("nft") { need.nft } else { need.iptables };
        let is_request = packet.kind == Kind::Udp && packet.destination_port == NTP_PORT;
        let fix = match (manager, packet.hook) {
            (Manager::Ufw, Hook::In) if is_request => format!("ufw allow {NTP_PORT}/udp"),
            (Manager::Ufw, Hook::Out) if is_request => format!("ufw allow out {NTP_PORT}/udp"),
            (Manager::Firewalld, Hook::In) if is_request => {
                "firewall-cmd --permanent --add-service=ntp && firewall-cmd --reload".to_owned()
            }
            _ => chain.exception.replace("{}", matches),
        };
        let finding = finding.why(need.why).fix(fix);
        Some(if manager == Manager::Nobody {
            finding.advice("also add it where the rules are stored (/etc/nftables.conf, /etc/iptables)")
        } else {
            finding
        })
    })
}

fn manager(rules: &Ruleset) -> Manager {
    if rules.chains.iter().any(|chain| chain.name.starts_with("ufw-") || chain.name.starts_with("ufw6-")) {
        Manager::Ufw
    } else if rules.chains.iter().any(|chain| chain.table.ends_with(" firewalld")) {
        Manager::Firewalld
    } else {
        Manager::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Note, Ok as Well, Problem, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn of_iptables(rules: &str) -> Vec<Finding> {
        let text = format!("*filter\n{rules}COMMIT\n");
        judge(&iptables::read(&text, Family::Ipv4), &["eth0".into()], Family::ALL)
    }

    #[test]
    fn no_rules_and_rules_that_let_ntp_through_are_well() {
        assert_eq!(ids(&judge(&Ruleset::default(), &["eth0".into()], Family::ALL)), [("firewall", Well)]);
        let open = ":INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -p udp -m udp --dport 123 -j ACCEPT\n";
        assert_eq!(ids(&of_iptables(open)), [("firewall", Well)]);
    }

    #[test]
    fn dropped_replies_are_a_problem_and_dropped_requests_a_warning_each_with_the_rule_that_helps() {
        let findings = of_iptables(":INPUT DROP [0:0]\n");
        assert_eq!(
            ids(&findings),
            [("firewall-upstream-replies", Problem), ("firewall-requests", Warning), ("firewall", Note)]
        );
        assert_eq!(findings[0].fix.as_deref(), Some("iptables -I INPUT -p udp --sport 123 -j ACCEPT"));
        assert_eq!(findings[1].fix.as_deref(), Some("iptables -I INPUT -p udp --dport 123 -j ACCEPT"));

        let findings = of_iptables(":OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -m udp --dport 123 -j REJECT\n");
        let found = only(&findings, "firewall-upstream-requests");
        assert!(
            found.severity == Problem
                && found.what.contains("`-A OUTPUT -p udp -m udp --dport 123 -j REJECT`"),
            "{found:?}"
        );
    }
    #[test]
    fn neighbours_that_are_kept_out_are_a_problem_where_ipv6_is_used() {
        let rules = iptables::read("*filter\n:INPUT DROP [0:0]\nCOMMIT\n", Family::Ipv6);
        let found = |families: &[Family]| judge(&rules, &["eth0".into()], families);
        let findings = found(Family::ALL);
        let neighbours = only(&findings, "firewall-neighbours");
        assert_eq!(neighbours.severity, Problem);
        assert_eq!(neighbours.fix.as_deref(), Some("ip6tables -I INPUT -p ipv6-icmp -j ACCEPT"));
        assert_eq!(ids(&found(&[Family::Ipv4])), [("firewall", Well)]);
    }

    #[test]
    fn rules_that_another_tool_makes_are_changed_by_that_tool() {
        let ufw =
            ":INPUT DROP [0:0]\n:ufw-user-input - [0:0]\n-A INPUT -m state --state ESTABLISHED -j ACCEPT\n";
        assert_eq!(only(&of_iptables(ufw), "firewall-requests").fix.as_deref(), Some("ufw allow 123/udp"));
    }

    #[test]
    fn requests_that_are_sent_to_a_container_are_a_warning_that_names_the_rule() {
        let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
            -A DOCKER ! -i docker0 -p udp -m udp --dport 123 -j DNAT --to-destination 172.17.0.2:123\nCOMMIT\n";
        let findings = judge(&iptables::read(rules, Family::Ipv4), &["eth0".into()], Family::ALL);
        assert_eq!(ids(&findings), [("firewall-redirect", Warning), ("firewall", Note)]);
        assert!(findings[0].what.contains("--to-destination 172.17.0.2:123`"), "{findings:?}");
    }

    #[test]
    fn a_doubt_is_a_note() {
        let doubtful = ":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m recent --name ntp --update -j DROP\n";
        assert_eq!(only(&of_iptables(doubtful), "firewall-requests").severity, Note);
    }

    #[test]
    fn rules_that_iptables_keeps_in_nftables_are_taken_from_iptables() {
        let said = |text: &str| ProgramOutput::Text(text.into());
        let nft = r#"{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "mine", "name": "input", "type": "filter", "hook": "input", "policy": "accept"}}]}"#;
        let save = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";
        let both =
            combine(said(nft), [(said(save), Family::Ipv4), (ProgramOutput::NotInstalled, Family::Ipv6)])
                .unwrap();
        let tables: Vec<_> = both.chains.iter().map(|chain| chain.table.as_str()).collect();
        assert_eq!(tables, ["ipv4 filter", "ip mine"]);
        let alone = combine(
            said(nft),
            [(ProgramOutput::NotInstalled, Family::Ipv4), (ProgramOutput::NotInstalled, Family::Ipv6)],
        )
        .unwrap();
        assert_eq!(alone.chains.len(), 2);
    }

    #[test]
    fn what_cannot_be_looked_at_is_said_with_the_reason() {
        let nothing =
            || [(ProgramOutput::NotInstalled, Family::Ipv4), (ProgramOutput::NotInstalled, Family::Ipv6)];
        assert!(combine(ProgramOutput::NotInstalled, nothing()).unwrap_err().contains("neither nft nor"));
        let denied = ProgramOutput::Failed("netlink: Operation not permitted".into());
        assert!(combine(denied, nothing()).unwrap_err().contains("needs root: netlink"));
        assert!(combine(ProgramOutput::Text("[".into()), nothing()).unwrap_err().contains("cannot parse"));
    }
}
